"""The job as one dask graph: a leaf per tile, and the pyramid as a tree reduction above the leaves.

::

    level 2              (2, 0, 0)                       a node writes one tile of its level
                   ┌─────────┴──┬─────┬───┐              and hands up its 2×2 means, a quarter of its pixels
    level 1    (1, 0, 0)   (1, 0, 1)  …   …
              ┌────┴───┬───┬───┐
    level 0 (0, 0, 0)  …   …   …                         a leaf decodes a tile

dask runs a tree depth first, so about three quarters a level are held, whatever the size of the image. Without a
pyramid there are only leaves. The graph is given to dask as it is: making it from delayed objects is quadratic.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.plan import Plan, Tile
from tiler.pyramid import halve
from tiler.window import Span, Window

Progress = Callable[[int, int, int], None]
"""``progress(n_done, n_tiles, n_px)``: tiles done, tiles in all, image px done; called from any thread."""
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
) -> None:
    """Decode and write every tile of a plan, and the levels of the pyramid.

    Args:
        plan: what to do.
        run_tile: gives the pixels of a tile.
        sink: takes them; its levels are the pyramid.
        workers: threads, and so the most tiles in flight.
        progress: told of each finished tile.
    """
    from dask.threaded import get

    graph, roots = build_graph(plan, run_tile, sink, progress=progress)
    # A pool of our own: when a tile fails, those in flight end before the sink is taken away from them.
    with ThreadPoolExecutor(workers, thread_name_prefix="tile") as pool:
        get(graph, roots, pool=pool)


def build_graph(
    plan: Plan,
    run_tile: Callable[[Tile], NDArray[Any]],
    sink: Writable,
    *,
    progress: Progress | None = None,
) -> tuple[Graph, list[Any]]:
    """Return the graph and the keys of its roots; see ``run_plan`` for the arguments."""
    tell = _Tally(plan, progress)
    last = len(sink.levels) - 1

    def leaf(row: int, column: int) -> NDArray[Any] | None:
        tile = plan.tile(row, column)
        pixels = run_tile(tile)
        sink.write(0, tile.write, pixels)
        quarter = halve(pixels) if last > 0 else None
        tell(tile)
        return quarter

    def node(level: int, row: int, column: int, quarters: list[list[NDArray[Any]]]) -> NDArray[Any] | None:
        pixels = np.concatenate([np.concatenate(strip, axis=1) for strip in quarters], axis=0)
        start_row, start_column = row * plan.tile_px, column * plan.tile_px
        height, width = pixels.shape[:2]
        window = Window(Span(start_row, start_row + height), Span(start_column, start_column + width))
        sink.write(level, window, pixels)
        return halve(pixels) if level < last else None

    n_rows, n_columns = len(plan.rows), len(plan.columns)
    graph: Graph = {(0, r, c): (leaf, r, c) for r, c in product(range(n_rows), range(n_columns))}
    for level in range(1, len(sink.levels)):
        below_rows, below_columns = n_rows, n_columns
        n_rows, n_columns = math.ceil(n_rows / 2), math.ceil(n_columns / 2)
        for r, c in product(range(n_rows), range(n_columns)):
            children = [
                [(level - 1, row, column) for column in range(2 * c, min(2 * c + 2, below_columns))]
                for row in range(2 * r, min(2 * r + 2, below_rows))
            ]
            graph[level, r, c] = (node, level, r, c, children)
    return graph, [(last, r, c) for r, c in product(range(n_rows), range(n_columns))]


class _Tally:
    """Counts finished tiles, from any thread."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self.plan, self.progress = plan, progress
        self.n_done = self.n_px = 0
        self.lock = Lock()

    def __call__(self, tile: Tile) -> None:
        if self.progress is None:
            return
        height, width = tile.write.shape
        with self.lock:
            self.n_done += 1
            self.n_px += height * width * self.plan.network.scale_in**2
            self.progress(self.n_done, self.plan.n_tiles, self.n_px)
