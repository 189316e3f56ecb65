"""An image that has been written, read back by window through other code than wrote it: the base of every reader."""

import io
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.window import Window

Tables = dict[int, list[int]]
"""Steps by which a JPEG rounds, by number of the table: for brightness and colour."""
JPEG_BLOCK_PX = 16
"""Side of what a 4:2:0 JPEG compresses together."""


class DamagedImageError(Exception):
    """A file, or a tile of it, cannot be read."""


class WrittenImage(ABC):
    """An image file, open for reading."""

    levels: list[tuple[int, ...]]
    """(height, width, channels) of every level, level 0 first."""
    dtype: np.dtype[Any]
    """Of the pixels."""
    file_tile_px: int | None = None
    """Side of a tile of the file; None where it has no tiles."""
    tables: Tables | None = None
    """Of a JPEG; None where nothing is lost."""
    axes: str | None = None
    """Axes of the latents that it was decoded from, where it notes them."""

    @property
    def quantization(self) -> list[list[int]] | None:
        """The steps by which JPEG rounds, for brightness and colour; None where nothing is lost."""
        return None if self.tables is None else [list(table) for _, table in sorted(self.tables.items())]

    @abstractmethod
    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return (height, width, channels) of ``window``; raise ``DamagedImageError`` where that is impossible."""

    def recompress(self, window: Window, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the file's compression makes of ``pixels``, were they at ``window`` of a level.

        Not exact in the outermost pixels, whose neighbours are unknown. ``window`` begins at multiples of 16 px.
        """
        return pixels if self.tables is None else through_jpeg(pixels, self.tables)

    def close(self) -> None:  # noqa: B027
        """Release the file."""


class WrittenArray(WrittenImage):
    """A file of one level, in memory or mapped into it."""

    def __init__(self, pixels: NDArray[Any], *, axes: str | None = None, tables: Tables | None = None) -> None:
        self._pixels, self.axes, self.tables = pixels, axes, tables
        self.levels, self.dtype = [pixels.shape], pixels.dtype

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return a window."""
        assert level == 0
        return np.array(self._pixels[window.slices])

    def close(self) -> None:
        """Release the pixels."""
        del self._pixels


def refuse_lossy(path: Path, description: str) -> None:
    """Refuse an image that was written with a quality below that which loses nothing; its description says so.

    Raises:
        InputError: it was.
    """
    found = re.search(r'quality"(?:: |>)(\d+)', description)
    if found:
        raise InputError(
            f"The image cannot be verified: path={path}, quality={found[1]}; nothing says how far its pixels may be "
            "off. Only JPEG, and what loses nothing, can be compared."
        )


def find_axes(description: str) -> str | None:
    """Return the axes that a description notes of the latents, if it does."""
    found = re.search(r'"axes(?:": "|">)([BCTHW]{3,5})["<]', description)
    return found[1] if found else None


def open_jpeg(content: bytes) -> tuple[NDArray[np.uint8], Tables]:
    """Return the pixels of a JPEG and its tables of quantization."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return np.asarray(image), image.quantization  # type: ignore[attr-defined]


def through_jpeg(pixels: NDArray[np.uint8], tables: Tables) -> NDArray[np.uint8]:
    """Return what JPEG makes of pixels, with the given quantization."""
    from PIL import Image

    height, width, _ = pixels.shape
    filled = np.pad(pixels, ((0, -height % JPEG_BLOCK_PX), (0, -width % JPEG_BLOCK_PX), (0, 0)), mode="edge")
    content = io.BytesIO()
    Image.fromarray(filled).save(content, "JPEG", qtables=tables, subsampling="4:2:0")
    return open_jpeg(content.getvalue())[0][:height, :width]
