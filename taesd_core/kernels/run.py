"""One window through the steps: the rows of its maps, some at a time, by which threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int64
from queue import SimpleQueue
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
    """Threads that runs share; the one that asks for a run is one of them.

    Args:
        number: how many.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.pool = ThreadPoolExecutor(max(number - 1, 1), thread_name_prefix="kernels")


class Team:
    """The threads of one run: those that are free, and more as they become free.

    They wait for each other many times in a run, so helpers stay for all of it.
    """

    def __init__(self, threads: Threads, works: Sequence[Work]) -> None:
        self._work, *others = works
        self._parted = False
        self._helpers: list[SimpleQueue[Job | None]] = []
        """What each of them is to do."""
        self._done: SimpleQueue[None] = SimpleQueue()
        self._begun = [threads.pool.submit(self._help, work) for work in others]

    def share(self, job: Job) -> None:
        """Let all threads do a job."""
        helpers = self._helpers[:]
        for each in helpers:
            each.put(job)
        job(self._work)
        for _ in helpers:
            self._done.get()

    def part(self) -> None:
        """Let the helpers go, and wait until they have."""
        self._parted = True
        for each in self._helpers:
            each.put(None)
        for begun in self._begun:
            if not begun.cancel():
                begun.result()

    def _help(self, work: Work) -> None:
        jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._helpers.append(jobs)
        while not self._parted and (job := jobs.get()) is not None:
            try:
                job(work)
            finally:
                self._done.put(None)


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
        self._image, self._to_pixels = image, to_pixels
        self._clamp = load_functions()["clamp"] if clamped else None
        shapes = [step.shape for step in steps]
        rows, columns = (
            find_reaches(shapes, find_edges(shapes, span, ends), keep)
            for span, ends, keep in zip(spans, borders, kept, strict=True)
        )
        layout = lay_out(shapes, rows, columns, threads.number, keeps_last=image is None)
        memory.begin(layout.size)
        self._turns, self._flags = layout.turns, np.zeros((threads.number, lanes()), np.float32)
        works = [Work(memory.take(layout.scratch).ctypes.data, each.ctypes.data) for each in self._flags]
        assert columns[0].length * window.shape[2] % ALIGNMENT == 0 or not clamped, "Whole vectors are clamped."
        channels = [window.shape[2], *(shape.n_out for shape in shapes)]
        self.maps = [
            Map(memory.take(size), *each)
            for size, *each in zip(layout.maps, rows, columns, channels, layout.slots, strict=True)
        ]
        self._team = Team(threads, works)

    @property
    def finite(self) -> bool:
        """Whether no value of any map was NaN or infinite."""
        return not np.isnan(self._flags).any()

    def run(self) -> Map:
        """Make all maps, and return the last one."""
        try:
            for turn in self._turns:
                self._make(*turn)
        finally:
            self._team.part()
        return self.maps[-1]

    def _make(self, number: int, first: int, last: int) -> None:
        """Make rows of a map."""
        out = self.maps[number]
        if number == 0:
            self._enter(out, first, last)
            return
        step = self._steps[number - 1]
        x, added = self.maps[number - 1], self.maps[number - 1 - step.shape.skip]
        self._team.share(step.make_job(x, out, added, first, last))
        out.clear_edges(first, last)
        if number == len(self._steps) and self._image is not None:
            self._draw(out, first, last)

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
        self._team.share(lambda _: to_pixels(*places, numbers))
