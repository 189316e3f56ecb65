"""How a window runs through the stages along one axis, and what that takes: operations and memory.

Rows and columns do not depend on each other, so the operations of a layer are ``taps x rows x columns``, each summed
over the windows of its axis.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from taesd_core.layers import KERNEL, Block, Convolution, Layers, Pool, Upsample, convolutions
from taesd_core.receptive_field import (
    Extent,
    Stage,
    Step,
    backward_through,
    forward,
    forward_through,
    halo_of,
    scale_of,
    stages,
)

Axis = tuple[int, bool, bool]
"""One axis of a window: its length in latent px, and whether its low and high ends are ends of the image."""

ALLOCATOR = 1.6
"""What an allocator takes of the system for each byte of maps, measured: it keeps some of what has been freed."""


@dataclass(frozen=True, slots=True)
class StageSpan:
    """A stage's run along one axis of a window."""

    read: slice
    """What it takes of the map before it."""
    crop: slice
    """What is kept of its output: what the stages behind it need."""
    counts: tuple[int, ...]
    """Rows that each of its convolutions computes."""


@lru_cache(maxsize=4096)
def axis_spans(layers: Layers, axis: Axis) -> tuple[StageSpan, ...]:
    """Return how every stage runs along one axis of a window.

    Args:
        layers: the network.
        axis: length in latent px and borders of the window.

    Raises:
        ValueError: when the window is too short to determine anything, that is no longer than its halos.
    """
    return tuple(_stage_span(*each) for each in _walk_axis(layers, axis))


def _walk_axis(layers: Layers, axis: Axis) -> Iterator[tuple[Stage, Extent, Extent]]:
    """Yield every stage, its map, and what the stages behind it need of its output."""
    length, low, high = axis
    halo = halo_of(layers)
    if length <= halo * ((not low) + (not high)):
        raise ValueError(f"Window is all halo: length={length} latent px, halo={halo} latent px a side.")
    all_stages = stages(layers)
    n_out, n_in = scale_of([step for stage in all_stages for step in stage])
    # Any aligned position serves for a window that does not begin at the border.
    first = 0 if low else halo
    extent = Extent(first * n_in, (first + length) * n_in, low, high)
    final = Extent((first if low else first + halo) * n_out, (first + length - (not high) * halo) * n_out)
    for number, stage in enumerate(all_stages):
        behind = [step for later in all_stages[number + 1 :] for step in later]
        target = backward_through(behind, final).clip(forward_through(stage, extent))
        yield stage, extent, target
        extent = target


def macs_of_axes(layers: Layers, rows: Iterable[Axis], columns: Iterable[Axis]) -> int:
    """Return the multiply-accumulates of decoding every window of the product of ``rows`` and ``columns``."""
    totals = []
    for axes in (rows, columns):
        total = [0] * sum(1 for _ in convolutions(layers))
        # Most tiles of an image are alike.
        for axis, n_alike in Counter(axes).items():
            counts = [count for span in axis_spans(layers, axis) for count in span.counts]
            total = [each + n_alike * count for each, count in zip(total, counts, strict=True)]
        totals.append(total)
    return sum(taps * r * c for taps, r, c in zip(_taps(layers), *totals, strict=True))


def macs_of_whole(layers: Layers, height: int, width: int) -> int:
    """Return the multiply-accumulates of the plain whole-image model: upsample, then convolve; nothing folded."""
    n_out, n_in = scale_of([step for stage in stages(layers) for step in stage])
    rows, columns, total = height * n_in, width * n_in, 0
    for layer in layers:
        if isinstance(layer, Upsample):
            rows, columns = rows * 2, columns * 2
            continue
        for _, _, convolution in convolutions((layer,)):
            rows, columns = rows // convolution.stride, columns // convolution.stride
            total += convolution.kernel**2 * convolution.n_in * convolution.n_out * rows * columns
    assert (rows, columns) == (height * n_out, width * n_out)
    return total


def peak_bytes_of_window(layers: Layers, rows: Axis, columns: Axis, value_bytes: int = 4) -> int:
    """Return about how many bytes of maps are alive at most while Keras runs one window through the stages."""
    peak = before = 0
    for stage, row, column in zip(stages(layers), axis_spans(layers, rows), axis_spans(layers, columns), strict=True):
        places = [place.convolution for step in stage for place in convolutions(layers_of(step))]
        behind = (
            (row.crop.stop - row.crop.start) * (column.crop.stop - column.crop.start) * places[-1].n_out * value_bytes
        )
        # The input of a block, the maps before and behind a convolution, and what it makes of them. A pool takes as
        # much: its input, and a wide map and what the norm makes of it.
        n_values = max(2 * (each.n_in + each.n_out) for each in places)
        working = max(row.counts) * max(column.counts) * n_values * value_bytes
        peak = max(peak, before + max(working, 2 * behind))
        before = behind
    return int(ALLOCATOR * peak)


def is_narrow(step: Convolution) -> bool:
    """Tell whether a convolution gives so few channels that it is run as one 1×1 and nine shifted sums.

    Nine times its channels still fill no more than the registers that a 64-channel kernel is made for.
    """
    return step.stride == 1 and step.kernel == KERNEL and KERNEL**2 * step.n_out <= step.n_in


def _stage_span(stage: Stage, extent: Extent, target: Extent) -> StageSpan:
    read = backward_through(stage, target).clip(extent)
    counts, reached = [], read
    for each in stage:
        more, reached = _counts(each, reached)
        counts += more
    return StageSpan(read.slice_in(extent), target.slice_in(reached), tuple(counts))


def layers_of(step: Step) -> Layers:
    """Return a step as layers."""
    return step if isinstance(step, tuple) else (step,)


def _counts(step: Step, extent: Extent) -> tuple[list[int], Extent]:
    """Return the rows that each convolution of a step computes, and the extent behind it."""
    if isinstance(step, Block | Pool):
        counts = []
        for convolution in step.convolutions:
            extent = forward(convolution, extent)
            counts.append(len(extent))
        return counts, extent
    reached = forward(step, extent)
    if isinstance(step, tuple):  # one 2x2 kernel between each two rows, zeros at the borders included
        return [len(extent) - 1 + extent.low_border + extent.high_border], reached
    if isinstance(step, Convolution):
        return [len(extent) if is_narrow(step) else len(reached)], reached
    return [], reached


def _taps(layers: Layers) -> list[int]:
    """Return the multiply-accumulates per computed position of every convolution, as the exact model runs it."""
    taps, behind_upsample = [], False
    for layer in layers:
        for _, _, convolution in convolutions((layer,)):
            # Folded: four phases of a 2x2 kernel at each position.
            kernel = 4 * 2 * 2 if behind_upsample else convolution.kernel**2
            taps.append(kernel * convolution.n_in * convolution.n_out)
        behind_upsample = isinstance(layer, Upsample)
    return taps
