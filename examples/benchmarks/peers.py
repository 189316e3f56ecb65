"""Who decodes a latent how fast, and how exactly?

The same latents, the same weights, float32 on the processor; each way in a process of its own, warm, taking turns.
"""

import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np

import decoders
from measure import Run, Worker, WorkerError, available_cores, median_ratio, median_seconds, run_apart, take_turns
from report import describe_machine, draw_bars, megabytes, print_table

OURS = "taesd-tiler"
WAYS = {
    OURS: decoders.set_up_tiler,
    "Keras, whole image": decoders.set_up_keras,
    "Keras, as the TensorFlow port": decoders.set_up_eager_keras,
    "diffusers, whole image": decoders.set_up_diffusers,
    "diffusers, channels last": partial(decoders.set_up_diffusers, channels_last=True),
    "diffusers, enable_tiling()": partial(decoders.set_up_diffusers, tiled=True),
    "diffusers, torch.compile": partial(decoders.set_up_diffusers, compiled=True),
    "ONNX Runtime, whole image": decoders.set_up_onnxruntime,
    "OpenVINO, whole image": decoders.set_up_openvino,
}
ON_REQUEST = ("Keras, as the TensorFlow port", "diffusers, torch.compile")
"""The former takes 24 GB for 2,048² px, the latter minutes to warm up."""


@click.command()
@click.option("--size", "size_px", default=2048, show_default=True, help="Side of the square image, px.")
@click.option("--latents", type=click.Path(path_type=Path), help="Decode this file instead of the demo's picture.")
@click.option("--weights", default="photo", show_default=True, help="Name or file of the decoder's weights.")
@click.option("--tile-size", "tile_px", type=int, help="Of taesd-tiler.  [default: its own]")
@click.option("--way", "names", multiple=True, type=click.Choice(list(WAYS)), help="Only this one; may be repeated.")
@click.option("--rounds", default=5, show_default=True, help="Timed runs of each.")
@click.option("--threads", type=int, help="Pin every process to so many cores.  [default: all]")
@click.option("--chart", type=click.Path(path_type=Path), default="peers.png", show_default=True)
def main(
    size_px: int,
    latents: Path | None,
    weights: str,
    tile_px: int | None,
    names: tuple[str, ...],
    rounds: int,
    threads: int | None,
    chart: Path,
) -> None:
    """Compare ways to decode the same latents: speed, memory, and error against the whole image."""
    cores = available_cores()[:threads]
    chosen = [name for name in WAYS if (name in names if names else name not in ON_REQUEST)]
    workers: dict[str, Worker] = {}
    click.echo(describe_machine(len(cores)))
    with tempfile.TemporaryDirectory() as folder:
        if latents is None:
            latents = Path(folder) / "latents.npy"
            run_apart(decoders.save_demo_latents, latents, size_px, size_px)
        reference = decoders.decode_apart(decoders.set_up_keras, latents, weights)
        try:
            for name in chosen:
                options = {"tile_px": tile_px} if name == OURS else {}
                try:
                    worker = Worker(partial(WAYS[name], **options), latents, weights, cores=cores)
                    workers[name] = worker
                    worker.run()  # warm
                except WorkerError as error:
                    workers.pop(name, None)
                    click.echo(f"Left out: {name} ({error})")
            if not workers:
                raise click.ClickException("Nothing to measure.")
            runs = take_turns({name: worker.run for name, worker in workers.items()}, rounds)
            pixels = {name: worker.result() for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.stop()
    flop_per_px = decoders.find_flop_per_px(weights)
    height, width = reference.shape[:2]
    click.echo(f"{height:,} × {width:,} px, {rounds} rounds; GFLOP/s as if the whole image were decoded plainly")
    print_table(
        ["", "Mpx/s", "GFLOP/s", f"{OURS} against it", "seconds", "peak MB", "max error", "bytes that differ"],
        [
            describe_way(name, runs, pixels[name], reference, flop_per_px)
            for name in sorted(workers, key=lambda name: median_seconds(runs[name]))
        ],
    )
    rates = {name: height * width / 1e6 / median_seconds(runs[name]) for name in runs}
    rates = dict(sorted(rates.items(), key=lambda item: -item[1]))
    title = f"Decoding {height:,} × {width:,} px on {len(cores)} cores"
    draw_bars(chart, title, {"Mpx/s (more is better)": rates}, accent=OURS)
    click.echo(f"Chart: {chart}")


def describe_way(
    name: str, runs: dict[str, list[Run]], pixels: np.ndarray, reference: np.ndarray, flop_per_px: float
) -> list[str]:
    """Return the row of a way in the table."""
    mpx_per_second = reference[..., 0].size / 1e6 / median_seconds(runs[name])
    error = np.abs(pixels.astype(np.int16) - reference)
    seconds = sorted(run.seconds for run in runs[name])
    return [
        name,
        f"{mpx_per_second:.3f}",
        f"{mpx_per_second * flop_per_px / 1e3:.1f}",
        f"{median_ratio(runs[name], runs[OURS]):.2f} ×" if OURS in runs else "",
        f"{median_seconds(runs[name]):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})",
        megabytes(max(run.peak_bytes for run in runs[name])),
        f"{error.max()}/255",
        f"{np.count_nonzero(error) / error.size:.2g}",
    ]


if __name__ == "__main__":
    main()
