"""Latents kept as pictures: PNG of 8-bit RGBA, a channel each, whose bytes are taken as they are."""

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiler.errors import DamagedError, InputError
from tiler.sources.fingerprint import fingerprint_array
from tiler.sources.input_file import check_size, opened
from tiler.sources.libvips import open_by_libvips, read_strips
from tiler.sources.source import Source
from tiler.window import Window

LATENT_VALUES: NDArray[np.float32] = ((np.arange(256) / 255 - 0.5) * 6).astype(np.float32)
"""What each byte stands for. Source: the convention of TAESD, ``(x - 0.5) * 6``."""
COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGBA"}
"""Source: the specification of PNG."""


class LatentPng(Source):
    """8-bit latents in memory, (height, width, 4) in [-3, 3]. What a PNG says of colours means nothing here.

    Args:
        path: the file.

    Raises:
        InputError: it is missing, damaged, of another kind, or larger than 2^28 px.
    """

    def __init__(self, path: Path) -> None:
        check_header(path)
        image = open_by_libvips(path, "PNG", "sequential")
        self._pixels = read_strips(image, path, "PNG")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 4)."""
        height, width, channels = self._pixels.shape
        return height, width, channels

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the pixels are others."""
        return fingerprint_array(self._pixels)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, 4) float32 values of ``window``, which lies inside the array."""
        return LATENT_VALUES.take(self._pixels[window.slices])


def check_header(path: Path) -> None:
    """Refuse a PNG that is not RGBA of 8 bits, or too large, before anything is decoded.

    Raises:
        InputError: it is.
    """
    with opened(path) as descriptor:
        start = os.pread(descriptor, 26, 0)
    if len(start) < 26 or start[12:16] != b"IHDR":
        raise DamagedError(f"The PNG is damaged: path={path} (no header). Copy or save it again.")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    if (bits, colour) != (8, 6):
        raise InputError(
            f"Not 8-bit latents: path={path}, colours={COLOUR_TYPES.get(colour, colour)}, bits={bits}. They are RGBA, "
            "a channel each, of 8 bits. Name a PNG of latents, or a .npy file."
        )
    check_size(width, height, path)
