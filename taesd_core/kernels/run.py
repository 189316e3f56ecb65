"""One window through the steps: the rows of its maps, some at a time, by which threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels.geometry import Ends, Span, find_edges, find_reaches
from taesd_core.kernels.library import Function, lanes, load_functions
from taesd_core.kernels.maps import Map, Memory
from taesd_core.kernels.memory import ALIGNMENT, lay_out
from taesd_core.kernels.steps import Job, Step, Work

Spans = tuple[Span, Span]
"""Rows and columns, px of a map counted from the corner of the image."""


class Threads:
    """Threads that share work; the one that asks is one of them.

    Args:
        number: how many.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool = ThreadPoolExecutor(max(number - 1, 1), thread_name_prefix="kernels")

    def share(self, job: Job, works: Sequence[Work]) -> None:
        """Let all threads do a job."""
        others = [self._pool.submit(job, work) for work in works[1:]]
        job(works[0])
        for each in others:
            # One that has not begun has nothing left to do.
            if not each.cancel():
                each.result()


class Run:
    """A window on its way.

    Args:
        steps: all of them.
        clamped: whether the input is kept in (-3, 3) first.
        window: (rows, columns, channels).
        spans: where it lies in the input.
        borders: which of its sides are ends of the image.
        kept: what is kept of the last map.
        threads: that share the work.
        memory: for the maps.
        image: what the last map is turned into; None where that is kept as it is.
        to_pixels: what does it.
    """

    def __init__(
        self, steps: Sequence[Step], clamped: bool, window: NDArray[np.float32], spans: Spans,
        borders: tuple[Ends, Ends], kept: Spans, threads: Threads, memory: Memory,
        image: NDArray[Any] | None = None, to_pixels: Function | None = None,
    ) -> None:  # fmt: skip
        self._steps, self._window, self._spans, self._kept = steps, window, spans, kept
        self._threads, self._image, self._to_pixels = threads, image, to_pixels
        self._clamp = load_functions()["clamp"] if clamped else None
        shapes = [step.shape for step in steps]
        rows, columns = (
            find_reaches(shapes, find_edges(shapes, span, ends), keep)
            for span, ends, keep in zip(spans, borders, kept, strict=True)
        )
        layout = lay_out(shapes, rows, columns, threads.number, keeps_last=image is None)
        memory.begin(layout.size)
        self._turns, self._flags = layout.turns, np.zeros((threads.number, lanes()), np.float32)
        self._works = [Work(memory.take(layout.scratch).ctypes.data, each.ctypes.data) for each in self._flags]
        assert columns[0].length * window.shape[2] % ALIGNMENT == 0 or not clamped, "Whole vectors are clamped."
        channels = [window.shape[2], *(shape.n_out for shape in shapes)]
        self.maps = [
            Map(memory.take(size), *each)
            for size, *each in zip(layout.maps, rows, columns, channels, layout.slots, strict=True)
        ]

    @property
    def finite(self) -> bool:
        """Whether no value of any map was NaN or infinite."""
        return not np.isnan(self._flags).any()

    def run(self) -> Map:
        """Make all maps, and return the last one."""
        for number, first, last in self._turns:
            out = self.maps[number]
            if number == 0:
                self._enter(out, first, last)
                continue
            step = self._steps[number - 1]
            x, added = self.maps[number - 1], self.maps[number - 1 - step.shape.skip]
            self._threads.share(step.make_job(x, out, added, first, last), self._works)
            out.clear_edges(first, last)
            if number == len(self._steps) and self._image is not None:
                self._draw(out, first, last)
        return self.maps[-1]

    def _enter(self, x: Map, first: int, last: int) -> None:
        """Take rows of the window, as far as it goes."""
        (top, bottom), (left, right) = self._spans
        low, high = max(left, x.columns.start), min(right, x.columns.stop)
        for row in range(first, last):
            line = x.array[x.slot(row), 1:-1]
            line[...] = 0
            if top <= row < bottom:
                part = self._window[row - top, low - left : high - left]
                line[low - x.columns.start : high - x.columns.start] = part
                if self._clamp is not None:
                    self._clamp(line.ctypes.data, (c_int64 * 2)(0, line.size))

    def _draw(self, values: Map, first: int, last: int) -> None:
        """Make pixels of rows of the last map."""
        assert self._image is not None
        assert self._to_pixels is not None
        to_pixels, ((top, bottom), (left, right)) = self._to_pixels, self._kept
        first, last = max(first, top), min(last, bottom)
        _, width, channels = self._image.shape
        places = values.at(left), self._image[first - top :].ctypes.data
        numbers = (c_int64 * 9)(
            0, last - first, right - left, channels, values.row, values.slots, first - values.rows.start,
            values.channels, width * channels,
        )  # fmt: skip
        self._threads.share(lambda _: to_pixels(*places, numbers), self._works)
