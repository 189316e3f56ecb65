"""One window through the steps: which part of each map is made, in what order, by which threads.

Backwards from what is kept, each map is made as far as the steps behind it need, and on to a whole tile of four. Maps
of the highest resolution are made in bands of rows, so that memory does not grow with the window::

    segment   the steps at one resolution
     band     rows of its output; what its steps need of the map before the segment
      step    all strips of four rows, taken by the threads as they come
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels.maps import Map, Memory, Reach
from taesd_core.kernels.pixels import clamp
from taesd_core.kernels.steps import Step, ToPixels, Work
from taesd_core.kernels.transforms import SIDE
from taesd_core.kernels.vectors import lanes

Ends = tuple[bool, bool]
Kept = tuple[tuple[int, int], tuple[int, int]]
"""What is kept of the last map, rows and columns, px counted from the corner of the image."""
Edges = tuple[int | None, int | None]
"""Where a map begins and ends with the image along one axis; None where the window ends before."""
BAND_BYTES = 48_000_000
"""Most of a map between two steps; what is larger is made in bands of rows."""
SHORTEST_BAND = 64
"""Rows of a band at least: those of its margins are made twice."""
PARTS = 8
"""Into how many parts a thread's share of a step is cut, so that all end at about the same time."""


def find_segments(steps: Sequence[Step]) -> Iterator[range]:
    """Yield the steps of each resolution: an upsampling begins one, a stride ends one."""
    start = 0
    for number, step in enumerate(steps):
        if step.ratio == (2, 1) and number > start:
            yield range(start, number)
            start = number
        if step.ratio == (1, 2):
            yield range(start, number + 1)
            start = number + 1
    if start < len(steps):
        yield range(start, len(steps))


def find_edges(steps: Sequence[Step], start: int, stop: int, ends: Ends) -> list[Edges]:
    """Return where each map ends with the image along one axis.

    Args:
        steps: between the maps.
        start: of the window, px of the input counted from the corner of the image.
        stop: likewise.
        ends: whether these are borders of the image.
    """
    spans = [(start, stop)]
    for step in steps:
        n_out, n_in = step.ratio
        spans.append((spans[-1][0] * n_out // n_in, spans[-1][1] * n_out // n_in))
    low, high = ends
    return [(first if low else None, last if high else None) for first, last in spans]


def find_reaches(steps: Sequence[Step], edges: Sequence[Edges], kept: tuple[int, int]) -> list[Reach]:
    """Return what is made of each map along one axis, the input's first.

    Args:
        steps: between the maps.
        edges: of the maps.
        kept: what is needed of the last map.
    """
    reaches = []
    start, stop = kept
    for number in range(len(steps), -1, -1):
        first, last = edges[number]
        start, stop = start if first is None else max(start, first), stop if last is None else min(stop, last)
        low, high = start // SIDE * SIDE, -(-stop // SIDE) * SIDE
        step = steps[number - 1] if number else None
        begin, end = start, stop
        if step is not None and step.in_tiles:
            begin, end = low if first is None else max(low, first), high if last is None else min(high, last)
        reaches.append(Reach(low, high, begin, end, (start, stop)))
        if step is not None:
            start, stop = step.needs(start, stop)
    return reaches[::-1]


class Run:
    """A window on its way.

    Args:
        steps: all of them.
        spans: of the window, px of the input counted from the corner of the image.
        borders: which of its sides are borders of the image.
        kept: what is kept of the last map.
        n_threads: of which this is one.
        pool: the others.
        memory: for the maps.
    """

    def __init__(
        self, steps: Sequence[Step], spans: Kept, borders: tuple[Ends, Ends], kept: Kept, n_threads: int,
        pool: ThreadPoolExecutor, memory: Memory,
    ) -> None:  # fmt: skip
        self._steps, self._spans, self._kept, self._memory = steps, spans, kept, memory
        self._n_threads, self._pool = n_threads, pool
        self._edges = [find_edges(steps, *span, ends) for span, ends in zip(spans, borders, strict=True)]
        self._rows, self._columns = (
            find_reaches(steps, edges, axis) for edges, axis in zip(self._edges, kept, strict=True)
        )
        n_scratch = max(step.scratch_size for step in steps)
        self._works = [Work(memory.take(n_scratch), np.zeros(lanes(), np.float32)) for _ in range(n_threads)]

    def end(self) -> None:
        """Give back what is no map."""
        for work in self._works:
            self._memory.give_back(work.scratch)

    @property
    def finite(self) -> bool:
        """Whether no value of any map was NaN or infinite so far."""
        return not any(np.isnan(work.flags).any() for work in self._works)

    def enter(self, window: NDArray[np.float32], *, clamped: bool) -> Map:
        """Return the window as a map."""
        rows, columns, channels = self._rows[0], self._columns[0], window.shape[2]
        x = Map(self._memory.take(Map.size(rows, columns, channels)), rows, columns, channels)
        inner = x.array()
        inner[...] = 0
        (top, bottom), (left, right) = (
            (max(span[0], reach.start), min(span[1], reach.stop))
            for span, reach in zip(self._spans, (rows, columns), strict=True)
        )
        at_row, at_column = top - rows.start + 1, left - columns.start + 1
        (first, _), (start, _) = self._spans
        inner[at_row : at_row + bottom - top, at_column : at_column + right - left] = window[
            top - first : bottom - first, left - start : right - start
        ]
        if clamped:
            clamp(inner.reshape(-1))
        return x

    def run_segment(self, x: Map, numbers: range, image: NDArray[Any] | None) -> Map | None:
        """Run the steps of a segment, and give back ``x``; return its last map, or None if that is the image."""
        steps = self._steps[numbers.start : numbers.stop]
        rows, columns = (reaches[numbers.start : numbers.stop + 1] for reaches in (self._rows, self._columns))
        out = None
        start, stop = rows[-1].needed
        if not isinstance(steps[-1], ToPixels):
            out = self._take(rows[-1], columns[-1], steps[-1].n_out)
        row_bytes = max(len(reach) * step.n_out * 4 for reach, step in zip(columns[:-1], steps, strict=True))
        # Where the last step has a stride, its rows are of another resolution.
        length = max(SHORTEST_BAND, BAND_BYTES // row_bytes) * steps[-1].ratio[0] // max(steps[-1].ratio[1], 1)
        first = start // SIDE * SIDE
        n_bands = ceil((stop - first) / length)
        length = ceil((stop - first) / n_bands / SIDE) * SIDE
        for low in range(first, stop, length):
            self._run_band(x, steps, numbers.start, (max(low, start), min(low + length, stop)), columns, out, image)
        self._memory.give_back(x.data)
        return out

    def _run_band(
        self, x: Map, steps: Sequence[Step], first_step: int, band: tuple[int, int], columns: Sequence[Reach],
        out: Map | None, image: NDArray[Any] | None,
    ) -> None:  # fmt: skip
        edges = self._edges[0][first_step : first_step + len(steps) + 1]
        rows = find_reaches(steps, edges, band)
        last_use = {place: number for number, step in enumerate(steps) for place in (number, number - step.skip)}
        maps = [x]
        for number, step in enumerate(steps):
            source, last = maps[number], number == len(steps) - 1
            if isinstance(step, ToPixels):
                assert image is not None
                self._make_pixels(step, source, rows[-1], columns[-1], band, image)
            else:
                made = out if last else self._take(rows[number + 1], columns[number + 1], step.n_out)
                assert made is not None
                self._make_map(step, source, made, maps[number - step.skip], rows[number + 1])
                maps.append(made)
            for place in {number, number - step.skip}:
                each = maps[place]
                if last_use[place] == number and each is not x:
                    self._memory.give_back(each.data)

    def _take(self, rows: Reach, columns: Reach, channels: int) -> Map:
        return Map(self._memory.take(Map.size(rows, columns, channels)), rows, columns, channels)

    def _make_map(self, step: Step, x: Map, out: Map, added: Map, rows: Reach) -> None:
        def run(first: int, last: int, work: Work) -> None:
            step.run(x, out, added, first, last, work)
            out.clear_edges(first, last)

        self._share(rows, run)

    def _make_pixels(
        self, step: ToPixels, x: Map, rows: Reach, columns: Reach, band: tuple[int, int], image: NDArray[Any]
    ) -> None:
        top, left = band[0] - self._kept[0][0], self._kept[1][0]
        part = image[top : top + band[1] - band[0]]

        def run(first: int, last: int, work: Work) -> None:
            step.run_to(x, columns, part, (band[0], left), first, last, work)

        self._share(rows, run)

    def _share(self, rows: Reach, run: Callable[[int, int, Work], None]) -> None:
        """Let the threads make the strips of four rows, as they come."""
        n_strips = len(rows) // SIDE
        length = max(1, n_strips // (PARTS * self._n_threads))
        starts = range(0, n_strips, length)
        turns = count()

        def take_turns(work: Work) -> None:
            # To take the next number is one step of the interpreter.
            while (turn := next(turns)) < len(starts):
                first = starts[turn]
                run(rows.start + SIDE * first, rows.start + SIDE * min(first + length, n_strips), work)

        if self._n_threads == 1 or len(starts) == 1:
            take_turns(self._works[0])
            return
        others = [self._pool.submit(take_turns, work) for work in self._works[1:]]
        take_turns(self._works[0])
        for each in others:
            each.result()
