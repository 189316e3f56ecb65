"""Images whose ends join, as those of a texture or a panorama do: beyond an end they go on from the other one.

::

    source               0                 size
                   ------|=================|------
    read as       size-m …        …       … m            the same rows again, as often as the margin needs them

So there is nothing special about the decoding: the plan makes the image, which is the middle of what the source
gives, and what a pixel near an end sees is in the margin. The margin is wider than that, so that no tile reaches the
end of it and takes that for a border of the image.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tiler.errors import OptionError
from tiler.sources.fingerprint import fingerprint_source
from tiler.sources.source import Source
from tiler.sources.upscale import REACH, check_scale
from tiler.window import Span, Window

Wrap = Literal["x", "y", "both"]
"""Which ends join: left and right, top and bottom, or both."""


class Wrapped:
    """A source that goes on beyond its ends from the other ones.

    Args:
        source: any source; it is read inside its borders only.
        margins: how far it goes on beyond each end of its rows, and of its columns; 0 where they do not join.
    """

    def __init__(self, source: Source, margins: tuple[int, int]) -> None:
        self._source = source
        self._margins = margins

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), margins included."""
        height, width, channels = self._source.shape
        return height + 2 * self._margins[0], width + 2 * self._margins[1], channels

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return fingerprint_source(self._source)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        sizes, spans = self._source.shape[:2], (window.rows, window.columns)
        rows, columns = (
            split_span(span.start - margin, len(span), size)
            for span, margin, size in zip(spans, self._margins, sizes, strict=True)
        )
        strips = [[self._source.read(Window(row, column)) for column in columns] for row in rows]
        values = _join([_join(strip, axis=1) for strip in strips], axis=0)
        for axis, span in enumerate(spans):
            n_read = values.shape[axis]
            if n_read < len(span):
                values = values.take(np.arange(len(span)) % n_read, axis=axis)
        return values


def split_span(start: int, length: int, size: int) -> list[Span]:
    """Return what to read of an axis whose ends join, in order: one span or two, no position twice.

    Args:
        start: the first position, which may be negative or beyond the size.
        length: positions wanted; where they are more than there are, they are those read, again and again.
        size: of the axis.
    """
    start %= size
    stop = start + min(length, size)
    if stop <= size:
        return [Span(start, stop)]
    return [Span(start, size), Span(0, stop - size)]


def find_margins(wrap: Wrap | None, halo: int, upscale: int = 1) -> tuple[int, int]:
    """Return the margins, for rows and columns, with which a source that is upscaled shows no seam: source px.

    Args:
        wrap: which ends join, if any.
        halo: context that a pixel of the image needs, px after upscaling.
        upscale: by how much the source is upscaled, margins included.

    Raises:
        OptionError: no such ends, or no such factor.
    """
    if wrap is None:
        return 0, 0
    if wrap not in get_args(Wrap):
        raise OptionError(f"No such ends to join: wrap={wrap}. Use x (left and right), y (top and bottom) or both.")
    # The halo reaches so many source px beyond the image, and interpolation sees two more: further than the halo alone.
    margin = -(-halo // check_scale(upscale)) + REACH
    return margin if wrap in ("y", "both") else 0, margin if wrap in ("x", "both") else 0


def _join(parts: list[NDArray[np.float32]], axis: int) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
