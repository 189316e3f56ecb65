"""Sinks of pyramids that consist of squares: file tiles, or shards of them, which are written whole."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, OptionError
from tiler.formats.output_file import TiledFile
from tiler.formats.sink import Piece, Sink, Written, check_window
from tiler.window import Window


class TiledSink(Sink):
    """A pyramid of RGB pixels under construction.

    Args:
        file: what is said of it, with the side of a file tile.
        shape: (height, width, 3) of level 0.
        square_px: side of a square.
        overwrite: whether an existing output may be replaced (when the new one is complete).
    """

    square: ClassVar[str]
    """What people call a square."""

    def __init__(self, file: TiledFile, shape: tuple[int, int, int], *, square_px: int, overwrite: bool) -> None:
        if min(shape) < 1 or shape[2] != 3:
            raise OptionError(f"Not an RGB image: shape={shape}. The shape must be (height, width, 3).")
        super().__init__(file.path, overwrite=overwrite, marker=file.marker)
        self.file, self.square_px = file, square_px
        self.levels, self.dtype = file.find_levels(shape), np.dtype(file.dtype)

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return what was written at ``window``, whole squares of ``level``; only where ``reads_back``.

        Raises:
            TileError: a square is absent or damaged.
        """
        pixels = np.empty((*window.shape, 3), self.dtype)
        for row, column, part in self._split(level, window, pixels):
            part[:] = self._get(level, row, column)[: part.shape[0], : part.shape[1]]
        return pixels

    def check(self, written: Sequence[Written]) -> list[bool]:
        """Read what was written in an earlier run, and say of each whether it is still there, byte by byte."""
        return [self._check(*each) for each in written]

    @abstractmethod
    def _check(self, level: int, window: Window, piece: Piece) -> bool:
        """Say of a write whether it is still there."""

    @abstractmethod
    def _get(self, level: int, row: int, column: int) -> NDArray[Any]:
        """Return the pixels of a square, given its first row and column; what lies beyond the edge is filling."""

    def _split(self, level: int, window: Window, pixels: NDArray[Any]) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield first row and column of each square of ``window``, and its part of ``pixels``, a view.

        Raises:
            InputError: no such level, a window that leaves it, or pixels of another shape or type.
            OptionError: the window does not fill whole squares.
        """
        if not 0 <= level < len(self.levels):
            raise InputError(f"No such level: level={level}. Use 0 to {len(self.levels) - 1}.")
        check_window(window, (*self.levels[level], 3), self.dtype, pixels)
        for span, edge in zip((window.rows, window.columns), self.levels[level], strict=True):
            if span.start % self.square_px or (span.stop % self.square_px and span.stop != edge):
                raise OptionError(
                    f"Window does not fill whole {self.square}s: level={level}, window=({window}), "
                    f"{self.square}={self.square_px} px. Use a tile size that is a multiple of it."
                )
        yield from cut(window, pixels, self.square_px)


def cut(window: Window, pixels: NDArray[Any], size_px: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield first row and column of each square of ``window``, and its part of ``pixels``, a view."""
    for row, column in find_squares(window, size_px):
        top, left = row - window.rows.start, column - window.columns.start
        yield row, column, pixels[top : top + size_px, left : left + size_px]


def find_squares(window: Window, size_px: int) -> Iterator[tuple[int, int]]:
    """Yield first row and column of each square of ``window``, in the order in which they are written."""
    for row in range(window.rows.start, window.rows.stop, size_px):
        for column in range(window.columns.start, window.columns.stop, size_px):
            yield row, column


def count_squares(levels: list[tuple[int, int]], size_px: int) -> int:
    """Return how many squares cover all levels."""
    return sum(-(-height // size_px) * -(-width // size_px) for height, width in levels)


def fill_square(pixels: NDArray[Any], size_px: int) -> NDArray[Any]:
    """Repeat the last row and column of what lies at the edge: small, and no rim creeps into a JPEG."""
    height, width = pixels.shape[:2]
    if (height, width) == (size_px, size_px):
        return pixels
    return np.pad(pixels, ((0, size_px - height), (0, size_px - width), (0, 0)), mode="edge")
