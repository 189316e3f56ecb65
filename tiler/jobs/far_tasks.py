"""The tasks of a job in the workers of a cluster, which open everything themselves.

A task travels as the name of its run and a few hundred bytes that describe the job. The first task of a run that
a worker process gets opens source, model and sink by their paths, and checks that they are what the client has; all
others of the run share them. What a task has written is on the disk before the client is told of it.
"""

import os
import pickle
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

from tiler.errors import InputError, TileError
from tiler.fields import find_version
from tiler.formats.output_file import PlannedFile
from tiler.formats.sink import Piece, Written
from tiler.jobs.engine import Turns, run_tile
from tiler.jobs.journal_file import JournalReader, find_journal, read_identity
from tiler.jobs.kept import check_batch
from tiler.jobs.statistics import PreparedModel
from tiler.jobs.tasks import Quarter, SinkTasks
from tiler.model import Model
from tiler.plan import Plan
from tiler.profile import Profile, ProfiledSource, ProfiledWrites
from tiler.pyramid import Task, halve, level_window
from tiler.sources.source import Source, fingerprint_source


@dataclass(frozen=True, slots=True)
class FarJob:
    """What a worker must know of a job."""

    run: str
    """What no two runs share."""
    identity: str
    """Of the journal; see ``tiler.jobs.journal_file``."""
    output: PlannedFile
    """The file, which the client has begun."""
    plan: Plan
    """How it is cut into tiles."""
    open_source: Callable[[], Source]
    """Opens what is read, by its path."""
    fingerprint: str
    """Of the source, as the client sees it."""
    load_model: Callable[[], Model]
    """Loads what makes tiles of it."""
    version: str
    """Of this software."""


class FarTasks:
    """Tasks of a job that can be sent anywhere.

    Args:
        run: what no two runs share.
        content: a pickled ``FarJob``. Bytes, for a task may travel a million times: they are copied, not understood.
    """

    def __init__(self, run: str, content: bytes) -> None:
        self._run, self._content = run, content

    def __reduce__(self) -> tuple[Any, ...]:
        return FarTasks, (self._run, self._content)

    def leaf(self, row: int, column: int) -> Quarter | None:
        """Decode a tile of level 0."""
        return self._open().leaf(row, column)

    def node(self, level: int, row: int, column: int, quarters: list[list[Quarter]]) -> Quarter | None:
        """Put together a tile of a level above."""
        return self._open().node(level, row, column, quarters)

    def recall(self, level: int, row: int, column: int) -> Quarter:
        """Hand up the quarter of a tile that an earlier run has finished."""
        return self._open().recall(level, row, column)

    def check(self, batch: list[Written]) -> list[bool]:
        """Say of what an earlier run has written whether it is still there."""
        return check_batch(self._open().sink, batch)

    def _open(self) -> SinkTasks:
        with _opening:
            if self._run not in _opened:
                # A worker serves one run at a time; what others had open is closed with their last task.
                _opened.clear()
                _opened[self._run] = open_tasks(pickle.loads(self._content))
            return _opened[self._run]


_opened: dict[str, SinkTasks] = {}
_opening = Lock()


def close_tasks(run: str) -> None:
    """Close what this process has open of a run."""
    with _opening:
        _opened.pop(run, None)


def open_tasks(job: FarJob) -> SinkTasks:
    """Open a job in a worker.

    Raises:
        TileError: this worker does not have what the client has. (Not InputError, which would discard the output.)
    """
    from distributed import get_worker

    worker = get_worker()

    def refuse(what: str) -> TileError:
        return TileError(f"A worker cannot do this job: worker={worker.address}, host={os.uname().nodename}, {what}")

    profile = Profile()
    if (version := find_version()) != job.version:
        raise refuse(f"taesd-tiler={version}, client's={job.version}. Install the same.")
    journal_path = find_journal(job.output.path)
    other_output = f"another or no output is half done at path={job.output.path}. Use a common file system."
    if read_identity(journal_path) != job.identity:
        raise refuse(other_output)
    try:
        source = job.open_source()
        # What is kept in the file of how it was made is there already.
        try:
            sink = job.output.open_sink(begun={}, description="")
        except InputError as error:  # the client has looked: what it has is none other
            raise refuse(other_output) from error
        sink.share()
        with profile.measure("load"):
            loaded = job.load_model()
        # What else it needs is gathered for the first tile, when what an earlier run has left was checked.
        model = Turns(PreparedModel(lambda: loaded, job.plan, source), Event(), profile)
    except TileError:
        raise
    except Exception as error:
        raise refuse(f"{type(error).__name__}: {error}") from error
    # Once more: what is opened now stays the part of this job, even when another one begins in its place.
    if read_identity(journal_path) != job.identity:
        sink.close()
        raise refuse(other_output)
    if fingerprint_source(source) != job.fingerprint:
        raise refuse("the input is another one. Use a common file system.")

    def finish(task: Task, piece: Piece | None, quarter: Quarter | None) -> None:
        # Here and not by the client: what this machine has not written yet only this machine can sync.
        sink.sync()
        worker.log_event(job.run, (*task, piece, profile.take()))

    def recall(task: Task) -> Quarter:
        return halve(sink.read(task[0], level_window(sink.levels, job.plan.tile_px, task)))

    profiled = ProfiledSource(source, profile)
    tasks = SinkTasks(
        job.plan,
        lambda tile: run_tile(tile, profiled, model),
        ProfiledWrites(sink, profile),
        finish=finish,
        recall=recall,
        # A worker that dies takes quarters with it, and dask runs again all that lies under them.
        is_noted=JournalReader(journal_path).has,
    )
    weakref.finalize(tasks, sink.close)
    return tasks
