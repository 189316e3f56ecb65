"""Which part of each map a window needs. Pure integers, one axis at a time.

A network is a row of steps between maps. Backwards from what is kept, each map is made as far as the steps behind it
need, and on to a whole tile of four; tiles lie on the image, so that windows that begin anywhere cut a map alike::

    image    0         4         8        12        16        20        24
    map      |         |         |         |         |         |         |
    needed                 |----------------------------------|
    made               |-----------------------------------------------|     where the step makes whole tiles
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from taesd_core.layers import Block, Clamp, Convolution, Layers, Relu, Upsample

SIDE = 4
"""Of a tile of outputs, px."""
WIDTH = 16
"""Channels come in multiples of it: what some processor's vector holds."""
TILES = 24
"""Tiles in a chunk. Their sums and products of 64 channels, 440 kB, and the kernels, 590 kB, about fill the
second-level cache of 1 MB that processors have at least; a multiple of the rows of every product."""
PIXELS = 24
"""Pixels in a chunk of a convolution without tiles: likewise a multiple."""
Axis = tuple[int, bool, bool]
"""One axis of a window: its length in latent px, and whether its low and high ends are ends of the image."""
Ends = tuple[bool, bool]
"""Whether the low and the high end of an axis are ends of the image."""
Span = tuple[int, int]
"""From and up to, px of a map counted from the corner of the image."""
Edges = tuple[int | None, int | None]
"""Where a map begins and ends with the image; None where the window ends before."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step makes of its input map, without weights."""

    n_in: int
    """Channels of its input."""
    n_out: int
    """Channels that it computes, as many as fill vectors."""
    ratio: tuple[int, int] = (1, 1)
    """(output px, input px) of an axis."""
    margin: int = 1
    """Neighbours that it sees on each side, input px."""
    in_tiles: bool = True
    """Whether it makes whole tiles of 4 × 4 by Winograd's sums; else just what is needed, and it reads no further."""
    skip: int = 0
    """How many steps before it made what it adds to its output, counted from its input; 0: it adds nothing."""
    relu: bool = False
    """Whether what is below zero becomes zero in the end."""

    @property
    def doubled(self) -> bool:
        """Whether it sees each pixel of its input repeated twice in both directions."""
        return self.ratio == (2, 1)

    @property
    def n_sums(self) -> int:
        """Sums of the inputs of a tile and channel."""
        return 16 if self.doubled else 36

    @property
    def n_products(self) -> int:
        """Products of these with kernels, for a tile and each of the inputs and outputs."""
        return 25 if self.doubled else 36

    @property
    def scratch(self) -> int:
        """How many numbers a thread wants for itself."""
        if self.in_tiles:
            return TILES * (self.n_sums * self.n_in + self.n_products * self.n_out)
        return PIXELS * self.n_out

    @property
    def weights(self) -> int:
        """How many numbers its kernel has."""
        return (2 * self.margin + 1) ** 2 * self.n_in * self.n_out

    @property
    def packed(self) -> int:
        """How many numbers that is as the compiled functions take it."""
        return self.n_products * self.n_in * self.n_out if self.in_tiles else self.weights

    def needs(self, start: int, stop: int) -> Span:
        """Return the span of the input that a span of the output needs."""
        if self.doubled:
            return (start - 1) // 2, stop // 2 + 1
        return start * self.ratio[1] - self.margin, (stop - 1) * self.ratio[1] + 1 + self.margin


def list_shapes(layers: Layers) -> list[Shape]:
    """Return the steps of a network: its convolutions in order of execution."""
    shapes: list[Shape] = []
    doubled = False
    for number, layer in enumerate(layers):
        if isinstance(layer, Upsample):
            doubled = True
        elif isinstance(layer, Convolution):
            relu = layers[number + 1 : number + 2] == (Relu(),)
            if layer.stride > 1 or layer.kernel == 1 or layer.n_in % WIDTH:
                shapes.append(_make_direct(layer, relu=relu))
            else:
                ratio = (2 if doubled else 1, 1)
                shapes.append(Shape(layer.n_in, _widen(layer.n_out), ratio, relu=relu))
            doubled = False
        elif isinstance(layer, Block):
            if layer.pool is not None:
                before, behind = layer.pool.convolutions
                shapes += [_make_direct(before, relu=True), _make_direct(behind, skip=1)]
            first, second, third = (Shape(each.n_in, each.n_out, relu=True) for each in layer.convolutions)
            shapes += [first, second, Shape(third.n_in, third.n_out, skip=2, relu=True)]
        else:
            assert isinstance(layer, Clamp | Relu), f"No kernels for this layer: {layer}."
    return shapes


def _make_direct(layer: Convolution, *, skip: int = 0, relu: bool = False) -> Shape:
    return Shape(layer.n_in, _widen(layer.n_out), (1, layer.stride), layer.margin, False, skip, relu)


def _widen(channels: int) -> int:
    return -(-channels // WIDTH) * WIDTH


class Reach(NamedTuple):
    """One axis of a map, px counted from the corner of the image."""

    start: int
    """Of what is held, a multiple of four."""
    stop: int
    """Likewise."""
    begin: int
    """Where its values begin, in front of which is zero."""
    end: int
    """Where they end: behind that is zero."""

    @property
    def length(self) -> int:
        """Of what is held."""
        return self.stop - self.start


def find_edges(shapes: Sequence[Shape], span: Span, ends: Ends) -> list[Edges]:
    """Return where each map ends with the image.

    Args:
        shapes: of the steps between them.
        span: of the window, px of the input.
        ends: which ends of it are ends of the image.
    """
    spans = [span]
    for shape in shapes:
        n_out, n_in = shape.ratio
        spans.append((spans[-1][0] * n_out // n_in, spans[-1][1] * n_out // n_in))
    low, high = ends
    return [(first if low else None, last if high else None) for first, last in spans]


def find_reaches(shapes: Sequence[Shape], edges: Sequence[Edges], kept: Span) -> list[Reach]:
    """Return what is made of each map, the input's first.

    Args:
        shapes: of the steps between the maps.
        edges: of the maps.
        kept: what is needed of the last map.
    """
    reaches = []
    start, stop = kept
    for number in range(len(shapes), -1, -1):
        first, last = edges[number]
        start, stop = _clip(start, stop, first, last)
        low, high = start // SIDE * SIDE, -(-stop // SIDE) * SIDE
        shape = shapes[number - 1] if number else None
        begin, end = _clip(low, high, first, last) if shape is not None and shape.in_tiles else (start, stop)
        reaches.append(Reach(low, high, begin, end))
        if shape is not None:
            start, stop = shape.needs(start, stop)
    return reaches[::-1]


def _clip(start: int, stop: int, first: int | None, last: int | None) -> Span:
    return start if first is None else max(start, first), stop if last is None else min(stop, last)


def find_touched(shapes: Sequence[Shape], start: int, stop: int) -> list[Span]:
    """Return what of each map can have any part in the bits of a span of the last one, the input's first.

    More than in its values: Winograd's sums of a tile take in more than the convolution of its outputs sees, which
    cancels but for roundings.
    """
    spans = [(start, stop)]
    for shape in reversed(shapes):
        if shape.in_tiles:
            start, stop = start // SIDE * SIDE, -(-stop // SIDE) * SIDE
        start, stop = shape.needs(start, stop)
        spans.append((start, stop))
    return spans[::-1]
