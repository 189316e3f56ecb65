"""Rectangles of integers: solve one axis with ``Span``, then take the product as ``Window``."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open run of positions ``[start, stop)`` along one axis.

    Raises:
        ValueError: when it is empty or starts below 0.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"Span is empty or negative: start={self.start}, stop={self.stop}.")

    def __len__(self) -> int:
        return self.stop - self.start

    def __mul__(self, factor: int) -> "Span":
        return Span(self.start * factor, self.stop * factor)

    def __sub__(self, origin: int) -> "Span":
        return Span(self.start - origin, self.stop - origin)

    def __add__(self, distance: int) -> "Span":
        return Span(self.start + distance, self.stop + distance)

    def cover(self, factor: int) -> "Span":
        """Return the shortest span that holds this one when it is multiplied by ``factor``."""
        return Span(self.start // factor, -(-self.stop // factor))

    def grow(self, margin: int, size: int) -> "Span":
        """Return the span with ``margin`` more positions on each side, clipped to ``[0, size)``."""
        return Span(max(self.start - margin, 0), min(self.stop + margin, size))

    @property
    def slice(self) -> slice:
        """The span as an index."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle: a span of rows times a span of columns."""

    rows: Span
    columns: Span

    @classmethod
    def whole(cls, height: int, width: int) -> "Window":
        """Return the window that covers a map of ``height`` × ``width``."""
        return cls(Span(0, height), Span(0, width))

    def __mul__(self, factor: int) -> "Window":
        return Window(self.rows * factor, self.columns * factor)

    def __sub__(self, outer: "Window") -> "Window":
        """Return the place of this window in ``outer``."""
        return Window(self.rows - outer.rows.start, self.columns - outer.columns.start)

    def __add__(self, outer: "Window") -> "Window":
        """Return the window whose place in ``outer`` this one is."""
        return Window(self.rows + outer.rows.start, self.columns + outer.columns.start)

    def cover(self, factor: int) -> "Window":
        """Return the smallest window that holds this one when it is multiplied by ``factor``."""
        return Window(self.rows.cover(factor), self.columns.cover(factor))

    def grow(self, margin: int, height: int, width: int) -> "Window":
        """Return the window with ``margin`` more on each side, clipped to a map of ``height`` × ``width``."""
        return Window(self.rows.grow(margin, height), self.columns.grow(margin, width))

    def __str__(self) -> str:
        return f"rows {self.rows.start}:{self.rows.stop}, columns {self.columns.start}:{self.columns.stop}"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return len(self.rows), len(self.columns)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window as an index of the two leading axes of an array."""
        return self.rows.slice, self.columns.slice


def split_window(window: Window, size: tuple[int, int]) -> Iterator[tuple[int, int, Window]]:
    """Yield the parts of ``window`` by the cells of (height, width) px that it touches: (row, column, part)."""
    for row, rows in _split_span(window.rows, size[0]):
        for column, columns in _split_span(window.columns, size[1]):
            yield row, column, Window(rows, columns)


def _split_span(span: Span, size: int) -> Iterator[tuple[int, Span]]:
    """Yield the parts of ``span`` by the runs of ``size`` that it touches: (number of the run, part)."""
    for number in range(span.start // size, -(-span.stop // size)):
        yield number, Span(max(span.start, number * size), min(span.stop, (number + 1) * size))
