"""One output from start to end: what is checked before, what survives a failure, and what is left."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from taesd_core.engines import NAMES
from tiler import files
from tiler.errors import ChangedError
from tiler.fields import TILE_SIZE, Fields, find_version
from tiler.formats.output_file import PlannedFile
from tiler.formats.sink import Sink
from tiler.jobs.engine import Turns, run_tile
from tiler.jobs.journal import Journal
from tiler.jobs.journal_lines import FORMAT
from tiler.jobs.kept import check_in_threads
from tiler.jobs.room import check_disk, check_memory
from tiler.jobs.schedule import Progress, run_plan
from tiler.jobs.statistics import PassTally, prepare_model
from tiler.memory import format_bytes
from tiler.model import Model
from tiler.phase import LOG, say_count
from tiler.plan import Plan
from tiler.profile import Profile, ProfiledSource, ProfiledWrites
from tiler.sources.source import Source, fingerprint_source


@dataclass(frozen=True, slots=True)
class Job:
    """An output, and how to make it."""

    output: PlannedFile
    """The file."""
    plan: Plan
    """How it is cut into tiles."""
    source: Source
    """What is read."""
    inputs: Fields
    """What tells source and weights from others, by names that people know."""
    load_model: Callable[[], Model]
    """Loads what makes tiles of it; called when all else is well."""
    notes: Fields = field(default_factory=dict)
    """What the file is to say besides; it does not tell the job from others."""
    resume: bool = False
    """Go on with a half-done output, if there is one."""
    force: bool = False
    """Begin even where disk or memory seem to be too small."""
    profile: Profile = field(default_factory=Profile)
    """Gets the seconds that each stage takes."""
    open_source: Callable[[], Source] | None = None
    """Opens ``source`` anew in another process; needed for a cluster, as is that this and ``load_model`` travel."""

    @property
    def fields(self) -> Fields:
        """What tells the job from others: run again, it makes the same file. Workers do not matter."""
        height, width, _ = self.plan.output_shape
        return {
            **self.inputs,
            "size": f"{height} × {width} px",
            **({"region": f"{self.plan.region}"} if self.plan.region else {}),
            TILE_SIZE: self.plan.core,
            **self.output.fields,
            "software": f"taesd-tiler {find_version()}, journal {FORMAT}",
        }

    def check_source(self) -> None:
        """Refuse to finish what was made while the input changed: some tiles are of what it was before.

        Raises:
            ChangedError: it has another fingerprint than the job notes.
        """
        for name in ("latents", "image"):
            if name in self.inputs and self.inputs[name] != fingerprint_source(self.source):
                raise ChangedError(
                    f"The input changed during the run: {name} of {self.output.path}. Some tiles are of what it was "
                    "before, some of what it is now, and nothing is kept. Run again, and leave it alone meanwhile."
                )

    @property
    def description(self) -> str:
        """How the file was made, as JSON to be kept in it; the same however often the job is stopped."""
        fields = self.fields
        return json.dumps({"software": fields["software"], **self.notes, **fields})


@dataclass(frozen=True, slots=True)
class Done:
    """What a run has made."""

    n_levels: int
    """Levels of the pyramid; 1 without one."""
    n_resumed: int
    """Tiles that an earlier run had finished, and that are whole."""
    n_damaged: int
    """Tiles that it had finished, those of reduced levels too, and that were found damaged and made again."""
    notes: tuple[str, ...]
    """What is to be said of what was written."""


class Executor(Protocol):
    """Does the tasks of a job."""

    def check(self, job: Job) -> None:
        """Refuse a job that has too little memory."""

    def run(self, job: Job, journal: Journal, sink: Sink, progress: Progress | None) -> None:
        """Check what an earlier run has done, do all other tasks, and tell the journal of each."""


class Threads:
    """Does the tasks in this process; ``tiler.jobs.cluster`` has another executor."""

    def check(self, job: Job) -> None:
        """Refuse a job that has too little memory."""
        check_memory(job.plan.peak_bytes + job.output.commit_bytes)

    def run(self, job: Job, journal: Journal, sink: Sink, progress: Progress | None) -> None:
        """Check what an earlier run has done, do all other tasks, and tell the journal of each."""
        journal.settle(check_in_threads(sink, job.plan.workers), progress)
        stopping = Event()
        with job.profile.measure("load"):
            loaded = job.load_model()
        source = ProfiledSource(job.source, job.profile)
        tally = PassTally(job.plan, progress)
        with job.profile.measure("decode"):
            prepared = prepare_model(loaded, job.plan, source, tally.tell)
        model = Turns(prepared, stopping, job.profile)
        run_plan(
            job.plan,
            lambda tile: run_tile(tile, source, model),
            ProfiledWrites(sink, job.profile),
            workers=job.plan.workers,
            progress=tally.progress,
            journal=journal,
            stopping=stopping,
        )


def run_job(job: Job, progress: Progress | None = None, executor: Executor | None = None) -> Done:
    """Make the file.

    Raises:
        OutputExistsError: the output exists, is half done, or is written by another run.
        RefusedError: disk or memory are too small.
        InputError: the input cannot be used; nothing is left.
        ChangedError: the input changed meanwhile.
        TileError: a tile failed; what is finished is kept, as it is on any other error.
    """
    executor = executor or Threads()
    output = job.output
    journal = Journal(output, job.plan, job.fields, resume=job.resume)
    try:
        if not job.force:
            check_disk(output.path.parent, _count_missing(job, journal) + job.plan.spool_bytes)
            executor.check(job)
        sink = journal.start(job.description)
        LOG.info(_describe_start(job, journal.n_finished))
        executor.run(job, journal, sink, progress)
        job.check_source()
        journal.commit()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(journal.part)
        journal.leave(error)
        raise
    return Done(output.n_levels, journal.n_resumed, journal.n_damaged, sink.notes)


def _describe_start(job: Job, n_resumed: int) -> str:
    plan = job.plan
    tiles = say_count(plan.n_tiles, "tile")
    before = f", {n_resumed:,} of them finished before" if n_resumed else ""
    memory = format_bytes(max(plan.peak_bytes, job.output.commit_bytes))
    return (
        f"{plan.doing} to {job.output.path}: {tiles}{before}, {plan.n_image_px / 1e6:,.1f} megapixels, "
        f"by {NAMES[plan.engine]}, about {memory} of memory at the peak"
    )


def _count_missing(job: Job, journal: Journal) -> int:
    """Return how many bytes the output may need besides those that it has, or had and gives back."""
    there = files.count_bytes(journal.part)
    missing = max(0, job.output.most_bytes - there)
    if not journal.resumed:
        return missing
    # What is finished is smaller than the worst case, so the space it takes says nothing of what is left to do.
    n_tiles, encoded_bytes = job.plan.n_tiles, job.output.encoded_bytes
    tiles_bytes = (job.output.most_bytes - encoded_bytes) * (n_tiles - journal.n_finished) // n_tiles
    return min(missing, tiles_bytes + encoded_bytes)
