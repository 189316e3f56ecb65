"""One tile: read its window, run the model, keep the core."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Semaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.engines import DeviceMemoryError
from tiler.errors import InputError, ModelOverflowError, TileError, TilerError
from tiler.model import Crop, Ends, GatheringModel, Model, Moments
from tiler.plan import Tile
from tiler.profile import Profile
from tiler.sources.ranges import check_finite
from tiler.sources.source import Source


def run_tile(tile: Tile, source: Source, model: Model) -> NDArray[Any]:
    """Return the pixels of the tile's core.

    Returns:
        (height, width, channels), as large as ``tile.write``.

    Raises:
        InputError: the window holds NaN or Inf, or the model makes them of it.
        TileError: anything else went wrong; the cause is chained.
    """
    with _naming(tile):
        return _run(tile, source, model)


def gather_tile(tile: Tile, source: Source, model: GatheringModel) -> Moments:
    """Return what a tile adds to the statistics of the pass that it belongs to.

    Raises:
        InputError: the window holds NaN or Inf, or the model makes them of it.
        TileError: anything else went wrong; the cause is chained.
    """
    with _naming(tile):
        return _gather(tile, source, model)


@contextmanager
def _naming(tile: Tile) -> Iterator[None]:
    try:
        yield
    except TilerError:
        raise
    except OverflowError as error:
        raise ModelOverflowError(f"Tile {tile.row}, {tile.column} cannot be run ({tile.read}): {error}") from error
    except Exception as error:
        raise TileError(f"Tile {tile.row}, {tile.column} failed ({tile.read}): {error}") from error


def _gather(tile: Tile, source: Source, model: GatheringModel) -> Moments:
    try:
        return model.gather(_read_window(tile, source), tile.borders, tile.crop.slices, tile.origin)
    except DeviceMemoryError:
        quarters = tile.quarters()
        if len(quarters) == 1:
            raise
    first, *others = (_gather(quarter, source, model) for quarter in quarters)
    for each in others:
        first = first + each
    return first


def _run(tile: Tile, source: Source, model: Model) -> NDArray[Any]:
    try:
        window = _read_window(tile, source)
        pixels = model(window, tile.borders, tile.crop.slices, tile.origin)
    except DeviceMemoryError:
        quarters = tile.quarters()
        if len(quarters) == 1:
            raise
    else:
        return pixels
    # Too large for the device: four times a quarter gives the same pixels, with more margins.
    origin = tile.write
    whole: NDArray[Any] | None = None
    for quarter in quarters:
        part = _run(quarter, source, model)
        if whole is None:
            whole = np.empty((*origin.shape, part.shape[2]), part.dtype)
        whole[(quarter.write - origin).slices] = part
    assert whole is not None
    return whole


def _read_window(tile: Tile, source: Source) -> NDArray[np.float32]:
    window = source.read(tile.read)
    if window.shape[:2] != tile.read.shape or window.dtype != np.float32:
        raise InputError(
            f"The source gave another window than it was asked for: shape={window.shape}, dtype={window.dtype}, "
            f"asked={tile.read.shape} float32 (tile {tile.row}, {tile.column}: {tile.read}). Mend the source."
        )
    check_finite(window, tile.read, of=f" (tile {tile.row}, {tile.column}: {tile.read})")
    return window


class Turns:
    """A model that takes a window at a time, or as many as it says, and no more once the run is stopping.

    Else all tiles that wait for the model when somebody presses Ctrl-C would be decoded first.
    """

    def __init__(self, model: Model, stopping: Event, profile: Profile) -> None:
        self._model, self._stopping, self._profile = model, stopping, profile
        self._turn = Semaphore(getattr(model, "at_once", 1))

    def __call__(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: Crop, origin: tuple[int, int]
    ) -> NDArray[Any]:
        """Return what the model returns.

        Raises:
            StoppedError: the run is stopping.
        """
        with self._turn:
            if self._stopping.is_set():
                raise StoppedError("The run is stopping.")
            with self._profile.measure_model():
                return self._model(window, borders, crop, origin)


class StoppedError(TilerError):
    """A tile was not begun because the run is stopping; nobody gets to see this."""
