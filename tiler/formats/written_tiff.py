"""A TIFF that has been written, read back: tifffile finds and decompresses the tiles, Pillow decodes JPEG and WebP."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.codecs import JPEG, JPEG_XL, WEBP
from tiler.formats.written import (
    DamagedImageError,
    WrittenImage,
    find_axes,
    open_jpeg,
    refuse_lossy,
    through_jpeg,
)
from tiler.sources.input_file import shorten
from tiler.window import Window, split_window


class WrittenTiff(WrittenImage):
    """A tiled TIFF whose pages are the levels: top-level ones, or the first and those below it."""

    file_tile_px: int

    def __init__(self, path: Path) -> None:
        from tifffile import TiffFile

        self._tiff = TiffFile(path)
        try:
            self._pages = list_pages(self._tiff)
            first = self._pages[0]
            if first.compression in (WEBP, JPEG_XL):
                refuse_lossy(path, first.description)
            for number, page in enumerate(self._pages):
                if not (page.is_tiled and page.tilewidth == page.tilelength == first.tilewidth):
                    raise DamagedImageError(f"page {number} does not consist of square tiles of one size")
                if (page.planarconfig, page.imagedepth) != (1, 1) or page.dtype is None:
                    raise DamagedImageError(f"page {number} is not a flat image of interleaved pixels")
                if bool(page.subfiletype & 1) != (number > 0):
                    raise DamagedImageError(f"page {number} is wrongly marked (NewSubfileType={page.subfiletype})")
            self.levels = [(page.imagelength, page.imagewidth, page.samplesperpixel) for page in self._pages]
            self.dtype, self.axes = first.dtype, find_axes(first.description)
            self.file_tile_px = first.tilewidth
            if first.compression == JPEG:
                self.tables = open_jpeg(self._content(0, 0))[1]
        except BaseException:
            self._tiff.close()
            raise

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return a window, put together from the tiles that it touches."""
        pixels = np.empty((*window.shape, self.levels[level][2]), self.dtype)
        n_across = -(-self.levels[level][1] // self.file_tile_px)
        for row, column, part in split_window(window, (self.file_tile_px, self.file_tile_px)):
            tile = self._decode(level, row * n_across + column)
            inside = Window(part.rows - row * self.file_tile_px, part.columns - column * self.file_tile_px)
            pixels[(part - window).slices] = tile[inside.slices]
        return pixels

    def recompress(self, window: Window, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the file's compression makes of ``pixels``, tile by tile."""
        if self.tables is None:
            return pixels
        compressed = np.empty_like(pixels)
        for _, _, part in split_window(window, (self.file_tile_px, self.file_tile_px)):
            here = (part - window).slices
            compressed[here] = through_jpeg(pixels[here], self.tables)
        return compressed

    def close(self) -> None:
        """Release the file."""
        self._tiff.close()

    def _content(self, level: int, index: int) -> bytes:
        page = self._pages[level]
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        if not n_bytes:
            raise DamagedImageError(f"tile {index} is absent")
        self._tiff.filehandle.seek(offset)
        content = self._tiff.filehandle.read(n_bytes)
        if len(content) != n_bytes:
            raise DamagedImageError(f"the file ends before tile {index} does")
        return bytes(content)

    def _decode(self, level: int, index: int) -> NDArray[Any]:
        page = self._pages[level]
        try:
            content = self._content(level, index)
            if page.compression == JPEG:
                return open_jpeg(content)[0]
            if page.compression == WEBP:
                return _open_webp(content)
            # The last rows and columns of a tile at the edge are filling.
            return np.asarray(page.decode(content, index)[0][0])
        except (DamagedImageError, MemoryError):
            raise
        except Exception as error:
            raise DamagedImageError(f"tile {index} cannot be decompressed ({shorten(error)})") from error


def list_pages(tiff: Any) -> list[Any]:
    """Return the page of every level of an open file, level 0 first: top-level ones, or those below the first."""
    return [*tiff.pages, *(tiff.pages[0].pages or ())]


def _open_webp(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        return np.asarray(image)
