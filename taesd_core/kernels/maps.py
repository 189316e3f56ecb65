"""Maps between layers, and the memory that they lie in.

A map holds a rectangle of its layer's values whose edges are multiples of four of the image, with a ring of zeros
around it: so tiles of 4 × 4 outputs lie alike in every window. What lies beyond the image, or beyond what a window
determines, is zero or computed from zeros, never what an earlier window left there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import numpy as np

from taesd_core.kernels.cache import compiled
from taesd_core.tensors import Float32

ALIGNMENT_BYTES = 64
SLACK = 64
"""Pixels that may be read behind the last one of a map; what is made of them is thrown away."""


@dataclass(frozen=True, slots=True)
class Reach:
    """One axis of a map."""

    start: int
    """Of what is computed, a multiple of four; 0 is where the image begins."""
    stop: int
    """Likewise."""
    begin: int
    """Where its values begin, in front of which is zero."""
    end: int
    """Where they end: behind that is zero."""
    needed: tuple[int, int]
    """What of them is needed."""

    def __len__(self) -> int:
        return self.stop - self.start


class Map:
    """``(rows + 2, columns + 2, channels)`` float32 in flat memory.

    Args:
        data: at least as long as ``size``.
    """

    def __init__(self, data: Float32, rows: Reach, columns: Reach, channels: int) -> None:
        self.data, self.rows, self.columns, self.channels = data, rows, columns, channels
        self.row = (len(columns) + 2) * channels
        """From a value to the one below."""

    @staticmethod
    def size(rows: Reach, columns: Reach, channels: int) -> int:
        """Return how many numbers the memory must hold."""
        return (len(rows) + 2) * (len(columns) + 2) * channels + SLACK * channels

    def at(self, row: int, column: int) -> int:
        """Return where in ``data`` a pixel begins."""
        return (row - self.rows.start + 1) * self.row + (column - self.columns.start + 1) * self.channels

    def clear_edges(self, first: int, last: int) -> None:
        """Make zero what the rows from ``first`` to ``last`` hold beside the values."""
        rows, columns = self.rows, self.columns
        clear_edges(
            self.data, self.row, self.channels, len(rows), rows.begin - rows.start, rows.end - rows.start,
            columns.begin - columns.start, columns.end - columns.start, first - rows.start, last - rows.start,
        )  # fmt: skip

    def array(self) -> Float32:
        """Return the map with its ring, (rows + 2, columns + 2, channels)."""
        shape = len(self.rows) + 2, len(self.columns) + 2, self.channels
        return self.data[: shape[0] * shape[1] * shape[2]].reshape(shape)


def new_memory(size: int) -> Float32:
    """Return so many numbers, not set, that begin where a line of the cache does."""
    raw = np.empty(size + ALIGNMENT_BYTES // 4, np.float32)
    first = (-raw.ctypes.data % ALIGNMENT_BYTES) // 4
    return raw[first : first + size]


class Memory:
    """Memory that is used again and again: fresh memory costs as much as a convolution. For one run at a time."""

    def __init__(self) -> None:
        self._free: list[Float32] = []

    def take(self, size: int) -> Float32:
        """Return memory for so many numbers, the smallest that there is, or new."""
        fitting = [n for n, each in enumerate(self._free) if each.size >= size]
        if fitting:
            return self._free.pop(min(fitting, key=lambda n: self._free[n].size))
        # What is too small for this would be too small again.
        if self._free:
            self._free.pop(max(range(len(self._free)), key=lambda n: self._free[n].size))
        return new_memory(size)

    def give_back(self, memory: Float32) -> None:
        """Let others take it."""
        self._free.append(memory)


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


@compiled("clear_edges")
def clear_edges(data, row, channels, n_rows, top, bottom, left, right, first, last):
    """Make zero what rows ``first`` to ``last`` of a map hold beside its values, and the ring around it.

    The values lie in rows ``top`` to ``bottom`` and columns ``left`` to ``right``.
    """
    if first == 0:
        data[:row] = 0
    if last == n_rows:
        data[(n_rows + 1) * row : (n_rows + 2) * row] = 0
    for y in range(first, last):
        at = (y + 1) * row
        if y < top or y >= bottom:
            data[at : at + row] = 0
        else:
            data[at : at + (left + 1) * channels] = 0
            data[at + (right + 1) * channels : at + row] = 0
