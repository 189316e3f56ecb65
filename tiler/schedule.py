"""The job as one dask graph: a leaf per tile, and the pyramid as a tree reduction above the leaves.

::

    level 2              (2, 0, 0)                       a node writes one tile of its level
                   ┌─────────┴──┬─────┬───┐              and hands up its 2×2 means, a quarter of its pixels
    level 1    (1, 0, 0)   (1, 0, 1)  …   …
              ┌────┴───┬───┬───┐
    level 0 (0, 0, 0)  …   …   …                         a leaf decodes a tile

dask runs a tree depth first, so about three quarters a level are held, whatever the size of the image. Without a
pyramid there are only leaves. The graph is given to dask as it is: making it from delayed objects is quadratic.

What a journal says is finished is not in the graph, but where an unfinished node needs its quarter: then a leaf of
another kind recalls it.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.plan import Plan, Tile
from tiler.pyramid import Task, find_children, halve, level_window
from tiler.window import Window

if TYPE_CHECKING:
    from tiler.journal import Journal

Progress = Callable[[int, int, int], None]
"""``progress(n_done, n_tiles, n_px)``: tiles done, tiles in all, image px done by this run; called from any thread."""
Graph = dict[Any, Any]


class Writable(Protocol):
    """What the graph needs of a sink."""

    levels: list[tuple[int, int]]

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        """Put ``pixels`` at ``window`` of ``level``."""


def run_plan(
    plan: Plan,
    run_tile: Callable[[Tile], NDArray[Any]],
    sink: Writable,
    *,
    workers: int,
    progress: Progress | None = None,
    journal: "Journal | None" = None,
    stopping: Event | None = None,
) -> None:
    """Decode and write every tile of a plan, and the levels of the pyramid.

    Args:
        plan: what to do.
        run_tile: gives the pixels of a tile.
        sink: takes them; its levels are the pyramid.
        workers: threads, and so the most tiles in flight.
        progress: told of each finished tile.
        journal: knows what is finished already, and is told of each finished task.
        stopping: set when a tile has failed or Ctrl-C was pressed; ``run_tile`` may look at it.
    """
    from dask.threaded import get

    stopping = stopping or Event()
    graph, roots = build_graph(plan, run_tile, sink, progress=progress, journal=journal)
    # A pool of our own: when a tile fails, those in flight end before the sink is taken away from them.
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tile")
    try:
        get(graph, roots, pool=pool)
    finally:
        stopping.set()
        while True:
            try:
                pool.shutdown(cancel_futures=True)
                break
            except KeyboardInterrupt:  # once more; what is in flight ends all the same
                continue


def build_graph(
    plan: Plan,
    run_tile: Callable[[Tile], NDArray[Any]],
    sink: Writable,
    *,
    progress: Progress | None = None,
    journal: "Journal | None" = None,
) -> tuple[Graph, list[Any]]:
    """Return the graph and the keys of its roots; see ``run_plan`` for the arguments."""
    last = len(sink.levels) - 1
    sizes = [(len(plan.rows), len(plan.columns))]
    for _ in range(last):
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))

    def finish(task: Task, pixels: NDArray[Any]) -> NDArray[Any] | None:
        sink.write(task[0], level_window(sink.levels, plan.tile_px, task), pixels)
        quarter = halve(pixels) if task[0] < last else None
        if journal is not None:
            journal.finish(task, quarter)
        return quarter

    # A tuple among a task's arguments would be taken for a key: numbers one by one.
    def leaf(row: int, column: int) -> NDArray[Any] | None:
        tile = plan.tile(row, column)
        quarter = finish((0, row, column), run_tile(tile))
        tell(tile)
        return quarter

    def node(level: int, row: int, column: int, quarters: list[list[NDArray[Any]]]) -> NDArray[Any] | None:
        pixels = np.concatenate([np.concatenate(strip, axis=1) for strip in quarters], axis=0)
        return finish((level, row, column), pixels)

    def recall(*task: int) -> NDArray[Any]:
        assert journal is not None
        return journal.recall((task[0], task[1], task[2]))

    def is_finished(task: Task) -> bool:
        return journal is not None and journal.has_finished(task)

    graph: Graph = {}

    def add(task: Task) -> Task:
        """Add a task that is needed, and what it needs itself."""
        level, row, column = task
        if is_finished(task):
            graph[task] = (recall, *task)
        elif level == 0:
            graph[task] = (leaf, row, column)
        else:
            n_rows, n_columns = sizes[level - 1]
            below = [add(child) for child in find_children(task) if child[1] < n_rows and child[2] < n_columns]
            strips = [[child for child in below if child[1] == 2 * row + down] for down in (0, 1)]
            graph[task] = (node, *task, [strip for strip in strips if strip])
        return task

    n_rows, n_columns = sizes[last]
    tops = ((last, row, column) for row, column in product(range(n_rows), range(n_columns)))
    roots = [add(task) for task in tops if not is_finished(task)]
    tell = _Tally(plan, progress, plan.n_tiles - sum(task[0] is leaf for task in graph.values()))
    return graph, roots


class _Tally:
    """Counts finished tiles, from any thread."""

    def __init__(self, plan: Plan, progress: Progress | None, n_done: int) -> None:
        self.plan, self.progress = plan, progress
        self.n_done, self.n_px = n_done, 0
        self.lock = Lock()
        if progress is not None and n_done:
            progress(n_done, plan.n_tiles, 0)

    def __call__(self, tile: Tile) -> None:
        if self.progress is None:
            return
        height, width = tile.write.shape
        with self.lock:
            self.n_done += 1
            self.n_px += height * width * self.plan.network.scale_in**2
            self.progress(self.n_done, self.plan.n_tiles, self.n_px)
