"""What an earlier run has left is read once before it is believed: what is not as it was written is made again.

All that a task wrote is noted in the journal with its checksum. It is read in the order in which it lies on the disk,
by threads of this process or by the workers of a cluster, and nothing of it is decoded.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from errno import EIO
from typing import TYPE_CHECKING

from tiler.formats.sink import Piece, Sink, Written
from tiler.jobs.tasks import Writable
from tiler.phase import Phase
from tiler.plan import Plan
from tiler.pyramid import Task, level_window

if TYPE_CHECKING:
    from tiler.jobs.schedule import Progress

BATCH = 32
"""Tasks that are checked together: side by side in an array file, for rows of a single tile are short."""

Check = Callable[[list[list[Written]]], Generator[list[bool], None, None]]
"""Says of batches of writes whether they are still there, batch by batch and in their order."""


def find_damaged(
    sink: Sink, plan: Plan, pieces: dict[Task, Piece], check: Check, progress: "Progress | None"
) -> list[Task]:
    """Return the tasks whose bytes are not there any more, or others than were written.

    Args:
        sink: has been opened again.
        plan: what was done of.
        pieces: what each finished task has left.
        check: reads it.
        progress: told how many tiles are whole, so far.
    """
    written = [(task, find_written(sink, plan, task, piece)) for task, piece in pieces.items()]
    written.sort(key=lambda each: sink.place(each[1]))
    batches = [written[start : start + BATCH] for start in range(0, len(written), BATCH)]
    if not written:
        return []
    phase = Phase("Checking what is finished", len(written), "tiles")
    damaged = []
    n_whole = 0
    with closing(check([[each for _, each in batch] for batch in batches])) as answers:
        for batch, agree in zip(batches, answers, strict=True):
            damaged += [task for (task, _), agrees in zip(batch, agree, strict=True) if not agrees]
            n_whole += sum(agrees and task[0] == 0 for (task, _), agrees in zip(batch, agree, strict=True))
            if progress is not None:
                progress(n_whole, plan.n_tiles, 0)
            for _ in batch:
                phase.count()
    return damaged


def find_written(sink: Sink, plan: Plan, task: Task, piece: Piece) -> Written:
    """Return what a task has written."""
    return task[0], level_window(sink.levels, plan.tile_px, task), piece


def check_in_threads(sink: Sink, workers: int) -> Check:
    """Return what checks in threads of this process."""

    def check(batches: list[list[Written]]) -> Generator[list[bool], None, None]:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
        try:
            yield from pool.map(lambda batch: check_batch(sink, batch), batches)
        finally:
            pool.shutdown(cancel_futures=True)

    return check


def check_batch(sink: Writable, batch: list[Written]) -> list[bool]:
    """Say of each write whether it is still there; what the disk cannot read any more is not."""
    try:
        return sink.check(batch)
    except OSError as error:
        if error.errno != EIO:
            raise
    return [False] if len(batch) == 1 else [agrees for each in batch for agrees in check_batch(sink, [each])]
