"""NaN and Inf become 0 and nothing else changes; each counts once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from taesd_core.network import Network
from tiler.errors import OptionError
from tiler.plan import Plan
from tiler.sources import ranges
from tiler.sources.array_source import ArraySource
from tiler.sources.ranges import Finite, Replaced, treat_nonfinite
from tiler.sources.source import fingerprint_source
from tiler.sources.upscale import Upscaled
from tiler.window import Span, Window


def make(height=40, width=30, share=0.05):
    random = np.random.default_rng(0)
    values = random.normal(size=(height, width, 4)).astype(np.float32)
    odd = random.random(values.shape) < share
    values[odd] = random.choice([np.nan, np.inf, -np.inf], odd.sum())
    return values, odd


def test_what_is_not_finite_is_0_and_the_rest_as_it_was():
    values, odd = make()
    kept = values.copy()
    source = Finite(ArraySource(values, 4), Replaced())
    window = Window.whole(40, 30)
    read = source.read(window)
    np.testing.assert_array_equal(read, np.where(odd, 0, values))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(values, kept)
    assert source.shape == (40, 30, 4)


def test_each_value_counts_once_though_windows_share_margins():
    values, odd = make()
    replaced = Replaced()
    source = Finite(ArraySource(values, 4), replaced)
    plan = Plan(Network.decoder(4), 40, 30, 8, 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda tile: source.read(tile.read), plan.tiles()))
    assert len(replaced) == odd.sum()


def test_places_are_those_of_the_whole_and_not_of_the_window():
    values = np.zeros((9, 7, 4), np.float32)
    values[8, 6, 3] = values[0, 0, 0] = np.nan
    replaced = Replaced()
    source = Finite(ArraySource(values, 4), replaced)
    for window in (Window.whole(9, 7), Window(Span(5, 9), Span(3, 7))):
        source.read(window)
    assert replaced._places.tolist() == [0, 9 * 7 * 4 - 1]


def test_memory_for_places_is_bounded(monkeypatch):
    monkeypatch.setattr(ranges, "MOST_PLACES", 100)
    replaced = Replaced()
    Finite(ArraySource(np.full((40, 30, 4), np.nan, np.float32), 4), replaced).read(Window.whole(40, 30))
    assert len(replaced) == 100


def test_one_nan_stays_one_when_the_latents_are_enlarged():
    values, odd = make(share=0.01)
    whole = Window.whole(80, 60)
    enlarged = Upscaled(treat_nonfinite(ArraySource(values, 4), "zero"), 2).read(whole)
    expected = Upscaled(ArraySource(np.where(odd, np.float32(0), values), 4), 2).read(whole)
    np.testing.assert_array_equal(enlarged, expected)


def test_the_fingerprint_is_that_of_the_source():
    values, _ = make()
    source = ArraySource(values, 4)
    assert fingerprint_source(treat_nonfinite(source, "zero")) == fingerprint_source(source)
    assert treat_nonfinite(source, "error") is source
    with pytest.raises(OptionError, match="nonfinite=ignore"):
        treat_nonfinite(source, "ignore")
