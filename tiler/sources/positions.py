"""The values of a source at other positions: turned, continued at its edges, joined at its ends.

Where ends join, as those of a texture or a panorama do, a source goes on beyond an end from the other one::

    source               0                 size
                   ------|=================|------
    read as       size-m …        …       … m            the same rows again, as often as the margin needs them

So there is nothing special about the decoding: the plan makes the image, which is the middle of what the source
gives, and what a pixel near an end sees is in the margin. The margin is wider than that, so that no tile reaches the
end of it and takes that for a border of the image.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiler.errors import OptionError
from tiler.sources.source import DerivedSource, Readable, Source
from tiler.window import Span, Window

Wrap = Literal["x", "y", "both"]
"""Which ends join: left and right, top and bottom, or both."""


class Turned(DerivedSource):
    """A source that is turned or mirrored.

    Args:
        source: as it is stored.
        orientation: 2 to 8. Source: the tag Orientation of TIFF 6.0, which EXIF has taken over.
    """

    def __init__(self, source: Readable, orientation: int) -> None:
        super().__init__(source)
        # Where the first stored row and column are shown: 2 top right, 3 bottom right, 4 bottom left; from 5 on rows
        # are shown as columns: 5 left top, 6 right top, 7 right bottom, 8 left bottom.
        self._swapped = orientation > 4
        self._flips = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), as it is shown."""
        height, width, channels = self.source.shape
        return (width, height, channels) if self._swapped else (height, width, channels)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        spans = [
            Span(size - span.stop, size - span.start) if flipped else span
            for span, size, flipped in zip((window.rows, window.columns), self.shape[:2], self._flips, strict=True)
        ]
        values = self.source.read(Window(*(spans[::-1] if self._swapped else spans)))
        if self._swapped:
            values = values.swapaxes(0, 1)
        steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in self._flips)
        return np.ascontiguousarray(values[steps])


class EdgePadded(DerivedSource):
    """A source made larger to whole multiples: its last row and column are repeated.

    Args:
        source: any source.
        multiple: what height and width become multiples of, in px.

    Raises:
        OptionError: ``multiple`` is less than 1.
    """

    def __init__(self, source: Readable, multiple: int) -> None:
        if multiple < 1:
            raise OptionError(f"Not a multiple to fill up to: multiple={multiple} px. Use 1 or more.")
        super().__init__(source)
        self._multiple = multiple

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), height and width multiples of ``multiple``."""
        height, width, channels = self.source.shape
        return height + -height % self._multiple, width + -width % self._multiple, channels

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        rows, columns = window.rows, window.columns
        return read_clamped(self.source, (rows.start, rows.stop), (columns.start, columns.stop))


def read_clamped(source: Source, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.float32]:
    """Read positions ``[start, stop)`` of each axis; outside of the source, the nearest value inside.

    Args:
        source: any source; it is read inside its borders only.
        rows: start and stop, which may be negative or beyond the height.
        columns: start and stop, likewise.

    Returns:
        (stop - start of the rows, stop - start of the columns, channels) float32.
    """
    height, width, _ = source.shape
    row_positions = np.clip(np.arange(*rows), 0, height - 1)
    column_positions = np.clip(np.arange(*columns), 0, width - 1)
    window = Window(span_positions(row_positions), span_positions(column_positions))
    values = source.read(window)
    if len(row_positions) > window.shape[0]:
        values = values.take(row_positions - window.rows.start, axis=0)
    if len(column_positions) > window.shape[1]:
        values = values.take(column_positions - window.columns.start, axis=1)
    return values


def span_positions(positions: NDArray[np.intp]) -> Span:
    """Return the span of ascending positions."""
    return Span(int(positions[0]), int(positions[-1]) + 1)


class Wrapped(DerivedSource):
    """A source that goes on beyond its ends from the other ones.

    Args:
        source: any source; it is read inside its borders only.
        margins: how far it goes on beyond each end of its rows, and of its columns; 0 where they do not join.
    """

    def __init__(self, source: Readable, margins: tuple[int, int]) -> None:
        super().__init__(source)
        self._margins = margins

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), margins included."""
        height, width, channels = self.source.shape
        return height + 2 * self._margins[0], width + 2 * self._margins[1], channels

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        sizes, spans = self.source.shape[:2], (window.rows, window.columns)
        rows, columns = (
            split_span(span.start - margin, len(span), size)
            for span, margin, size in zip(spans, self._margins, sizes, strict=True)
        )
        strips = [[self.source.read(Window(row, column)) for column in columns] for row in rows]
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


def _join(parts: list[NDArray[np.float32]], axis: int) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
