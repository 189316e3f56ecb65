"""Can an image of 100 gigapixels be written whole, and do readers read it?

All is real but latents and decoder: tiles of 1,024 px go through the whole job, pyramid, journal and closing included,
into a TIFF of file tiles of 512 px. The latents are flat cells of colours of their own, which are computed as they are
read, and the stand-in decoder repeats them; so tiles compress to some hundred bytes, the file fits any disk, and what
each pixel must be is known. Cells are 100 latents wide, so that their edges lie anywhere in a tile.

Then the file is opened by tifffile, which must find every tile of every level, and by OpenSlide, which reads windows of
every level; they are compared with the means of the cells that lie there.
"""

import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np

from measure import available_cores, run_apart
from report import draw_bars, megabytes, print_table
from tiler.model import Ends
from tiler.window import Span, Window

TILE_PX, SCALE, CELL = 1024, 8, 100
MOST_PX = 2048
"""Side of what is looked at, in px of level 0."""


@click.command()
@click.option("--gigapixels", default=100.0, show_default=True)
@click.option("--compression", default="zstd", show_default=True)
@click.option("--samples", default=20, show_default=True, help="Windows that are looked at in each level.")
@click.option("--folder", type=click.Path(path_type=Path), default=".", help="Where the file lies for a while.")
@click.option("--chart", type=click.Path(path_type=Path), default="gigapixels.png", show_default=True)
def main(gigapixels: float, compression: str, samples: int, folder: Path, chart: Path) -> None:
    """Write a very large image and read it back."""
    side = max(1, round((gigapixels * 1e9) ** 0.5 / TILE_PX))
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        path = Path(inner) / "image.tif"
        job, run = run_apart(write_image, path, side, compression, cores=available_cores())
        (checks, n_levels), _ = run_apart(check_image, path, side * TILE_PX, samples, cores=available_cores())
        size = path.stat().st_size
    print_table(
        ["gigapixels", "tiles", "levels", "seconds", "ms/tile", "closing s", "peak MB", "journal MB", "file MB"],
        [
            [
                f"{(side * TILE_PX) ** 2 / 1e9:.3f}",
                f"{side**2:,}",
                n_levels,
                f"{job['seconds']:.1f}",
                f"{job['seconds'] * 1e3 / side**2:.2f}",
                f"{job['closing']:.2f}",
                megabytes(run.peak_bytes),
                f"{job['journal'] / 1e6:.2f}",
                f"{size / 1e6:.1f}",
            ]
        ],
    )
    for line in checks:
        click.echo(line)
    stages = {name: seconds for name, seconds in job["stages"].items() if seconds}
    draw_bars(chart, f"An image of {gigapixels:g} gigapixels", {"seconds of thread time": stages})


def write_image(path: Path, side: int, compression: Any) -> dict[str, Any]:
    """Run a job of ``side`` × ``side`` tiles; return what was measured."""
    from taesd_core.network import Network
    from tiler.formats.tiff import Tiff
    from tiler.jobs.job import Job, run_job
    from tiler.jobs.journal import Journal
    from tiler.plan import Plan
    from tiler.profile import Profile

    size, measured, profile = side * TILE_PX // SCALE, {}, Profile()
    plan = Plan(Network.decoder(4), size, size, TILE_PX // SCALE, max(2, len(available_cores())))
    output = Tiff(path, compression=compression, file_tile_px=512).plan(plan, overwrite=False)
    commit = Journal.commit

    def timed_commit(journal: Journal) -> None:
        journal.sync()
        measured["journal"] = journal.part.with_name(journal.part.name + ".journal").stat().st_size
        started = time.perf_counter()
        commit(journal)
        measured["closing"] = time.perf_counter() - started

    Journal.commit = timed_commit  # type: ignore[method-assign]
    started = time.perf_counter()
    model = RepeatingDecoder(plan.network.halo)
    # By force: noise would take 400 GB of disk.
    run_job(Job(output, plan, CellSource(size), {}, lambda: model, force=True, profile=profile))
    measured["seconds"] = time.perf_counter() - started
    measured["stages"] = dict(profile.seconds)
    return measured


def check_image(path: Path, size_px: int, samples: int) -> tuple[list[str], int]:
    """Read the file by other libraries; return what was found in words, and the number of levels.

    Raises:
        AssertionError: it is not as it should be.
    """
    import tifffile

    from tiler.pyramid import level_shapes

    levels = level_shapes(size_px, size_px, 512)
    started = time.perf_counter()
    with tifffile.TiffFile(path) as file:
        assert [page.shape[:2] for page in file.pages] == levels
        n_tiles = sum(len(page.databytecounts) for page in file.pages)
        assert all(min(page.databytecounts) > 0 for page in file.pages)
    lines = [
        f"tifffile: {len(levels)} levels, none of {n_tiles:,} tiles missing, {time.perf_counter() - started:.1f} s"
    ]
    if find_spec("openslide") is None:
        return [*lines, "OpenSlide is not installed: no pixel was looked at"], len(levels)
    import openslide

    started = time.perf_counter()
    random = np.random.default_rng(0)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == tuple((width, height) for height, width in levels)
        for level in range(len(levels)):
            step = 2**level
            n_px = max(4, min(512, MOST_PX // step))
            for _ in range(samples):
                # Inside: there a level is nothing but means of 2 × 2, as often as it says.
                row, column = (int(place) for place in random.integers(0, size_px // step - n_px + 1, 2))
                found = np.asarray(slide.read_region((column * step, row * step), level, (n_px, n_px)))[..., :3]
                np.testing.assert_array_equal(found, expect_window(row, column, n_px, level))
    lines.append(f"OpenSlide: {samples} windows of each level as they should be, {time.perf_counter() - started:.1f} s")
    return lines, len(levels)


def expect_window(row: int, column: int, n_px: int, level: int) -> np.ndarray:
    """Return the pixels of a window of a level, from what level 0 must be there."""
    rows, columns = (np.arange(start << level, (start + n_px) << level) // SCALE for start in (row, column))
    pixels = paint(rows, columns)
    for _ in range(level):
        sums = pixels.reshape(len(pixels) // 2, 2, -1, 2, 3).sum((1, 3), dtype=np.uint16)
        pixels = ((sums + 2) // 4).astype(np.uint8)
    return pixels


def paint(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the colours of latents at ``rows`` × ``columns``."""
    down, across = (rows // CELL)[:, None], (columns // CELL)[None]
    colours = (down * 37 + across, across * 61 + down, down * 11 + across * 17 + down // 256)
    return np.dstack(colours).astype(np.uint8)


class CellSource:
    """Square latents of any size that take no memory: flat cells."""

    def __init__(self, size: int) -> None:
        self.shape = size, size, 4

    def read(self, window: Window) -> np.ndarray:
        """Return the colours of a window, and a channel of zeros."""
        rows, columns = (_count(span) for span in (window.rows, window.columns))
        return np.pad(paint(rows, columns), ((0, 0), (0, 0), (0, 1))).astype(np.float32)


def _count(span: Span) -> np.ndarray:
    return np.arange(span.start, span.stop)


class RepeatingDecoder:
    """A stand-in with the contract of the real one: each latent becomes 8 × 8 pixels of the window less its halo."""

    def __init__(self, halo: int) -> None:
        self.halo = halo

    def __call__(
        self, window: np.ndarray, borders: tuple[Ends, Ends], crop: Any = ..., origin: Any = None
    ) -> np.ndarray:
        """Return what the window determines."""
        rows, columns = (slice(None if low else self.halo, None if high else -self.halo) for low, high in borders)
        return window[rows, columns, :3].astype(np.uint8).repeat(SCALE, 1).repeat(SCALE, 0)[crop]


if __name__ == "__main__":
    main()
