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
another kind recalls it. What the tasks do is in ``tiler.tasks``; here they are run by threads, in ``tiler.cluster`` by
the workers of a cluster.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tiler.plan import Plan, Tile
from tiler.pyramid import Task, find_children
from tiler.tasks import Quarter, SinkTasks, Tasks, Writable

if TYPE_CHECKING:
    from tiler.journal import Journal

Progress = Callable[[int, int, int], None]
"""``progress(n_done, n_tiles, n_px)``: tiles done, tiles in all, image px done by this run; called from any thread."""
Graph = dict[Any, Any]


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
    """Decode and write every tile of a plan, and the levels of the pyramid, in threads.

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

    def finish(task: Task, quarter: Quarter | None) -> None:
        if journal is not None:
            journal.finish(task, None if quarter is None else lambda: quarter)
        tally.count(task)

    def recall(task: Task) -> Quarter:
        assert journal is not None
        return journal.recall(task)

    stopping = stopping or Event()
    tasks = SinkTasks(plan, run_tile, sink, finish=finish, recall=recall)
    graph, roots = build_graph(plan, len(sink.levels), tasks, journal=journal)
    tally = Tally(plan, progress, count_leaves(graph))
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
    n_levels: int,
    tasks: Tasks,
    *,
    journal: "Journal | None" = None,
    make_key: Callable[[Task], Any] = lambda task: task,
) -> tuple[Graph, list[Any]]:
    """Return the graph and the keys of its roots.

    Args:
        plan: what to do.
        n_levels: levels of the pyramid; 1 without one.
        tasks: do it.
        journal: knows what is finished already.
        make_key: names a task.
    """
    last = n_levels - 1
    sizes = [(len(plan.rows), len(plan.columns))]
    for _ in range(last):
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))

    def is_finished(task: Task) -> bool:
        return journal is not None and journal.has_finished(task)

    graph: Graph = {}

    def add(task: Task) -> Any:
        """Add a task that is needed, and what it needs itself; return its key."""
        level, row, column = task
        key = make_key(task)
        if is_finished(task):
            graph[key] = (tasks.recall, *task)
        elif level == 0:
            graph[key] = (tasks.leaf, row, column)
        else:
            n_rows, n_columns = sizes[level - 1]
            below = [child for child in find_children(task) if child[1] < n_rows and child[2] < n_columns]
            strips = [[add(child) for child in below if child[1] == 2 * row + down] for down in (0, 1)]
            graph[key] = (tasks.node, *task, [strip for strip in strips if strip])
        return key

    n_rows, n_columns = sizes[last]
    tops = ((last, row, column) for row, column in product(range(n_rows), range(n_columns)))
    return graph, [add(task) for task in tops if not is_finished(task)]


def count_leaves(graph: Graph) -> int:
    """Return how many tiles are to be decoded."""
    return sum(task[0].__name__ == "leaf" for task in graph.values())


class Tally:
    """Counts finished tiles, from any thread.

    Args:
        plan: what is done.
        progress: told of each finished tile.
        n_missing: tiles that are not finished yet.
    """

    def __init__(self, plan: Plan, progress: Progress | None, n_missing: int) -> None:
        self._plan, self._progress = plan, progress
        self._n_done, self._n_px = plan.n_tiles - n_missing, 0
        self._lock = Lock()
        if progress is not None and self._n_done:
            progress(self._n_done, plan.n_tiles, 0)

    def count(self, task: Task) -> None:
        """Note a finished task; those above level 0 do not count."""
        level, row, column = task
        if self._progress is None or level:
            return
        height, width = self._plan.tile(row, column).write.shape
        with self._lock:
            self._n_done += 1
            self._n_px += height * width * self._plan.network.scale_in**2
            self._progress(self._n_done, self._plan.n_tiles, self._n_px)
