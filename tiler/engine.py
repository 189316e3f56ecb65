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
        window = source.read(tile.read)
        if not np.isfinite(window).all():
            row, column, channel = np.argwhere(~np.isfinite(window))[0].tolist()
            raise InputError(
                f"The input holds NaN or Inf: value={window[row, column, channel]} at row "
                f"{tile.read.rows.start + row}, column {tile.read.columns.start + column}, channel {channel} "
                f"(tile {tile.row}, {tile.column}: {tile.read}). Mend the input."
            )
        return model(window, tile.borders)[tile.crop.slices]
    except TilerError:
        raise
    except Exception as error:
        raise TileError(f"Tile {tile.row}, {tile.column} failed ({tile.read}): {error}") from error
