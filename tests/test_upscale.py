import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiler.errors import OptionError
from tiler.sources.array_source import ArraySource
from tiler.sources.upscale import Upscaled
from tiler.window import Span, Window


def make_latents(height, width, channels=4):
    return np.random.default_rng(height * 100 + width).standard_normal((height, width, channels)).astype(np.float32)


def weigh(x, a=-0.75):
    """The cubic as its papers print it."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def make_matrix(size, scale):
    """Every output as a sum over all source positions; what is beyond the border counts for the nearest inside."""
    matrix = np.zeros((size * scale, size))
    for output, position in itertools.product(range(size * scale), range(-4, size + 4)):
        where = (output + 0.5) / scale - 0.5
        matrix[output, min(max(position, 0), size - 1)] += weigh(where - position)
    return matrix


def upscale_slowly(latents, scale):
    rows, columns = make_matrix(latents.shape[0], scale), make_matrix(latents.shape[1], scale)
    return np.einsum("yh,xw,hwc->yxc", rows, columns, latents.astype(np.float64))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (7, 5), (12, 9)], ids=str)
def test_the_whole_is_the_sum_that_defines_it(size, scale):
    latents = make_latents(*size)
    upscaled = Upscaled(ArraySource(latents, 4), scale)
    assert upscaled.shape == (size[0] * scale, size[1] * scale, 4)
    values = upscaled.read(Window.whole(*upscaled.shape[:2]))
    np.testing.assert_allclose(values, upscale_slowly(latents, scale), rtol=0, atol=3e-6)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous


@pytest.mark.parametrize("scale", [2, 3, 4, 7])
def test_the_whole_is_what_torch_gives(scale):
    torch = pytest.importorskip("torch")
    latents = make_latents(23, 31)
    # In float64, as torch computes positions in the type of the values: float32 is 1e-4 off for a factor of 3.
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(latents.astype(np.float64).transpose(2, 0, 1)[np.newaxis]),
        scale_factor=scale,
        mode="bicubic",
        align_corners=False,
    )
    values = Upscaled(ArraySource(latents, 4), scale).read(Window.whole(23 * scale, 31 * scale))
    np.testing.assert_allclose(values, expected[0].numpy().transpose(1, 2, 0), rtol=0, atol=3e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("channels", [4, 16])
def test_every_window_has_the_bits_of_the_whole(scale, channels):
    height, width = 6 * scale, 11 * scale
    upscaled = Upscaled(ArraySource(make_latents(6, 11, channels), channels), scale)
    whole = upscaled.read(Window.whole(height, width))

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.data())
    def check(data):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
        window = Window(Span(top, bottom), Span(left, right))
        values = upscaled.read(window)
        assert values.tobytes() == np.ascontiguousarray(whole[window.slices]).tobytes()

    check()


class RecordingSource:
    """Zeros without end, and a note of what was read of them."""

    shape = (10**6, 10**6, 4)

    def __init__(self):
        self.windows = []

    def read(self, window):
        self.windows.append(window)
        return np.zeros((*window.shape, 4), np.float32)


@pytest.mark.parametrize(
    ("rows", "columns", "reads"),
    [
        pytest.param((4000, 4004), (8002, 8004), ((998, 1003), (1999, 2003)), id="whole and half a pixel"),
        pytest.param((4001, 4002), (8003, 8004), ((998, 1002), (1999, 2003)), id="one output"),
        pytest.param((0, 4), (0, 1), ((0, 3), (0, 2)), id="first corner"),
        pytest.param((3999996, 4000000), (3999999, 4000000), ((999997, 10**6), (999998, 10**6)), id="last corner"),
    ],
)
def test_only_the_four_taps_of_a_window_are_read(rows, columns, reads):
    source = RecordingSource()
    Upscaled(source, 4).read(Window(Span(*rows), Span(*columns)))
    assert source.windows == [Window(Span(*reads[0]), Span(*reads[1]))]


def test_memory_is_about_that_of_the_window():
    upscaled = Upscaled(RecordingSource(), 2)
    assert upscaled.shape == (2 * 10**6, 2 * 10**6, 4)
    tracemalloc.start()
    try:
        values = upscaled.read(Window(Span(10**6, 10**6 + 512), Span(10**6, 10**6 + 512)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * values.nbytes


def test_a_factor_of_1_changes_nothing_beside_an_infinite_value():
    latents = make_latents(5, 5)
    latents[2, 2] = np.inf
    values = Upscaled(ArraySource(latents, 4), 1).read(Window.whole(5, 5))
    np.testing.assert_array_equal(values, latents)


def test_a_constant_stays_what_it_is():
    values = Upscaled(ArraySource(np.full((3, 3, 4), 2.5, np.float32), 4), 3).read(Window.whole(9, 9))
    np.testing.assert_allclose(values, 2.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0, -2, 1.5, 2.0, "2", None])
def test_a_factor_that_is_no_whole_number_is_refused(scale):
    with pytest.raises(OptionError, match="Not a factor to upscale by") as caught:
        Upscaled(RecordingSource(), scale)
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_whole_numbers():
    assert Upscaled(RecordingSource(), np.int64(3)).shape == (3 * 10**6, 3 * 10**6, 4)
