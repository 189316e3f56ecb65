"""What should run on a GPU?

Five parts, each of which may fail without the others: what the device can do at most; how exact the engine is in
float32; tiles by precision and size; diffusers on the same device; whole files with and without compression. Our model
runs on ``KERAS_BACKEND=tensorflow`` or ``jax``, diffusers where PyTorch sees the GPU. Every call ends with bytes on the
host, so nothing is still in flight when the clock stops. Without a GPU everything runs on the processor, to try the
script. What is measured is printed, and noted in a file, as soon as it is known.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

import decoders
from measure import Worker, WorkerError, run_apart
from report import describe_machine, draw_lines, print_table

PRECISIONS = ("float32", "bfloat16", "float16")
OURS = "taesd-tiler"
DIFFUSERS: dict[str, dict[str, bool]] = {
    "diffusers, eager": {},
    "diffusers, channels last": {"channels_last": True},
    "diffusers, torch.compile": {"compiled": True, "channels_last": True},
    "diffusers, enable_tiling()": {"tiled": True},
}
COMPRESSIONS = ("none", "zstd", "jpeg", "deflate")
SHARE_THE_DEVICE = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
PRODUCT_SIDE = 8192
"""Of the matrices whose product shows what the device can do."""


@dataclass
class Settings:
    """What is measured, and what was found so far."""

    sizes_px: tuple[int, ...]
    precisions: tuple[str, ...]
    weights: str
    ways: tuple[str, ...]
    rounds: int
    side_px: int
    compressions: tuple[str, ...]
    tile_px: int | None
    workers: int | None
    folder: Path
    patience: float
    results: Path | None
    tflops: dict[str, float] = field(default_factory=dict)
    """By precision, what the device can do at most."""
    found: list[dict[str, Any]] = field(default_factory=list)
    """A row of each measurement."""

    def note(self, part: str, **values: Any) -> None:
        """Keep what was measured, in the file too."""
        row = {
            "part": part,
            **{name: float(f"{each:.4g}") if isinstance(each, float) else each for name, each in values.items()},
        }
        self.found.append(row)
        click.echo(f"  {row}")
        if self.results is not None:
            with self.results.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def share_of_peak(self, precision: str, mpx_per_second: float) -> str:
        """Return which share of what the device can do these megapixels take, decoded plainly."""
        peak = self.tflops.get(precision)
        tflops = mpx_per_second * decoders.find_flop_per_px(self.weights) / 1e6
        return f"{tflops / peak:.1%}" if peak else ""


def measure_ceiling(settings: Settings) -> None:
    """Measure a large product of matrices in each precision, unless what the device can do was said."""
    for precision in settings.precisions:
        if precision not in settings.tflops:
            with Worker(set_up_product, precision, patience=settings.patience, environment=SHARE_THE_DEVICE) as worker:
                worker.run()
                seconds = min(worker.run().seconds for _ in range(3))
                n_flop = worker.result()
            settings.tflops[precision] = n_flop / seconds / 1e12
        settings.note("ceiling", precision=precision, tflops=settings.tflops[precision])


def measure_exactness(settings: Settings) -> None:
    """Compare tiles with the plain model on the same device, and both with float64 on the processor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latents.npy"
        run_apart(decoders.save_demo_latents, path, 512, 512)
        exact = decoders.run_in_float64(path, settings.weights)
        images = {}
        for name, arguments in {"tiles": (256,), "whole": ()}.items():
            set_up = set_up_plan if name == "tiles" else set_up_whole
            options = {"environment": SHARE_THE_DEVICE, "patience": settings.patience}
            images[name], _ = run_apart(decode_once, set_up, path, settings.weights, *arguments, **options)
    for name, image in images.items():
        error = np.abs(image - exact)
        settings.note("exactness", what=f"{name} against float64", largest=float(error.max()), mean=float(error.mean()))
    bytes_of = {name: np.rint(np.clip(image, 0, 1) * 255).astype(int) for name, image in images.items()}
    difference = np.abs(bytes_of["tiles"] - bytes_of["whole"])
    settings.note(
        "exactness",
        what="bytes, tiles against whole",
        largest=int(difference.max()),
        n=int(np.count_nonzero(difference)),
        of=difference.size,
    )


def measure_tiles(settings: Settings) -> None:
    """Measure one inner tile after another, by precision and size."""
    for precision in settings.precisions:
        with Worker(
            decoders.set_up_tiles,
            settings.weights,
            precision,
            "keras",
            environment=SHARE_THE_DEVICE,
            patience=settings.patience,
        ) as worker:
            measure_sizes(settings, "tiles", OURS, precision, worker)


def measure_diffusers(settings: Settings) -> None:
    """Measure diffusers on whole images, by precision and size."""
    (device, described), _ = run_apart(name_torch_device)
    click.echo(f"diffusers: PyTorch on {described}")
    for way in settings.ways:
        for precision in settings.precisions:
            try:
                with Worker(
                    set_up_images, way, settings.weights, precision, device, patience=settings.patience
                ) as worker:
                    measure_sizes(settings, "diffusers", way, precision, worker)
            except WorkerError as error:
                click.echo(f"Left out: {way}, {precision} ({error})")


def measure_sizes(settings: Settings, part: str, way: str, precision: str, worker: Worker) -> None:
    """Note how fast a worker decodes each size, until one does not fit."""
    for size in settings.sizes_px:
        try:
            first = worker.run(size).seconds
            worker.run(size)
            runs = [worker.run(size).seconds for _ in range(settings.rounds)]
        except WorkerError as error:
            # The process is gone with its memory, and larger sizes would not fit either.
            click.echo(f"Left out: {way}, {precision} from {size:,} px on ({error})")
            return
        seconds = float(np.median(runs))
        rate = size**2 / 1e6 / seconds
        settings.note(
            part,
            way=way,
            precision=precision,
            px=size,
            mpx_per_second=rate,
            ms=seconds * 1e3,
            first_s=first,
            of_peak=settings.share_of_peak(precision, rate),
        )


def measure_files(settings: Settings) -> None:
    """Decode to TIFF, each compression from a warm model, and see how long the device does something."""
    for precision in settings.precisions:
        with (
            tempfile.TemporaryDirectory(dir=settings.folder) as folder,
            Worker(
                set_up_files,
                settings.weights,
                precision,
                settings.side_px,
                settings.tile_px,
                settings.workers,
                Path(folder),
                environment=SHARE_THE_DEVICE,
                patience=settings.patience,
            ) as worker,
        ):
            for compression in settings.compressions:
                with BusyDevice() as device:
                    seconds = worker.run(compression).seconds
                tile_px, n_bytes, profile = worker.result()
                rate = settings.side_px**2 / 1e6 / seconds
                settings.note(
                    "files",
                    precision=precision,
                    compression=compression,
                    px=settings.side_px,
                    tile_px=tile_px,
                    mpx_per_second=rate,
                    seconds=seconds,
                    model_share=profile["decode"] / seconds,
                    device_busy=device.share,
                    of_peak=settings.share_of_peak(precision, rate),
                    megabytes=n_bytes / 1e6,
                    **{f"{stage}_s": value for stage, value in profile.items()},
                )


PARTS: dict[str, Callable[[Settings], None]] = {
    "ceiling": measure_ceiling,
    "exactness": measure_exactness,
    "tiles": measure_tiles,
    "diffusers": measure_diffusers,
    "files": measure_files,
}


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only this; may be repeated.")
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
@click.option("--way", "ways", multiple=True, type=click.Choice(list(DIFFUSERS)), help="Only this one of diffusers'.")
@click.option(
    "--peak-tflops",
    type=(click.Choice(PRECISIONS), float),
    multiple=True,
    help="What the device can do at most, such as: bfloat16 989.  [default: measured, a product of matrices]",
)
@click.option("--rounds", default=10, show_default=True, help="Timed runs of each.")
@click.option("--file-size", "side_px", default=16384, show_default=True, help="Side of the image for files, px.")
@click.option("--file-tile-size", "tile_px", type=int, help="Side of its tiles, px.  [default: the engine's own]")
@click.option("--workers", type=int, help="Tiles in flight, for files.  [default: the engine's own]")
@click.option("--compression", "compressions", multiple=True, type=click.Choice(COMPRESSIONS), help="Only this.")
@click.option("--folder", type=click.Path(path_type=Path), default=".", help="Where files lie for a while.")
@click.option("--patience", default=120.0, show_default=True, help="Most seconds that one call may take.")
@click.option("--results", type=click.Path(path_type=Path), help="A file that gets a line of JSON a measurement.")
@click.option("--chart", type=click.Path(path_type=Path), default="gpu.png", show_default=True)
def main(
    parts: tuple[str, ...],
    sizes_px: tuple[int, ...],
    precisions: tuple[str, ...],
    weights: str,
    ways: tuple[str, ...],
    peak_tflops: tuple[tuple[str, float], ...],
    rounds: int,
    side_px: int,
    tile_px: int | None,
    workers: int | None,
    compressions: tuple[str, ...],
    folder: Path,
    patience: float,
    results: Path | None,
    chart: Path,
) -> None:
    """Measure tiles and whole files on the device, by precision, against diffusers."""
    click.echo(describe_machine())
    backend, ours_on = run_apart(name_our_device, environment=SHARE_THE_DEVICE)[0]
    click.echo(f"{OURS}: {backend} on {ours_on}")
    settings = Settings(
        sizes_px,
        precisions or PRECISIONS,
        weights,
        ways or tuple(DIFFUSERS),
        rounds,
        side_px,
        compressions or COMPRESSIONS,
        tile_px,
        workers,
        folder,
        patience,
        results,
        dict(peak_tflops),
    )
    for part in parts or PARTS:
        started = time.perf_counter()
        try:
            PARTS[part](settings)
        except (WorkerError, OSError) as error:
            click.echo(f"Left out: the rest of {part} ({error})")
        click.echo(f"{part}: {time.perf_counter() - started:.0f} s")
    if not settings.found:
        raise click.ClickException("Nothing to measure.")
    show(settings, chart)


def show(settings: Settings, chart: Path) -> None:
    """Print a table of each part and draw the chart of the tiles."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for part in PARTS:
        rows = [row for row in settings.found if row["part"] == part]
        if rows:
            headers = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "part"]
            click.echo(part)
            print_table(headers, [[row.get(name, "") for name in headers] for row in rows])
        for row in rows if part in ("tiles", "diffusers") else ():
            x, y = lines.setdefault(f"{row['way']}, {row['precision']}", ([], []))
            x.append(row["px"])
            y.append(row["mpx_per_second"])
    if lines:
        draw_lines(chart, "Decoding on the device", "side, px", {"Mpx/s (more is better)": lines})
        click.echo(f"Chart: {chart}")


class BusyDevice:
    """While it is entered, asks the driver again and again whether the device does something."""

    share = float("nan")
    """Mean share of the time in which it did, 0 to 1; NaN where there is no driver."""

    def __enter__(self) -> "BusyDevice":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self._asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            self._asking = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.terminate()
            said = [int(line) for line in self._asking.communicate()[0].splitlines() if line.strip().isdigit()]
            self.share = float(np.mean(said)) / 100 if said else float("nan")


def set_up_product(precision: str) -> Callable[[], int]:
    """Multiply large matrices of random numbers; return the operations of a call."""
    import keras
    from keras import ops

    from taesd_core.compile import keep_float32

    keep_float32()
    on_device = name_our_device()[1]
    side, n = (PRODUCT_SIDE, 10) if "cpu" not in on_device.lower() else (512, 1)
    a, b = (keras.random.normal((side, side), dtype=precision, seed=seed) for seed in (1, 2))

    def multiply() -> int:
        results = [ops.matmul(a, b) for _ in range(n)]
        ops.convert_to_numpy(results[-1][:1, :1])
        return 2 * side**3 * n

    return multiply


def set_up_plan(path: Path, weights: str, tile_px: int) -> Callable[[], Any]:
    """Decode to float32 with the engine under Keras."""
    return decoders.set_up_tiler(path, weights, engine="keras", tile_px=tile_px, output="float32")


def set_up_whole(path: Path, weights: str) -> Callable[[], Any]:
    """Decode to float32 with the plain model under Keras."""
    from taesd_core.compile import compile_whole, keep_float32
    from taesd_core.whole_image import build_whole_image_model

    keep_float32()
    checkpoint = decoders.load_part(weights)
    run = compile_whole(build_whole_image_model(checkpoint.network.layers, checkpoint.tensors))
    latents = decoders.read_input(path, checkpoint)[None]
    return lambda: np.array(run(latents)[0])


def decode_once(set_up: Callable[..., Callable[[], Any]], *arguments: Any) -> np.ndarray:
    """Return what a way to decode gives."""
    return set_up(*arguments)()


def set_up_files(
    weights: str, precision: str, side_px: int, tile_px: int | None, workers: int | None, folder: Path
) -> Callable[[str], tuple[int, int, dict[str, float]]]:
    """Decode a texture that has no ends to a TIFF: all tiles have the same borders, so each is as fast as another.

    Returns a call by compression that returns the side of a tile, the bytes of the file, and the seconds by stage.
    """
    import tiler
    from tiler.profile import Profile

    checkpoint = decoders.load_part(weights)
    small = folder / "small.npy"
    decoders.save_demo_latents(small, 1024, 1024)
    latents = decoders.read_input(small, checkpoint)
    repeats = side_px // (latents.shape[0] * checkpoint.network.scale_out)
    many = np.tile(latents, (repeats, repeats, 1))
    size = {} if tile_px is None else {"tile_size_px": tile_px}

    def decode(latents: np.ndarray, compression: str) -> tuple[int, int, dict[str, float]]:
        profile = Profile()
        source = tiler.Latents(latents, wrap="both", axes="HWC")
        file = tiler.Tiff(folder / "image.tif", compression=compression)  # type: ignore[arg-type]
        report = tiler.decode(
            source,
            file,
            weights=weights,
            precision=precision,  # type: ignore[arg-type]
            engine="keras",
            workers=workers,
            profile=profile,
            overwrite=True,
            force=True,
            **size,
        )
        tile = round((side_px**2 / report.n_tiles) ** 0.5)
        return tile, report.size_bytes, dict(profile.seconds)

    # Compiles for the size of a tile: of this texture all are inside.
    decode(many, "none")
    return lambda compression: decode(many, compression)


def set_up_images(way: str, weights: str, precision: str, device: str) -> Callable[[int], Any]:
    """Decode whole images of any size with diffusers."""
    network = decoders.load_part(weights).network
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
