"""Latents of the wrong space are told from the right ones, whatever is on them."""

import warnings

import numpy as np
import pytest

from tiler.errors import InputError, InputWarning
from tiler.sources.array_source import ArraySource
from tiler.sources.opening import open_image
from tiler.sources.ranges import WithinRange, check_range
from tiler.sources.upscale import Upscaled
from tiler.window import Span, Window


def normal(spread=1.0, seed=0, channels=4):
    random = np.random.default_rng(seed)
    return (random.normal(size=(200, 150, channels)) * spread).astype(np.float32)


def one_colour(*values):
    return np.full((90, 40, 4), values, np.float32)


RIGHT = {
    "normal": normal(),
    "wide": normal(1.6),
    "zero": one_colour(0, 0, 0, 0),
    "nearly nothing": normal(0.01),
    # What SDXL's VAE makes of a black image, multiplied by 0.13025.
    "black": one_colour(-21.7, 3.9, 2.4, 2.6) * np.float32(0.13025),
    "all at the ends": np.where(normal() > 0, 3, -3).astype(np.float32),  # what 8-bit latents can be at most
    "one pixel": normal()[:1, :1],
    "all NaN": normal() * np.float32(np.nan),
    "some outliers": np.where(normal(seed=3) > 3, 10, normal()).astype(np.float32),
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("scale", [1, 3])
def test_right_latents_are_no_reason_to_warn(case, scale):
    check_range(Upscaled(ArraySource(RIGHT[case], 4), scale))


WRONG = {
    "SD 1 and 2": normal(1 / 0.18215),
    "SDXL": normal(1 / 0.13025),
    "FLUX.1": normal(1 / 0.3611, channels=16) + np.float32(0.1159),
    "with NaN": np.where(normal(seed=3) > 1, np.nan, normal(5)).astype(np.float32),
    "huge": normal(1e30),
}


@pytest.mark.parametrize("case", WRONG)
def test_latents_of_the_vae_are_told_with_what_to_do(case):
    array = WRONG[case]
    with pytest.warns(InputWarning, match=r"VAE space: root mean square=.*space=\"vae\".*0\.18215") as told:
        check_range(ArraySource(array, array.shape[2]))
    assert len(told) == 1
    assert len(str(told[0].message).splitlines()) == 1


def test_only_a_few_windows_are_read():
    n_read = 0

    class Large:
        shape = (1_000_000, 1_000_000, 4)

        def read(self, window):
            nonlocal n_read
            n_read += 1
            return np.full((*window.shape, 4), 9, np.float32)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_range(Large())
    assert n_read == 16
    assert len(told) == 1


def read_all(image, step=16):
    source = WithinRange(ArraySource(image, 3))
    height, width, _ = image.shape
    for top in range(0, height, step):
        rows = Span(top, min(top + step, height))
        np.testing.assert_array_equal(source.read(Window(rows, Span(0, width))), image[rows.slice])
    return source.notes


@pytest.mark.parametrize(
    ("low", "high", "first"),
    [(0, 255, "value=162 at row 0, column 0, channel 0"), (-1, 1, "value=-0.918 at row 0, column 0, channel 2")],
)
def test_an_image_far_beyond_0_to_1_is_refused_with_the_place_and_what_to_do(low, high, first):
    image = np.random.default_rng(0).uniform(low, high, (40, 50, 3)).astype(np.float32)
    with pytest.raises(InputError, match=rf"not in \[0, 1\]: {first}.*by 255.*x / 2 \+ 0.5"):
        read_all(image)


@pytest.mark.parametrize("value", [-0.51, 1.51, 40000])
@pytest.mark.parametrize("place", [(0, 0, 0), (1999, 2999, 2), (1000, 1501, 1)])
def test_one_hot_value_is_found_wherever_it_is(value, place):
    image = np.full((2000, 3000, 3), 0.25, np.float32)
    image[place] = value
    row, column, channel = place
    with pytest.raises(InputError, match=f"at row {row}, column {column}, channel {channel}"):
        read_all(image, 512)


def test_a_bright_image_in_minus_1_to_1_is_told_by_its_first_value_below_0():
    image = np.random.default_rng(0).uniform(0.1, 1, (64, 50, 3)).astype(np.float32)
    assert read_all(image) == ()
    image[33, 7, 1] = -0.02
    (note,) = read_all(image)
    assert note.startswith("values beyond [0, 1], from -0.02 to 1")
    assert "row 33, column 7; of what is in [-1, 1], take x / 2 + 0.5" in note


def test_a_little_beyond_0_to_1_is_said_and_nan_is_not():
    image = np.random.default_rng(0).uniform(-0.2, 1.3, (40, 50, 3)).astype(np.float32)
    image[0, :2], image[0, 2, 0] = np.array([[np.nan], [np.inf]]), -0.1
    (note,) = read_all(image)
    assert f"from {np.nanmin(image):.3g} to 1.3, were taken as they are, for instance at row 0, column 2" in note
    image = np.clip(image, 0, 1)
    image[0, 0], image[0, 1], image[1] = np.nan, np.inf, np.nan
    assert read_all(image) == ()
    assert read_all(np.full((8, 8, 3), np.nan, np.float32)) == ()


def test_bytes_are_never_beyond():
    assert read_all(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.float32) / np.float32(255)) == ()


@pytest.mark.parametrize(
    ("largest", "dtype", "said"), [(4095, "uint16", True), (65535, "uint16", False), (60, "uint8", False)]
)
def test_16_bits_of_an_array_of_which_the_highest_are_never_used_are_said(largest, dtype, said):
    image = np.linspace(0, largest, 40 * 50 * 3).reshape(40, 50, 3).round().astype(dtype)
    source = WithinRange(open_image(image))
    assert source.notes == ()
    source.read(Window.whole(40, 50))
    note = f"no value goes beyond {largest} of 65535; numbers of fewer bits are to be scaled up first"
    assert source.notes == ((note,) if said else ())
