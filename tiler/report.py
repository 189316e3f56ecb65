"""What a finished job has done."""

import time
from dataclasses import dataclass
from pathlib import Path

from taesd_core.engines import NAMES, Engine
from tiler.checks.verification import Verification
from tiler.errors import Message
from tiler.jobs.job import Executor, Job, run_job
from tiler.jobs.schedule import Progress
from tiler.memory import find_peak, format_bytes
from tiler.phase import say_count


@dataclass(frozen=True, slots=True)
class Report:
    """What a finished job has done."""

    path: Path
    """The file."""
    shape: tuple[int, int, int]
    """(height, width, channels) of what it holds."""
    n_levels: int
    """Levels of its pyramid; 1 without one."""
    n_tiles: int
    """Tiles of the image."""
    n_resumed: int
    """Of these, tiles that an earlier run had finished, and that are whole."""
    size_bytes: int
    """Of the file."""
    seconds: float
    """From the call to the complete file, loading included."""
    n_damaged: int = 0
    """Tiles that it had finished, those of reduced levels too, and that were found damaged and made again."""
    n_replaced: int = 0
    """Values of the input that were NaN or Inf and were read as 0 by this run; a million stands for any more."""
    continued_px: tuple[int, int] = (0, 0)
    """Rows and columns that were added to an image, so that it could be encoded."""
    notes: tuple[str, ...] = ()
    """What is to be said of how the input was read: its axes, colours that were converted, transparency, values."""
    engine: Engine | None = None
    """What ran the network."""
    peak_bytes: int = 0
    """Most memory that this process had when the file was complete."""
    verification: Verification | None = None
    """What a look at the file has shown, if one was asked for."""


def run_and_report(job: Job, progress: Progress | None, started: float, executor: Executor | None = None) -> Report:
    """Run a job whose call began at ``started``, by ``time.monotonic()``."""
    done = run_job(job, progress, executor)
    path = job.output.path
    job.profile.wall_seconds = time.monotonic() - started
    return Report(
        path,
        job.plan.output_shape,
        done.n_levels,
        job.plan.n_tiles,
        done.n_resumed,
        sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file()),
        job.profile.wall_seconds,
        done.n_damaged,
        notes=done.notes,
        engine=job.plan.engine,
        peak_bytes=find_peak(),
    )


def describe_report(report: Report) -> Message:
    """Return a line that says what was written, how long it took, and the peak memory of this process.

    And one of each thing that is to be said of the input.
    """
    height, width, channels = report.shape
    levels = f", {report.n_levels} levels" if report.n_levels > 1 else ""
    tiles = "1 tile" if report.n_tiles == 1 else f"{report.n_tiles} tiles"
    if report.n_resumed:
        tiles += f", {report.n_resumed} of them finished before,"
    damaged = ""
    if report.n_damaged:
        damaged = f"\nFound damaged in what was half done, and made again: {say_count(report.n_damaged, 'tile')}"
    rows, columns = report.continued_px
    continued = f"the image was continued by {rows} rows and {columns} columns; " if rows or columns else ""
    engine = f" by {NAMES[report.engine]}" if report.engine else ""
    replaced = ""
    if report.n_replaced:
        this_run = " by this run" if report.n_resumed else ""
        replaced = f"\n{report.n_replaced:,} values of the input were NaN or Inf and read as 0{this_run}"
    notes = [part for note in report.notes for part in ("\n", Message(note).capitalised)]
    return Message(
        f"{report.path}: {height:,} × {width:,} × {channels}{levels}, "
        f"{format_bytes(report.size_bytes)}; {tiles} in {report.seconds:.1f} s{engine}; {continued}"
        f"peak memory {format_bytes(report.peak_bytes)}{damaged}{replaced}",
        *notes,
    )
