"""A picture the right way up: cameras note how they were held, and leave the pixels as they come."""

import numpy as np
from numpy.typing import NDArray

from tiler.sources.fingerprint import fingerprint_source
from tiler.sources.source import Source
from tiler.window import Span, Window


class Turned:
    """A source that is turned or mirrored.

    Args:
        source: as it is stored.
        orientation: 2 to 8. Source: the tag Orientation of TIFF 6.0, which EXIF has taken over.
    """

    def __init__(self, source: Source, orientation: int) -> None:
        self._source = source
        # Where the first stored row and column are shown: 2 top right, 3 bottom right, 4 bottom left; from 5 on rows
        # are shown as columns: 5 left top, 6 right top, 7 right bottom, 8 left bottom.
        self._swapped = orientation > 4
        self._flips = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), as it is shown."""
        height, width, channels = self._source.shape
        return (width, height, channels) if self._swapped else (height, width, channels)

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return fingerprint_source(self._source)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the source."""
        return tuple(getattr(self._source, "notes", ()))

    @property
    def held_bytes(self) -> int:
        """That of the source."""
        return getattr(self._source, "held_bytes", 0)

    @property
    def spool_bytes(self) -> int:
        """That of the source."""
        return getattr(self._source, "spool_bytes", 0)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        spans = [
            Span(size - span.stop, size - span.start) if flipped else span
            for span, size, flipped in zip((window.rows, window.columns), self.shape[:2], self._flips, strict=True)
        ]
        values = self._source.read(Window(*(spans[::-1] if self._swapped else spans)))
        if self._swapped:
            values = values.swapaxes(0, 1)
        steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in self._flips)
        return np.ascontiguousarray(values[steps])
