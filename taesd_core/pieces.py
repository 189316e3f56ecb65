"""How a window runs through the stages: the pieces of every stage, along one axis, and the operations they take.

A stage runs in pieces because a convolution is fastest on maps that stay in the cache (on a CPU), and because a
whole map may not fit the memory (of a device). Stage by stage, a piece reads its rows of the map before it and gives
its rows of the map behind it::

    map before   |------------- window ------------|
    piece 0      |---- read ----|                      read: backwards from keep, through the steps of this stage only
    piece 1                 |---- read ----|
    map behind     |-- keep --|-- keep --|             keep: disjoint, together what the stages behind it need

Pieces of rows and pieces of columns do not depend on each other, so a window's pieces are their product and the
operations of a layer are ``taps x rows x columns``, each summed over the pieces of its axis.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

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
class Piece:
    """A part of a stage's run along one axis."""

    read: slice
    """What it takes of the map before the stage."""
    borders: tuple[bool, bool]
    """Whether the low and high ends of ``read`` are ends of the image."""
    crop: slice
    """What is kept of its output."""
    counts: tuple[int, ...]
    """Rows that each convolution of the stage computes."""


@lru_cache(maxsize=4096)
def axis_pieces(layers: Layers, axis: Axis, longest: int) -> tuple[tuple[Piece, ...], ...]:
    """Return the pieces of every stage for one axis of a window.

    Args:
        layers: the network.
        axis: length in latent px and borders of the window.
        longest: the most rows that a piece keeps, counted at the higher resolution of its stage.

    Raises:
        ValueError: when the window is too short to determine anything, that is no longer than its halos.
    """
    return tuple(tuple(_stage_pieces(*each, longest)) for each in walk_axis(layers, axis))


@lru_cache(maxsize=4096)
def walk_axis(layers: Layers, axis: Axis) -> tuple[tuple[Stage, Extent, Extent], ...]:
    """Return every stage, its map, and what the stages behind it need of its output, for one axis of a window.

    Raises:
        ValueError: when the window is too short to determine anything, that is no longer than its halos.
    """
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
    run = []
    for number, stage in enumerate(all_stages):
        behind = [step for later in all_stages[number + 1 :] for step in later]
        target = backward_through(behind, final).clip(forward_through(stage, extent))
        run.append((stage, extent, target))
        extent = target
    return tuple(run)


def macs_of_axes(layers: Layers, rows: Iterable[Axis], columns: Iterable[Axis], longest: int) -> int:
    """Return the multiply-accumulates of decoding every window of the product of ``rows`` and ``columns``."""
    totals = []
    for axes in (rows, columns):
        total = [0] * sum(1 for _ in convolutions(layers))
        # Most tiles of an image are alike.
        for axis, n_alike in Counter(axes).items():
            pieces_of_stages = axis_pieces(layers, axis, longest)
            counts = chain.from_iterable(
                map(sum, zip(*(p.counts for p in pieces), strict=True)) for pieces in pieces_of_stages
            )
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


def macs_by_stage(layers: Layers) -> list[int]:
    """Return how the operations of one latent px are divided between the stages, far from any border."""
    taps, macs = iter(_taps(layers)), []
    # In halves of a px, for strides.
    n_rows = scale_of([step for stage in stages(layers) for step in stage])[1]
    for stage in stages(layers):
        n_out, n_in = scale_of(stage)
        total = 0
        for step in stage:
            for place in convolutions(layers_of(step)):
                # A folded upsampling computes four outputs at each position of its input.
                at = n_rows // place.convolution.stride if isinstance(step, Convolution) else n_rows
                total += next(taps) * at**2
            if isinstance(step, tuple):
                n_rows *= n_out
        n_rows //= n_in
        macs.append(total)
    return macs


def peak_bytes_of_window(
    layers: Layers, rows: Axis, columns: Axis, longest: int, *, streams: int, value_bytes: int = 4
) -> int:
    """Return about how many bytes of maps are alive at most while one window runs through the stages."""
    peak = before = 0
    for stage, row_pieces, column_pieces in zip(
        stages(layers), axis_pieces(layers, rows, longest), axis_pieces(layers, columns, longest), strict=True
    ):
        places = [place.convolution for step in stage for place in convolutions(layers_of(step))]
        rows_behind, columns_behind = (
            sum(piece.crop.stop - piece.crop.start for piece in pieces) for pieces in (row_pieces, column_pieces)
        )
        behind = rows_behind * columns_behind * places[-1].n_out * value_bytes
        # In a piece: the input of a block, the maps before and behind a convolution, and what it makes of them. A pool
        # takes as much: its input, and a wide map and what the norm makes of it.
        longest_rows, longest_columns = (
            max(max(piece.counts) for piece in pieces) for pieces in (row_pieces, column_pieces)
        )
        n_values = max(2 * (each.n_in + each.n_out) for each in places)
        working = streams * longest_rows * longest_columns * n_values * value_bytes
        # Once all pieces are there, they are joined to one map: a copy.
        peak = max(peak, before + behind + max(working, behind))
        before = behind
    return int(ALLOCATOR * peak)


def is_narrow(step: Convolution) -> bool:
    """Tell whether a convolution gives so few channels that it is run as one 1×1 and nine shifted sums.

    Nine times its channels still fill no more than the registers that a 64-channel kernel is made for.
    """
    return step.stride == 1 and step.kernel == KERNEL and KERNEL**2 * step.n_out <= step.n_in


def _stage_pieces(stage: Stage, extent: Extent, target: Extent, longest: int) -> Iterable[Piece]:
    longest //= scale_of(stage)[1]
    n_pieces = -(-len(target) // longest)
    step = -(-len(target) // n_pieces)
    for start in range(target.start, target.stop, step):
        keep = Extent(start, min(start + step, target.stop))
        read = backward_through(stage, keep).clip(extent)
        counts, reached = [], read
        for each in stage:
            more, reached = _counts(each, reached)
            counts += more
        yield Piece(read.slice_in(extent), (read.low_border, read.high_border), keep.slice_in(reached), tuple(counts))


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
