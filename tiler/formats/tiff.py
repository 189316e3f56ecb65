"""A tiled, pyramidal BigTIFF, whose tiles may come in any order.

The skeleton is written first: the header and one page a level, with every tag, but all tiles absent. Tiles
are appended as they come, and the two tables of their page patched, number by number::

    ┌──────────────────────────────┬─────────┬─────────┬────────┐
    │ pages with their tables      │ tile 17 │ tile 4  │ tile 5 │ ◄ 1 to 3 under a lock, between processes too
    │ TileOffsets, TileByteCounts  │         │         │        │
    └───────▲──────────────▲───────┴─────────┴─────────┴────────┘
        2 where          3 how many bytes             1 the tile itself

A byte count is patched last: a tile is there when its count is not 0. So the file can be opened at any time,
and what has not been written reads as 0.

The tables are for those who read the file. A run that goes on makes them again, of what the journal says and is so.
"""

import os
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.errors import TileError
from tiler.formats.sink import Piece, Skeleton, Written, restore_start
from tiler.formats.tiff_options import TiffOptions
from tiler.formats.tiff_pages import find_pages, list_places, make_pages, round_up
from tiler.formats.tiled_sink import TiledSink, count_squares, fill_square, find_squares
from tiler.formats.written_tiff import WrittenTiff
from tiler.window import Window


@dataclass(frozen=True, slots=True)
class Tiff(TiffOptions):
    """A tiled BigTIFF of sRGB pixels.

    Example:
        >>> import tiler
        >>> small = tiler.Tiff("image.tif", compression="jpeg", quality=95)
    """

    def choose_sink(self, shape: tuple[int, int, int], tile_px: int) -> "Callable[..., TiffSink]":
        """Return what makes the sink of an image."""
        return partial(TiffSink, self, shape)

    @classmethod
    def read_back(cls, path: Path) -> WrittenTiff:
        """Open one to be compared."""
        return WrittenTiff(path)


class TiffSink(TiledSink):
    """A BigTIFF under construction.

    Args:
        file: what is said of it, with the side of a file tile.
        shape: (height, width, 3) of level 0.
        overwrite: whether an existing file may be replaced (when the new one is complete).
        description: text to be stored with level 0; of the layout "ome", a JSON object.
        begun: write on what an earlier run left, whose skeleton this is; all else must be as it was then.

    Raises:
        OptionError: no such image.
        InputError: what is to be reopened is another file than it was.
    """

    square = "TIFF tile"

    def __init__(
        self,
        file: Tiff,
        shape: tuple[int, int, int],
        *,
        overwrite: bool = False,
        description: str = "",
        begun: Skeleton | None = None,
    ) -> None:
        assert file.file_tile_px is not None
        super().__init__(file, shape, square_px=file.file_tile_px, overwrite=overwrite)
        self._codec, self._quality, self.reads_back = file.codec, file.chosen_quality, file.is_lossless
        self._differences, self._lock = file.differences, threading.Lock()
        if begun is not None:
            for content in begun.values():
                restore_start(self.part_path, content)
            found, self._tables = find_pages(self.part_path)
            if found != self.levels:
                raise self._refuse_part(f", levels={found}")
            self._file = files.open_file(self.part_path)
            return
        content, self._tables = make_pages(file, self.levels, description)
        self.skeleton = {"": content}
        self._file = files.open_file(self.part_path, new=True)
        try:
            files.write_at(self._file, content, 0)
        except BaseException:
            self.discard()
            raise

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, 3) at ``window`` of ``level``.

        Returns:
            The CRC-32 of its file tiles, one after the other; of each, how far it begins behind the one before, or
            the start of the file, and its length in bytes.

        Raises:
            InputError: no such level, a window that leaves it, or pixels of another shape or type.
            OptionError: the window does not fill whole file tiles.
        """
        check, end = 0, 0
        places: list[int] = []
        for row, column, part in self._split(level, window, pixels):
            content = self._encode(part)
            offset = self._put(level, row, column, content)
            check = zlib.crc32(content, check)
            places += offset - end, len(content)
            end = round_up(offset + len(content))
        return check, *places

    def _check(self, level: int, window: Window, piece: Piece) -> bool:
        check = 0
        for offset, n_bytes in list_places(piece):
            content = files.read_at(self._file, n_bytes, offset)
            if len(content) != n_bytes:
                return False
            check = zlib.crc32(content, check)
        return check == piece[0]

    def place(self, written: Written) -> tuple[int, ...]:
        """Return where a write lies: sorted by this, ``check`` reads from start to end."""
        return written[2][1:2]

    def keep(self, written: Sequence[Written]) -> None:
        """Make the tables of these writes of an earlier run, and cut off what lies behind the last of them."""
        n_tiles = [count_squares([shape], self.square_px) for shape in self.levels]
        offsets, byte_counts = ([np.zeros(each, np.uint64) for each in n_tiles] for _ in range(2))
        end = 0
        for level, window, piece in written:
            squares = find_squares(window, self.square_px)
            for square, (offset, n_bytes) in zip(squares, list_places(piece), strict=True):
                index = self._tables[level].find(*square)
                offsets[level][index], byte_counts[level][index] = offset, n_bytes
                end = max(end, offset + n_bytes)
        with self._lock, files.locked(self._file):
            if end:
                files.truncate(self._file, end)
            for level, tables in enumerate(self._tables):
                tables.offsets.fill(self._file, offsets[level])
                tables.byte_counts.fill(self._file, byte_counts[level])

    def _encode(self, tile: NDArray[Any]) -> bytes:
        tile = np.ascontiguousarray(fill_square(tile, self.square_px), self.dtype.newbyteorder("<"))
        if self._differences:
            differences = tile.copy()
            differences[:, 1:] -= tile[:, :-1]
            tile = differences
        return self._codec.encode(tile, self._quality)

    def _put(self, level: int, row: int, column: int, content: bytes) -> int:
        tables = self._tables[level]
        # All of it under the lock: another process may put the same tile at the same time, when it was thought dead,
        # and on a network's file system only a lock brings what others wrote, and them what we write.
        with self._lock, files.locked(self._file):
            offset = round_up(os.fstat(self._file.fileno()).st_size)
            files.write_at(self._file, content, offset)
            tables.note(self._file, tables.find(row, column), offset, len(content))
        return offset

    def _get(self, level: int, row: int, column: int) -> NDArray[Any]:
        tables = self._tables[level]
        with self._lock, files.locked(self._file):  # as in _put: another process may have put it there
            offset, n_bytes = tables.look_up(self._file, tables.find(row, column))
            content = files.read_at(self._file, n_bytes, offset)
        try:
            tile = self._codec.decode(content, (self.square_px, self.square_px, 3), self.dtype.newbyteorder("<"))
        except Exception as error:  # Each library has errors of its own.
            raise TileError(
                f"The half-done output was damaged while it was in use: path={self.part_path}, level={level}, "
                f"row={row}, column={column} ({error}). A run that goes on makes that tile again."
            ) from error
        return np.add.accumulate(tile, axis=1, dtype=self.dtype) if self._differences else tile
