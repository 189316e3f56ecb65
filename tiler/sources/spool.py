"""Pixels that can only be had once from top to bottom, kept so that windows of them can be read.

A few megabytes stay in memory. More goes to a file without a name, which is gone when the process is, whatever ends it.
"""

import io
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.window import Window

MEMORY_BYTES = 2**26
"""What is kept in memory."""


def count_spooled(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
    """Return how many bytes of a disk an array takes; none where it is kept in memory."""
    n_bytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    return n_bytes if n_bytes > MEMORY_BYTES else 0


class Spool:
    """An array whose rows are written once, in order, and read by window.

    Args:
        shape: (height, width, channels).
        dtype: of the values.
        folder: where the file is to lie; by default among the temporary ones of the system.

    Raises:
        OSError: the disk is too full.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any], folder: Path | None) -> None:
        self._shape, self._dtype = shape, dtype
        self._row_bytes = shape[1] * shape[2] * dtype.itemsize
        self._file: io.FileIO | None = None
        self._array: NDArray[Any] = np.empty(0, dtype)
        n_bytes = count_spooled(shape, dtype)
        if n_bytes:
            self._file = _open_unnamed(folder)
            weakref.finalize(self, self._file.close)
            files.allocate(self._file, n_bytes)
        else:
            self._array = np.empty(shape, dtype)

    def fill(self, strips: Iterator[NDArray[Any]]) -> None:
        """Take the rows of the array, some at a time, from the first to the last."""
        row = 0
        for strip in strips:
            if self._file is None:
                self._array[row : row + len(strip)] = strip
            else:
                files.write_at(self._file, strip.data, row * self._row_bytes)
            row += len(strip)
        assert row == self._shape[0], (row, self._shape)

    def read(self, window: Window) -> NDArray[Any]:
        """Return a window. Called from many threads."""
        if self._file is None:
            return self._array[window.slices]
        n_columns, channels = len(window.columns), self._shape[2]
        values = np.empty((len(window.rows), n_columns, channels), self._dtype)
        pixel_bytes = channels * self._dtype.itemsize
        if n_columns == self._shape[1]:
            self._read_into(values, window.rows.start * self._row_bytes)
        else:
            for row, position in enumerate(range(window.rows.start, window.rows.stop)):
                self._read_into(values[row], position * self._row_bytes + window.columns.start * pixel_bytes)
        return values

    def _read_into(self, values: NDArray[Any], position: int) -> None:
        assert self._file is not None
        content = files.read_at(self._file, values.nbytes, position)
        assert len(content) == values.nbytes, "a spool file was shortened"
        values.reshape(-1)[:] = np.frombuffer(content, self._dtype)


def _open_unnamed(folder: Path | None) -> io.FileIO:
    place = Path(tempfile.gettempdir()) if folder is None else folder
    flags = os.O_RDWR | os.O_CLOEXEC
    with suppress(AttributeError, OSError):  # Linux alone has it, and not on all file systems.
        return io.FileIO(os.open(place, flags | os.O_TMPFILE, 0o600), "r+")
    descriptor, name = tempfile.mkstemp(prefix=".tiler-", dir=place)
    os.unlink(name)
    return io.FileIO(descriptor, "r+")
