"""How do time and memory grow with the size of the image, and how does time shrink with threads?

Each size in a fresh process, from start to complete file. The source is a small latent, upscaled window by window, so
that nothing large exists but the output. With the stand-in decoder, which only repeats pixels, sizes can be far beyond
what is worth decoding for a measurement: plan, schedule, pyramid and file are the real ones.

With several numbers of threads (``--threads 1,2,4``) it is about them instead: the first size is decoded to an array on
so many cores, taking turns, as one tile and in the plan's own.
"""

import math
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from decoders import NullSink, RepeatDecoder, load_part, set_up_tiler
from measure import Worker, available_cores, median_ratio, median_seconds, run_apart, take_turns
from report import describe_machine, draw_lines, megabytes, print_table

LATENT_SIDE = 16
"""Of the small latent, latent px: the image is a whole multiple of it."""
OUTPUTS = ("deflate", "jpeg", "none", "npy", "nothing")


@dataclass(frozen=True, slots=True)
class Job:
    """What one process did."""

    side_px: int
    n_tiles: int
    predicted_bytes: int
    output_bytes: int
    seconds: float
    """From the call to the complete file."""
    peak_bytes: int

    @property
    def megapixels(self) -> float:
        """Of the image."""
        return self.side_px**2 / 1e6


@click.command()
@click.option(
    "--megapixels",
    "sizes",
    multiple=True,
    type=float,
    default=(1, 4, 16, 64),
    show_default=True,
    help="About how large; may be repeated.",
)
@click.option("--decoder", type=click.Choice(["real", "stand-in"]), default="real", show_default=True)
@click.option("--output", type=click.Choice(OUTPUTS), default="deflate", show_default=True, help="Kind of file.")
@click.option("--tile-size", "tile_px", type=int, help="Side of a tile, px.  [default: its own]")
@click.option("--folder", type=click.Path(path_type=Path), default=".", help="Where outputs lie for a while.")
@click.option("--weights", default="photo", show_default=True, help="Name or file of the decoder's weights.")
@click.option(
    "--threads", "said", help="Pin every process to so many cores, such as 2; or compare: 1,2,4.  [default: all]"
)
@click.option("--rounds", default=3, show_default=True, help="Timed runs of each number of threads.")
@click.option("--chart", type=click.Path(path_type=Path), default="scaling.png", show_default=True)
def main(
    sizes: tuple[float, ...],
    decoder: str,
    output: str,
    tile_px: int | None,
    folder: Path,
    weights: str,
    said: str | None,
    rounds: int,
    chart: Path,
) -> None:
    """Measure time and peak memory over the size of the image, or speed over the number of threads."""
    threads = read_threads(said)
    if len(threads) > 1:
        measure_threads(threads, sizes[0], weights, tile_px, rounds, chart)
        return
    cores = available_cores()[: threads[0]]
    click.echo(describe_machine(len(cores)))
    jobs = []
    for size in sizes:
        upscale = max(1, round(math.sqrt(size * 1e6) / (8 * LATENT_SIDE)))
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            run_job = decode_file if decoder == "real" and output != "nothing" else decode_parts
            arguments = (Path(inner), upscale, output, weights, tile_px, decoder)
            (n_tiles, predicted, written, seconds), run = run_apart(run_job, *arguments, cores=cores)
        jobs.append(Job(upscale * LATENT_SIDE * 8, n_tiles, predicted, written, seconds, run.peak_bytes))
    click.echo(f"Decoder: {decoder}; output: {output}; each size in a fresh process, loading included")
    print_table(
        ["Mpx", "tiles", "seconds", "s/Mpx", "ms/tile", "peak MB", "predicted MB", "output MB"],
        [
            [
                f"{job.megapixels:,.1f}",
                f"{job.n_tiles:,}",
                f"{job.seconds:.2f}",
                f"{job.seconds / job.megapixels:.3f}",
                f"{job.seconds * 1e3 / job.n_tiles:.2f}",
                megabytes(job.peak_bytes),
                megabytes(job.predicted_bytes),
                megabytes(job.output_bytes),
            ]
            for job in jobs
        ],
    )
    click.echo(describe_growth(jobs))
    x = [job.megapixels for job in jobs]
    panels = {
        "seconds per Mpx": {"time": (x, [job.seconds / job.megapixels for job in jobs])},
        "peak memory, MB": {"memory": (x, [job.peak_bytes / 1e6 for job in jobs])},
    }
    draw_lines(chart, "Time and memory over the size of the image", "Mpx", panels)
    click.echo(f"Chart: {chart}")


def read_threads(said: str | None) -> list[int]:
    """Return the numbers of threads that were asked for, each at most what there are."""
    most = len(available_cores())
    try:
        threads = [int(each) for each in said.split(",")] if said else [most]
    except ValueError:
        raise click.BadParameter(f"Not numbers of threads: {said}. Use one, or several: 1,2,4.") from None
    if not all(1 <= each <= most for each in threads):
        raise click.BadParameter(f"Not so many cores: threads={said}. There are {most}.")
    return threads


def measure_threads(
    threads: list[int], megapixels: float, weights: str, tile_px: int | None, rounds: int, chart: Path
) -> None:
    """Decode the same latent on each number of cores; print how much faster more of them are, and draw it."""
    click.echo(describe_machine(max(threads)))
    network = load_part(weights).network
    side = max(1, round(math.sqrt(megapixels * 1e6) / network.scale_out))
    ways = {"one tile": side * network.scale_out, "own tiles": tile_px}
    workers: dict[tuple[str, int], Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latents.npy"
        latents = np.random.default_rng(0).normal(0, 1, (1, network.channels_in, side, side))
        np.save(path, latents.astype(np.float32))
        try:
            for way, each_px in ways.items():
                for n in threads:
                    set_up = partial(set_up_tiler, tile_px=each_px)
                    workers[way, n] = worker = Worker(set_up, path, weights, cores=available_cores()[:n])
                    worker.run()  # warm
            runs = take_turns({key: worker.run for key, worker in workers.items()}, rounds)
            pixels = {key: worker.result() for key, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.stop()
    size = (side * network.scale_out) ** 2 / 1e6
    rows, lines = [], {}
    for way in ways:
        alone, *_ = (runs[way, n] for n in threads)
        for n in threads:
            faster = median_ratio(alone, runs[way, n])
            same = np.array_equal(pixels[way, n], pixels[way, threads[0]])
            rate = size / median_seconds(runs[way, n])
            rows.append(
                [way, n, f"{rate:.3f}", f"{faster:.2f} ×", f"{faster * threads[0] / n:.0%}", "yes" if same else "NO"]
            )
        lines[way] = threads, [size / median_seconds(runs[way, n]) for n in threads]
    click.echo(f"{size:,.1f} Mpx to an array, {rounds} rounds, warm")
    print_table(["", "threads", "Mpx/s", "faster", "of each", "same bytes"], rows)
    draw_lines(chart, "Speed over threads", "threads", {"Mpx/s (more is better)": lines})
    click.echo(f"Chart: {chart}")


def describe_growth(jobs: list[Job]) -> str:
    """Return how well a straight line fits the time, and how far memory grows from 16 Mpx on."""
    lines = []
    if len({job.side_px for job in jobs}) >= 3:
        x, y = (np.array(values) for values in zip(*((job.megapixels, job.seconds) for job in jobs), strict=True))
        # Relative errors, or the largest size alone would decide.
        slope, start = np.polyfit(x, y, 1, w=1 / y)
        worst = np.abs((start + slope * x) / y - 1).max()
        lines.append(f"Time: {start:.2f} s and {slope:.4f} s/Mpx; off that line by {worst:.1%} at most.")
    # A few rounded megapixels less than 16 are still 16.
    peaks = [job.peak_bytes for job in jobs if job.megapixels > 15]
    if len(peaks) >= 2:
        lines.append(f"Memory from 16 Mpx on: {min(peaks) / 1e6:,.0f} to {max(peaks) / 1e6:,.0f} MB, ")
        lines[-1] += f"{max(peaks) / min(peaks) - 1:.1%} apart."
    return "\n".join(lines) or "Too few sizes to say how it grows."


def make_latent(channels: int) -> np.ndarray:
    """Return the small latent, the same every time."""
    return np.random.default_rng(0).normal(0, 1, (LATENT_SIDE, LATENT_SIDE, channels)).astype(np.float32)


def decode_file(
    folder: Path, upscale: int, output: str, weights: str, tile_px: int | None, decoder: str
) -> tuple[int, int, int, float]:
    """Decode to a file by the public call; return tiles, predicted memory, bytes and seconds."""
    import tiler
    from tiler.planning import plan_decode

    channels = load_part(weights).network.channels_in
    latent = make_latent(channels)
    size = {} if tile_px is None else {"tile_size_px": tile_px}
    latents = tiler.Latents(latent, upscale=upscale)
    plan = plan_decode(latents, channels=channels, **size)
    file = tiler.Npy(folder / "image.npy") if output == "npy" else tiler.Tiff(folder / "image.tif", compression=output)
    report = tiler.decode(latents, file, weights=weights, **size)
    return report.n_tiles, plan.peak_bytes, report.size_bytes, report.seconds


def decode_parts(
    folder: Path, upscale: int, output: str, weights: str, tile_px: int | None, decoder: str
) -> tuple[int, int, int, float]:
    """Decode with the parts of the engine, so that the decoder can be the stand-in and the sink none."""
    from taesd_core.variants import find_weights
    from tiler.formats.register import describe_output
    from tiler.jobs.engine import run_tile
    from tiler.jobs.schedule import run_plan
    from tiler.jobs.statistics import prepare_model
    from tiler.models import load_model
    from tiler.planning import plan_decode
    from tiler.pyramid import level_shapes
    from tiler.sources.array_source import ArraySource
    from tiler.sources.upscale import Upscaled

    started = time.perf_counter()
    network = load_part(weights).network
    source = Upscaled(ArraySource(make_latent(network.channels_in), network.channels_in, axes="HWC"), upscale)
    plan = plan_decode(source, channels=network.channels_in, **({} if tile_px is None else {"tile_size_px": tile_px}))
    path = folder / ("image.npy" if output == "npy" else "image.tif")
    if output == "nothing":
        sink = NullSink(level_shapes(*plan.output_shape[:2], 512))
    else:
        file = describe_output(path, {} if output == "npy" else {"compression": output})
        sink = file.plan(plan, overwrite=False).open_sink(begun=None, description="{}")
    real = decoder == "real"
    loaded = load_model(find_weights(weights, "decoder"), "decoder") if real else RepeatDecoder(network)
    model = prepare_model(loaded, plan, source)
    run_plan(plan, lambda tile: run_tile(tile, source, model), sink, workers=max(2, len(available_cores())))
    if output != "nothing":
        sink.commit()
    seconds = time.perf_counter() - started
    return plan.n_tiles, plan.peak_bytes, path.stat().st_size if path.exists() else 0, seconds


if __name__ == "__main__":
    main()
