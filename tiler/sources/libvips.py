"""libvips, which decodes pictures: loaded when the first one is opened, and what it says when something is wrong.

Only what is named here is ever asked of it: it knows formats besides that are programs, or raw numbers of any file.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiler.errors import DamagedError, InputError
from tiler.sources.input_file import opened, printable
from tiler.window import Span, Window

if TYPE_CHECKING:
    import pyvips

LOADERS = {"PNG": "pngload", "JPEG": "jpegload", "TIFF": "tiffload", "WebP": "webpload", "AVIF": "heifload"}
"""Of what is read by libvips, the operation that reads it."""

FORMATS: dict[np.dtype[Any], str] = {
    np.dtype(np.uint8): "uchar",
    np.dtype(np.uint16): "ushort",
    np.dtype(np.float32): "float",
}
"""What libvips calls numbers."""
STRIP_BYTES = 2**22
"""What is decoded at a time of a picture that is read from top to bottom, about."""


@cache
def load_vips() -> Any:
    """Return the module pyvips.

    Raises:
        InputError: it is not there, or not whole.
    """
    try:
        import pyvips
    except Exception as error:  # Without its library it raises a dozen kinds.
        raise InputError(
            f"Pictures are read by libvips, which cannot be loaded ({type(error).__name__}). "
            "Install it: pip install 'pyvips[binary]'."
        ) from error
    logging.getLogger("pyvips").addHandler(_heard)
    # It keeps the last hundred pictures by their names, open and with pixels, though their files may be others by then.
    pyvips.cache_set_max(0)
    return pyvips


def open_by_libvips(
    path: Path,
    format: str,
    access: Literal["sequential", "random"],
    *,
    changes: Any = (),
    **options: Any,
) -> "pyvips.Image":
    """Return a picture of which nothing but the header is read yet.

    Args:
        path: the file.
        format: what it is, one of ``LOADERS``.
        access: "sequential" where the pixels will be asked for once, from top to bottom.
        changes: places in the file, and what libvips is to see there.
        options: of the loader.

    Raises:
        InputError: it cannot be read.
    """
    pyvips = load_vips()
    with opened(path) as descriptor:
        # By its descriptor: a name may hold what libvips takes for options.
        source = pyvips.Source.new_from_descriptor(descriptor)
        content = _change(descriptor, changes) if changes else b""
    _heard.forget()
    try:
        load = getattr(pyvips.Image, f"{LOADERS[format]}_{'buffer' if changes else 'source'}")
        # Of a buffer libvips keeps a copy.
        return load(content or source, access=access, fail_on="warning", **options)
    except pyvips.Error as error:
        raise InputError(
            f"The {format} cannot be read: path={path} ({describe_error(error)}). It is damaged, or of a kind that is "
            "not read here. Save it again, as a PNG for instance."
        ) from error


def _change(descriptor: int, changes: Sequence[tuple[int, bytes]]) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        content = bytearray(file.read())
    for place, there in changes:
        content[place : place + len(there)] = there
    return bytes(content)


def make_image(pixels: NDArray[Any], *, interpretation: str | None = None, profile: bytes | None = None) -> Any:
    """Return (height, width, bands) of uint8, uint16 or float32 as an image of libvips.

    Args:
        pixels: libvips keeps no copy of them, but the image keeps them alive.
        interpretation: what its bands are; by default grey or RGB, and one more is alpha.
        profile: an ICC profile.
    """
    pyvips = load_vips()
    height, width, bands = pixels.shape
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels), width, height, bands, FORMATS[pixels.dtype])
    wide = pixels.dtype == np.uint16
    colours = ("grey16" if wide else "b-w") if bands < 3 else "rgb16" if wide else "srgb"
    image = image.copy(interpretation=interpretation or colours)
    if profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


def find_type(image: Any) -> "np.dtype[Any]":
    """Return what numbers an image consists of, which must be among ``FORMATS``."""
    return next(dtype for dtype, name in FORMATS.items() if name == image.format)


def read_strips(image: Any, path: Path, format: str) -> NDArray[Any]:
    """Return all of an image, (height, width, bands).

    Raises:
        DamagedError: the file that it is read from is damaged.
    """
    pixels = np.empty((image.height, image.width, image.bands), find_type(image))
    row = 0
    for strip in decode_strips(image, path, format):
        pixels[row : row + len(strip)] = strip
        row += len(strip)
    return pixels


def decode_strips(image: Any, path: Path, format: str) -> Iterator[NDArray[Any]]:
    """Yield all rows of an image, some at a time, from the first to the last.

    Raises:
        DamagedError: the file that it is read from is damaged.
    """
    region = load_vips().Region.new(image)
    n_rows = max(1, STRIP_BYTES // (image.width * image.bands * find_type(image).itemsize))
    for top in range(0, image.height, n_rows):
        rows = Span(top, min(top + n_rows, image.height))
        yield fetch(region, Window(rows, Span(0, image.width)), find_type(image), path, format)


def fetch(region: Any, window: Window, dtype: "np.dtype[Any]", path: Path, format: str) -> NDArray[Any]:
    """Return (height, width, bands) of a region of an image, decoded in this thread.

    Raises:
        DamagedError: the file that it is read from is damaged.
    """
    rows, columns = window.rows, window.columns
    _heard.forget()
    try:
        content = region.fetch(columns.start, rows.start, len(columns), len(rows))
    except load_vips().Error as error:
        raise DamagedError(
            f"The {format} is damaged: path={path} ({describe_error(error)}). Copy or save it again."
        ) from error
    return np.frombuffer(content, dtype).reshape(*window.shape, -1)


def describe_error(error: BaseException) -> str:
    """Return what libvips said, on one line and not too long."""
    lines = [*str(getattr(error, "detail", error)).split("\n"), _heard.warning.removeprefix("VIPS: ")]
    return printable(" ".join(next((line for line in lines if line.strip()), "no reason given").split()))


class _Heard(logging.Handler):
    """Keeps what libvips warned of last: where a warning is an error, it is the reason, and the error has none."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    @property
    def warning(self) -> str:
        """The last in this thread."""
        return getattr(self._heard, "warning", "")

    def forget(self) -> None:
        """Begin anew."""
        self._heard.warning = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a warning."""
        self._heard.warning = record.getMessage()


_heard = _Heard()
