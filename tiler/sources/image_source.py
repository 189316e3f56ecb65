"""Image files as sources: pictures for the encoder, and latents kept as 8-bit RGBA.

Pillow decodes them whole, in about four bytes a pixel, and three or four more hold the result: so their size is
limited, and what is larger belongs into a ``.npy`` file, which is read by window.
"""

import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.fingerprint import fingerprint_array
from tiler.sources.input_file import open_regular_file, shorten
from tiler.sources.layout import BYTE_VALUES
from tiler.sources.png_file import PngError, PngHeader, check_png
from tiler.window import Window

if TYPE_CHECKING:
    from PIL import Image

LIMIT_PX = 2**28
"""Largest image that is loaded, as 16,384 by 16,384."""

FLAT_LIMIT_PX = 2**25
"""Largest image that is loaded whatever its file takes: 300 MB while it is."""

LIMIT_PX_A_BYTE = 100
"""Most pixels a byte of the file in a larger one. A photograph has 0.3 to 20, a bomb of zeros 250 or more."""

STRIP_PX = 256
"""Rows of an image that are converted at a time."""

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000")
"""What is tried. Not all that Pillow knows: an EPS file, for one, is a program that Ghostscript would run."""

LATENT_VALUES: NDArray[np.float32] = ((np.arange(256) / 255 - 0.5) * 6).astype(np.float32)
"""What each byte of 8-bit latents stands for. Source: the convention of TAESD, ``(x - 0.5) * 6``."""

pillow_limit = threading.Lock()
"""Held while Pillow's own limit, a global, is another one."""


class PixelSource:
    """Integer pixels in memory, and a table of what each of them stands for.

    Args:
        pixels: (height, width, channels), unsigned integers.
        values: float32, one for each integer that may occur.
    """

    def __init__(self, pixels: NDArray[Any], values: NDArray[np.float32]) -> None:
        self._pixels = pixels
        self._values = values

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self._pixels.shape
        return height, width, channels

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the pixels are others."""
        return fingerprint_array(self._pixels)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        return self._values.take(self._pixels[window.slices])


def open_image_file(path: str | os.PathLike[str]) -> PixelSource:
    """Open a picture as (height, width, 3) in [0, 1].

    The orientation that a camera noted in EXIF is applied, transparency is dropped, grey becomes RGB, and of
    several pictures in one file the first is taken. 16-bit grey keeps its 16 bits; 16-bit colour keeps 8.

    Raises:
        InputError: the file is missing, damaged, of an unknown format or kind, or larger than 2^28 px.
    """
    return load_file(Path(path), FORMATS, to_rgb)


def open_latent_image(path: str | os.PathLike[str]) -> PixelSource:
    """Open 8-bit latents, a PNG of mode RGBA, as (height, width, 4) in [-3, 3].

    Raises:
        InputError: the file is missing, damaged, of another format or mode, or larger than 2^28 px.
    """
    return load_file(Path(path), ("PNG",), to_latents)


def load_file(
    path: Path, formats: tuple[str, ...], convert: "Callable[[Image.Image, Path, PngHeader | None], PixelSource]"
) -> PixelSource:
    """Load an image that Pillow recognises as one of ``formats``, and give it to ``convert``.

    Raises:
        InputError: the file is missing, damaged, of another format, or larger than 2^28 px.
    """
    from PIL import Image, UnidentifiedImageError

    # Pillow's own limit is a global, which it checks at several points before it allocates. It warns above
    # its limit and refuses above twice that, so half of ours makes it refuse at ours. One load at a time.
    with pillow_limit, warnings.catch_warnings(), os.fdopen(open_regular_file(path), "rb") as file:
        warnings.simplefilter("ignore")  # What changes pixels comes as an exception.
        pillows_own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LIMIT_PX // 2
        try:
            with Image.open(file, formats=formats) as image:
                return convert(image, path, check_image(image, file, path))
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise InputError(
                f"Image too large to load at once: path={path}, limit={LIMIT_PX} px ({error}). "
                "Save it as a .npy file of uint8 (height, width, 3), which is read by window."
            ) from error
        except UnidentifiedImageError as error:
            raise InputError(
                f"Not an image of a known format: path={path}. It must be one of {', '.join(formats)}. Convert it."
            ) from error
        except PngError as error:
            raise InputError(f"The image is damaged: path={path} ({error}). Copy or save it again.") from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises a dozen kinds for a damaged file, SyntaxError among them.
            raise InputError(f"The image is damaged: path={path} ({shorten(error)}). Copy or save it again.") from error
        finally:
            Image.MAX_IMAGE_PIXELS = pillows_own


def check_image(image: "Image.Image", file: BinaryIO, path: Path) -> PngHeader | None:
    """Refuse what Pillow would not, or not before it has taken the memory.

    Returns:
        What a PNG says of itself; nothing of other formats.

    Raises:
        InputError: the image is far larger than its file.
        PngError: a PNG is damaged.
    """
    n_px, size_bytes = image.width * image.height, os.fstat(file.fileno()).st_size
    if n_px > max(FLAT_LIMIT_PX, LIMIT_PX_A_BYTE * size_bytes):
        raise InputError(
            f"Image far larger than its file: path={path}, image={n_px} px, file={size_bytes} bytes. Above "
            f"{FLAT_LIMIT_PX} px it must be at most {LIMIT_PX_A_BYTE} px a byte. Save it as a .npy file of uint8."
        )
    return check_png(file) if image.format == "PNG" else None


def to_rgb(image: "Image.Image", path: Path, header: PngHeader | None) -> PixelSource:
    """Return a picture of any kind as RGB.

    Raises:
        InputError: its values have no fixed range, or are colours that its palette lacks.
    """
    from PIL import ImageOps

    if header and image.mode == "P" and image.getextrema()[1] >= header.n_colours:  # type: ignore[operator]
        raise InputError(f"The image is damaged: path={path} (colours are missing). Copy or save it again.")

    if image.mode in ("I", "F"):
        raise InputError(
            f"Pixels without a fixed range: path={path}, mode={image.mode}. They must be 8-bit, "
            "or 16-bit grey. Save floats in [0, 1] as a .npy file."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would clip these at 255.
        grey = np.asarray(image).astype(np.uint16, copy=False)[:, :, np.newaxis]
        return PixelSource(np.broadcast_to(grey, (*grey.shape[:2], 3)), (np.arange(65536) / 65535).astype(np.float32))
    # Else a palette with transparency is warned about; it is dropped in any case.
    image.info.pop("transparency", None)
    return PixelSource(copy_pixels(image, "RGB"), BYTE_VALUES)


def to_latents(image: "Image.Image", path: Path, header: PngHeader | None) -> PixelSource:
    """Return an RGBA picture as latents.

    Raises:
        InputError: it is of another mode, or of 16 bits.
    """
    bits = header.bits if header else 8
    if image.mode != "RGBA" or bits != 8:
        raise InputError(
            f"Not 8-bit latents: path={path}, mode={image.mode}, bits={bits}. They are RGBA, a channel each, "
            "of 8 bits. Name a PNG of latents, or a .npy file."
        )
    return PixelSource(copy_pixels(image, "RGBA"), LATENT_VALUES)


def copy_pixels(image: "Image.Image", mode: Literal["RGB", "RGBA"]) -> NDArray[np.uint8]:
    """Return the pixels of an image, (height, width, channels).

    Strip by strip: conversion and copy of the whole would take 12 bytes a pixel more for a while.
    """
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top in range(0, image.height, STRIP_PX):
        bottom = min(top + STRIP_PX, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert(mode))
    return pixels
