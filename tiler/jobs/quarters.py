"""Quarters kept on disk while the tile above them is missing, where a file does not give back what was written.

The level above a JPEG is made of pixels that the file no longer holds. Without them a run that goes on would decode
all that lies under an unfinished tile of the pyramid again, and under the topmost that is the whole image. So each
finished tile's quarter lies in a slot of its own until the tile above is finished too; then the slot is free, and the
file stays as small as the few quarters that a run holds in memory.
"""

import math
import zlib
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files

Place = tuple[int, int]
"""A slot, and the CRC-32 of what it holds."""


class Quarters:
    """A file of slots; threads may share it.

    Args:
        path: the file; it is made where it is not.
        slot_shape: (height, width, channels) of the largest quarter.
        dtype: of all of them.
    """

    def __init__(self, path: Path, slot_shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.path, self._dtype = path, dtype
        self._slot_bytes = self._count_bytes(slot_shape)
        self._file, _ = files.open_or_create(path)
        self._n_slots = 0
        self._free: list[int] = []
        self._lock = Lock()

    def reserve(self, slots: set[int]) -> None:
        """Leave slots alone that hold something from an earlier run; all others are free."""
        self._n_slots = max(slots, default=-1) + 1
        self._free = sorted(set(range(self._n_slots)) - slots, reverse=True)

    def put(self, quarter: NDArray[Any]) -> Place:
        """Keep a quarter and say where."""
        with self._lock:
            if not self._free:
                self._free.append(self._n_slots)
                self._n_slots += 1
            slot = self._free.pop()
        content = quarter.tobytes()
        files.write_at(self._file, content, slot * self._slot_bytes)
        return slot, zlib.crc32(content)

    def get(self, place: Place, shape: tuple[int, int, int]) -> NDArray[Any] | None:
        """Return a quarter, None where the slot holds something else by now."""
        slot, check = place
        n_bytes = self._count_bytes(shape)
        content = files.read_at(self._file, n_bytes, slot * self._slot_bytes)
        if len(content) != n_bytes or zlib.crc32(content) != check:
            return None
        return np.frombuffer(content, self._dtype).reshape(shape)

    def _count_bytes(self, shape: tuple[int, int, int]) -> int:
        return math.prod(shape) * self._dtype.itemsize

    def release(self, slot: int) -> None:
        """Give a slot to whoever comes next."""
        with self._lock:
            self._free.append(slot)

    def sync(self) -> None:
        """Wait until all quarters are on the disk."""
        files.sync(self._file)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
