"""One tile: read its window, run the model, keep the core."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, TileError, TilerError
from tiler.model import Model
from tiler.plan import Tile
from tiler.source import Source


def run_tile(tile: Tile, source: Source, model: Model) -> NDArray[Any]:
    """Return the pixels of the tile's core.

    Returns:
        (height, width, channels), as large as ``tile.write``.

    Raises:
        InputError: the window holds NaN or Inf.
        TileError: anything else went wrong; the cause is chained.
    """
    try:
        return _run(tile, source, model)
    except TilerError:
        raise
    except Exception as error:
        raise TileError(f"Tile {tile.row}, {tile.column} failed ({tile.read}): {error}") from error


def _run(tile: Tile, source: Source, model: Model) -> NDArray[Any]:
    try:
        window = source.read(tile.read)
        _check_finite(window, tile)
        return model(window, tile.borders)[tile.crop.slices]
    except MemoryError:
        quarters = tile.quarters()
        if len(quarters) == 1:
            raise
    # Too large for the device: four times a quarter gives the same pixels, with more margins.
    origin = tile.write
    pixels: NDArray[Any] | None = None
    for quarter in quarters:
        part = _run(quarter, source, model)
        if pixels is None:
            pixels = np.empty((*origin.shape, part.shape[2]), part.dtype)
        pixels[(quarter.write - (origin.rows.start, origin.columns.start)).slices] = part
    assert pixels is not None
    return pixels


def _check_finite(window: NDArray[np.float32], tile: Tile) -> None:
    if np.isfinite(window).all():
        return
    row, column, channel = np.argwhere(~np.isfinite(window))[0].tolist()
    raise InputError(
        f"The input holds NaN or Inf: value={window[row, column, channel]} at row "
        f"{tile.read.rows.start + row}, column {tile.read.columns.start + column}, channel {channel} "
        f"(tile {tile.row}, {tile.column}: {tile.read}). Mend the input."
    )
