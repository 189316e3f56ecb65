"""How much faster are more workers of a cluster?

A scheduler and some worker processes on this machine, and a stand-in decoder that sleeps: so many workers sleep at the
same time, however few cores there are, and what is lost is what graph, scheduler, journal and file cost.
"""

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from report import draw_lines, print_table

HALO, SCALE = 19, 8


@dataclass(frozen=True, slots=True)
class SleepyDecoder:
    """Repeats pixels, after a while."""

    seconds: float

    def __call__(
        self,
        window: NDArray[np.float32],
        borders: tuple[tuple[bool, bool], tuple[bool, bool]],
        crop: Any = ...,
        origin: Any = None,
    ) -> Any:
        """Return the pixels of ``window`` less the halo."""
        time.sleep(self.seconds)
        rows, columns = (slice(None if low else HALO, None if high else -HALO) for low, high in borders)
        bytes_ = np.clip(window[rows, columns, :3] * 42 + 127, 0, 255).astype(np.uint8)
        return bytes_.repeat(SCALE, 0).repeat(SCALE, 1)[crop]


@click.command()
@click.option("--workers", "counts", multiple=True, type=int, default=(1, 2, 3, 4), show_default=True)
@click.option("--side", default=16, show_default=True, help="Tiles along each side of the image.")
@click.option("--seconds", default=0.2, show_default=True, help="That a tile takes.")
@click.option("--chart", type=click.Path(path_type=Path), default="cluster.png", show_default=True)
def main(counts: tuple[int, ...], side: int, seconds: float, chart: Path) -> None:
    """Measure the speed-up over the number of workers, against what the tiles alone take one after the other."""
    rows, speed_ups = [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            taken = decode(Path(folder), count, side, seconds)
        speed_ups.append(side**2 * seconds / taken)
        share = f"{speed_ups[-1] / count:.3f}"
        rows.append([str(count), f"{side**2}", f"{taken:.2f}", f"{speed_ups[-1]:.2f}", share])
    click.echo(f"{side**2} tiles of 256 px, {seconds} s each, to a pyramidal TIFF; start-up of the cluster not counted")
    print_table(["workers", "tiles", "seconds", "speed-up", "of the workers"], rows)
    draw_lines(chart, "Speed-up of a cluster", "workers", {"speed-up": {"measured": (list(counts), speed_ups)}})


def decode(folder: Path, count: int, side: int, seconds: float) -> float:
    """Decode on so many workers, and return the seconds."""
    from distributed import Client, LocalCluster

    from taesd_core.network import Network
    from tiler.formats.tiff import Tiff
    from tiler.jobs.cluster import Cluster
    from tiler.jobs.job import Job, run_job
    from tiler.plan import Plan
    from tiler.sources.npy_source import NpySource

    path = folder / "latents.npy"
    np.save(path, np.random.default_rng(0).normal(size=(side * 32, side * 32, 4)).astype(np.float32))
    plan = Plan(Network.decoder(4), side * 32, side * 32, 32)
    job = Job(
        Tiff(folder / "image.tif", file_tile_px=256).plan(plan, overwrite=False),
        plan,
        NpySource(path, 4),
        {},
        partial(SleepyDecoder, seconds),
        force=True,
        open_source=partial(NpySource, path, 4),
    )
    options = {"host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=count, threads_per_worker=2, **options) as cluster, Client(cluster) as client:
        executor = Cluster(client)
        started = time.perf_counter()
        run_job(job, executor=executor)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
