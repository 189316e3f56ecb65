"""Maps between layers, and the memory that they lie in.

A map holds the last few rows of a rectangle of its layer's values, whose edges are multiples of four of the image, in
a ring of slots: row ``n`` in slot ``n % slots``, the rows before and after the rectangle, which are zero, in a slot of
zeros behind the ring. To the left and right of each row is a pixel of zeros. What lies beyond the image, or beyond what
a window determines, is zero or computed from zeros, never what an earlier window left there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from taesd_core.kernels.geometry import Reach
from taesd_core.kernels.memory import ALIGNMENT
from taesd_core.tensors import Float32


class Map:
    """Rows of ``(columns + 2, channels)`` float32 in flat memory, of which ``size`` numbers are used."""

    def __init__(self, data: Float32, rows: Reach, columns: Reach, channels: int, slots: int) -> None:
        self.rows, self.columns, self.channels, self.slots = rows, columns, channels, slots
        self.row = (columns.length + 2) * channels
        """From a value to the one below."""
        self.array = data[: (slots + 1) * self.row].reshape(slots + 1, columns.length + 2, channels)
        self.array[slots] = 0
        self.array[:, 0] = self.array[:, -1] = 0
        self._address = self.array.ctypes.data

    def at(self, column: int) -> int:
        """Return the address of a pixel in the first slot."""
        return self._address + (column - self.columns.start + 1) * self.channels * 4

    def slot(self, row: int) -> int:
        """Return the slot of a row."""
        return (row - self.rows.start) % self.slots

    def clear_edges(self, first: int, last: int) -> None:
        """Make zero what the rows from ``first`` to ``last`` hold beside the values."""
        rows, columns = self.rows, self.columns
        left, right = columns.begin - columns.start + 1, columns.end - columns.start + 1
        inside = left == 1 and right == columns.length + 1
        for row in range(first, last):
            if not rows.begin <= row < rows.end:
                self.array[self.slot(row)] = 0
            elif not inside:
                line = self.array[self.slot(row)]
                line[:left] = line[right:] = 0


def new_memory(size: int) -> Float32:
    """Return so many numbers, not set, that begin where a line of the cache does."""
    raw = np.empty(size + ALIGNMENT, np.float32)
    first = -raw.ctypes.data // 4 % ALIGNMENT
    return raw[first : first + size]


class Memory:
    """Memory that is used again and again: fresh memory costs as much as a convolution. For one run at a time."""

    def __init__(self) -> None:
        self._all = np.empty(0, np.float32)
        self._taken = 0

    def begin(self, size: int) -> None:
        """Have so many numbers, and none of them taken."""
        if self._all.size < size:
            del self._all  # before there is more
            self._all = new_memory(size)
        self._taken = 0

    def take(self, size: int) -> Float32:
        """Return so many of them that nobody has."""
        start = self._taken
        self._taken += size
        assert self._taken <= self._all.size
        return self._all[start : start + size]


class Memories:
    """Memory for as many runs as there are at a time."""

    def __init__(self) -> None:
        self._idle: list[Memory] = []
        self._lock = Lock()

    @contextmanager
    def borrow(self) -> Iterator[Memory]:
        """Lend memory that nobody else uses meanwhile."""
        with self._lock:
            memory = self._idle.pop() if self._idle else Memory()
        try:
            yield memory
        finally:
            with self._lock:
                self._idle.append(memory)
