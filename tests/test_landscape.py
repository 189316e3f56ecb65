import numpy as np
import pytest

import tiler
from landscape import Landscape, choose_shape
from tiler.command.cli import LANDSCAPE
from tiler.sources.opening import open_latents
from tiler.window import Span, Window


@pytest.fixture(scope="module")
def wide():
    """A picture that spans more than one block of the computation in both directions, and its whole read."""
    picture = Landscape(150, 1100)
    return picture, picture.read(Window.whole(150, 1100))


@pytest.mark.parametrize(
    "window",
    [
        pytest.param(Window(Span(0, 1), Span(0, 1)), id="first pixel"),
        pytest.param(Window(Span(149, 150), Span(1099, 1100)), id="last pixel"),
        pytest.param(Window(Span(63, 66), Span(1020, 1030)), id="over the edges of the blocks"),
        pytest.param(Window(Span(7, 150), Span(13, 1100)), id="blocks shifted"),
        pytest.param(Window(Span(0, 150), Span(500, 501)), id="one column"),
        pytest.param(Window(Span(100, 101), Span(0, 1100)), id="one row"),
    ],
)
def test_a_window_is_the_same_bits_as_in_the_whole_picture(wide, window):
    picture, whole = wide
    assert picture.read(window).tobytes() == whole[window.slices].tobytes()


def test_values_are_float32_in_zero_to_one_and_use_most_of_that_range():
    picture = Landscape(320, 480)
    pixels = picture.read(Window.whole(320, 480))
    assert pixels.shape == picture.shape == (320, 480, 3)
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert np.ptp(pixels) > 0.9


def test_there_is_something_to_see_in_every_window_of_64_pixels():
    pixels = Landscape(1024, 1536).read(Window.whole(1024, 1536))
    windows = pixels.reshape(16, 64, 24, 64, 3)
    assert windows.std(axis=(1, 3)).max(axis=-1).min() > 0.002
    # and it is a landscape: some of it is nearly flat, some of it is full of relief.
    assert windows.std(axis=(1, 3)).max() > 0.2


def test_a_larger_picture_shows_the_same_scene_with_more_detail():
    small = Landscape(256, 384).read(Window.whole(256, 384))
    large = Landscape(1024, 1536).read(Window.whole(1024, 1536))

    shrunk = large.reshape(256, 4, 384, 4, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.9

    def sharpness(pixels):
        return np.abs(np.diff(pixels, axis=0)).mean()

    stretched = small.repeat(4, axis=0)  # its mean step is a quarter, whatever the interpolation
    assert sharpness(large) > 1.8 * sharpness(stretched)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (300, 2)])
def test_any_shape_works(shape):
    pixels = Landscape(*shape).read(Window.whole(*shape))
    assert pixels.shape == (*shape, 3)
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, 5)])
def test_a_picture_without_pixels_is_refused(shape):
    with pytest.raises(ValueError, match="No pixels"):
        Landscape(*shape)


@pytest.mark.parametrize("megapixels", [0.01, 0.1, 1, 8, 8.5, 1000])
def test_the_shape_is_3_to_2_in_whole_latent_pixels_and_near_the_size(megapixels):
    height, width = choose_shape(megapixels)
    assert height % 8 == width % 8 == 0
    assert width / height == pytest.approx(1.5, rel=0.08)
    assert height * width == pytest.approx(megapixels * 1e6, rel=0.1)


def test_the_demos_latents_are_of_this_picture():
    height, width = choose_shape(8)
    source = open_latents(LANDSCAPE, 4)
    assert source.shape == (height // 8, width // 8, 4)
    top, left, side = 1216, 2304, 256
    window = Window(Span(top // 8, (top + side) // 8), Span(left // 8, (left + side) // 8))
    pixels = tiler.preview(source.read(window), weights="photo")[64:192, 64:192] / 255
    whole = Window(Span(top + 64, top + 192), Span(left + 64, left + 192))
    drawn = Landscape(height, width).read(whole)
    assert 10 * np.log10(1 / np.square(pixels - drawn).mean()) > 22
