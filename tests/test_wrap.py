"""Images whose ends join: the middle of the same latents, repeated as often as anything can see."""

import numpy as np
import pytest
from conftest import random_tensors, run_serially
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_decoder import HeldSource, IntegerDecoder

from taesd_core.network import Network
from taesd_core.whole_image import build_whole_image_model
from taesd_core.window_model import WindowModel
from tiler.errors import OptionError
from tiler.plan import Plan
from tiler.sources.positions import Wrapped
from tiler.sources.upscale import Upscaled, find_margins
from tiler.window import Span, Window

DECODER = Network.decoder(4)


def make_source(height, width, channels=2):
    values = np.random.default_rng(100 * height + width).normal(size=(height, width, channels))
    return HeldSource(values.astype(np.float32))


def read_all(source):
    return source.read(Window.whole(*source.shape[:2]))


def repeat(source, wrap, n):
    """The same latents ``2 n + 1`` times along the axes that wrap, and the place of the middle ones among them."""
    height, width, _ = source.shape
    down, across = n if wrap in ("y", "both") else 0, n if wrap in ("x", "both") else 0
    values = np.tile(read_all(source), (2 * down + 1, 2 * across + 1, 1))
    rows, columns = Span(down * height, (down + 1) * height), Span(across * width, (across + 1) * width)
    return HeldSource(values), Window(rows, columns)


def wrap_and_plan(network, source, wrap, upscale, core, region=None):
    margins = find_margins(wrap, network.halo, upscale)
    wrapped = Upscaled(Wrapped(source, margins), upscale)
    height, width = (size * upscale for size in source.shape[:2])
    rows, columns = (margin * upscale for margin in margins)
    return wrapped, Plan(network, height, width, core, region=region, margins=(rows, columns))


@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    wrap=st.sampled_from([None, "x", "y", "both"]),
    upscale=st.integers(1, 4),
    core=st.integers(1, 9),
    data=st.data(),
)
def test_a_wrapped_image_is_the_middle_of_its_repetition(height, width, wrap, upscale, core, data):
    decoder, source = IntegerDecoder(), make_source(height, width)
    # One latent is repeated until nothing sees the end of that.
    n = -(-(decoder.halo + 2) // min(height, width))
    repeated, middle = repeat(source, wrap, n)
    expected = decoder.decode_whole(Upscaled(repeated, upscale))[(middle * (upscale * decoder.scale_out)).slices]
    starts = [data.draw(st.integers(0, size - 1)) for size in expected.shape[:2]]
    stops = [data.draw(st.integers(start + 1, size)) for start, size in zip(starts, expected.shape[:2], strict=True)]
    region = data.draw(st.sampled_from([None, Window(*map(Span, starts, stops))]))
    wrapped, plan = wrap_and_plan(decoder, source, wrap, upscale, core, region)
    found = run_serially(plan, decoder, read_all(wrapped))
    np.testing.assert_array_equal(found, expected if region is None else expected[region.slices])
    for tile in plan.tiles():
        rows, columns = tile.borders
        assert not (wrap in ("y", "both") and any(rows))
        assert not (wrap in ("x", "both") and any(columns))


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    rows=st.integers(0, 20),
    columns=st.integers(0, 20),
    data=st.data(),
)
def test_every_window_of_a_wrapped_source_is_that_of_numpys_wrapped_array(height, width, rows, columns, data):
    source = make_source(height, width)
    expected = np.pad(read_all(source), ((rows, rows), (columns, columns), (0, 0)), mode="wrap")
    wrapped = Wrapped(source, (rows, columns))
    assert wrapped.shape == expected.shape
    starts = [data.draw(st.integers(0, size - 1)) for size in expected.shape[:2]]
    stops = [data.draw(st.integers(start + 1, size)) for start, size in zip(starts, expected.shape[:2], strict=True)]
    window = Window(*map(Span, starts, stops))
    values = wrapped.read(window)
    np.testing.assert_array_equal(values, expected[window.slices])
    assert values.dtype == np.float32


class RecordingSource:
    """Zeros, and a note of what was read of them."""

    shape = (1000, 1000, 4)

    def __init__(self):
        self.windows = []

    def read(self, window):
        self.windows.append(window)
        return np.zeros((*window.shape, 4), np.float32)


def test_only_what_a_window_holds_is_read_and_nothing_twice():
    source = RecordingSource()
    wrapped = Wrapped(source, (20, 0))
    wrapped.read(Window(Span(100, 120), Span(5, 9)))
    assert source.windows == [Window(Span(80, 100), Span(5, 9))]
    source.windows.clear()
    wrapped.read(Window(Span(15, 30), Span(5, 9)))
    assert source.windows == [Window(Span(995, 1000), Span(5, 9)), Window(Span(0, 10), Span(5, 9))]
    source.windows.clear()
    Wrapped(source, (5000, 0)).read(Window(Span(1, 9000), Span(5, 9)))
    assert sum(len(window.rows) for window in source.windows) == 1000


@pytest.mark.parametrize("wrap", ["", "z", "xy", True])
def test_ends_that_there_are_not_are_refused(wrap):
    with pytest.raises(OptionError, match="No such ends to join"):
        find_margins(wrap, 19)


@pytest.fixture(scope="module")
def decoder():
    """The real network, exact and plain, with the same random weights."""
    tensors = random_tensors(DECODER)
    plain = build_whole_image_model(DECODER.layers, tensors)
    return WindowModel(DECODER, tensors), lambda latents: plain.predict_on_batch(latents[None])[0]


@pytest.mark.parametrize(
    ("height", "width", "wrap", "upscale", "n"),
    [
        (9, 22, "x", 1, 1),
        (20, 9, "y", 1, 1),
        (20, 21, "both", 1, 1),
        (5, 7, "both", 1, 4),  # smaller than the halo
        (11, 12, "both", 2, 1),
    ],
)
def test_the_real_network_sees_no_seam(decoder, latents, height, width, wrap, upscale, n):
    exact, plain = decoder
    source = HeldSource(latents(height, width) * 2)
    repeated, middle = repeat(source, wrap, n)
    whole = plain(read_all(Upscaled(repeated, upscale)))
    wrapped, plan = wrap_and_plan(DECODER, source, wrap, upscale, 16)
    found = run_serially(plan, exact, read_all(wrapped))
    expected = whole[(middle * (upscale * 8)).slices]
    assert np.abs(found - expected).max() <= 2e-5 * np.ptp(whole)
    # Where nothing wraps there is a border, and the test would see it.
    unwrapped, plan = wrap_and_plan(DECODER, source, None, upscale, 16)
    assert np.abs(run_serially(plan, exact, read_all(unwrapped)) - expected).max() > 0.01 * np.ptp(whole)
