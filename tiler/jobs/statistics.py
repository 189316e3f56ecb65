"""What must be known of the whole input before its first tile is run: a pass over it for each group norm, if any.

Passes have tiles of their own, of one size whatever the plan's, and add them up in their order: all plans of an image
get the same statistics. Nothing of it is kept for a resumed run, which gathers them again.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.jobs.engine import gather_tile
from tiler.jobs.schedule import Progress
from tiler.model import Crop, Ends, GatheringModel, Model, Moments
from tiler.phase import Phase
from tiler.plan import Plan
from tiler.sources.source import Source

Tell = Callable[[], None]
"""Called after each tile of a pass."""


def gather_statistics(
    plan: Plan, source: Source, model: GatheringModel, tell: Tell = lambda: None
) -> tuple[Moments, ...]:
    """Return the statistics of the whole input, one for each pass of the plan.

    Raises:
        InputError: the input holds NaN or Inf.
        TileError: a tile failed.
    """
    statistics: tuple[Moments, ...] = ()
    pool = ThreadPoolExecutor(plan.workers, thread_name_prefix="gather")
    try:
        for number, each in enumerate(plan.passes, 1):
            phase = Phase(f"Gathering statistics, pass {number} of {len(plan.passes)}", each.n_tiles, "tiles")
            gather = partial(gather_tile, source=source, model=model.with_statistics(statistics))
            total: Moments | None = None
            for row in range(len(each.rows)):
                for part in pool.map(gather, [each.tile(row, column) for column in range(len(each.columns))]):
                    total = part if total is None else total + part
                    phase.count()
                    tell()
            assert total is not None
            statistics += (total,)
    finally:
        pool.shutdown(cancel_futures=True)
    return statistics


class PassTally:
    """Counts the tiles of passes before those of the plan, for one progress over both."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self._progress = progress
        self._n_done, self._n_passed = 0, sum(each.n_tiles for each in plan.passes)
        self._n_tiles = plan.n_tiles

    def tell(self) -> None:
        """Count a tile of a pass."""
        self._n_done += 1
        if self._progress is not None:
            self._progress(self._n_done, self._n_passed + self._n_tiles, 0)

    @property
    def progress(self) -> Progress | None:
        """What the tiles of the plan are told to."""
        progress, n_passed = self._progress, self._n_passed
        if progress is None or not n_passed:
            return progress
        return lambda n_done, n_tiles, n_px: progress(n_passed + n_done, n_passed + n_tiles, n_px)


class PreparedModel:
    """A model of one source that gathers what it needs when its first tile is run, once in each process.

    Args:
        load_model: gives the model.
        plan: how the source is cut into tiles.
        source: what is read.
    """

    def __init__(self, load_model: Callable[[], Model], plan: Plan, source: Source) -> None:
        self._arguments = load_model, plan, source
        self._model: Model | None = None
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedModel, self._arguments

    def __call__(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: Crop, origin: tuple[int, int]
    ) -> NDArray[Any]:
        """Return what the model returns."""
        with self._lock:
            if self._model is None:
                load_model, plan, source = self._arguments
                self._model = prepare_model(load_model(), plan, source)
        return self._model(window, borders, crop, origin)


def prepare_model(model: Model, plan: Plan, source: Source, tell: Tell = lambda: None) -> Model:
    """Return a model that knows the statistics of the whole input, where it needs them."""
    if not plan.passes:
        return model
    assert isinstance(model, GatheringModel)
    return model.with_statistics(gather_statistics(plan, source, model, tell))
