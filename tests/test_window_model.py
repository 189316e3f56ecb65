"""Exactness: tiles of the exact model against the plain whole-image model, which shares only the layer table."""

import numpy as np
import pytest
from conftest import random_tensors, run_serially

from taesd_core.checkpoint import load_checkpoint
from taesd_core.network import Network
from taesd_core.stage import fold_upsample
from taesd_core.variants import find_weights
from taesd_core.whole_image import build_whole_image_model
from taesd_core.window_model import WindowModel
from tiler.plan import Plan

DECODER, ENCODER = Network.decoder(4), Network.encoder(4)


class Pair:
    """An exact model and the plain one, with the same weights."""

    def __init__(self, network, tensors, **options):
        self.network = network
        self.exact = WindowModel(network, tensors, **options)
        self._plain = build_whole_image_model(network.layers, tensors)

    def plain(self, source):
        return self._plain.predict_on_batch(source[None])[0]


@pytest.fixture(scope="module")
def decoder():
    return Pair(DECODER, random_tensors(DECODER))


@pytest.fixture(scope="module")
def encoder():
    return Pair(ENCODER, random_tensors(ENCODER))


@pytest.fixture(scope="module")
def photo():
    tensors = load_checkpoint(find_weights("photo", "decoder"), "decoder").tensors
    return Pair(DECODER, tensors, output="uint8")


SIZES = [
    # tile px, latent height, latent width
    (128, 1, 1),
    (128, 1, 23),
    (128, 50, 37),
    (128, 20, 81),  # between one tile and two, and a halo's length off
    (256, 70, 45),
    (384, 67, 49),  # the last tile is one latent thin
    (512, 70, 90),
    (512, 10, 150),
    (1024, 3, 2),  # smaller than a tile
    (1024, 40, 150),
]


@pytest.mark.parametrize(("tile_px", "height", "width"), SIZES)
def test_tiles_equal_the_whole_image(decoder, latents, tile_px, height, width):
    source = latents(height, width) * 2
    whole = decoder.plain(source)
    tiled = run_serially(Plan(DECODER, height, width, tile_px // 8), decoder.exact, source)
    assert tiled.shape == whole.shape == (height * 8, width * 8, 3)
    assert np.ptp(whole) > 0.5
    assert np.abs(tiled - whole).max() <= 2e-5 * np.ptp(whole)


def test_16_bits_hold_the_same_image_more_finely(photo, latents):
    source = latents(12, 17)
    whole = np.clip(photo.plain(source).astype(np.float64), 0, 1) * 65535
    tensors = load_checkpoint(find_weights("photo", "decoder"), "decoder").tensors
    exact = WindowModel(DECODER, tensors, output="uint16")(source, ((True, True), (True, True)))
    assert exact.dtype == np.uint16
    assert exact.max() > 30_000
    assert np.abs(exact - whole).max() <= 0.5 + 2e-5 * 65535


@pytest.mark.parametrize(("tile_px", "height", "width"), [(256, 60, 69), (1024, 130, 30)])
def test_bytes_equal_the_whole_image_but_for_roundings(photo, latents, tile_px, height, width):
    source = latents(height, width)
    whole = np.round(np.clip(photo.plain(source), 0, 1) * 255)
    tiled = run_serially(Plan(DECODER, height, width, tile_px // 8), photo.exact, source)
    difference = np.abs(tiled.astype(int) - whole)
    assert tiled.dtype == np.uint8
    assert np.ptp(whole) > 200
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-4


@pytest.mark.parametrize(
    ("tile_px", "height", "width"), [(128, 1, 1), (128, 30, 21), (256, 40, 70), (384, 50, 20), (2048, 20, 30)]
)
def test_encoded_tiles_equal_the_whole_image(encoder, latents, tile_px, height, width):
    source = latents(height * 8, width * 8, 3)
    whole = encoder.plain(source)
    tiled = run_serially(Plan(ENCODER, height, width, tile_px // 8), encoder.exact, source)
    assert tiled.shape == whole.shape == (height, width, 4)
    assert np.abs(tiled - whole).max() <= 2e-5 * np.ptp(whole)


def test_zeros_around_the_latent_would_not_do(decoder, latents):
    """The input is made so that this suite could see a model that has the image's borders wrong."""
    source = latents(40, 40) * 2
    zeros = np.pad(source, ((19, 19), (19, 19), (0, 0)))
    inside = ((False, False), (False, False))
    whole = decoder.plain(source)
    assert np.abs(decoder.exact(zeros, inside) - whole).max() > 0.01 * np.ptp(whole)


def test_same_window_gives_the_same_bytes(decoder, latents):
    source, inside = latents(60, 60), ((True, False), (False, False))
    np.testing.assert_array_equal(decoder.exact(source, inside), decoder.exact(source, inside))


def test_folded_upsampling_is_repetition_and_convolution():
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(5, 6, 2)), random.normal(size=(3, 3, 2, 3)).astype(np.float32)

    def convolve(x, kernel):
        height, width = x.shape[0] - kernel.shape[0] + 1, x.shape[1] - kernel.shape[1] + 1
        return sum(
            x[a : a + height, b : b + width] @ kernel[a, b].astype(float)
            for a in range(kernel.shape[0])
            for b in range(kernel.shape[1])
        )

    expected = convolve(x.repeat(2, 0).repeat(2, 1), kernel)
    phases = convolve(x, fold_upsample(kernel)).reshape(4, 5, 2, 2, 3)
    folded = phases.transpose(0, 2, 1, 3, 4).reshape(8, 10, 3)
    np.testing.assert_allclose(folded, expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.01), ("bfloat16", 0.06)])
def test_lower_precisions_are_near(latents, dtype, tolerance):
    tensors = random_tensors(DECODER)
    pair = Pair(DECODER, tensors, dtype=dtype)
    source = latents(24, 24)
    whole = pair.plain(source)
    exact = pair.exact(source, ((True, True), (True, True))).astype(np.float32)
    difference = np.abs(exact - whole).max() / np.ptp(whole)
    assert 0 < difference < tolerance
