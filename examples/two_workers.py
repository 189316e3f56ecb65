"""Decode on a dask cluster, here two processes of this machine; what is said of theirs holds for any other cluster.

Run: ``python examples/two_workers.py latents.npy picture.tif [--weights NAME|FILE]`` (needs distributed)
"""

import argparse

from distributed import Client, LocalCluster

import tiler


def decode_on_two(latents, path, weights, *, tile_size_px=256):
    """Start two workers, decode, and stop them."""
    # A worker decodes one tile at a time; its second thread reads, compresses and writes meanwhile. In place of
    # LocalCluster: SLURMCluster, KubeCluster, or Client("tcp://HOST:8786"), with files that all machines see.
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        return tiler.decode(latents, path, weights=weights, tile_size_px=tile_size_px, client=client)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", help="a file of latents")
    parser.add_argument("picture", help="the file to write")
    parser.add_argument("--weights", default="photo", help="of the decoder (default: photo)")
    arguments = parser.parse_args()
    report = decode_on_two(arguments.latents, arguments.picture, arguments.weights)
    print(f"{report.path}: {report.n_tiles} tiles in {report.seconds:.1f} s")


# Each worker process imports this file: without the condition it would start a cluster of its own.
if __name__ == "__main__":
    main()
