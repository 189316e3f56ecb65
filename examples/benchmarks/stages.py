"""Where does the time go, besides the decoder?

Four tables: what each kind of output costs over decoding alone; what planning 100 gigapixels takes; what the schedule
costs a tile; what commands take from nothing to their end.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import decoders
from decoders import NullSink, load_part
from measure import (
    Run,
    Worker,
    available_cores,
    median_ratio,
    median_seconds,
    peak_resident_bytes,
    run_apart,
    take_turns,
)
from report import describe_machine, draw_bars, megabytes, print_table
from tiler.model import Ends
from tiler.window import Window

ALONE = "decoding alone"
OUTPUTS: dict[str, dict[str, Any]] = {
    ALONE: {},
    "pyramidal TIFF, deflate": {"name": "image.tif", "compression": "deflate"},
    "pyramidal TIFF, JPEG": {"name": "image.tif", "compression": "jpeg"},
    ".npy": {"name": "image.npy"},
}
SHOWN_IMPORTS = 8
"""Packages whose imports are shown one by one."""
PARTS = ("outputs", "planning", "scheduling", "start-up")


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; may be repeated.")
@click.option("--size", "size_px", default=4096, show_default=True, help="Side of the image for the outputs, px.")
@click.option("--rounds", default=5, show_default=True, help="Timed runs of each output and of the start-up.")
@click.option("--gigapixels", default=100.0, show_default=True, help="How much is planned.")
@click.option("--tiles", "n_tiles", default=10_000, show_default=True, help="At least so many are scheduled.")
@click.option("--weights", default="photo", show_default=True, help="Name or file of the decoder's weights.")
@click.option("--folder", type=click.Path(path_type=Path), default=".", help="Where outputs lie for a while.")
@click.option(
    "--before",
    type=click.Path(exists=True, path_type=Path),
    help="A checkout or site-packages of another version, for the start-up.",
)
@click.option("--threads", type=int, help="Pin every process to so many cores.  [default: all]")
@click.option("--chart", type=click.Path(path_type=Path), default="stages.png", show_default=True)
def main(
    parts: tuple[str, ...],
    size_px: int,
    rounds: int,
    gigapixels: float,
    n_tiles: int,
    weights: str,
    folder: Path,
    before: Path | None,
    threads: int | None,
    chart: Path,
) -> None:
    """Measure the pipeline around the decoder."""
    cores = available_cores()[:threads]
    click.echo(describe_machine(len(cores)))
    charts: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        if "outputs" in parts or not parts:
            charts[f"Seconds for {size_px:,} × {size_px:,} px"] = measure_outputs(
                Path(inner), size_px, rounds, weights, cores
            )
        if "planning" in parts or not parts:
            charts[f"Seconds to plan {gigapixels:g} gigapixels"] = measure_planning(gigapixels, cores)
        if "scheduling" in parts or not parts:
            charts["Milliseconds a tile, nothing decoded"] = measure_scheduling(n_tiles, cores)
        if "start-up" in parts or not parts:
            charts["Seconds from nothing to the end, 64 × 64 latents"] = measure_start_up(
                Path(inner), rounds, weights, cores, before
            )
    draw_bars(chart, "Where the time goes (less is better)", charts)
    click.echo(f"Chart: {chart}")


def measure_outputs(folder: Path, size_px: int, rounds: int, weights: str, cores: list[int]) -> dict[str, float]:
    """Print what each kind of output costs over decoding alone, and return the seconds."""
    latents = folder / "latents.npy"
    run_apart(decoders.save_demo_latents, latents, size_px, size_px, cores=cores)
    workers: dict[str, Worker] = {}
    try:
        for name, options in OUTPUTS.items():
            worker = workers[name] = Worker(set_up_output, latents, weights, folder, options, cores=cores)
            worker.run()  # warm
        runs = take_turns({name: worker.run for name, worker in workers.items()}, rounds)
        sizes = {name: worker.result() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.stop()
    click.echo(f"Outputs: {size_px:,} × {size_px:,} px, {rounds} rounds, each output in a process of its own, warm")
    print_table(
        ["", "seconds", "over decoding alone", "peak MB", "output MB"],
        [
            [
                name,
                f"{median_seconds(each):.2f}",
                f"{median_ratio(each, runs[ALONE]) - 1:+.1%}",
                megabytes(max(run.peak_bytes for run in each)),
                megabytes(sizes[name]),
            ]
            for name, each in runs.items()
        ],
    )
    return {name: median_seconds(each) for name, each in runs.items()}


def set_up_output(latents: Path, weights: str, folder: Path, options: dict[str, Any]) -> Callable[[], int]:
    """Decode to a kind of output, over and over; return its size in bytes. Without options: to no output."""
    import tiler
    from taesd_core.variants import find_weights
    from tiler.formats.register import describe_output
    from tiler.jobs.engine import run_tile
    from tiler.jobs.schedule import run_plan
    from tiler.jobs.statistics import prepare_model
    from tiler.models import load_model
    from tiler.planning import plan_decode
    from tiler.sources.opening import open_latents

    if options:
        options = dict(options)
        path = folder / f"{options.get('compression', '')}-{options.pop('name')}"
        output = describe_output(path, options)
        return lambda: tiler.decode(latents, output, weights=weights, overwrite=True).size_bytes

    checkpoint = find_weights(weights, "decoder")
    channels = load_part(weights).network.channels_in

    def decode() -> int:
        source = open_latents(latents, channels)
        plan = plan_decode(source, channels=channels)
        model = prepare_model(load_model(checkpoint, "decoder"), plan, source)
        sink = NullSink([plan.output_shape[:2]])
        run_plan(plan, lambda tile: run_tile(tile, source, model), sink, workers=max(2, len(available_cores())))
        return 0

    return decode


def measure_planning(gigapixels: float, cores: list[int]) -> dict[str, float]:
    """Print what planning takes, and return the seconds."""
    (n_tiles, seconds, peaks), _ = run_apart(plan_image, gigapixels, cores=cores)
    click.echo(f"Planning {gigapixels:g} gigapixels: {n_tiles:,} tiles, in a fresh process")
    print_table(
        ["", "seconds", "peak MB so far"],
        [[name, f"{seconds[name]:.3f}", megabytes(peaks[name])] for name in seconds],
    )
    return seconds


def plan_image(gigapixels: float) -> tuple[int, dict[str, float], dict[str, int]]:
    """Plan a square image, go through its tiles and make its graph; return tiles, seconds and peak memory by step."""
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    started = time.perf_counter()

    def note(step: str) -> None:
        nonlocal started
        seconds[step] = time.perf_counter() - started
        peaks[step] = peak_resident_bytes()
        started = time.perf_counter()

    from tiler.jobs.schedule import Tree, build_graph
    from tiler.jobs.tasks import SinkTasks
    from tiler.planning import plan_decode
    from tiler.pyramid import level_shapes

    started = time.perf_counter()
    side = round((gigapixels * 1e9) ** 0.5 / 8)
    plan = plan_decode(EndlessSource(side, side, 4))
    plan.summary()
    note("plan and summary")
    assert sum(1 for _ in plan.tiles()) == plan.n_tiles
    note("every tile once")
    sink = NullSink(level_shapes(*plan.output_shape[:2], 1024))
    tasks = SinkTasks(plan, lambda tile: np.zeros(0), sink, finish=lambda *_: None, recall=lambda _: np.zeros(0))
    tree = Tree(plan, len(sink.levels))
    build_graph(tree, tasks, tree.missing_tops())
    note("graph with pyramid")
    return plan.n_tiles, seconds, peaks


def measure_scheduling(n_tiles: int, cores: list[int]) -> dict[str, float]:
    """Print what a tile costs when nothing is decoded, and return the milliseconds."""
    milliseconds, rows = {}, []
    for name, pyramid in (("tiles", False), ("tiles and pyramid", True)):
        (done, seconds), run = run_apart(schedule_tiles, n_tiles, pyramid, cores=cores)
        milliseconds[name] = seconds * 1e3 / done
        rows.append([name, f"{done:,}", f"{seconds:.2f}", f"{milliseconds[name]:.3f}", megabytes(run.peak_bytes)])
    click.echo("Scheduling, with a decoder that returns at once: tiles of 64 px, read, decoded and dropped")
    print_table(["", "tiles", "seconds", "ms/tile", "peak MB"], rows)
    return milliseconds


def schedule_tiles(n_tiles: int, pyramid: bool) -> tuple[int, float]:
    """Run a plan of at least so many small tiles with a decoder that does nothing; return tiles and seconds."""
    from tiler.jobs.engine import run_tile
    from tiler.jobs.schedule import run_plan
    from tiler.planning import plan_decode
    from tiler.pyramid import level_shapes

    tile_px = 64
    side = int(np.ceil(n_tiles**0.5)) * tile_px // 8
    source = EndlessSource(side, side, 4)
    plan = plan_decode(source, tile_size_px=tile_px)
    model = InstantDecoder(plan.network.halo, plan.network.scale_out)
    levels = level_shapes(*plan.output_shape[:2], tile_px) if pyramid else [plan.output_shape[:2]]
    started = time.perf_counter()
    run_plan(plan, lambda tile: run_tile(tile, source, model), NullSink(levels), workers=max(2, len(available_cores())))
    return plan.n_tiles, time.perf_counter() - started


def measure_start_up(
    folder: Path, rounds: int, weights: str, cores: list[int], before: Path | None
) -> dict[str, float]:
    """Print what commands take from nothing to their end, and where that goes; return the seconds."""
    folder = folder.resolve()
    latents = folder / "small.npy"
    channels = load_part(weights).network.channels_in
    np.save(latents, np.random.default_rng(0).normal(0, 1, (1, channels, 64, 64)).astype(np.float32))
    commands = {
        "--help": ["--help"],
        "plan": ["plan", latents],
        "preview": ["preview", latents, "small.png", "--weights", weights],
        "decode": ["decode", latents, "small.tif", "--weights", weights, "--quiet"],
    }
    prefix = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores != available_cores() else []
    # As installed: with bytecode. What is compiled is kept in a folder of its own, empty where it is to be cold.
    common = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    common["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    fresh = itertools.count()

    def run(words: list[Any], checkout: Path | None, *, cold: bool, python: tuple[str, ...] = ()) -> tuple[Run, str]:
        for path in folder.glob("small.[pt][ni][gf]"):
            path.unlink()
        environment = common | {"TAESD_TILER_CACHE": str(folder / (f"cold-{next(fresh)}" if cold else "warm"))}
        if checkout is not None:
            environment["PYTHONPATH"] = str(checkout.resolve())
        started = time.perf_counter()
        command = [*prefix, sys.executable, *python, "-m", "tiler", *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environment)
        return Run(time.perf_counter() - started, 0), done.stderr

    ways = {"warm": (None, False), "cold": (None, True)} | ({"before": (before, False)} if before else {})
    runs: dict[tuple[str, str], Callable[[], Run]] = {
        (name, way): (lambda words=words, checkout=checkout, cold=cold: run(words, checkout, cold=cold)[0])
        for name, words in commands.items()
        for way, (checkout, cold) in ways.items()
    }
    for key, each in runs.items():
        if key[1] != "cold":
            each()
    taken = {key: median_seconds(each) for key, each in take_turns(runs, rounds).items()}
    click.echo(f"Start: 64 × 64 latents, {rounds} fresh processes of each; cold: nothing compiled yet")
    print_table(["", *ways], [[name, *(f"{taken[name, way]:.2f}" for way in ways)] for name in commands])
    imports = read_imports(run(commands["decode"], None, cold=False, python=("-X", "importtime"))[1])
    rows = sorted(imports.items(), key=lambda item: -item[1])[:SHOWN_IMPORTS]
    others = sum(imports.values()) - sum(seconds for _, seconds in rows)
    work = taken["decode", "warm"] - sum(imports.values())
    rows += [("other imports", others), ("all else: loading, decoding, writing", work)]
    click.echo("Where a warm decode goes; the clock of imports makes them a little slower")
    print_table(["", "seconds"], [[name, f"{seconds:.3f}"] for name, seconds in rows])
    return {f"{name}, {way}": seconds for (name, way), seconds in taken.items()}


def read_imports(said: str) -> dict[str, float]:
    """Return the seconds that Python says the modules of each package took, without what they import."""
    seconds: dict[str, float] = {}
    for own, _, name in (line[len("import time:") :].split("|") for line in said.splitlines() if line.count("|") == 2):
        if own.strip().isdigit():
            package = name.strip().split(".")[0]
            seconds[package] = seconds.get(package, 0) + int(own) / 1e6
    return seconds


class EndlessSource:
    """Latents of any size that take no memory: all are 0."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.shape = height, width, channels

    def read(self, window: Window) -> np.ndarray:
        """Return the zeros of a window."""
        return np.zeros((*window.shape, self.shape[2]), np.float32)


class InstantDecoder:
    """A stand-in that returns black pixels, as many as the window determines."""

    def __init__(self, halo: int, scale: int) -> None:
        self.halo, self.scale = halo, scale

    def __call__(
        self, window: np.ndarray, borders: tuple[Ends, Ends], crop: Any = ..., origin: Any = None
    ) -> np.ndarray:
        """Return what the window determines."""
        height, width = (
            (length - self.halo * ((not low) + (not high))) * self.scale
            for length, (low, high) in zip(window.shape, borders, strict=False)
        )
        return np.zeros((height, width, 3), np.uint8)[crop]


if __name__ == "__main__":
    main()
