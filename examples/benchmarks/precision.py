"""How far are float16 and bfloat16 from float32, and how fast are they?

Errors are those of tiles against the whole image in float64, before rounding to bytes, in units of 1/255.
"""

import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np

import decoders
from measure import Worker, WorkerError, available_cores, median_seconds, run_apart, take_turns
from report import describe_machine, draw_bars, megabytes, print_table

PRECISIONS = {
    "float32, kernels": ("kernels", "float32"),
    "float32": ("keras", "float32"),
    "bfloat16": ("keras", "bfloat16"),
    "float16": ("keras", "float16"),
}
"""By name, the engine and what it computes in."""


@click.command()
@click.option("--size", "size_px", default=1024, show_default=True, help="Side of the square image, px.")
@click.option("--latents", type=click.Path(path_type=Path), help="Decode this file instead of the demo's picture.")
@click.option("--weights", default="photo", show_default=True, help="Name or file of the decoder's weights.")
@click.option(
    "--precision", "names", multiple=True, type=click.Choice(list(PRECISIONS)), help="Only this; may be repeated."
)
@click.option("--tile-size", "tile_px", type=int, help="Side of a tile, px.  [default: its own]")
@click.option("--rounds", default=3, show_default=True, help="Timed runs of each.")
@click.option("--threads", type=int, help="Pin every process to so many cores.  [default: all]")
@click.option("--chart", type=click.Path(path_type=Path), default="precision.png", show_default=True)
def main(
    size_px: int,
    latents: Path | None,
    weights: str,
    names: tuple[str, ...],
    tile_px: int | None,
    rounds: int,
    threads: int | None,
    chart: Path,
) -> None:
    """Measure the error and the speed of each precision."""
    cores = available_cores()[:threads]
    click.echo(describe_machine(len(cores)))
    workers: dict[str, Worker] = {}
    errors: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        if latents is None:
            latents = Path(folder) / "latents.npy"
            run_apart(decoders.save_demo_latents, latents, size_px, size_px)
        reference, _ = run_apart(decoders.run_in_float64, latents, weights)
        try:
            for name in names or PRECISIONS:
                engine, precision = PRECISIONS[name]
                set_up = partial(decoders.set_up_tiler, engine=engine, dtype=precision, tile_px=tile_px)
                try:
                    with Worker(partial(set_up, output="float32"), latents, weights, cores=cores) as worker:
                        worker.run()
                        errors[name] = find_errors(worker.result(), reference)
                    workers[name] = Worker(set_up, latents, weights, cores=cores)
                    workers[name].run()  # warm
                except WorkerError as error:
                    errors.pop(name, None)
                    click.echo(f"Left out: {name} ({error})")
            if not errors:
                raise click.ClickException("Nothing to measure.")
            runs = take_turns({name: workers[name].run for name in errors}, rounds)
        finally:
            for worker in workers.values():
                worker.stop()
    height, width = reference.shape[:2]
    rates = {name: height * width / 1e6 / median_seconds(each) for name, each in runs.items()}
    click.echo(f"{height:,} × {width:,} px, {rounds} rounds; errors in 1/255")
    print_table(
        ["", "max error", "99.9th percentile", "PSNR dB", "Mpx/s", "peak MB"],
        [
            [
                name,
                f"{error.max():.3g}",
                f"{np.quantile(error, 0.999):.3g}",
                f"{find_psnr(error):.1f}",
                f"{rates[name]:.3f}",
                megabytes(max(run.peak_bytes for run in runs[name])),
            ]
            for name, error in errors.items()
        ],
    )
    panels = {
        "largest error, 1/255 (less is better)": {name: float(error.max()) for name, error in errors.items()},
        "Mpx/s (more is better)": rates,
    }
    draw_bars(chart, "What a precision costs and gains", panels, accent="float32")
    click.echo(f"Chart: {chart}")


def find_errors(pixels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the absolute differences of what both show, in 1/255; NaN counts as black on white."""
    difference = np.clip(pixels, 0, 1) - np.clip(reference, 0, 1).astype(np.float64)
    return np.nan_to_num(np.abs(difference), nan=1.0) * 255


def find_psnr(error: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of absolute errors in 1/255."""
    mean = float(np.square(error / 255).mean())
    return 10 * np.log10(1 / mean) if mean else np.inf


if __name__ == "__main__":
    main()
