"""How far each layer sees: spans of one axis, walked forwards (what a span determines) and backwards (what it needs).

Rows and columns behave alike, so everything here is solved for one axis; a window is the product of two.

A network is cut into *stages*: in a decoder one per resolution, each beginning with the upsampling that
leads to it; in an encoder one per resolution, each ending with the convolution of stride 2 that leaves it::

    decoder    conv blocks | up conv blocks | up conv blocks | up conv block conv
    encoder    conv block conv/2 | blocks conv/2 | blocks conv/2 | blocks conv

An upsampling and the convolution behind it are one step here, as they are in the exact model (see ``stage.py``); a
block with a pool is two. A pool with its statistics given sees no neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod

from taesd_core.layers import Block, Clamp, Convolution, Layers, Pool, Relu, Upsample

Step = Clamp | Relu | Pool | Block | Convolution | tuple[Upsample, Convolution]
Stage = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """A span ``[start, stop)`` of one axis of a map, and which of its ends are ends of the whole image.

    ``start`` is 0 where the low end is a border. Elsewhere it is any position: only differences matter.
    """

    start: int
    stop: int
    low_border: bool = False
    high_border: bool = False

    def __len__(self) -> int:
        return self.stop - self.start

    def slice_in(self, outer: "Extent") -> slice:
        """Return this span as an index into a map of ``outer``."""
        assert outer.start <= self.start < self.stop <= outer.stop
        return slice(self.start - outer.start, self.stop - outer.start)

    def clip(self, outer: "Extent") -> "Extent":
        """Return the part inside ``outer``; where ``outer`` ends at a border, what reaches it has that border."""
        start = max(self.start, outer.start) if outer.low_border else self.start
        stop = min(self.stop, outer.stop) if outer.high_border else self.stop
        return Extent(
            start,
            stop,
            outer.low_border and start == outer.start,
            outer.high_border and stop == outer.stop,
        )


def stages(layers: Layers) -> tuple[Stage, ...]:
    """Return the layers as steps, grouped by stage."""
    grouped: list[list[Step]] = [[]]
    behind_upsample = False
    for layer in layers:
        if isinstance(layer, Upsample):
            behind_upsample = True
        elif behind_upsample:
            assert isinstance(layer, Convolution)
            grouped.append([(Upsample(), layer)])
            behind_upsample = False
        else:
            if isinstance(layer, Block) and layer.pool is not None:
                grouped[-1].append(layer.pool)
                layer = replace(layer, pool=None)
            grouped[-1].append(layer)
            if isinstance(layer, Convolution) and layer.stride > 1:
                grouped.append([])
    return tuple(tuple(stage) for stage in grouped)


def forward(step: Step, extent: Extent) -> Extent:
    """Return what ``extent`` determines of the step's output.

    At a border there are zeros to go on with; elsewhere a convolution gives one row less per side. Between input rows
    i and i + 1 lie the output rows 2i + 1 and 2i + 2 of an upsampling convolution. One of stride 2 puts row i at 2i, so
    that it sees the rows 2i - 1 to 2i + 1; sizes are even, so no row of zeros is ever needed at the high border.
    """
    low, high = extent.low_border, extent.high_border
    start, stop = extent.start, extent.stop
    if isinstance(step, tuple):
        return replace(extent, start=0 if low else 2 * start + 1, stop=2 * stop if high else 2 * stop - 1)
    if isinstance(step, Convolution) and step.stride == 2:
        return replace(extent, start=(start + 1 - low + 1) // 2, stop=stop // 2)
    margin = _margin(step)
    return replace(extent, start=start if low else start + margin, stop=stop if high else stop - margin)


def backward(step: Step, extent: Extent) -> Extent:
    """Return the input rows that the step needs for ``extent`` of its output.

    The borders of ``extent`` are ignored: clip the result to the map that there is.
    """
    start, stop = extent.start, extent.stop
    if isinstance(step, tuple):
        return Extent((start - 1) // 2, stop // 2 + 1)
    if isinstance(step, Convolution) and step.stride == 2:
        return Extent(2 * start - 1, 2 * stop)
    margin = _margin(step)
    return Extent(start - margin, stop + margin)


def forward_through(steps: Sequence[Step], extent: Extent) -> Extent:
    """Return what ``extent`` determines of the output of all the steps."""
    for step in steps:
        extent = forward(step, extent)
    return extent


def backward_through(steps: Sequence[Step], extent: Extent) -> Extent:
    """Return the input that all the steps together need for ``extent`` of their output."""
    for step in reversed(steps):
        extent = backward(step, extent)
    return extent


def scale_of(steps: Sequence[Step]) -> tuple[int, int]:
    """Return (n_out, n_in): the steps turn n_in pixels of an axis into n_out; one of the two is 1."""
    doublings = sum(isinstance(step, tuple) for step in steps)
    strides = prod(step.stride for step in steps if isinstance(step, Convolution))
    return 2**doublings, strides


@cache
def halo_of(layers: Layers) -> int:
    """Return the halo in latent px: the context that an output pixel needs on each side at most.

    Found by walking backwards from the pixels of one latent, far from any border.
    """
    steps = [step for stage in stages(layers) for step in stage]
    n_out, n_in = scale_of(steps)
    position = 1 << 20
    reach = backward_through(steps, Extent(position * n_out, (position + 1) * n_out))
    low, high = position * n_in - reach.start, reach.stop - (position + 1) * n_in
    return -(-max(low, high) // n_in)


def _margin(step: Step) -> int:
    if isinstance(step, Block):
        return sum(convolution.margin for convolution in step.convolutions)
    return step.margin if isinstance(step, Convolution) else 0
