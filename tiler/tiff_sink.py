"""A tiled, pyramidal BigTIFF as a sink whose tiles may come in any order.

The skeleton is written first: the header and one page a level, with every tag, but all tiles absent. Tiles
are appended as they come, and the two tables of their page patched, number by number::

    ┌──────────────────────────────┬─────────┬─────────┬────────┐
    │ pages with their tables      │ tile 17 │ tile 4  │ tile 5 │ ◄ space at the end is taken under a lock,
    │ TileOffsets, TileByteCounts  │         │         │        │   the rest needs none
    └───────▲──────────────▲───────┴─────────┴─────────┴────────┘
        2 where          3 how many bytes             1 the tile itself

A byte count is patched last: a tile is there when its count is not 0. So the file can be opened at any time,
and what has not been written reads as 0.
"""

import io
import itertools
import os
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, OptionError
from tiler.pyramid import level_shapes
from tiler.sink import Sink, check_window, write_at
from tiler.srgb_profile import srgb_profile
from tiler.window import Window

Compression = Literal["deflate", "jpeg", "none"]


class TiffSink(Sink):
    """A BigTIFF of 8-bit sRGB pixels under construction.

    Levels are top-level pages, the reduced ones marked as such: the layout that most readers know.

    Args:
        path: the final name.
        shape: (height, width, 3) of level 0.
        compression: "deflate" (lossless; zlib 1 with the horizontal predictor), "jpeg" (4:2:0) or "none".
        quality: of "jpeg", 1 to 100.
        file_tile_px: side of a file tile, a multiple of 16. libvips refuses more than about 2.6 million tiles
            in a level: from about 800,000 px a side use 1024.
        pyramid: whether there are reduced levels, down to one that fits a single file tile.
        overwrite: whether an existing file may be replaced (when the new one is complete).
        description: any text, stored with level 0.

    Raises:
        OptionError: an option is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int, int],
        *,
        compression: Compression = "deflate",
        quality: int = 90,
        file_tile_px: int = 512,
        pyramid: bool = True,
        overwrite: bool = False,
        description: str | None = None,
    ) -> None:
        height, width, channels = shape
        if min(shape) < 1 or channels != 3:
            raise OptionError(f"Not an RGB image: shape={shape}. The shape must be (height, width, 3).")
        if file_tile_px < 16 or file_tile_px % 16:
            raise OptionError(f"TIFF tiles cannot be {file_tile_px} px wide. Use a multiple of 16 px.")
        if not 1 <= quality <= 100:
            raise OptionError(f"No such JPEG quality: quality={quality}. Use 1 to 100.")
        encoders: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
            "deflate": _deflate,
            "jpeg": partial(_jpeg, quality=quality),
            "none": np.ndarray.tobytes,
        }
        if compression not in encoders:
            raise OptionError(f"No such compression: compression={compression}. Use {', '.join(encoders)}.")
        super().__init__(path, overwrite=overwrite)

        self._encode = encoders[compression]
        self.file_tile_px = file_tile_px
        self.levels = level_shapes(height, width, file_tile_px) if pyramid else [(height, width)]
        self._lock = threading.Lock()
        try:
            self._write_skeleton(compression, description)
            self._tables = self._finish_skeleton(compression)
        except BaseException:
            self.part_path.unlink(missing_ok=True)
            raise
        self._file = open(self.part_path, "r+b", buffering=0)  # noqa: SIM115 — close() does
        self._end = os.path.getsize(self.part_path)

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        """Put ``pixels`` (height, width, 3) uint8 at ``window`` of ``level``.

        Raises:
            InputError: no such level, a window that leaves it, or pixels of another shape or type.
            OptionError: the window does not fill whole file tiles.
        """
        if not 0 <= level < len(self.levels):
            raise InputError(f"No such level: level={level}. Use 0 to {len(self.levels) - 1}.")
        check_window(window, (*self.levels[level], 3), np.dtype(np.uint8), pixels)
        size = self.file_tile_px
        for span, edge in zip((window.rows, window.columns), self.levels[level], strict=True):
            if span.start % size or (span.stop % size and span.stop != edge):
                raise OptionError(
                    f"Window does not fill whole TIFF tiles: level={level}, window=({window}), "
                    f"TIFF tile={size} px. Use a tile size that is a multiple of it."
                )

        n_across = -(-self.levels[level][1] // size)
        for row in range(0, len(window.rows), size):
            for column in range(0, len(window.columns), size):
                index = (window.rows.start + row) // size * n_across + (window.columns.start + column) // size
                tile = _fill(pixels[row : row + size, column : column + size], size)
                self._put(self._tables[level], index, self._encode(tile))

    def close(self) -> None:
        """Release the file; ``NAME.part`` stays."""
        self._file.close()

    def _put(self, tables: "_Tables", index: int, content: bytes) -> None:
        with self._lock:
            offset = self._end
            # TIFF wants everything to begin at an even byte.
            self._end += len(content) + len(content) % 2
        descriptor = self._file.fileno()
        write_at(descriptor, content, offset)
        tables.offsets.patch(descriptor, index, offset)
        tables.byte_counts.patch(descriptor, index, len(content))

    def _write_skeleton(self, compression: Compression, description: str | None) -> None:
        import tifffile

        size = self.file_tile_px
        layouts: dict[str, dict[str, Any]] = {
            "deflate": {"photometric": "rgb", "compression": "zlib", "predictor": True},
            # Without imagecodecs tifffile writes no JPEG page, not even an empty one: _mark_as_jpeg.
            "jpeg": {"photometric": "ycbcr", "compression": "zlib"},
            "none": {"photometric": "rgb"},
        }
        layout = layouts[compression]
        with tifffile.TiffWriter(self.part_path, bigtiff=True, byteorder="<") as tiff:
            for level, (height, width) in enumerate(self.levels):
                n_tiles = -(-height // size) * -(-width // size)
                # tifffile takes no iterator for a page that is a single, uncompressed tile without a border.
                contiguous = compression == "none" and height == width == size
                tiff.write(
                    None if contiguous else itertools.repeat(b"", n_tiles),
                    shape=(height, width, 3),
                    dtype=np.uint8,
                    tile=(size, size),
                    planarconfig="contig",
                    subfiletype=1 if level else 0,
                    # A unit, even of a made-up resolution, would tell OpenSlide how many microns a pixel is.
                    resolutionunit="NONE",
                    iccprofile=srgb_profile(),
                    software="taesd-tiler",
                    description=description.encode() if description and level == 0 else None,
                    metadata=None,
                    **layout,
                )

    def _finish_skeleton(self, compression: Compression) -> "list[_Tables]":
        """Change what tifffile could not write, and find the tables of every page."""
        import tifffile

        with tifffile.TiffFile(self.part_path, mode="r+") as tiff:
            if compression == "jpeg":
                for page in tiff.pages:
                    _mark_as_jpeg(page)
            last = tiff.pages[-1]
            end = last.dataoffsets[0]
            if end:
                # A page of one tile was given a place for it, and is the last: the tile becomes absent too.
                last.tags["TileOffsets"].overwrite(0)
                last.tags["TileByteCounts"].overwrite(0)
            tables = [
                _Tables(_Table.of(page.tags["TileOffsets"]), _Table.of(page.tags["TileByteCounts"]))
                for page in tiff.pages
            ]
        if end:
            os.truncate(self.part_path, end)
        return tables


@dataclass(frozen=True, slots=True)
class _Table:
    """Where a page keeps one number a tile."""

    position: int
    """Of the first number, in bytes from the start of the file."""

    number: struct.Struct
    """How a number is stored."""

    @classmethod
    def of(cls, tag: Any) -> "_Table":
        # SHORT, LONG or LONG8: tifffile takes the narrowest type that holds any tile of this size.
        return cls(tag.valueoffset, struct.Struct({3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]))

    def patch(self, descriptor: int, index: int, value: int) -> None:
        write_at(descriptor, self.number.pack(value), self.position + index * self.number.size)


@dataclass(frozen=True, slots=True)
class _Tables:
    """The two tables of a page."""

    offsets: _Table
    byte_counts: _Table


def _mark_as_jpeg(page: Any) -> None:
    page.tags["Compression"].overwrite(7)
    page.tags["YCbCrSubSampling"].overwrite((2, 2))


def _fill(tile: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Repeat the last row and column of a tile at the edge: small, and no rim creeps into a JPEG."""
    height, width = tile.shape[:2]
    if (height, width) == (size, size):
        return tile
    return np.pad(tile, ((0, size - height), (0, size - width), (0, 0)), mode="edge")


def _deflate(tile: NDArray[np.uint8]) -> bytes:
    differences = tile.copy()  # to the pixel on the left, modulo 256: predictor 2
    differences[:, 1:] -= tile[:, :-1]
    return zlib.compress(differences.data, level=1)


def _jpeg(tile: NDArray[np.uint8], quality: int) -> bytes:
    """Return a complete JPEG file, so that a tile can be served as it is."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(tile).save(content, "JPEG", quality=quality, subsampling="4:2:0")
    return content.getvalue()
