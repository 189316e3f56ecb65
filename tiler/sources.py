"""The one way in: latents and images of every kind become sources.

Files are told apart by their first bytes; endings are not believed.
"""

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import cast

from tiler.array_source import ArraySource, SliceableArray
from tiler.errors import InputError
from tiler.image_source import open_image_file, open_latent_image
from tiler.input_file import open_regular_file
from tiler.layout import IMAGE_TYPES, LATENT_TYPES
from tiler.npy_source import NpySource
from tiler.source import Source

NPY_START = b"\x93NUMPY"
PNG_START = b"\x89PNG\r\n\x1a\n"
ARCHIVE_STARTS = (b"PK\x03\x04", b"\x80")
"""What numpy.savez and torch.save write: a zip archive, and formerly a pickle."""

Openable = str | os.PathLike[str] | SliceableArray | Source
"""A path, an array, or a source."""


def open_latents(latents: Openable, channels: int) -> Source:
    """Open latents as a source.

    Args:
        latents: a ``.npy`` file or an array of floats, ``(1, channels, height, width)`` or another order of
            axes (see ``tiler.layout``); an RGBA PNG of 8-bit latents where ``channels`` is 4; or a source.
        channels: how many channels the decoder takes.

    Raises:
        InputError: they cannot be used; the message says why, and what to do.
    """
    if not isinstance(latents, str | os.PathLike):
        return open_object(latents, channels, LATENT_TYPES)
    path = Path(latents)
    start = read_start(path)
    if start.startswith(NPY_START):
        return NpySource(path, channels)
    if start.startswith(PNG_START):
        return check_source(open_latent_image(path), channels, name=f"path={path}")
    if start.startswith(ARCHIVE_STARTS):
        raise InputError(
            f"Not a file of latents but an archive or a pickle: path={path}. A pickle could run code and is never "
            "loaded. Convert it once: "
            'numpy.save("latents.npy", torch.load("latents.pt", weights_only=True).float()), or '
            'numpy.save("latents.npy", numpy.load("latents.npz")["latents"]).'
        )
    raise InputError(
        f"Not a file of latents: path={path}, first bytes={start!r}. It must be a .npy file, or a "
        "PNG of 8-bit latents. Save the array of latents with numpy.save."
    )


def open_image(image: Openable) -> Source:
    """Open an RGB image as a source of values in [0, 1].

    Args:
        image: a PNG, JPEG, TIFF, WebP, BMP, PPM or JPEG 2000 file; a ``.npy`` file or an array,
            ``(height, width, 3)`` or another order of axes (see ``tiler.layout``), of uint8 or of floats in
            [0, 1]; or a source.

    Raises:
        InputError: it cannot be used; the message says why, and what to do.
    """
    if not isinstance(image, str | os.PathLike):
        return open_object(image, 3, IMAGE_TYPES)
    path = Path(image)
    if read_start(path).startswith(NPY_START):
        return NpySource(path, 3, types=IMAGE_TYPES)
    return open_image_file(path)


def open_object(opened: SliceableArray | Source, channels: int, types: Sequence[str]) -> Source:
    """Return a source as it is, and an array as a source.

    Raises:
        InputError: it has the wrong shape or number type, or is neither.
    """
    # A file object has read too, but no shape.
    if hasattr(opened, "shape") and callable(getattr(opened, "read", None)):
        return check_source(cast(Source, opened), channels)
    return ArraySource(cast(SliceableArray, opened), channels, types=types)


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


def read_start(path: Path) -> bytes:
    """Return the first eight bytes of a file.

    Raises:
        InputError: it cannot be read.
    """
    descriptor = open_regular_file(path)
    try:
        return os.pread(descriptor, 8, 0)
    finally:
        os.close(descriptor)
