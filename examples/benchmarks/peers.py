"""Who decodes a latent, or encodes a picture, how fast, and how exactly?

The same input, the same weights, float32 on the processor; each way in a process of its own, warm, taking turns. Errors
are against float64. With ``--before FOLDER`` the version in another folder takes part; with ``--avx2`` nobody uses more
of the processor than that, as far as they can be told.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
import numpy as np

import decoders
from measure import Run, Worker, WorkerError, available_cores, median_ratio, median_seconds, run_apart, take_turns
from report import describe_machine, draw_bars, megabytes, print_table

OURS = "taesd-tiler"
BEFORE = "the version before"
PORT = "Keras, as the TensorFlow port"
WAYS: dict[str, Callable[..., decoders.Run]] = {
    OURS: decoders.set_up_tiler,
    "taesd-tiler on Keras": partial(decoders.set_up_tiler, engine="keras"),
    BEFORE: partial(decoders.set_up_tiler, engine=None),
    "Keras, whole image": decoders.set_up_keras,
    PORT: decoders.set_up_eager_keras,
    "diffusers, whole image": decoders.set_up_diffusers,
    "diffusers, channels last": partial(decoders.set_up_diffusers, channels_last=True),
    "diffusers, torch.compile": partial(decoders.set_up_diffusers, compiled=True, channels_last=True),
    "diffusers, enable_tiling()": partial(decoders.set_up_diffusers, tiled=True),
    "ONNX Runtime, whole image": decoders.set_up_onnxruntime,
    "OpenVINO, whole image": decoders.set_up_openvino,
}
ON_REQUEST = (PORT, "diffusers, torch.compile")
"""The former takes 24 GB for 2,048² px, the latter minutes to warm up."""
DEAF = ("ONNX Runtime, whole image", "OpenVINO, whole image")
"""Those that have no switch for the instructions they use, or do not heed it."""


@click.command()
@click.option("--part", type=click.Choice(["decoder", "encoder"]), default="decoder", show_default=True)
@click.option("--size", "size_px", default=2048, show_default=True, help="Side of the square image, px.")
@click.option("--input", "given", type=click.Path(path_type=Path), help="Latents, or pixels as .npy.  [default: drawn]")
@click.option("--weights", default="photo", show_default=True, help="Name or file of the weights.")
@click.option("--tile-size", "tile_px", type=int, help="Of taesd-tiler.  [default: its own]")
@click.option("--way", "names", multiple=True, type=click.Choice(list(WAYS)), help="Only this one; may be repeated.")
@click.option(
    "--before", type=click.Path(exists=True, path_type=Path), help="A checkout or site-packages of another version."
)
@click.option("--avx2", is_flag=True, help="Take AVX-512 and AMX away from all that can be told so.")
@click.option("--rounds", default=5, show_default=True, help="Timed runs of each.")
@click.option("--threads", type=int, help="Pin every process to so many cores.  [default: all]")
@click.option("--chart", type=click.Path(path_type=Path), default="peers.png", show_default=True)
def main(
    part: decoders.Part,
    size_px: int,
    given: Path | None,
    weights: str,
    tile_px: int | None,
    names: tuple[str, ...],
    before: Path | None,
    avx2: bool,
    rounds: int,
    threads: int | None,
    chart: Path,
) -> None:
    """Compare ways to run the same input: speed, memory, and error against float64."""
    cores = available_cores()[:threads]
    chosen = [name for name in WAYS if (name in names if names else name not in ON_REQUEST)]
    if before is None:
        chosen = [name for name in chosen if name != BEFORE]
    environment = limit_to_avx2() if avx2 else {}
    click.echo(describe_machine(len(cores)) + (", AVX2 alone" if avx2 else ""))
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = given or Path(folder) / "input.npy"
        if given is None:
            run_apart(
                decoders.save_demo_latents if part == "decoder" else decoders.save_picture, path, size_px, size_px
            )
        exact, _ = run_apart(decoders.run_in_float64, path, weights, part)
        try:
            for name in chosen:
                options = {"tile_px": tile_px} if WAYS[name] is decoders.set_up_tiler else {}
                try:
                    workers[name] = worker = Worker(
                        partial(WAYS[name], **options),
                        path,
                        weights,
                        part,
                        cores=cores,
                        environment=environment,
                        checkout=before if name == BEFORE else None,
                    )
                    worker.run()  # warm
                except WorkerError as error:
                    workers.pop(name, None)
                    click.echo(f"Left out: {name} ({error})")
            if not workers:
                raise click.ClickException("Nothing to measure.")
            runs = take_turns({name: worker.run for name, worker in workers.items()}, rounds)
            results = {name: worker.result() for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.stop()
    scale = decoders.load_part(weights, part).network.scale_in
    height, width = (side * scale for side in exact.shape[:2])
    flop_per_px = decoders.find_flop_per_px(weights, part)
    click.echo(f"{part}, {height:,} × {width:,} px, {rounds} rounds; GFLOP/s as if the whole image were run plainly")
    if avx2:
        click.echo(f"Not told, or not heeding: {', '.join(name for name in DEAF if name in workers)}")
    print_table(
        ["", "Mpx/s", "GFLOP/s", f"{OURS} against it", "seconds", "peak MB", "max error", "bytes that differ"],
        [
            describe_way(name, runs, height * width / 1e6, flop_per_px, find_error(results[name], exact))
            for name in sorted(workers, key=lambda name: median_seconds(runs[name]))
        ],
    )
    rates = {name: height * width / 1e6 / median_seconds(runs[name]) for name in runs}
    rates = dict(sorted(rates.items(), key=lambda item: -item[1]))
    title = f"{part.capitalize()}, {height:,} × {width:,} px on {len(cores)} cores"
    draw_bars(chart, title, {"Mpx/s (more is better)": rates}, accent=OURS)
    click.echo(f"Chart: {chart}")


def find_error(result: np.ndarray, exact: np.ndarray) -> tuple[str, str]:
    """Return the largest error of a result as text, and of pixels how many bytes are not those of float64."""
    if result.dtype != np.uint8:
        return f"{np.abs(result - exact).max():.2g}", ""
    error = np.abs(result - np.rint(np.clip(exact, 0, 1) * 255))
    return f"{error.max():.0f}/255", f"{np.count_nonzero(error) / error.size:.2g}"


def describe_way(
    name: str, runs: Mapping[str, list[Run]], megapixels: float, flop_per_px: float, error: tuple[str, str]
) -> list[str]:
    """Return the row of a way in the table."""
    mpx_per_second = megapixels / median_seconds(runs[name])
    seconds = sorted(run.seconds for run in runs[name])
    return [
        name,
        f"{mpx_per_second:.3f}",
        f"{mpx_per_second * flop_per_px / 1e3:.1f}",
        f"{median_ratio(runs[name], runs[OURS]):.2f} ×" if OURS in runs else "",
        f"{median_seconds(runs[name]):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})",
        megabytes(max(run.peak_bytes for run in runs[name])),
        *error,
    ]


def limit_to_avx2() -> dict[str, str]:
    """Return the environment that takes more than AVX2 from whoever heeds it."""
    from llvmlite import binding

    kept = (
        f"{'+' if there and not name.startswith(('avx512', 'amx', 'avx10')) else '-'}{name}"
        for name, there in binding.get_host_cpu_features().items()
    )
    return {
        # Numba: the name alone changes nothing.
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": ",".join(kept),
        # oneDNN, in TensorFlow and PyTorch; XLA; PyTorch's own.
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }


if __name__ == "__main__":
    main()
