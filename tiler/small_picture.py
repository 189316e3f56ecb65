"""A small picture of large latents: they are averaged down and decoded whole.

What the decoder makes of averaged latents is close to the reduced image, at a tiny part of the work.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from taesd_core.engines import Engine
from tiler.errors import Option, OptionError
from tiler.jobs.engine import run_tile
from tiler.jobs.room import check_memory
from tiler.jobs.statistics import prepare_model
from tiler.model import Model, Network
from tiler.phase import Phase
from tiler.plan import Plan
from tiler.sources.array_source import ArraySource
from tiler.sources.ranges import Checked
from tiler.sources.source import Source
from tiler.window import Span, Window

PART_ROWS, PART_COLUMNS = 256, 2048
"""What is read of the latents at a time: 8 MB of four channels."""


def choose_size(shape: tuple[int, int, int], size_px: int, scale: int) -> tuple[int, int]:
    """Return (height, width) of latents that decode to at most ``size_px`` on the longer side, never enlarged.

    Raises:
        OptionError: not even one latent fits.
    """
    if size_px < scale:
        raise OptionError(f"Too small for a preview: size={size_px} px. Use {scale} or more.")
    height, width, _ = shape
    factor = min(1.0, size_px // scale / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def preview_source(
    source: Source,
    network: Network,
    kept: tuple[int, int] | None,
    size_px: int,
    load_model: Callable[[], Model],
    engine: Engine,
) -> NDArray[np.uint8]:
    """Return a small picture of latents.

    Args:
        source: the latents.
        network: of the decoder.
        kept: (height, width) of the image, px, where it is smaller than what they decode to.
        size_px: longest side of the picture, at most.
        load_model: gives the decoder.
        engine: what that is.

    Raises:
        RefusedError: the memory seems to be too small.
    """
    whole = source.shape[:2]
    height, width = choose_size(source.shape, size_px, network.scale_out)
    # Of the small picture as much as the image is of what all latents decode to.
    kept_height, kept_width = kept or (side * network.scale_out for side in whole)
    made = max(1, round(height * kept_height / whole[0])), max(1, round(width * kept_width / whole[1]))
    if (height, width) != whole:
        source = ArraySource(average_down(Checked(source), height, width), network.channels_in, axes="HWC")
    plan = Plan(network, height, width, max(height, width), engine=engine)
    check_memory(plan.peak_bytes, advice=f"Use a smaller {Option('size_px')}")
    picture = run_tile(plan.tile(0, 0), source, prepare_model(load_model(), plan, source))
    return picture[: made[0], : made[1]]


def average_down(source: Source, height: int, width: int) -> NDArray[np.float32]:
    """Return a source reduced to ``height`` × ``width``, each value the mean of the area that it stands for.

    It is read once, a part at a time.

    Args:
        source: as large or larger.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width, channels) float32.
    """
    full_height, full_width, channels = source.shape
    total = np.zeros((height, width, channels))
    strips = cut(full_height, PART_ROWS)
    phase = Phase("Averaging", len(strips), "strips")
    for rows in strips:
        row_shares, first_row = share_out(rows, full_height, height)
        for columns in cut(full_width, PART_COLUMNS):
            column_shares, first_column = share_out(columns, full_width, width)
            part = source.read(Window(rows, columns))
            # What becomes infinite here is for the engine to find.
            with np.errstate(over="ignore", invalid="ignore"):
                reduced = np.einsum("ir,rcn,jc->ijn", row_shares, part, column_shares, optimize=True)
                total[first_row : first_row + len(row_shares), first_column : first_column + len(column_shares)] += (
                    reduced
                )
        phase.count()
    return total.astype(np.float32)


def cut(size: int, length: int) -> list[Span]:
    """Return [0, size) in spans of ``length``, the last one less."""
    return [Span(start, min(start + length, size)) for start in range(0, size, length)]


def share_out(span: Span, size: int, n_means: int) -> tuple[NDArray[np.float64], int]:
    """Return how much each position of ``span`` counts in each mean of an axis, and the first mean that it touches.

    Args:
        span: positions of the axis.
        size: of the axis.
        n_means: how many means the axis becomes.

    Returns:
        (means touched, positions), and the number of the first of these means.
    """
    first = span.start * n_means // size
    last = (span.stop * n_means - 1) // size
    edges = np.arange(first, last + 2) * (size / n_means)
    positions = np.arange(span.start, span.stop)
    covered = np.minimum(edges[1:, None], positions + 1) - np.maximum(edges[:-1, None], positions)
    return np.clip(covered, 0, 1) * (n_means / size), first
