"""The one way in: latents and images of every kind become sources.

Files are told apart by what is in them (``taesd_core.file_kinds``); endings are not believed.
"""

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import cast

from taesd_core.file_kinds import BoundedFile, FileKind, find_kind
from tiler.errors import AxesError, InputError, Option, OptionError
from tiler.sources.archive_source import open_archive
from tiler.sources.array_source import ArraySource, SliceableArray
from tiler.sources.axes import parse_axes
from tiler.sources.colour import Colour, check_colour
from tiler.sources.input_file import open_regular_file, printable
from tiler.sources.latent_png import LatentPng
from tiler.sources.layout import Wanted
from tiler.sources.npy_source import NpySource
from tiler.sources.picture_format import open_picture
from tiler.sources.safetensors_source import open_safetensors
from tiler.sources.source import Readable, Source, adopt
from tiler.sources.stored_numbers import IMAGE_TYPES, LATENT_TYPES
from tiler.sources.tiff_latents import open_tiff_latents
from tiler.sources.transparency import Background
from tiler.sources.zarr_source import ZarrSource, is_zarr

PAGED = ("tiff", "webp", "avif")
"""Kinds of files that may hold several pictures."""
Openable = str | os.PathLike[str] | SliceableArray | Readable
"""A path, an array, or a source."""


def open_latents(
    latents: Openable, channels: int, *, key: str | None = None, index: int | None = None, axes: str | None = None
) -> Source:
    """Open latents as a source.

    Args:
        latents: a file: ``.npy``, ``.npz``, ``.safetensors``, ComfyUI's ``.latent``, ``.pt`` (by torch), a TIFF of
            floats, an RGBA PNG of 8-bit latents, or a Zarr folder; an array of floats; or a source. Arrays are
            ``(1, channels, height, width)`` or have another order of axes (see ``tiler.sources.readings``).
        channels: how many channels the decoder takes.
        key: which array of a file of several; not needed where only one can be meant, or one has a usual name.
        index: which map of a batch, from 0; not needed for a batch of one.
        axes: what the axes of the array are, a letter each, as BCHW; not needed where they can be told.

    Returns:
        A source, whose ``space`` is that of the latents where the file says it.

    Raises:
        InputError: they cannot be used; the message says why, and what to do.
    """
    if not isinstance(latents, str | os.PathLike):
        if key is not None:
            raise InputError(f"Not a file of several arrays: key={printable(key)}. Leave it out.")
        return open_object(latents, channels, LATENT_TYPES, index=index, axes=axes)
    path, wanted = Path(latents), Wanted(channels, key, index, axes)
    if is_zarr(path):
        return ZarrSource(path, wanted)
    kind = read_kind(path)
    if kind.name == "safetensors":
        return open_safetensors(path, wanted)
    if kind.name in ("npz", "torch"):
        return open_archive(path, kind, wanted)
    if kind.name not in ("npy", "png", "tiff"):
        advice = kind.advice or (
            "They must be a .npy, .npz, .safetensors, .latent, .pt or .tif file, or a PNG of 8-bit latents. Save the "
            "array of latents with numpy.save."
        )
        raise InputError(f"Not a file of latents: path={path} is {kind.words}. {advice}")
    if key is not None:
        raise InputError(f"A file of one array: path={path}, key={printable(key)}. Leave {Option('key')} out.")
    if kind.name == "npy":
        return NpySource(path, channels, index=index, axes=axes)
    if kind.name == "png":
        check_order(axes, f"path={path}")
        return choose_only(check_source(LatentPng(path), channels, name=f"path={path}"), index)
    return open_tiff_latents(path, wanted)


def open_image(
    image: Openable,
    *,
    axes: str | None = None,
    page: int | None = None,
    colour: Colour | None = None,
    background: str = "white",
    spool_folder: Path | None = None,
) -> Source:
    """Open an RGB image as a source of values in [0, 1].

    Args:
        image: a PNG, JPEG, TIFF, WebP, AVIF, BMP, PPM or JPEG 2000 file; a ``.npy`` file or an array,
            ``(height, width, 3)`` or another order of axes (see ``tiler.sources.readings``), of uint8, uint16 or of
            floats in [0, 1]; or a source. A TIFF in tiles is read by window, and so are uncompressed strips and
            ``.npy``.
        axes: of an array or a ``.npy`` file, a letter each, as HWC; not needed where they can be told.
        page: which of several pictures in a file, from 0.
        colour: what the numbers of a picture are, whatever its file says: "srgb" or "linear" light.
        background: what shows through where a picture is transparent: "#rrggbb", "white" or "black".
        spool_folder: where a large picture that can only be read from top to bottom is kept while it is needed; by
            default among the temporary files of the system.

    Raises:
        InputError: it cannot be used; the message says why, and what to do.
    """
    check_colour(colour)
    Background(background)
    if page and (not isinstance(image, str | os.PathLike) or read_kind(Path(image)).name not in PAGED):
        raise InputError(
            f"Nothing of several pages: page={page}. Of files, TIFF, WebP and AVIF have some; leave it out."
        )
    if not isinstance(image, str | os.PathLike):
        _refuse_light(colour)
        return open_object(image, 3, IMAGE_TYPES, axes=axes)
    path = Path(image)
    kind = read_kind(path)
    if kind.name == "npy":
        _refuse_light(colour)
        return NpySource(path, 3, types=IMAGE_TYPES, axes=axes)
    check_order(axes, f"path={path}")
    return open_picture(path, kind, page=page, colour=colour, background=background, spool_folder=spool_folder)


def _refuse_light(colour: Colour | None) -> None:
    if colour == "linear":
        raise OptionError("Arrays hold the numbers of sRGB: colour=linear. It is for files of pictures; leave it out.")


def open_object(
    opened: SliceableArray | Readable,
    channels: int,
    types: Sequence[str],
    *,
    index: int | None = None,
    axes: str | None = None,
) -> Source:
    """Return a source, of an array or of what has shape and read.

    Raises:
        InputError: it has the wrong shape or number type, or is neither.
    """
    # A file object has read too, but no shape.
    if hasattr(opened, "shape") and callable(getattr(opened, "read", None)):
        check_order(axes, "source")
        return choose_only(check_source(adopt(cast(Readable, opened)), channels), index)
    return ArraySource(cast(SliceableArray, opened), channels, types=types, index=index, axes=axes)


def choose_only(source: Source, index: int | None) -> Source:
    """Return the source, of which there is only one.

    Raises:
        InputError: another one is asked for.
    """
    if index:
        raise InputError(f"Not a batch: index={index}. There is one map only; leave {Option('index')} out.")
    return source


def check_order(axes: str | None, name: str) -> None:
    """Refuse axes that are said of what has its rows, columns and channels in this order anyway.

    Raises:
        AxesError: they are others.
        OptionError: they are none.
    """
    if axes is not None and parse_axes(axes) != "HWC":
        raise AxesError(f"The axes are given: {name}, axes=HWC, said={axes}. Leave {Option('axes')} out.")


def check_source(source: Source, channels: int, *, name: str = "source") -> Source:
    """Return the source, if it has so many channels.

    Raises:
        InputError: it has not, or there is nothing in it.
    """
    shape = source.shape
    whole = isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(size, Integral) for size in shape)
    if not whole or shape[2] != channels or min(shape) < 1:
        raise InputError(
            f"Wrong shape: {name}, shape={str(shape)[:80]}, expected channels={channels}. "
            "The shape must be (height, width, channels), whole numbers, 1 or more each."
        )
    return source


def read_kind(path: Path) -> FileKind:
    """Return what a file is.

    Raises:
        InputError: it cannot be read.
    """
    with BoundedFile(open_regular_file(path), "rb") as file:
        return find_kind(file)
