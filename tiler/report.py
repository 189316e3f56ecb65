"""What a finished job has done."""

import time
from dataclasses import dataclass
from pathlib import Path

from tiler.checks.verification import Verification
from tiler.jobs.job import Executor, Job, run_job
from tiler.jobs.schedule import Progress


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
    """Of these, tiles that an earlier run had finished."""
    size_bytes: int
    """Of the file."""
    seconds: float
    """From the call to the complete file, loading included."""
    n_replaced: int = 0
    """Values of the input that were NaN or Inf and were read as 0 by this run; a million stands for any more."""
    continued_px: tuple[int, int] = (0, 0)
    """Rows and columns that were added to an image, so that it could be encoded."""
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
    )
