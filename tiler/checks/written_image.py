"""An image that has been written, read back by window through other code than wrote it.

Nothing is shared with the sinks: tifffile finds and decompresses the tiles, Pillow decodes JPEG and WebP (each of these
tiles is a complete file, so tifffile's optional codecs are not needed) and pictures, numpy maps a ``.npy`` file, and
the zarr library reads an OME-Zarr.
"""

import io
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.codecs import JPEG, JPEG_XL, WEBP
from tiler.errors import InputError
from tiler.sources.input_file import shorten
from tiler.window import Window, split_window

JPEG_BLOCK_PX = 16
"""Side of what a 4:2:0 JPEG compresses together."""


class DamagedImageError(Exception):
    """A file, or a tile of it, cannot be read."""


class WrittenImage(Protocol):
    """An image file, open for reading."""

    @property
    def levels(self) -> list[tuple[int, ...]]:
        """(height, width, channels) of every level, level 0 first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""

    @property
    def file_tile_px(self) -> int | None:
        """Side of a tile of the file; None where it has no tiles."""

    @property
    def quantization(self) -> list[list[int]] | None:
        """The steps by which JPEG rounds, for brightness and colour; None where nothing is lost."""

    @property
    def axes(self) -> str | None:
        """Axes of the latents that it was decoded from, where it notes them."""

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return (height, width, channels) of ``window``; raise ``DamagedImageError`` where that is impossible."""

    def recompress(self, window: Window, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the file's compression makes of ``pixels``, were they at ``window`` of a level.

        Not exact in the outermost pixels, whose neighbours are unknown. ``window`` begins at multiples of 16 px.
        """

    def close(self) -> None:
        """Release the file."""


def open_written_image(path: Path) -> WrittenImage:
    """Open an image that this package has written.

    Raises:
        DamagedImageError: it is not one, or it is damaged.
        InputError: it cannot be compared: it has lost something, and nothing says how much.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            return WrittenArray(path)
        if kind == ".zarr":
            from tiler.checks.written_zarr import WrittenZarr

            return WrittenZarr(path)
        if kind in (".tif", ".tiff", ".btf", ".tf2", ".tf8"):
            return WrittenTiff(path)
        from tiler.checks.written_picture import WrittenPicture

        return WrittenPicture(path)
    except (DamagedImageError, InputError):
        raise
    except Exception as error:  # tifffile and numpy raise a dozen kinds for a damaged file.
        raise DamagedImageError(f"the file cannot be read ({shorten(error)})") from error


class WrittenArray:
    """A ``.npy`` file, mapped into memory."""

    file_tile_px = None
    quantization = None
    axes = None

    def __init__(self, path: Path) -> None:
        self._array = np.load(path, mmap_mode="r")
        self.levels: list[tuple[int, ...]] = [self._array.shape]
        self.dtype = self._array.dtype

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return a window."""
        assert level == 0
        return np.array(self._array[window.slices])

    def recompress(self, window: Window, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels: nothing is compressed."""
        return pixels

    def close(self) -> None:
        """Release the file."""
        del self._array


class WrittenTiff:
    """A tiled TIFF whose pages are the levels: top-level ones, or the first and those below it."""

    def __init__(self, path: Path) -> None:
        from tifffile import TiffFile

        self._tiff = TiffFile(path)
        try:
            first = self._tiff.pages[0]
            self._pages = [*self._tiff.pages, *(first.pages or ())]
            if first.compression in (WEBP, JPEG_XL):
                check_lossless(path, first.description)
            for number, page in enumerate(self._pages):
                if not (page.is_tiled and page.tilewidth == page.tilelength == self._pages[0].tilewidth):
                    raise DamagedImageError(f"page {number} does not consist of square tiles of one size")
                if (page.planarconfig, page.imagedepth) != (1, 1) or page.dtype is None:
                    raise DamagedImageError(f"page {number} is not a flat image of interleaved pixels")
                if bool(page.subfiletype & 1) != (number > 0):
                    raise DamagedImageError(f"page {number} is wrongly marked (NewSubfileType={page.subfiletype})")
            self.levels: list[tuple[int, ...]] = [
                (page.imagelength, page.imagewidth, page.samplesperpixel) for page in self._pages
            ]
            self.dtype: np.dtype[Any] = first.dtype
            self.axes = find_axes(first.description)
            self.file_tile_px: int = first.tilewidth
            self._tables = _read_tables(self._content(0, 0)) if first.compression == JPEG else None
        except BaseException:
            self._tiff.close()
            raise

    @property
    def quantization(self) -> list[list[int]] | None:
        """The steps by which JPEG rounds, for brightness and colour; None where nothing is lost."""
        return None if self._tables is None else [list(table) for _, table in sorted(self._tables.items())]

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
        """Return what the file's compression makes of ``pixels``."""
        if self._tables is None:
            return pixels
        compressed = np.empty_like(pixels)
        for _, _, part in split_window(window, (self.file_tile_px, self.file_tile_px)):
            here = (part - window).slices
            compressed[here] = through_jpeg(pixels[here], self._tables)
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
        try:
            content = self._content(level, index)
            if self._pages[level].compression == JPEG:
                return open_jpeg(content)[0]
            if self._pages[level].compression == WEBP:
                return _open_webp(content)
            # The last rows and columns of a tile at the edge are filling.
            tile, _, _ = self._pages[level].decode(content, index)
            return np.asarray(tile[0])
        except (DamagedImageError, MemoryError):
            raise
        except Exception as error:
            raise DamagedImageError(f"tile {index} cannot be decompressed ({shorten(error)})") from error


def check_lossless(path: Path, description: str) -> None:
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


def _open_webp(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        return np.asarray(image)


def open_jpeg(content: bytes) -> tuple[NDArray[np.uint8], dict[int, list[int]]]:
    """Return the pixels of a JPEG and its tables of quantization."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return np.asarray(image), image.quantization  # type: ignore[attr-defined]


def _read_tables(content: bytes) -> dict[int, list[int]]:
    return open_jpeg(content)[1]


def through_jpeg(pixels: NDArray[np.uint8], tables: dict[int, list[int]]) -> NDArray[np.uint8]:
    """Return what JPEG makes of pixels, with the given quantization."""
    from PIL import Image

    height, width, _ = pixels.shape
    filled = np.pad(pixels, ((0, -height % JPEG_BLOCK_PX), (0, -width % JPEG_BLOCK_PX), (0, 0)), mode="edge")
    content = io.BytesIO()
    Image.fromarray(filled).save(content, "JPEG", qtables=tables, subsampling="4:2:0")
    return open_jpeg(content.getvalue())[0][:height, :width]
