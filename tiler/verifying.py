"""A written file compared with its latents, which are opened as the file says."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from tiler.checks import reference
from tiler.checks.verification import Samples, Verification, verify_image
from tiler.errors import AxesError
from tiler.formats.register import open_written_image
from tiler.formats.written import DamagedImageError
from tiler.jobs.schedule import Progress
from tiler.opened_latents import OpenedLatents
from tiler.phase import REPORT


def verify_output(
    path: Path,
    open_image: Callable[[str | None], OpenedLatents],
    samples: Samples,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    noted: bool = False,
) -> Verification:
    """Compare a file with its latents.

    Args:
        path: the file.
        open_image: gives what it is an image of; it is told the axes that the file notes.
        samples: how many windows, or all.
        seed: other windows for other seeds.
        progress: called after each window and each tile.
        noted: whether the axes that the file notes are to be taken.
    """
    try:
        written = open_written_image(path)
    except DamagedImageError as error:
        return Verification(path, (str(error),))
    with closing(written):
        axes = written.axes if noted else None
        try:
            image = open_image(axes)
        except AxesError:
            if axes is None:
                raise
            # They have been saved in another order since.
            axes = None
            image = open_image(None)
        plan, source = image.plan, image.source
        load = partial(reference.load_reference, image.weights_file, source, plan.margins)
        found = verify_image(
            path,
            written,
            source,
            image.network,
            load,
            place=plan.place,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    found = replace(found, axes=axes, notes=source.notes)
    REPORT.info(found.verdict)
    return found
