"""How much memory a window takes in the kernels: the same numbers that a run takes its memory by. Pure integers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from taesd_core.kernels.geometry import (
    SIDE,
    Axis,
    Reach,
    Shape,
    find_edges,
    find_reaches,
    list_shapes,
)
from taesd_core.kernels.turns import Turn, plan_turns
from taesd_core.layers import Layers
from taesd_core.receptive_field import halo_of, scale_of, stages

RUNTIME_BYTES = 155_000_000
"""What Python takes with NumPy, the engine and the compiler loaded, where it must compile first; measured."""
TURN_PX = 24_576
"""Of a map that each thread makes at a time: enough to make little of what it costs to begin, when kernels come into
the second-level cache, and few enough to stay in the third-level one."""
TURN_ROWS = 64
"""At most of a map of the highest resolution, at a time: small tiles then take little memory."""
ALIGNMENT = 16
"""Numbers in a line of the cache."""
SLACK = 64 * 256
"""Numbers that may be read behind the last pixel of a map; what is made of them is thrown away."""
_ROUNDING = 16
"""The part by which turns of other lengths may take more."""
_ROWS = 64
"""Latent px after which a run surely holds as much as it ever does, where its turns are short."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run lies in memory, in float32 numbers."""

    turns: tuple[Turn, ...]
    """In what order rows are made."""
    slots: tuple[int, ...]
    """Rows that each map holds at a time."""
    maps: tuple[int, ...]
    """The size of each map."""
    scratch: int
    """What each thread wants for itself."""
    n_threads: int
    """How many."""

    @property
    def size(self) -> int:
        """Of it all."""
        return sum(self.maps) + self.n_threads * self.scratch + SLACK


def lay_out(
    shapes: Sequence[Shape], rows: Sequence[Reach], columns: Sequence[Reach], n_threads: int, *, keeps_last: bool
) -> Layout:
    """Return how a run lies in memory.

    Args:
        shapes: of its steps.
        rows: what is made of each map.
        columns: likewise.
        n_threads: that share the work.
        keeps_last: whether all rows of the last map are kept to the end.
    """
    n_px = min(TURN_PX * n_threads, TURN_ROWS * max(each.length for each in columns))
    turns, slots = plan_turns(shapes, rows, columns, n_px)
    if keeps_last:
        slots[-1] = rows[-1].length
    channels = [shapes[0].n_in, *(shape.n_out for shape in shapes)]
    maps = [
        _align((n + 1) * (each.length + 2) * depth) for n, each, depth in zip(slots, columns, channels, strict=True)
    ]
    return Layout(tuple(turns), tuple(slots), tuple(maps), _align(max(shape.scratch for shape in shapes)), n_threads)


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def peak_bytes(layers: Layers, passes: Sequence[Layers], rows: Axis, columns: Axis, n_threads: int) -> int:
    """Return what the weights and the maps of a window take at most, without ``RUNTIME_BYTES``, window and pixels.

    Args:
        layers: the network.
        passes: what runs before it, if anything does.
        rows: of the window.
        columns: likewise.
        n_threads: that share the work.
    """
    runs = [_run_bytes(each, rows, columns, n_threads, keeps_last=each is not layers) for each in (layers, *passes)]
    return weight_bytes(layers) + max(runs)


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def weight_bytes(layers: Layers) -> int:
    """Return what the weights take while they are read: as they are, as the kernels take them, and on the way there."""
    shapes = list_shapes(layers)
    largest = max(shape.packed for shape in shapes)
    return 4 * sum(shape.weights + shape.packed for shape in shapes) + 20 * largest


def _run_bytes(layers: Layers, rows: Axis, columns: Axis, n_threads: int, *, keeps_last: bool) -> int:
    shapes = list_shapes(layers)
    if not keeps_last:
        # More rows than these take no more memory.
        length, low, high = rows
        rows = min(length, 2 * halo_of(layers) + _ROWS + TURN_PX * n_threads // columns[0]), low, high
    sizes = []
    # Where it lies on the grid of tiles is not known.
    for phase in range(SIDE):
        reaches = (_find_reaches(layers, shapes, *each, phase) for each in (rows, columns))
        sizes.append(lay_out(shapes, next(reaches), next(reaches), n_threads, keeps_last=keeps_last).size)
    return 4 * (max(sizes) + max(sizes) // _ROUNDING)


def _find_reaches(
    layers: Layers, shapes: Sequence[Shape], length: int, low: bool, high: bool, phase: int
) -> list[Reach]:
    start, stop = (0 if low else phase), (0 if low else phase) + length
    halo = halo_of(layers)
    kept = start + (0 if low else halo), stop - (0 if high else halo)
    n_out, n_in = scale_of([step for stage in stages(layers) for step in stage])
    spans = [(each[0] * scale, each[1] * scale) for each, scale in (((start, stop), n_in), (kept, n_out))]
    return find_reaches(shapes, find_edges(shapes, spans[0], (low, high)), spans[1])
