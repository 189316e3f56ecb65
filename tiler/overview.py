"""The image of averaged latents: close to a reduced level of the image, at a tiny part of the work."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tiler.jobs.engine import run_tile
from tiler.jobs.statistics import prepare_model
from tiler.model import Model
from tiler.plan import Plan
from tiler.small_picture import cut
from tiler.sources.source import DerivedSource, Source
from tiler.window import Span, Window

CORE = 128
"""Side of a tile, averaged latents."""
STATISTICS_SIDE = 256
"""Longest side of the averaged latents that a network with group norms takes its statistics of."""
PART = 512
"""Rows and columns that are read at a time."""


class Averaged(DerivedSource):
    """Latents of which each is the mean of ``factor`` × ``factor``; those at the far ends of what there is.

    Args:
        source: the latents.
        factor: how many of each axis become one.
    """

    def __init__(self, source: Source, factor: int) -> None:
        super().__init__(source)
        self._factor = factor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.source.shape
        return -(-height // self._factor), -(-width // self._factor), channels

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the means, read a part at a time."""
        means = np.empty((*window.shape, self.shape[2]), np.float32)
        step = max(1, PART // self._factor)
        for rows in cut(len(window.rows), step):
            for columns in cut(len(window.columns), step):
                part = Window(rows + window.rows.start, columns + window.columns.start)
                means[rows.slice, columns.slice] = self._average(part)
        return means

    def _average(self, window: Window) -> NDArray[np.float32]:
        spans = []
        for span, size in zip((window.rows, window.columns), self.source.shape, strict=False):
            spans.append(Span(span.start * self._factor, min(span.stop * self._factor, size)))
        values = self.source.read(Window(*spans)).astype(np.float64)
        # What becomes infinite here is for the engine to find.
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, span in enumerate(spans):
                starts = np.arange(0, len(span), self._factor)
                counts = np.minimum(self._factor, len(span) - starts)
                sums = np.add.reduceat(values, starts, axis=axis)
                values = sums / counts.reshape([-1 if each == axis else 1 for each in range(3)])
            return values.astype(np.float32)


class Overview:
    """Reduced levels of the image, of averaged latents.

    Args:
        plan: of the image.
        source: its latents, without margins.
        load_model: gives the decoder.
    """

    def __init__(self, plan: Plan, source: Source, load_model: Callable[[], Model]) -> None:
        self._plan, self._source, self._load_model = plan, source, load_model
        self._model: Model | None = None

    def read(self, level: int, window: Window, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a window of a level.

        Args:
            level: from 0.
            window: in px of the level, of ``shape``.
            shape: (height, width) of the level.
        """
        source, plan = self._plan_level(level)
        # Where a region begins, to the next px of the level.
        rows, columns = self._plan.made.rows.start >> level, self._plan.made.columns.start >> level
        height, width = plan.output_shape[:2]
        top, left = min(rows + window.rows.start, height - 1), min(columns + window.columns.start, width - 1)
        found = Window(
            Span(top, min(rows + window.rows.stop, height)), Span(left, min(columns + window.columns.stop, width))
        )
        part = Plan(plan.network, plan.height, plan.width, CORE, 1, found, engine=plan.engine)
        if self._model is None:
            self._model = self._prepare()
        pixels: NDArray[np.uint8] | None = None
        for tile in part.tiles():
            made = run_tile(tile, source, self._model)
            if pixels is None:
                pixels = np.empty((*found.shape, made.shape[2]), made.dtype)
            pixels[tile.write.slices] = made
        assert pixels is not None
        # By roundings a level may have a row or a column more than the averaged latents decode to.
        missing = [(0, length - there) for length, there in zip(window.shape, found.shape, strict=True)]
        return np.pad(pixels, (*missing, (0, 0)), mode="edge")

    def _plan_level(self, level: int) -> tuple[Source, Plan]:
        source = Averaged(self._source, 1 << level) if level else self._source
        height, width, _ = source.shape
        return source, Plan(self._plan.network, height, width, CORE, 1, engine=self._plan.engine)

    def _prepare(self) -> Model:
        level = 0
        while max(self._source.shape[:2]) >> level > STATISTICS_SIDE:
            level += 1
        source, plan = self._plan_level(level)
        return prepare_model(self._load_model(), plan, source)
