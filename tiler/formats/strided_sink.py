"""An array file as a sink: a header, then the values as they are, to be written in any order."""

import errno
import math
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler import files
from tiler.errors import InputError, OptionError
from tiler.formats.sink import PathLike, Piece, Sink, Skeleton, Written, check_window, restore_start
from tiler.window import Span, Window

STRIP_BYTES = 2**22
"""What is read of the array at a time."""


class StridedSink(Sink):
    """An array file under construction.

    What has not been written yet reads as 0, and the file can be memory-mapped while it is written.

    Args:
        path: the final name.
        shape: (height, width, channels) of the array.
        dtype: of the array and of everything that is written; no Python objects.
        channels_first: store (1, channels, height, width), as diffusion pipelines do; windows are given as
            (height, width, channels) all the same.
        overwrite: whether an existing file may be replaced (when the new one is complete).
        description: how it is made, for those that have a place for it.
        begun: write on what an earlier run left, whose skeleton this is; all else must be as it was then.

    Raises:
        OptionError: ``shape`` is empty, or ``dtype`` cannot be stored.
        InputError: what is to be reopened is another file than it was.
        OSError: the disk is too full for the whole file.
    """

    def __init__(
        self,
        path: PathLike,
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        *,
        channels_first: bool = False,
        overwrite: bool = False,
        description: str = "",
        begun: Skeleton | None = None,
    ) -> None:
        self.shape = shape
        self.levels = [shape[:2]]
        self.dtype = np.dtype(dtype)
        self.channels_first = channels_first
        if min(shape) < 1:
            raise OptionError(f"The array is empty: shape={shape}. Every size must be at least 1.")
        if self.dtype.hasobject:
            raise OptionError(f"Python objects cannot be stored: dtype={self.dtype}. Use a type of numbers.")
        super().__init__(path, overwrite=overwrite)

        self._lock, self._description = Lock(), description
        header = self._header()
        self.skeleton = {"": header}
        self._start = len(header)
        if begun is not None:
            for content in begun.values():
                restore_start(self.part_path, content)
        self._file = files.open_file(self.part_path, new=begun is None)
        if begun is not None:
            self._check_part(header)
            return
        try:
            files.allocate(self._file, self._start + count_bytes(shape, dtype))
            files.write_at(self._file, header, 0)
        except BaseException:
            self.discard()
            raise

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the array, as it lies in the file."""
        height, width, channels = self.shape
        return (1, channels, height, width) if self.channels_first else self.shape

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, channels) at ``window``; there is only level 0.

        Returns:
            The CRC-32 of the values, in the order in which they lie in the file.

        Raises:
            InputError: another level, a window that leaves the array, or pixels of another shape or type.
        """
        if level != 0:
            raise InputError(f"An array file has no pyramid: level={level}. Write level 0 only.")
        check_window(window, self.shape, self.dtype, pixels)
        # Either way (planes, rows, columns, values a pixel), the last two adjacent in the file.
        planes = np.moveaxis(pixels, 2, 0)[..., None] if self.channels_first else pixels[None]
        width, check = self.shape[1], 0
        for number, plane in enumerate(planes):
            rows = np.ascontiguousarray(plane).view(np.uint8)
            check = zlib.crc32(rows.data, check)
            if len(window.columns) == width:
                rows = rows[None]  # whole rows lie one behind the other: a single run
            with self._turn():
                for row, run in enumerate(rows, window.rows.start):
                    files.write_at(self._file, run.data, self._find(number, row, window.columns.start))
        return (check,)

    def check(self, written: Sequence[Written]) -> list[bool]:
        """Read what was written in an earlier run, and say of each whether it is still there, byte by byte."""
        agree: list[bool] = []
        for rows, group in groupby(written, lambda each: each[1].rows):
            windows = [(window.columns, piece) for _, window, piece in group]
            # What lies side by side is read together, strip by strip: a row of a tile is short.
            start, stop = min(each.start for each, _ in windows), max(each.stop for each, _ in windows)
            checks = [0] * len(windows)
            for strip in self._read_strips(rows, Span(start, stop)):
                for number, (columns, _) in enumerate(windows):
                    part = np.ascontiguousarray(strip[:, columns.start - start : columns.stop - start])
                    checks[number] = zlib.crc32(part.data, checks[number])
            agree += [check == piece[0] for check, (_, piece) in zip(checks, windows, strict=True)]
        return agree

    def _read_strips(self, rows: Span, columns: Span) -> Iterator[NDArray[np.uint8]]:
        """Yield (rows, columns, bytes) of a window, plane by plane and from top to bottom."""
        _, width, channels = self.shape
        n_planes = channels if self.channels_first else 1
        pixel_bytes = self._find(0, 0, 1) - self._start
        row_bytes = len(columns) * pixel_bytes
        n_rows = self._count_rows(len(columns))
        for number in range(n_planes):
            for top in range(rows.start, rows.stop, n_rows):
                strip = range(top, min(top + n_rows, rows.stop))
                # Whole rows lie one behind the other.
                runs = [(top, len(strip))] if len(columns) == width else [(row, 1) for row in strip]
                content = b"".join(
                    files.read_at(self._file, n * row_bytes, self._find(number, row, columns.start)) for row, n in runs
                )
                n_bytes = len(strip) * row_bytes
                if len(content) != n_bytes:
                    raise OSError(errno.EIO, "The file was cut off while it was read", str(self.part_path))
                yield np.frombuffer(content, np.uint8).reshape(len(strip), len(columns), pixel_bytes)

    def _count_rows(self, n_columns: int) -> int:
        """Return how many rows of so many columns are read at a time."""
        return max(1, STRIP_BYTES // (n_columns * (self._find(0, 0, 1) - self._start)))

    def _find(self, plane: int, row: int, column: int) -> int:
        """Return where a pixel lies, or its value in a plane."""
        height, width, channels = self.shape
        pixel_bytes = self.dtype.itemsize * (1 if self.channels_first else channels)
        return self._start + ((plane * height + row) * width + column) * pixel_bytes

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._shared:
            yield
            return
        # Runs of two machines lie in the same page, and a network's file system writes pages: without a lock, with what
        # the page held before.
        with self._lock, files.locked(self._file):
            yield

    @abstractmethod
    def _header(self) -> bytes:
        """Return what comes before the values."""

    def _check_part(self, header: bytes) -> None:
        if files.read_at(self._file, len(header), 0) != header:
            self.close()
            raise self._refuse_part()
        n_bytes = self._start + count_bytes(self.shape, self.dtype)
        if os.fstat(self._file.fileno()).st_size != n_bytes:
            try:
                files.truncate(self._file, n_bytes)
                files.allocate(self._file, n_bytes)
            except BaseException:
                self.close()
                raise


def count_bytes(shape: tuple[int, int, int], dtype: DTypeLike) -> int:
    """Return how many bytes the values of an array take."""
    return math.prod(shape) * np.dtype(dtype).itemsize
