"""What do very many tiles cost, besides decoding them?

Graph, journal, tables, memory and closing grow with the number of tiles, not of pixels. So tiles of 16 px stand for
tiles of 1,024: with a decoder that returns at once, through the whole job, journal and pyramid included, each in a
fresh process. The skeleton of the file is measured at its true size, in px.
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np

from measure import available_cores, peak_resident_bytes, run_apart
from report import draw_lines, megabytes, print_table
from stages import EndlessSource, InstantDecoder

TILE_PX = 16


@click.command()
@click.option("--tiles", "counts", multiple=True, type=int, default=(1_000, 10_000, 95_000), show_default=True)
@click.option("--gigapixels", default=100.0, show_default=True, help="Of the skeleton.")
@click.option("--folder", type=click.Path(path_type=Path), default=".", help="Where outputs lie for a while.")
@click.option("--chart", type=click.Path(path_type=Path), default="very_large.png", show_default=True)
def main(counts: tuple[int, ...], gigapixels: float, folder: Path, chart: Path) -> None:
    """Measure whole jobs of many tiles, and the skeleton of a very large file."""
    rows, jobs = [], []
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            job, _ = run_apart(run_tiles, Path(inner), round(count**0.5), cores=available_cores())
        jobs.append(job)
        rows.append(
            [
                f"{job['tiles']:,}",
                f"{job['graph']:.2f}",
                f"{job['seconds']:.1f}",
                f"{job['seconds'] * 1e3 / job['tiles']:.2f}",
                f"{job['closing']:.2f}",
                megabytes(job["peak"]),
                f"{job['journal'] / 1e6:.2f}",
                megabytes(job["file"]),
            ]
        )
    print_table(["tiles", "whole graph s", "seconds", "ms/tile", "closing s", "peak MB", "journal MB", "file MB"], rows)
    (seconds, size, n_file_tiles), run = run_apart(make_skeleton, gigapixels, cores=available_cores())
    click.echo(
        f"Skeleton of {gigapixels:g} gigapixels: {n_file_tiles:,} tiles of 512 px in the file, {size / 1e6:.1f} MB, "
        f"{seconds:.2f} s, peak memory {megabytes(run.peak_bytes)} MB"
    )
    x = [float(job["tiles"]) for job in jobs]
    panels = {
        "ms per tile": {"time": (x, [job["seconds"] * 1e3 / job["tiles"] for job in jobs])},
        "peak memory, MB": {"memory": (x, [job["peak"] / 1e6 for job in jobs])},
    }
    draw_lines(chart, "What very many tiles cost", "tiles", panels)


def run_tiles(folder: Path, side: int) -> dict[str, float]:
    """Run a job of ``side`` × ``side`` tiles; return what was measured."""
    from taesd_core.network import Network
    from tiler.formats.tiff import Tiff
    from tiler.jobs import journal as journal_module
    from tiler.jobs.job import Job, run_job
    from tiler.jobs.schedule import Tree, build_graph
    from tiler.jobs.tasks import SinkTasks
    from tiler.plan import Plan

    size = side * TILE_PX // 8
    plan = Plan(Network.decoder(4), size, size, TILE_PX // 8)
    output = Tiff(folder / "image.tif", file_tile_px=TILE_PX).plan(plan, overwrite=False)
    model = InstantDecoder(plan.network.halo, plan.network.scale_out)
    measured: dict[str, float] = {"tiles": plan.n_tiles}
    commit = journal_module.Journal.commit

    def timed_commit(journal: journal_module.Journal) -> None:
        journal.sync()
        measured["journal"] = journal.part.with_name(journal.part.name + ".journal").stat().st_size
        started = time.perf_counter()
        commit(journal)
        measured["closing"] = time.perf_counter() - started

    journal_module.Journal.commit = timed_commit  # type: ignore[method-assign]
    started = time.perf_counter()
    run_job(Job(output, plan, EndlessSource(size, size, 4), {}, lambda: model, force=True))
    measured["seconds"] = time.perf_counter() - started
    measured["peak"] = peak_resident_bytes()
    measured["file"] = output.path.stat().st_size
    # All of it at once, as a cluster's scheduler gets it.
    started = time.perf_counter()
    tasks = SinkTasks(plan, lambda tile: np.zeros(0), None, finish=lambda *_: None, recall=lambda _: np.zeros(0))  # type: ignore[arg-type]
    tree = Tree(plan, output.n_levels)
    build_graph(tree, tasks, tree.missing_tops())
    measured["graph"] = time.perf_counter() - started
    return measured


def make_skeleton(gigapixels: float) -> tuple[float, int, int]:
    """Make the empty file of an image; return seconds, bytes, and its tiles."""
    from tiler.formats.tiff import Tiff, TiffSink

    side = round((gigapixels * 1e9) ** 0.5)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        sink = TiffSink(Tiff(Path(folder) / "image.tif", file_tile_px=512), (side, side, 3))
        seconds = time.perf_counter() - started
        size = sink.part_path.stat().st_size
        sink.discard()
    return seconds, size, sum(-(-height // 512) * -(-width // 512) for height, width in sink.levels)


if __name__ == "__main__":
    main()
