"""Whether there is a half-done output to go on with, or why not."""

from tiler import files
from tiler.errors import START_OVER, InputError, Option, OutputExistsError
from tiler.fields import Fields, find_difference
from tiler.formats.output_file import PlannedFile
from tiler.formats.places import find_part
from tiler.formats.sink import Piece
from tiler.jobs.journal_file import JournalFile
from tiler.jobs.journal_lines import COMPLETE, FORMAT, find_task, is_taken_back
from tiler.plan import Plan
from tiler.pyramid import Task


class HalfDone:
    """What a journal says of an earlier run, if there was one.

    Attributes:
        pieces: what each finished task has left in the part.
        quarters: where its quarter is kept; mostly nothing.
        completed: what was to get the final name, when nothing was missing but that; see ``Sink.complete``.
    """

    def __init__(self, file: JournalFile, output: PlannedFile, plan: Plan) -> None:
        self._file, self._output, self._part, self._plan = file, output, find_part(output.path), plan
        self.pieces: dict[Task, Piece] = {}
        self.quarters: dict[Task, tuple[int, ...]] = {}
        self.completed: tuple[int, ...] = ()
        for entry in file.entries:
            if entry[0] == COMPLETE:
                self.completed = tuple(entry[1:])
                continue
            task = find_task(entry)
            if is_taken_back(entry):
                self.pieces.pop(task, None)
                self.quarters.pop(task, None)
            else:
                self.pieces[task], self.quarters[task] = tuple(entry[3]), tuple(entry[4:])
        file.entries = []  # there may be a million

    def resolve(self, fields: Fields, *, resume: bool) -> bool:
        """Say whether it is gone on with.

        Raises:
            OutputExistsError: the output exists, or is half done and is neither to be gone on with nor replaced.
            InputError: what is half done is of another job, or nobody can tell of which.
        """
        file, part, overwrite = self._file, self._part, self._output.overwrite
        difference = find_difference(file.fields or {}, fields)
        if resume and not difference and self.completed and not part.exists() and self._output.path.exists():
            # A kill after the last step but one. Another file of that name, an older one, is none of ours.
            is_ours = files.find_number(self._output.path) == self.completed[0]
            if is_ours:
                files.replace(self._output.path, part)
        self._output.check_place()
        part_exists = part.exists()
        # What a kill leaves of the header is not damage, for then nothing was finished.
        is_readable = file.format == FORMAT or (file.format is None and file.n_lost <= 2)
        if part_exists and (self.pieces or self.completed or not is_readable) and (resume or not overwrite):
            self._check_begun(difference, resume)
            return True
        if part_exists and file.created and not overwrite:
            raise OutputExistsError(
                f"A file without a journal is in the way: path={part}. Move it, or use {Option('overwrite', True)} "
                f"to replace it."
            )
        self.pieces, self.quarters = {}, {}
        return False

    def _check_begun(self, difference: str | None, resume: bool) -> None:
        file = self._file
        if file.format != FORMAT:
            was = "damaged" if file.format is None else f"of another version, journal format={file.format}"
            raise (InputError if resume else OutputExistsError)(
                f"The output is half done, and its journal is {was}: path={file.path}, our format={FORMAT}. Nobody "
                f"can tell what of it is finished. {START_OVER}"
            )
        if not resume:
            n_tiles = sum(level == 0 for level, _, _ in self.pieces)
            raise OutputExistsError(
                f"The output is half done: path={self._part}, finished={n_tiles} of {self._plan.n_tiles} tiles. Use "
                f"{Option('resume', True)} to go on, or {Option('overwrite', True)} to start over."
            )
        if difference:
            raise InputError(
                f"The half-done output is of another job: path={self._part}, first difference: {difference}. Go on "
                f"with what it was begun with. Or: {START_OVER}"
            )
