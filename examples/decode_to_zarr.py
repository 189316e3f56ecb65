"""Decode to a plain Zarr array by dask's own means, a chunk per tile.

Run: ``python examples/decode_to_zarr.py latents.npy picture.zarr [--weights NAME|FILE] [--dtype uint16]`` (needs zarr)

``tiler.decode(latents, "picture.zarr")`` makes an OME-Zarr: with a pyramid, in shards, and what is done survives a
kill. This way is for a pipeline of your own: between the two lines any dask operation fits.
"""

import argparse

import dask

import tiler


def decode_to_zarr(latents, folder, weights, *, dtype="uint8", tile_size_px=256):
    """Decode chunk after chunk; the image never lies in memory."""
    picture = tiler.decode_lazily(latents, weights=weights, dtype=dtype, tile_size_px=tile_size_px)
    # Tiles are decoded on all cores as it is: a second thread compresses and writes meanwhile.
    with dask.config.set(scheduler="threads", num_workers=2):
        picture.to_zarr(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", help="a file of latents")
    parser.add_argument("folder", help="the Zarr array, which must not exist yet")
    parser.add_argument("--weights", default="photo", help="of the decoder (default: photo)")
    parser.add_argument("--dtype", default="uint8", choices=["uint8", "uint16", "float32"])
    arguments = parser.parse_args()
    decode_to_zarr(arguments.latents, arguments.folder, arguments.weights, dtype=arguments.dtype)


if __name__ == "__main__":
    main()
