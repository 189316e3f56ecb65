"""An array file as a sink: a header, then the values as they are, to be written in any order."""

import math
import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler import files
from tiler.errors import InputError, OptionError
from tiler.sinks.sink import Sink, check_window
from tiler.window import Window


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
        reopen: write on what an earlier run left; all else must be as it was then.

    Raises:
        OptionError: ``shape`` is empty, or ``dtype`` cannot be stored.
        InputError: what is to be reopened is another file than it was.
        OSError: the disk is too full for the whole file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        *,
        channels_first: bool = False,
        overwrite: bool = False,
        reopen: bool = False,
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

        self._lock = Lock()
        header = self._header()
        self._start = len(header)
        self._file = files.open_file(self.part_path, new=not reopen)
        if reopen:
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

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        """Put ``pixels`` (height, width, channels) at ``window``; there is only level 0.

        Raises:
            InputError: another level, a window that leaves the array, or pixels of another shape or type.
        """
        if level != 0:
            raise InputError(f"An array file has no pyramid: level={level}. Write level 0 only.")
        check_window(window, self.shape, self.dtype, pixels)
        # Either way (planes, rows, columns, values a pixel), the last two adjacent in the file.
        planes = np.moveaxis(pixels, 2, 0)[..., None] if self.channels_first else pixels[None]
        pixel_bytes = planes.shape[3] * self.dtype.itemsize
        height, width, _ = self.shape
        for number, plane in enumerate(planes):
            rows = np.ascontiguousarray(plane).view(np.uint8)
            if len(window.columns) == width:
                rows = rows[None]  # whole rows lie one behind the other: a single run
            with self._turn():
                for row, run in enumerate(rows, window.rows.start):
                    position = (number * height + row) * width + window.columns.start
                    files.write_at(self._file, run.data, self._start + position * pixel_bytes)

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
        size = os.fstat(self._file.fileno()).st_size
        there = files.read_at(self._file, len(header), 0)
        if size != self._start + count_bytes(self.shape, self.dtype) or there != header:
            self.close()
            raise InputError(
                f"The half-done output has changed: path={self.part_path}, size={size} bytes. "
                "Start over with --overwrite and without --resume."
            )


def count_bytes(shape: tuple[int, int, int], dtype: DTypeLike) -> int:
    """Return how many bytes the values of an array take."""
    return math.prod(shape) * np.dtype(dtype).itemsize
