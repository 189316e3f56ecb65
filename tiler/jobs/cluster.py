"""A job on the workers of a dask cluster: the same graph, the same tasks, and the journal stays with the client.

::

    client      opens the job, submits the graph, notes what is finished         ── journal
       ▲  "tile 3, 4 is on the disk"           │ graph, once
    scheduler                                  ▼
       ▲  │ tasks, depth first
    workers     source, model, sink: opened by path, once a process              ── source, output
       └── quarters, from worker to worker: all of the pixels that travel

The client needs no more of the cluster than the result of the topmost task, so what the others return lives as long as
the task above needs it. Only for a pyramid of JPEG it also fetches, every few seconds, the few quarters that a run that
goes on could not get back from the file.
"""

from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from taesd_core.engines import Engine, choose_engine
from tiler.errors import Option, OptionError, RefusedError, TileError
from tiler.fields import find_version
from tiler.jobs.far_tasks import FarJob, FarTasks, close_tasks
from tiler.jobs.room import check_memory
from tiler.jobs.schedule import Graph, Progress, Tally, Tree, build_graph, count_leaves, forget_results
from tiler.jobs.tasks import Quarter
from tiler.memory import format_bytes
from tiler.pyramid import Task, find_children, find_parent
from tiler.sources.source import fingerprint_source

if TYPE_CHECKING:
    from distributed import Client, Future

    from tiler.formats.sink import Sink, Written
    from tiler.jobs.job import Job
    from tiler.jobs.journal import Journal

CONNECT_SECONDS = 30
LOOK_SECONDS = 60
"""So often somebody who waits looks whether a line is due."""
BUNDLE = 256
"""Tasks whose ends are waited for together where there is no pyramid."""


@contextmanager
def connect(address: str) -> "Iterator[Client]":
    """Connect to a scheduler while the block runs.

    Raises:
        OptionError: distributed is not installed.
        RefusedError: no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError("A cluster needs dask.distributed: pip install 'taesd-tiler[distributed]'.") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise RefusedError(
            f"No scheduler answers: scheduler={address}, waited={CONNECT_SECONDS} s. Start one: dask scheduler."
        ) from error
    with client:
        yield client


class Cluster:
    """Runs jobs on the workers of a cluster.

    Raises:
        RefusedError: it has none.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers:
            address = client.scheduler.address
            raise RefusedError(f"The cluster has no workers: scheduler={address}. Start some: dask worker {address}.")
        self.n_workers = len(workers)
        self.n_threads = max(worker["nthreads"] for worker in workers)
        """Of a worker; the most."""
        self._limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]

    def choose_engine(self, precision: str) -> Engine:
        """Return the engine that suits every worker.

        Raises:
            OptionError: one suits some, the other the others: the pixels would be of both.
        """
        found = self._client.run(choose_engine, precision)
        if len(engines := set(found.values())) == 1:
            return engines.pop()
        named = ", ".join(f"{engine} on {address}" for address, engine in sorted(found.items()))
        raise OptionError(f"The workers would take different engines: {named}. Say which: {Option('engine')}.")

    def check(self, job: "Job") -> None:
        """Refuse a job for which a worker, or the client when it completes the file, is predicted to lack memory.

        Raises:
            RefusedError: it is.
        """
        needed = job.plan.peak_bytes
        if self._limits and needed > min(self._limits):
            raise RefusedError(
                f"Too little memory: needed={format_bytes(needed)} in each worker as predicted, "
                f"limit={format_bytes(min(self._limits))}. Use a smaller {Option('tile_size_px')}, start the workers "
                f"with more memory, or use {Option('force', True)} to try."
            )
        check_memory(
            job.output.commit_bytes,
            " in the client to complete the file",
            f"Write another kind of file, or {Option('force', True)} to try",
        )

    def run(self, job: "Job", journal: "Journal", sink: "Sink", progress: Progress | None) -> None:
        """Do all tasks of a job.

        Raises:
            TileError: a tile failed, or the cluster is lost.
        """
        job.profile.n_models = self.n_workers
        run = f"tiler-{uuid4().hex}"
        tasks = describe_tasks(job, journal, run)
        journal.settle(partial(self._check_written, tasks), progress)
        last = len(sink.levels) - 1
        # The level is part of the name: the scheduler groups by it, and takes leaves only when there is nothing above.
        tree = Tree(job.plan, last + 1, journal)
        graph, roots = build_graph(tree, tasks, tree.missing_tops(), lambda task: (f"{run}-{task[0]}", *task[1:]))
        tally = Tally(job.plan, progress, count_leaves(graph, tasks))
        fetched: dict[Task, Any] = {}
        if not sink.reads_back and last:
            for key, task in graph.items():
                if task[0] == tasks.recall:
                    graph[key] = journal.recall(task[1:])
                elif task[0] == tasks.node and task[1] < last and not tree.is_finished(find_parent(task[1:4])):
                    # Not those of level 0, four in five: at most three of them are decoded again a tile in flight.
                    fetched[task[1:4]] = key
        if graph:
            ends = forget_results(graph, roots, f"{run}-top")
            self._follow(run, graph, bundle(graph, ends, run), fetched, journal, tally, job)

    def _check_written(self, tasks: FarTasks, batches: "list[list[Written]]") -> Generator[list[bool], None, None]:
        """Have workers say of batches of writes whether they are still there."""
        futures = self._client.map(tasks.check, batches, pure=False)
        try:
            yield from map(self._wait_for, futures)
        finally:
            if self._client.status == "running":
                self._client.cancel(futures)

    def _follow(
        self, run: str, graph: Graph, top: Any, fetched: dict[Task, Any], journal: "Journal", tally: Tally, job: "Job"
    ) -> None:
        """Submit a graph, and note what is finished until all is."""
        import dask

        client = self._client
        told: SimpleQueue[Any] = SimpleQueue()
        client.subscribe_topic(run, lambda event: told.put(event[1]))
        # A large graph is what we mean to send.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            end, *others = client.get(graph, [top, *fetched.values()], sync=False)
        waiting: dict[Task, Future] = dict(zip(fetched, others, strict=True))
        others.clear()
        end.add_done_callback(told.put)
        seen: set[Task] = set()
        try:
            while (message := _wait(told, tally)) is not end:
                level, row, column, piece, seconds = message
                task = level, row, column
                job.profile.add(seconds)
                if task in seen:  # done again, for its worker died before the one above had its quarter
                    continue
                seen.add(task)
                future = waiting.get(task)
                journal.finish(task, piece and tuple(piece), None if future is None else partial(fetch, future))
                tally.count(task)
                for child in find_children(task):
                    waiting.pop(child, None)
            self._wait_for(end)
        except BaseException:
            with suppress(OSError):
                journal.sync()
            raise
        finally:
            if client.status == "running":
                with suppress(Exception):
                    client.unsubscribe_topic(run)
                    if end.status == "finished":
                        client.run(close_tasks, run, on_error="ignore")
                    else:
                        client.cancel([end, *waiting.values()], force=True)

    def _wait_for(self, future: "Future") -> Any:
        """Return a result."""
        from distributed import KilledWorker

        try:
            if future.status != "lost":
                return future.result()
        except CancelledError:
            pass
        except KilledWorker as error:
            raise TileError(
                f"Workers died again and again over the same tile: {error.last_worker}, task={error.task}. They may "
                f"lack memory: use a smaller {Option('tile_size_px')}, or start them with more memory."
            ) from error
        raise TileError(f"The cluster is lost: scheduler={self._client._start_arg}. Start it again.")


def describe_tasks(job: "Job", journal: "Journal", run: str) -> FarTasks:
    """Return the tasks of a job, to be sent to workers."""
    import cloudpickle

    assert job.open_source is not None
    far = FarJob(
        run,
        journal.identity,
        job.output,
        replace(job.plan),  # without what it has reckoned and kept: it travels with every task
        job.open_source,
        fingerprint_source(job.source),
        job.load_model,
        find_version(),
    )
    return FarTasks(run, cloudpickle.dumps(far))


def bundle(graph: Graph, keys: list[Any], run: str) -> Any:
    """Add tasks that wait for ``keys``, a tree of them, and return the key of its top."""
    number = 0
    while len(keys) != 1 or number == 0:
        above = []
        for start in range(0, len(keys), BUNDLE):
            key = f"{run}-end", number
            graph[key] = (wait_for, keys[start : start + BUNDLE])
            above.append(key)
            number += 1
        keys = above
    return keys[0]


def _wait(told: "SimpleQueue[Any]", tally: Tally) -> Any:
    """Return what the cluster says next; it may be long before it says anything."""
    while True:
        try:
            return told.get(timeout=LOOK_SECONDS)
        except Empty:
            tally.phase.look()


def wait_for(results: list[Quarter | None]) -> None:
    """Return nothing: what comes before is done."""


def fetch(future: "Future") -> Quarter | None:
    """Return a quarter from the cluster; None where it is not there any more."""
    if future.status != "finished":
        return None
    try:
        quarter: Quarter = future.result(timeout=10)
    except Exception:
        return None  # Its worker died this moment: then the tile is simply not kept.
    return quarter
