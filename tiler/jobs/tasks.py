"""What the tasks of the graph do: make a tile, write it, note it, and hand up its quarter."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.formats.sink import Piece, Written
from tiler.plan import Plan, Tile
from tiler.pyramid import Task, halve, level_window
from tiler.window import Window

Quarter = NDArray[np.uint8]
"""The 2×2 means of a tile, for the tile above it."""


class Writable(Protocol):
    """What the tasks need of a sink."""

    levels: list[tuple[int, int]]
    reads_back: bool

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` at ``window`` of ``level``."""

    def check(self, written: Sequence[Written]) -> list[bool]:
        """Say of each write of an earlier run whether it is still there."""


class Tasks(Protocol):
    """The kinds of tasks; each is given the numbers of its tile one by one: dask takes a tuple for a key."""

    def leaf(self, row: int, column: int) -> Quarter | None:
        """Decode a tile of level 0."""

    def node(self, level: int, row: int, column: int, quarters: list[list[Quarter]]) -> Quarter | None:
        """Put together a tile of a level above."""

    def recall(self, level: int, row: int, column: int) -> Quarter:
        """Hand up the quarter of a tile that an earlier run has finished."""


class SinkTasks:
    """Tasks that write to a sink.

    Args:
        plan: what to do.
        run_tile: gives the pixels of a tile.
        sink: takes them; its levels are the pyramid.
        finish: told of each task that is written, with what that left, None where it had been written before; and
            with its quarter, None at the top.
        recall: gives the quarter of a task that an earlier run has finished.
        is_noted: tells whether a task that is run once more need not write: its quarter is lost, what it wrote is not.
    """

    def __init__(
        self,
        plan: Plan,
        run_tile: Callable[[Tile], NDArray[Any]],
        sink: Writable,
        *,
        finish: Callable[[Task, Piece | None, Quarter | None], None],
        recall: Callable[[Task], Quarter],
        is_noted: Callable[[Task], bool] = lambda task: False,
    ) -> None:
        self._plan, self._run_tile, self._finish, self._recall = plan, run_tile, finish, recall
        self.sink = sink
        self._is_noted = is_noted

    def leaf(self, row: int, column: int) -> Quarter | None:
        """Decode a tile of level 0."""
        task = 0, row, column
        if self._is_noted(task):
            if len(self.sink.levels) == 1:
                return None
            if self.sink.reads_back:
                return self._recall(task)
        return self._write(task, self._run_tile(self._plan.tile(row, column)))

    def node(self, level: int, row: int, column: int, quarters: list[list[Quarter]]) -> Quarter | None:
        """Put together a tile of a level above."""
        pixels = np.concatenate([np.concatenate(strip, axis=1) for strip in quarters], axis=0)
        return self._write((level, row, column), pixels)

    def recall(self, level: int, row: int, column: int) -> Quarter:
        """Hand up the quarter of a tile that an earlier run has finished."""
        return self._recall((level, row, column))

    def _write(self, task: Task, pixels: NDArray[Any]) -> Quarter | None:
        levels = self.sink.levels
        piece = None
        if not self._is_noted(task):
            piece = self.sink.write(task[0], level_window(levels, self._plan.tile_px, task), pixels)
        quarter = halve(pixels) if task[0] < len(levels) - 1 else None
        self._finish(task, piece, quarter)
        return quarter
