"""Latents of the wrong space are told from the right ones, whatever is on them."""

import warnings

import numpy as np
import pytest

from tiler.errors import InputWarning
from tiler.sources.array_source import ArraySource
from tiler.sources.ranges import check_colours, check_range
from tiler.sources.upscale import Upscaled


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
    with pytest.warns(InputWarning, match=r"VAE space: root mean square=.*--latent-space vae.*0\.18215") as told:
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


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1)])
def test_an_image_beyond_0_to_1_is_a_reason_to_warn(low, high):
    image = np.random.default_rng(0).uniform(low, high, (40, 50, 3)).astype(np.float32)
    with pytest.warns(InputWarning, match=r"not in \[0, 1\]: values from .* Divide"):
        check_colours(ArraySource(image, 3))


def test_an_image_about_in_0_to_1_is_none():
    image = np.random.default_rng(0).uniform(-0.2, 1.3, (40, 50, 3)).astype(np.float32)
    image[0, 0] = np.nan
    check_colours(ArraySource(image, 3))
