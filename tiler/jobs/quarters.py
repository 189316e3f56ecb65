"""Quarters kept on disk while the tile above them is missing, where a file does not give back what was written.

The level above a JPEG is made of pixels that the file no longer holds. Without them a run that goes on would decode
all that lies under an unfinished tile of the pyramid again, and under the topmost that is the whole image. So each
finished tile's quarter lies in a slot of its own until the tile above is finished too; then the slot is free, and the
file stays as small as the few quarters that a run holds in memory.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.errors import TileError
from tiler.jobs.journal_lines import Entry, find_task
from tiler.pyramid import Task, find_children, find_parent, level_window

Place = tuple[int, ...]
"""A slot, and the CRC-32 of what it holds; empty where nothing is kept."""
GetQuarter = Callable[[], NDArray[Any] | None]
Waiting = tuple[Entry, GetQuarter | None]
"""What is to be noted of a task, and how to get its quarter, if that is needed."""


class Quarters:
    """A file of slots; threads may share it.

    Args:
        path: the file; it is made where it is not.
        levels: (height, width) of every level of the pyramid.
        tile_px: side of a tile.
        channels: of the pixels.
        dtype: of the pixels.
    """

    def __init__(
        self, path: Path, levels: list[tuple[int, int]], tile_px: int, channels: int, dtype: np.dtype[Any]
    ) -> None:
        self.path, self._levels, self._tile_px, self._channels, self._dtype = path, levels, tile_px, channels, dtype
        self._slot_bytes = (-(-tile_px // 2)) ** 2 * channels * dtype.itemsize
        self._file, _ = files.open_or_create(path)
        self._n_slots = 0
        self._free: list[int] = []
        self._waiting: dict[Task, GetQuarter] = {}
        self._lock = Lock()

    def settle(self, finished: dict[Task, Place]) -> None:
        """Take as unfinished, from the top down, what is needed for the level above and is not there."""
        waiting = set()
        for task in sorted(finished, reverse=True):
            if task[0] == len(self._levels) - 1 or find_parent(task) in finished:
                continue
            if self._get(task, finished[task]) is None:
                del finished[task]
            else:
                waiting.add(finished[task][0])
        # Slots that hold nothing of these are free.
        self._n_slots = max(waiting, default=-1) + 1
        self._free = sorted(set(range(self._n_slots)) - waiting, reverse=True)

    def wait(self, task: Task, get_quarter: GetQuarter | None) -> None:
        """Note how to get the quarter of a finished task, None where it is not needed; those below it are not now."""
        if get_quarter is not None:
            self._waiting[task] = get_quarter
        for child in find_children(task):
            self._waiting.pop(child, None)

    def find_waiting(self, entries: list[Entry]) -> list[Waiting]:
        """Return tasks that are to be noted, with how to get what is still needed of them."""
        # Of most tiles the one above is finished too by now, and the quarter is of no more use.
        return [(entry, self._waiting.get(find_task(entry))) for entry in entries]

    def keep(self, waiting: list[Waiting]) -> None:
        """Bring quarters to the disk, and say in the entries of their tasks where."""
        for entry, get_quarter in waiting:
            quarter = None if get_quarter is None else get_quarter()
            entry[4:] = () if quarter is None else self._put(quarter)
        files.sync(self._file)

    def recall(self, task: Task, place: Place) -> NDArray[Any]:
        """Return the quarter of a task.

        Raises:
            TileError: the file is damaged.
        """
        quarter = self._get(task, place)
        if quarter is None:
            raise TileError(f"A file changed while it was in use: path={self.path}. A run that goes on makes it again.")
        return quarter

    def release(self, place: Place) -> None:
        """Give a slot to whoever comes next."""
        with self._lock:
            self._free += place[:1]

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _put(self, quarter: NDArray[Any]) -> Place:
        with self._lock:
            if not self._free:
                self._free.append(self._n_slots)
                self._n_slots += 1
            slot = self._free.pop()
        content = quarter.tobytes()
        files.write_at(self._file, content, slot * self._slot_bytes)
        return slot, zlib.crc32(content)

    def _get(self, task: Task, place: Place) -> NDArray[Any] | None:
        """Return a quarter, None where none is kept or the slot holds something else by now."""
        if not place:
            return None
        height, width = level_window(self._levels, self._tile_px, task).shape
        shape = -(-height // 2), -(-width // 2), self._channels
        n_bytes = math.prod(shape) * self._dtype.itemsize
        content = files.read_at(self._file, n_bytes, place[0] * self._slot_bytes)
        if len(content) != n_bytes or zlib.crc32(content) != place[1]:
            return None
        return np.frombuffer(content, self._dtype).reshape(shape)
