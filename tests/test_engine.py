"""One tile: what is wrong with a source or its values is said of the tile that meets it."""

import numpy as np
import pytest

from taesd_core.network import Network
from tiler.errors import InputError, ModelOverflowError, TileError
from tiler.jobs.engine import run_tile
from tiler.plan import Plan

TILE = Plan(Network.decoder(4), 100, 90, 32).tile(1, 2)


class Giving:
    """A source that gives the same, whatever it is asked for."""

    def __init__(self, values):
        self.values = values
        self.shape = (100, 90, 4)

    def read(self, window):
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


def window(fill=0.0, dtype=np.float32):
    return np.full((*TILE.read.shape, 4), fill, dtype)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        pytest.param(window()[1:], InputError, "another window than it was asked for", id="a row less"),
        pytest.param(np.zeros((100, 90, 4), np.float32), InputError, "another window", id="the whole"),
        pytest.param(window(dtype=np.float64), InputError, "another window.*float64", id="float64"),
        pytest.param(window(np.nan), InputError, "NaN or Inf", id="NaN"),
        pytest.param(window(-np.inf), InputError, "NaN or Inf.*value=-inf", id="Inf"),
        pytest.param(OSError("gone"), TileError, "gone", id="an error of its own"),
    ],
)
def test_a_tile_that_fails_is_named(given, error, says):
    with pytest.raises(error, match=says) as caught:
        run_tile(TILE, Giving(given), lambda window, *place: pytest.fail("the model was run"))
    assert str(TILE.read) in str(caught.value)


def test_values_that_the_model_cannot_bear_are_named_by_their_tile():
    def overflow(window, *place):
        raise OverflowError("It overflows. Use another.")

    with pytest.raises(ModelOverflowError, match=r"Tile 1, 2 .*: It overflows\. Use another\.") as caught:
        run_tile(TILE, Giving(window(1e30)), overflow)
    assert str(TILE.read) in str(caught.value)
    assert isinstance(caught.value, InputError)
