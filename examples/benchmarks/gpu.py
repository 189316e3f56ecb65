"""What should run on a GPU?

Our model on ``KERAS_BACKEND=tensorflow`` or ``jax``, by precision and tile size, against diffusers by the same
precision where PyTorch sees the GPU. Every call ends with bytes on the host, so nothing is still in flight when the
clock stops. Without a GPU everything runs on the processor, to try the script.

A way and a precision is a process; they take turns. None takes more of the device's memory than it needs.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import decoders
from measure import Run, Worker, WorkerError, median_seconds, run_apart, take_turns
from report import describe_machine, draw_lines, print_table

PRECISIONS = ("float32", "bfloat16", "float16")
OURS = "taesd-tiler"
DIFFUSERS: dict[str, dict[str, bool]] = {
    "diffusers, eager": {},
    "diffusers, channels last": {"channels_last": True},
    "diffusers, torch.compile": {"compiled": True, "channels_last": True},
    "diffusers, enable_tiling()": {"tiled": True},
}
SHARE_THE_DEVICE = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@click.command()
@click.option(
    "--tile-size",
    "sizes_px",
    multiple=True,
    default=(512, 1024, 2048, 4096),
    show_default=True,
    help="Side of a tile, and of the image for diffusers, px; may be repeated.",
)
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Only this.")
@click.option("--weights", default="photo", show_default=True, help="Name or file of the decoder's weights.")
@click.option("--diffusers/--no-diffusers", "with_diffusers", default=True, show_default=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(list(DIFFUSERS)), help="Only this one of diffusers'.")
@click.option(
    "--peak-tflops",
    type=(click.Choice(PRECISIONS), float),
    multiple=True,
    help="What the device can do at most, such as: bfloat16 989.  May be repeated.",
)
@click.option("--rounds", default=10, show_default=True, help="Timed runs of each.")
@click.option("--chart", type=click.Path(path_type=Path), default="gpu.png", show_default=True)
def main(
    sizes_px: tuple[int, ...],
    precisions: tuple[str, ...],
    weights: str,
    with_diffusers: bool,
    ways: tuple[str, ...],
    peak_tflops: tuple[tuple[str, float], ...],
    rounds: int,
    chart: Path,
) -> None:
    """Measure tiles on the device, by precision and size, against diffusers."""
    click.echo(describe_machine())
    backend, ours_on = run_apart(name_our_device, environment=SHARE_THE_DEVICE)[0]
    click.echo(f"{OURS}: {backend} on {ours_on}")
    names = {f"{OURS}, {precision}": (OURS, precision) for precision in precisions or PRECISIONS}
    device = ""
    if with_diffusers:
        try:
            (device, described), _ = run_apart(name_torch_device)
            click.echo(f"diffusers: PyTorch on {described}")
            for way in ways or DIFFUSERS:
                names |= {f"{way}, {precision}": (way, precision) for precision in precisions or PRECISIONS}
        except WorkerError as error:
            click.echo(f"Left out: diffusers ({error})")
    runs: dict[tuple[str, int], list[Run]] = {}
    workers: dict[str, Worker] = {}
    try:
        for name, (way, precision) in names.items():
            try:
                if way == OURS:
                    workers[name] = Worker(decoders.set_up_tiles, weights, precision, environment=SHARE_THE_DEVICE)
                else:
                    workers[name] = Worker(set_up_images, way, weights, precision, device)
            except WorkerError as error:
                click.echo(f"Left out: {name} ({error})")
        for size in sizes_px:
            ready = {name: partial(worker.run, size) for name, worker in workers.items()}
            for name, run in list(ready.items()):
                try:
                    run(), run()  # warm
                except WorkerError as error:
                    # The process is gone with its memory, and larger sizes would not fit either.
                    click.echo(f"Left out: {name} from {size:,} px on ({error})")
                    workers.pop(name).stop()
                    del ready[name]
            for name, each in take_turns(ready, rounds).items():
                runs[name, size] = each
    finally:
        for worker in workers.values():
            worker.stop()
    if not runs:
        raise click.ClickException("Nothing to measure.")
    show(runs, names, sizes_px, dict(peak_tflops), decoders.find_flop_per_px(weights), chart)


def show(
    runs: dict[tuple[str, int], list[Run]],
    names: dict[str, tuple[str, str]],
    sizes_px: tuple[int, ...],
    peak_tflops: dict[str, float],
    flop_per_px: float,
    chart: Path,
) -> None:
    """Print the table and draw the chart."""
    rates = {(name, size): size**2 / 1e6 / median_seconds(each) for (name, size), each in runs.items()}
    rows = []
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name, (_, precision) in names.items():
        for size in (size for size in sizes_px if (name, size) in rates):
            rate = rates[name, size]
            tflops = rate * flop_per_px / 1e6
            peak = peak_tflops.get(precision)
            milliseconds = median_seconds(runs[name, size]) * 1e3
            share = f"{tflops / peak:.1%}" if peak else ""
            rows.append([name, f"{size:,}", f"{rate:.3f}", f"{milliseconds:.2f}", f"{tflops:.3f}", share])
            x, y = lines.setdefault(name, ([], []))
            x.append(size)
            y.append(rate)
    click.echo("An inner tile (ours) or a whole image (diffusers) of so many px; TFLOP/s as if decoded plainly")
    print_table(["", "px", "Mpx/s", "ms", "TFLOP/s", "of the peak"], rows)
    draw_lines(chart, "Decoding on the device", "side, px", {"Mpx/s (more is better)": lines})
    click.echo(f"Chart: {chart}")


def set_up_images(way: str, weights: str, precision: str, device: str) -> Callable[[int], Any]:
    """Decode whole images of any size with diffusers."""
    network = decoders.load_decoder(weights).network
    random = np.random.default_rng(0)
    decode_latents = decoders.set_up_autoencoder(weights, dtype=precision, device=device, **DIFFUSERS[way])
    latents: dict[int, np.ndarray] = {}

    def decode(size_px: int) -> Any:
        side = size_px // network.scale_out
        if size_px not in latents:
            latents[size_px] = random.normal(0, 1, (side, side, network.channels_in)).astype(np.float32)
        return decode_latents(latents[size_px])

    return decode


def name_our_device() -> tuple[str, str]:
    """Return the backend and the devices that it sees."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return "JAX", ", ".join(str(device) for device in jax.devices())
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    details = [tf.config.experimental.get_device_details(device).get("device_name", "CPU") for device in devices]
    return "TensorFlow", ", ".join(details)


def name_torch_device() -> tuple[str, str]:
    """Return PyTorch's device and what it is."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    return "cpu", "CPU"


if __name__ == "__main__":
    main()
