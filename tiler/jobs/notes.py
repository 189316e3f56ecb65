"""What is finished is noted, every few seconds: first what the sink wrote gets to the disk, then the journal's lines.

So a line there never tells of pixels that a power cut took.
"""

import time
from threading import Lock

from tiler.formats.sink import Piece, Sink
from tiler.jobs.journal_file import JournalFile
from tiler.jobs.journal_lines import Entry, find_task
from tiler.jobs.quarters import GetQuarter, Place, Quarters
from tiler.pyramid import Task, find_children, find_parent

SYNC_SECONDS = 2.0
"""A task is on the disk at most so long after the one before it; a sync takes some 10 ms."""


class Notes:
    """Notes tasks that are finished; threads share it.

    Args:
        file: gets the lines.
        sink: has written what they tell of.
        quarters: keeps those that the level above still needs; None where the sink reads back what it wrote.
        finished: tasks that are noted, and where their quarters are kept; grows.
        pieces: what tasks have left that an earlier run did.
    """

    def __init__(
        self,
        file: JournalFile,
        sink: Sink,
        quarters: Quarters | None,
        finished: dict[Task, Place],
        pieces: dict[Task, Piece],
    ) -> None:
        self._file, self._sink, self._quarters, self._finished, self._pieces = file, sink, quarters, finished, pieces
        self._pending: list[Entry] = []
        self._lost = False
        self._lock, self._syncing = Lock(), Lock()
        self._synced_at = time.monotonic()

    def finish(self, task: Task, piece: Piece | None, get_quarter: GetQuarter | None) -> None:
        """Note that a task is finished: what it is to write is written. Called from many threads.

        Args:
            task: which.
            piece: what it has left, None where an earlier run had written it.
            get_quarter: gives its quarter; None where there is none, or it cannot be had: a run that goes on then
                does the task again, unless the one above is finished too.
        """
        with self._lock:
            self._pending.append([*task, piece or self._pieces[task]])
            if self._quarters is not None:
                self._quarters.wait(task, None if find_parent(task) in self._finished else get_quarter)
            due = time.monotonic() - self._synced_at >= SYNC_SECONDS
        if due and self._syncing.acquire(blocking=False):
            try:
                self._sync()
            finally:
                self._syncing.release()

    def sync(self) -> None:
        """Wait until all that was finished is on the disk, and noted there."""
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            entries, self._pending = self._pending, []
            waiting = [] if self._quarters is None else self._quarters.find_waiting(entries)
        if not entries or self._lost:
            return
        try:
            self._sink.sync()
            if self._quarters is not None:
                self._quarters.keep(waiting)
        except OSError:
            # The system reports this once: what it lost then, a later sync would call written.
            self._lost = True
            raise
        try:
            self._file.append(entries)
        except OSError:
            with self._lock:
                self._pending = entries + self._pending
            raise
        for entry in entries:
            self._finished[find_task(entry)] = tuple(entry[4:])
            if self._quarters is not None:
                for child in find_children(find_task(entry)):
                    self._quarters.release(self._finished.get(child, ()))
        self._synced_at = time.monotonic()
