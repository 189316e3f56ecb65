"""The job as one dask graph: a leaf per tile, and the pyramid as a tree reduction above the leaves.

::

    level 2              (2, 0, 0)                       a node writes one tile of its level
                   ┌─────────┴──┬─────┬───┐              and hands up its 2×2 means, a quarter of its pixels
    level 1    (1, 0, 0)   (1, 0, 1)  …   …
              ┌────┴───┬───┬───┐
    level 0 (0, 0, 0)  …   …   …                         a leaf decodes a tile

dask runs a tree depth first, so about three quarters a level are held, whatever the size of the image. Without a
pyramid there are only leaves. The graph is given to dask as it is: making it from delayed objects is quadratic.

A task takes some 4 kB of dask's state, so in this process it gets no more than a part of the tree at a time, of the
levels up to ``PART_LEVELS``; the few tasks above are run here one by one. A cluster's scheduler gets all of it.

What a journal says is finished is not in the graph, but where an unfinished node needs its quarter: then a leaf of
another kind recalls it. A tile that was found damaged may lie below finished nodes: it is a top of its own, and nobody
asks for its quarter. What the tasks do is in ``tasks.py``; here they are run by threads, in ``cluster.py`` by
the workers of a cluster.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tiler.formats.sink import Piece
from tiler.jobs.tasks import Quarter, SinkTasks, Tasks, Writable
from tiler.phase import Phase
from tiler.plan import Plan, Tile
from tiler.pyramid import Task, find_children, find_parent

if TYPE_CHECKING:
    from tiler.jobs.journal import Journal

Progress = Callable[[int, int, int], None]
"""``progress(n_done, n_tiles, n_px)``: tiles done, tiles in all, image px done by this run; called from any thread."""
Graph = dict[Any, Any]
PART_LEVELS = 6
"""A part has at most 4**6 leaves: 4 gigapixels at the usual size of a tile, and some 25 MB of dask's state. At its end
only one thread is busy for a while, with a tile of each level, which is nothing beside so many leaves."""


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

    def finish(task: Task, piece: Piece | None, quarter: Quarter | None) -> None:
        if journal is not None:
            journal.finish(task, piece, None if quarter is None else lambda: quarter)
        tally.count(task)

    def recall(task: Task) -> Quarter:
        assert journal is not None
        return journal.recall(task)

    stopping = stopping or Event()
    is_written = journal.is_written if journal is not None else lambda task: False
    tasks = SinkTasks(plan, run_tile, sink, finish=finish, recall=recall, is_noted=is_written)
    tree = Tree(plan, len(sink.levels), journal)
    tally = Tally(plan, progress, plan.n_tiles - (journal.n_finished if journal is not None else 0))
    # A pool of our own: when a tile fails, those in flight end before the sink is taken away from them.
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tile")

    def run_tree(top: Task) -> Quarter | None:
        if top[0] <= PART_LEVELS or tree.is_finished(top):
            graph, [key] = build_graph(tree, tasks, [top])
            return get(graph, key, pool=pool)
        quarters = [[run_tree(child) for child in strip] for strip in tree.strips_below(top)]
        return pool.submit(tasks.node, *top, quarters).result()  # type: ignore[arg-type]

    try:
        for tops in group_tops(tree.missing_tops()):
            if len(tops) == 1:
                run_tree(*tops)
            else:
                graph, keys = build_graph(tree, tasks, tops)
                # Without a pyramid there are none.
                get(graph, forget_results(graph, keys, "end") if len(sink.levels) > 1 else keys, pool=pool)
    finally:
        stopping.set()
        while True:
            try:
                pool.shutdown(cancel_futures=True)
                break
            except KeyboardInterrupt:  # once more; what is in flight ends all the same
                continue


class Tree:
    """Which tasks there are, and which of them need no more work.

    Args:
        plan: what to do.
        n_levels: levels of the pyramid; 1 without one.
        journal: knows what is finished already.
    """

    def __init__(self, plan: Plan, n_levels: int, journal: "Journal | None" = None) -> None:
        self._journal = journal
        self._resumes = journal is not None and journal.resumed
        self._sizes = [(len(plan.rows), len(plan.columns))]
        for _ in range(n_levels - 1):
            self._sizes.append((math.ceil(self._sizes[-1][0] / 2), math.ceil(self._sizes[-1][1] / 2)))

    def is_finished(self, task: Task) -> bool:
        """Tell whether an earlier run has finished a task."""
        return self._journal is not None and self._journal.has_finished(task)

    def missing_tops(self) -> list[Task]:
        """Return the tasks that are not finished, nor below another that is not."""
        last = len(self._sizes) - 1
        tops: list[Task] = []
        for level in range(last, -1 if self._resumes else last - 1, -1):
            n_rows, n_columns = self._sizes[level]
            tasks = ((level, row, column) for row, column in product(range(n_rows), range(n_columns)))
            tops += (
                task
                for task in tasks
                if not self.is_finished(task) and (level == last or self.is_finished(find_parent(task)))
            )
        return tops

    def strips_below(self, task: Task) -> list[list[Task]]:
        """Return the tasks that a node is made of: one or two rows of one or two."""
        n_rows, n_columns = self._sizes[task[0] - 1]
        below = [child for child in find_children(task) if child[1] < n_rows and child[2] < n_columns]
        strips = [[child for child in below if child[1] == 2 * task[1] + down] for down in (0, 1)]
        return [strip for strip in strips if strip]


def build_graph(
    tree: Tree, tasks: Tasks, tops: Iterable[Task], make_key: Callable[[Task], Any] = lambda task: task
) -> tuple[Graph, list[Any]]:
    """Return the graph of some tasks and all that they need, and their keys.

    Args:
        tree: all there is to do.
        tasks: do it.
        tops: what is asked for.
        make_key: names a task.
    """
    graph: Graph = {}

    def add(task: Task) -> Any:
        """Add a task that is needed, and what it needs itself; return its key."""
        level, row, column = task
        key = make_key(task)
        if tree.is_finished(task):
            graph[key] = (tasks.recall, *task)
        elif level == 0:
            graph[key] = (tasks.leaf, row, column)
        else:
            graph[key] = (tasks.node, *task, [[add(child) for child in strip] for strip in tree.strips_below(task)])
        return key

    return graph, [add(task) for task in tops]


def group_tops(tops: list[Task]) -> list[list[Task]]:
    """Return tasks in groups that have at most as many leaves as a part of the tree; one that has more is alone."""
    groups: list[list[Task]] = []
    n_leaves = most = 4**PART_LEVELS
    for task in tops:
        if n_leaves + 4 ** task[0] > most:
            groups.append([])
            n_leaves = 0
        groups[-1].append(task)
        n_leaves += 4 ** task[0]
    return groups


def forget_results(graph: Graph, keys: list[Any], name: str) -> list[Any]:
    """Add to a graph that nobody needs some results any longer than until they are there; return the keys of that."""
    ends = [(name, number) for number in range(len(keys))]
    graph.update({end: (forget, key) for end, key in zip(ends, keys, strict=True)})
    return ends


def forget(result: Quarter | None) -> None:
    """Return nothing."""


def count_leaves(graph: Graph, tasks: Tasks) -> int:
    """Return how many tiles are to be decoded by a graph of some tasks."""
    return sum(task[0] == tasks.leaf for task in graph.values())


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
        self.phase = Phase(plan.doing, plan.n_tiles, "tiles", n_before=self._n_done)
        """Tells it in lines."""
        if progress is not None and self._n_done:
            progress(self._n_done, plan.n_tiles, 0)

    def count(self, task: Task) -> None:
        """Note a finished task; those above level 0 do not count."""
        level, row, column = task
        if level:
            return
        height, width = self._plan.tile(row, column).write.shape
        n_px = height * width * self._plan.network.scale_in**2
        with self._lock:
            self._n_done += 1
            self._n_px += n_px
            if self._progress is not None:
                self._progress(self._n_done, self._plan.n_tiles, self._n_px)
        self.phase.count(n_px)
