"""What is finished survives: the journal of a job, and the life of its half-done output.

Beside ``NAME.part`` lies ``NAME.part.journal``, and for a JPEG pyramid ``NAME.part.quarters``:

1. Opened, the journal is locked until the end. A job half done is refused, or gone on with.
2. ``start`` opens the sink. The journal lies on the disk before ``NAME.part`` does, so a part without one is not ours.
3. ``settle`` reads what an earlier run has left. What is not as it was written is taken back.
4. ``finish`` notes a task whose pixels are written, and ``sync`` the notes of the last seconds: first what the sink
   wrote, then the journal, so that a line there never tells of pixels that a power cut took.
5. ``commit`` gives the output its name, then removes journal and quarters. (A kill in between leaves a journal without
   a part; a run that goes on takes the name back, and checks the file like any part.) Or, on a failure, ``leave`` keeps
   all for a later run, or removes it.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tiler import files
from tiler.errors import ChangedError
from tiler.fields import Fields
from tiler.formats.output_file import PlannedFile
from tiler.formats.places import find_part
from tiler.formats.sink import Piece, Sink
from tiler.jobs.half_done import HalfDone
from tiler.jobs.journal_file import JournalFile, find_journal
from tiler.jobs.journal_lines import COMPLETE
from tiler.jobs.kept import Check, find_damaged, find_written
from tiler.jobs.notes import Notes
from tiler.jobs.quarters import GetQuarter, Quarters
from tiler.plan import Plan
from tiler.pyramid import Task, halve, level_window

if TYPE_CHECKING:
    from tiler.jobs.schedule import Progress


class Journal:
    """The journal of one job.

    Args:
        output: the file to be made.
        plan: the job.
        fields: what tells it from other jobs; see ``tiler.fields``.
        resume: go on with a half-done job, if there is one.

    Raises:
        OutputExistsError: the output exists, is half done, or is written by another run.
        InputError: the half-done job is another one; the first difference is named.
    """

    def __init__(self, output: PlannedFile, plan: Plan, fields: Fields, *, resume: bool) -> None:
        self.part, self._output = find_part(output.path), output
        self._plan, self._fields = plan, fields
        self._quarters: Quarters | None = None
        self._quarters_path = self.part.with_name(self.part.name + ".quarters")
        self._sink: Sink | None = None
        self._notes: Notes | None = None
        self._cleared = self._encoded = False
        self.n_resumed = self.n_damaged = 0
        self._file = JournalFile.open(find_journal(output.path), output.path)
        try:
            found = HalfDone(self._file, output, plan)
            self.resumed = found.resolve(fields, resume=resume)
        except BaseException as error:
            self.leave(error)
            raise
        self._completed = found.completed
        self._finished = found.quarters
        """Where the quarter of each finished task is kept; mostly nothing."""
        self._pieces = found.pieces
        """What tasks have left that an earlier run did; at last only of those of which nothing else is known."""

    @property
    def identity(self) -> str:
        """What no two jobs share; it stays when one is gone on with."""
        return self._file.identity

    @property
    def n_finished(self) -> int:
        """Tiles that are finished, and on the disk."""
        return self._plan.n_tiles if self._encoded else sum(level == 0 for level, _, _ in self._finished)

    def start(self, description: str) -> Sink:
        """Open the sink, anew or where the last run stopped; the description says how the file is made."""
        begun = None
        if self.resumed:
            self._file.mend()
            self._file.amend(self._fields)
            # What is encoded is no array any more.
            self._encoded = len(self._completed) > 1 and files.find_checksum(self.part) == self._completed[1:]
            begun = {} if self._encoded else self._file.skeleton
        else:
            # An empty journal is on the disk before the part changes.
            self._file.clear()
            self._cleared = True
            files.remove(self.part)
            files.remove(self._quarters_path)
        sink = self._output.open_sink(begun=begun, description=description)
        self._sink = sink
        if len(sink.levels) > 1 and not sink.reads_back:
            channels = self._plan.output_shape[2]
            self._quarters = Quarters(self._quarters_path, sink.levels, self._plan.tile_px, channels, sink.dtype)
        if not self.resumed:
            sink.sync()
            self._file.begin(self._fields, sink.skeleton)
        files.sync_folder(self.part.parent)
        return sink

    def settle(self, check: Check, progress: "Progress | None") -> None:
        """Take back what an earlier run has finished and is not as it was written.

        Args:
            check: reads it.
            progress: told how many tiles are whole, so far.
        """
        assert self._sink is not None
        if self._encoded:
            self.n_resumed = self._plan.n_tiles
            return
        if self.resumed:
            damaged = find_damaged(self._sink, self._plan, self._pieces, check, progress)
            self._file.append([*task] for task in damaged)
            for task in damaged:
                del self._finished[task], self._pieces[task]
            self._sink.keep([find_written(self._sink, self._plan, *each) for each in self._pieces.items()])
            self.n_damaged = len(damaged)
        if self._quarters is not None:
            self._quarters.settle(self._finished)
        # Whole, but what the level above needs of them is not: of these alone it is still to be known.
        self._pieces = {task: piece for task, piece in self._pieces.items() if task not in self._finished}
        self.n_resumed = self.n_finished
        self._notes = Notes(self._file, self._sink, self._quarters, self._finished, self._pieces)

    def has_finished(self, task: Task) -> bool:
        """Say whether a task needs no more work: it is written, and what the level above needs of it is there."""
        return self._encoded or task in self._finished

    def is_written(self, task: Task) -> bool:
        """Say whether what a task is to write is there, though it is not finished: its quarter is lost."""
        return task in self._pieces

    def recall(self, task: Task) -> NDArray[Any]:
        """Return the quarter of a finished task whose parent is not.

        Raises:
            TileError: the file is damaged.
        """
        assert self._sink is not None
        if self._quarters is not None:
            return self._quarters.recall(task, self._finished[task])
        return halve(self._sink.read(task[0], level_window(self._sink.levels, self._plan.tile_px, task)))

    def finish(self, task: Task, piece: Piece | None, get_quarter: GetQuarter | None) -> None:
        """Note that a task is finished; see ``Notes``."""
        assert self._notes is not None
        self._notes.finish(task, piece, get_quarter)

    def sync(self) -> None:
        """Wait until all that was finished is on the disk, and noted there."""
        if self._notes is not None:
            self._notes.sync()

    def commit(self) -> None:
        """Give the complete output its name; nothing else stays."""
        assert self._sink is not None
        self.sync()
        if not self._encoded:
            self._file.append([[COMPLETE, *self._sink.complete()]])
        self._sink.commit()
        self._remove()

    def leave(self, error: BaseException) -> None:
        """End a run that failed or was stopped: what is finished stays, unless nobody knows what it was made of.

        A note is added to an error after which a run can go on.
        """
        if self._sink is not None and isinstance(error, ChangedError):
            # Else a run with the input as it was would go on with tiles of what it became.
            self._discard()
        elif self._sink is not None:
            with suppress(OSError):
                self.sync()
            if self._finished or self._pieces or self._encoded:
                error.add_note(f"{self.n_finished} of {self._plan.n_tiles} tiles are finished and kept.")
                self.suspend()
            else:
                self._discard()
        elif self._cleared or self._file.created:
            self._remove()
        else:
            self.suspend()

    def suspend(self) -> None:
        """Release all files; they stay."""
        if self._sink is not None:
            self._sink.close()
        if self._quarters is not None:
            self._quarters.close()
        self._file.close()

    def _discard(self) -> None:
        assert self._sink is not None
        with suppress(OSError):
            self._sink.discard()
            # The part goes first: without its journal it would not be known as ours.
            files.sync_folder(self.part.parent)
            self._remove()
        self.suspend()

    def _remove(self) -> None:
        if self._quarters is not None:
            self._quarters.close()
        if self._quarters_path.exists():
            files.remove(self._quarters_path)
            files.sync_folder(self.part.parent)
        self._file.remove()
