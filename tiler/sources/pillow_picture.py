"""Pictures of formats that libvips is not built with: BMP, PPM and JPEG 2000, which Pillow decodes whole."""

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import DamagedError, InputError
from tiler.sources.input_file import LIMIT_PX, check_size, open_regular_file, opened, shorten
from tiler.sources.libvips import make_image
from tiler.sources.picture import OpenedPicture

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {"bmp": "BMP", "ppm": "PPM", "jpeg2000": "JPEG2000"}
"""Kinds of files, and what Pillow calls them. Not all that it knows: an EPS file, for one, is a program."""
STRIP_PX = 256
"""Rows of an image that are converted at a time."""
START_BYTES = 2**16
"""In which a file says of how many bits its samples are."""

pillow_limit = threading.Lock()
"""Held while Pillow's own limit, a global, is another one."""


def open_pillow_picture(path: Path, kind: str) -> OpenedPicture:
    """Load a picture of one of ``FORMATS``.

    Raises:
        InputError: the file is damaged, of a kind that is not read, or larger than 2^28 px.
    """
    name = FORMATS[kind]
    try:
        with open_by_pillow(path, name, LIMIT_PX) as image:
            check_size(image.width, image.height, path)
            check_bits(path, name)
            pixels, profile = to_array(image), image.info.get("icc_profile")
            # What Pillow decoded is still there when the copy is.
            return OpenedPicture(
                path,
                name,
                lambda: make_image(pixels, profile=profile),
                by_window=True,
                orientation=find_orientation(image),
                held_bytes=2 * pixels.nbytes,
            )
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds for a damaged file, SyntaxError among them.
        if str(error).startswith("Unsupported"):
            raise InputError(
                f"A kind of {name} that is not read: path={path} ({shorten(error)}). Save it as a PNG."
            ) from error
        raise DamagedError(f"The image is damaged: path={path} ({shorten(error)}). Copy or save it again.") from error


@contextmanager
def open_by_pillow(path: Path, name: str, limit_px: int | None) -> "Iterator[Image.Image]":
    """Open a picture by Pillow, which refuses what has more than ``limit_px``; one at a time.

    Raises:
        InputError: it has more.
    """
    from PIL import Image

    # Pillow's own limit is a global, which it checks at several points before it allocates. It warns above
    # its limit and refuses above twice that, so half of ours makes it refuse at ours.
    with pillow_limit, warnings.catch_warnings(), os.fdopen(open_regular_file(path), "rb") as file:
        warnings.simplefilter("ignore")  # What changes pixels comes as an exception.
        pillows_own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit_px and limit_px // 2
        try:
            with Image.open(file, formats=[name]) as image:
                yield image
        except Image.DecompressionBombError as error:
            raise InputError(
                f"Image too large to load at once: path={path}, limit={limit_px} px ({error}). "
                "Save it as a PNG, a tiled TIFF, or a .npy file of uint8 (height, width, 3)."
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = pillows_own


def check_bits(path: Path, name: str) -> None:
    """Refuse what Pillow would cut to 8 bits, or stretch.

    Raises:
        InputError: samples have other bits than 8, or of grey 16.
    """
    with opened(path) as descriptor:
        start = os.pread(descriptor, START_BYTES, 0)
    if name == "PPM":
        words = re.sub(rb"#[^\n]*", b" ", start[:2000]).split()
        wide = words[0] in (b"P3", b"P6") and int(words[3]) > 255
    elif name == "JPEG2000":
        # The marker SIZ: its length and capabilities, eight numbers about the grid, then three bytes a component.
        place = start.index(b"\xff\x4f\xff\x51") + 4 + 2 + 2 + 32
        n_components = int.from_bytes(start[place : place + 2])
        bits = {start[place + 2 + 3 * number] + 1 for number in range(n_components)}
        wide = not bits <= ({8, 16} if n_components == 1 else {8})
    else:
        return
    if wide:
        raise InputError(
            f"Samples that are not read: path={path}. They must have 8 bits, or be grey of 16. Save it as a PNG, which "
            "may have 16."
        )


def find_orientation(image: "Image.Image") -> int:
    """Return how a picture is to be turned, 1 to 8; what makes no sense is 1."""
    orientation = image.getexif().get(0x0112, 1)
    return orientation if orientation in range(1, 9) else 1


def to_array(image: "Image.Image") -> NDArray[Any]:
    """Return a picture as (height, width, 1, 3 or 4), uint8 or, where it is grey of 16 bits, uint16.

    Strip by strip: conversion and copy of the whole would take 12 bytes a pixel more for a while.
    """
    wide = image.mode.startswith("I")
    mode = image.mode if wide or image.mode in ("L", "RGB", "LA", "RGBA") else "RGBA" if "A" in image.mode else "RGB"
    channels = 1 if wide else len(mode)
    pixels = np.empty((image.height, image.width, channels), np.uint16 if wide else np.uint8)
    for top in range(0, image.height, STRIP_PX):
        strip = image.crop((0, top, image.width, min(top + STRIP_PX, image.height)))
        values = np.asarray(strip if wide else strip.convert(mode))
        pixels[top : top + STRIP_PX] = values.reshape(*values.shape[:2], channels)
    return pixels
