"""Measure an encoder and its decoder on photographs, beside JPEG at the same number of bytes, and draw a sheet of them.

::

    python examples/evaluate_photo_autoencoder.py ENCODER.safetensors DECODER.safetensors PICTURE… --sheet sheet.png

Whole pictures, through the plain whole-image model in float32; images are rounded to bytes before they are compared.
"""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from taesd_core.checkpoint import load_checkpoint
from taesd_core.layers import decoder_layers, encoder_layers
from taesd_core.tensors import ConvolutionTensors, Tensors
from taesd_core.whole_image import build_whole_image_model
from tiler.sources.array_source import ArraySource
from tiler.sources.upscale import Upscaled
from tiler.window import Window

Picture = NDArray[np.uint8]
Latents = NDArray[np.float32]
REACH = 3
"""Latents in 8 bits go from -3 to 3."""
CELL_PX = 320
"""Side of the middles that the sheet shows."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An encoder and a decoder that belong together."""

    encode: Callable[[Picture], Latents]
    """(height, width, 3), multiples of 8 px -> (height / 8, width / 8, 4)."""
    decode: Callable[[Latents], Picture]
    """The way back, rounded to bytes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A photograph on its way there and back."""

    figures: dict[str, float]
    """By what they are."""
    columns: dict[str, Picture]
    """What there is to see, the original first."""


def make_pair(encoder: Tensors, decoder: Tensors) -> Pair:
    """Return the plain whole-image models of two sets of weights."""
    encoder_model = build_whole_image_model(encoder_layers(4), encoder)
    decoder_model = build_whole_image_model(decoder_layers(4), decoder)

    def run(model, values: NDArray[np.float32]) -> NDArray[np.float32]:
        import keras

        return keras.ops.convert_to_numpy(model(values[None]))[0]

    return Pair(
        lambda picture: run(encoder_model, picture.astype(np.float32) / 255),
        lambda latents: np.round(np.clip(run(decoder_model, latents), 0, 1) * 255).astype(np.uint8),
    )


def in_half_precision(tensors: Tensors) -> Tensors:
    """Return weights as they come back from a file in float16."""
    return tuple(
        ConvolutionTensors(*(None if each is None else each.astype(np.float16).astype(np.float32) for each in tensor))
        for tensor in tensors
    )


def latents_to_bytes(latents: Latents) -> NDArray[np.uint8]:
    """Return latents in 8 bits."""
    return np.round(np.clip(latents / (2 * REACH) + 0.5, 0, 1) * 255).astype(np.uint8)


def bytes_to_latents(levels: NDArray[np.uint8]) -> Latents:
    """Return latents from 8 bits."""
    return (levels.astype(np.float32) / 255 - 0.5) * (2 * REACH)


def measure_picture(pair: Pair, picture: Picture) -> Measured:
    """Send a photograph through latents, through JPEG, and through the upscaled latents of a copy of half its size."""
    picture = _cut(picture)
    height, width = picture.shape[:2]
    latents = pair.encode(picture)
    levels = latents_to_bytes(latents)
    image = pair.decode(bytes_to_latents(levels))
    n_bytes = _size_of_png(levels)
    jpeg, jpeg_bytes = find_jpeg(picture, n_bytes)
    small = Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    twice = Upscaled(ArraySource(pair.encode(np.asarray(small)), 4, axes="HWC"), 2)
    from_twice = pair.decode(twice.read(Window.whole(*twice.shape[:2])))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    errors = image.astype(np.float64) - picture
    figures = {
        "dB": psnr(pair.decode(latents), picture),
        "dB in 8 bits": psnr(image, picture),
        "kB as PNG": n_bytes / 1000,
        "dB of JPEG": psnr(jpeg, picture),
        "kB of JPEG": jpeg_bytes / 1000,
        "latents within 3, %": 100 * float(np.mean(np.abs(latents) <= REACH)),
        "largest mean error of a channel, 1/255": float(np.abs(errors.mean((0, 1))).max()),
        "dB of latents ×2": psnr(from_twice, picture),
        "dB of pixels ×2": psnr(smooth, picture),
        "colour dB of latents ×2": psnr(_colours(from_twice), _colours(picture)),
        "colour dB of pixels ×2": psnr(_colours(smooth), _colours(picture)),
    }
    columns = {
        "original": picture,
        "latents in 8 bits": image,
        "JPEG, as many bytes": jpeg,
        "latents of the half, ×2": from_twice,
        "pixels of the half, ×2": smooth,
    }
    return Measured(figures, columns)


def through_bytes(pair: Pair, picture: Picture) -> float:
    """Return how a photograph comes through latents in 8 bits, in dB; sides are cut to multiples of 16 px."""
    picture = _cut(picture)
    return psnr(pair.decode(bytes_to_latents(latents_to_bytes(pair.encode(picture)))), picture)


def _cut(picture: Picture) -> Picture:
    height, width = (length // 16 * 16 for length in picture.shape[:2])
    return picture[:height, :width]


def find_jpeg(picture: Picture, n_bytes: int) -> tuple[Picture, int]:
    """Return the best JPEG of at most so many bytes (or the smallest there is) and how many it takes."""
    best = None
    for quality in range(1, 96):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, optimize=True)
        if best is not None and file.tell() > n_bytes:
            break
        best = file
    return np.asarray(Image.open(best)), best.getbuffer().nbytes


def psnr(image: NDArray, expected: NDArray) -> float:
    """Return the peak signal-to-noise ratio of bytes, in dB."""
    mean = float(np.square(image.astype(np.float64) - expected).mean())
    return 10 * np.log10(255**2 / mean) if mean else np.inf


def _size_of_png(levels: NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    Image.fromarray(levels, "RGBA").save(file, "PNG", optimize=True)
    return file.tell()


def _colours(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).convert("YCbCr"))[..., 1:]


def mean_of(measured: Mapping[str, Measured]) -> dict[str, float]:
    """Return the means of the figures; of what is called largest, the largest."""
    names = list(next(iter(measured.values())).figures)
    found = {name: [each.figures[name] for each in measured.values()] for name in names}
    return {name: float(max(values) if "largest" in name else np.mean(values)) for name, values in found.items()}


def draw_sheet(path: Path, measured: Mapping[str, Measured]) -> None:
    """Write a PNG with the middle of every photograph, a row each."""
    titles = list(next(iter(measured.values())).columns)
    sheet = Image.new("RGB", (CELL_PX * len(titles), (CELL_PX + 16) * len(measured)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, each) in enumerate(measured.items()):
        for column, title in enumerate(titles):
            pixels = each.columns[title]
            top, left = (max(length - CELL_PX, 0) // 2 for length in pixels.shape[:2])
            place = column * CELL_PX, row * (CELL_PX + 16)
            draw.text((place[0] + 4, place[1] + 2), f"{name}: {title}", "black")
            cell = Image.fromarray(pixels[top : top + CELL_PX, left : left + CELL_PX])
            sheet.paste(cell, (place[0], place[1] + 16))
    sheet.save(path)


def print_figures(measured: Mapping[str, Measured]) -> None:
    """Print a table in Markdown, a row for each photograph and one for their mean."""
    rows = {name: each.figures for name, each in measured.items()} | {"mean": mean_of(measured)}
    names = list(rows["mean"])
    click.echo("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for row, figures in rows.items():
        click.echo(f"| {row} | " + " | ".join(f"{figures[name]:.2f}" for name in names) + " |")


@click.command()
@click.argument("encoder", type=click.Path(exists=True, path_type=Path))
@click.argument("decoder", type=click.Path(exists=True, path_type=Path))
@click.argument("pictures", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG to draw.")
def main(encoder: Path, decoder: Path, pictures: tuple[Path, ...], sheet: Path | None) -> None:
    """Measure ENCODER and DECODER, two .safetensors files, on PICTURES."""
    pair = make_pair(load_checkpoint(encoder, "encoder").tensors, load_checkpoint(decoder, "decoder").tensors)
    measured = {}
    for path in pictures:
        measured[path.stem] = measure_picture(pair, np.asarray(Image.open(path).convert("RGB")))
    print_figures(measured)
    if sheet:
        draw_sheet(sheet, measured)


if __name__ == "__main__":
    main()
