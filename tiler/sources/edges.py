"""Beyond the border of a source: its last rows and columns, repeated."""

import numpy as np
from numpy.typing import NDArray

from tiler.errors import OptionError
from tiler.sources.fingerprint import fingerprint_source
from tiler.sources.source import Source
from tiler.window import Span, Window


class EdgePadded:
    """A source made larger to whole multiples: its last row and column are repeated.

    Args:
        source: any source.
        multiple: what height and width become multiples of, in px.

    Raises:
        OptionError: ``multiple`` is less than 1.
    """

    def __init__(self, source: Source, multiple: int) -> None:
        if multiple < 1:
            raise OptionError(f"Not a multiple to fill up to: multiple={multiple} px. Use 1 or more.")
        self._source = source
        self._multiple = multiple

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), height and width multiples of ``multiple``."""
        height, width, channels = self._source.shape
        return height + -height % self._multiple, width + -width % self._multiple, channels

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return fingerprint_source(self._source)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        rows, columns = window.rows, window.columns
        return read_clamped(self._source, (rows.start, rows.stop), (columns.start, columns.stop))


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
