"""Regions: the plan covers them once, and they are the crop of the whole image to the last pixel."""

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
from tiler.plan import Plan, plan_axis, split_axis
from tiler.window import Span, Window

DECODER, ENCODER = Network.decoder(4), Network.encoder(4)


@st.composite
def spans(draw, size):
    start = draw(st.integers(0, size - 1))
    return Span(start, draw(st.integers(start + 1, size)))


def positions(span):
    return list(range(span.start, span.stop))


def check_tile(tile, size, halo, scale):
    """What is read suffices, is no more than that, and the crop finds the core in what comes of it."""
    first, last = tile.core.start // scale, (tile.core.stop - 1) // scale
    assert tile.read == Span(max(first - halo, 0), min(last + halo + 1, size))
    assert tile.borders == (first - halo <= 0, last + halo + 1 >= size)
    low, high = tile.borders
    given_back = range(
        0 if low else (tile.read.start + halo) * scale, (size if high else tile.read.stop - halo) * scale
    )
    assert list(given_back[tile.crop.slice]) == positions(tile.core)


@given(
    size=st.integers(1, 90),
    core=st.integers(1, 40),
    halo=st.integers(0, 25),
    scale=st.integers(1, 9),
    data=st.data(),
)
def test_cores_cover_a_region_once_from_its_corner_and_have_their_halo(size, core, halo, scale, data):
    region = data.draw(spans(size * scale))
    tiles = list(plan_axis(size, core, halo, scale, region))
    assert [position for tile in tiles for position in positions(tile.core)] == positions(region)
    assert [position for tile in tiles for position in positions(tile.write)] == list(range(len(region)))
    assert all(len(tile.core) == core * scale for tile in tiles[:-1])
    for tile in tiles:
        check_tile(tile, size, halo, scale)


@given(size=st.integers(1, 60), halo=st.integers(0, 15), scale=st.integers(1, 9), data=st.data())
def test_a_tile_in_quarters_down_to_single_latents_still_covers_its_core(size, halo, scale, data):
    region = data.draw(spans(size * scale))
    (tile,) = plan_axis(size, size, halo, scale, region)
    axes = [tile]
    while len(halves := [half for axis in axes for half in split_axis(axis, halo, scale)]) > len(axes):
        axes = halves
    assert [position for axis in axes for position in positions(axis.core)] == positions(region)
    assert [position for axis in axes for position in positions(axis.write)] == list(range(len(region)))
    assert len(axes) == len(region.cover(scale))
    for axis in axes:
        check_tile(axis, size, halo, scale)


@settings(deadline=None)
@given(height=st.integers(1, 14), width=st.integers(1, 14), core=st.integers(1, 8), data=st.data())
def test_a_region_is_the_crop_of_the_whole(height, width, core, data):
    decoder = IntegerDecoder()
    source = HeldSource(np.random.default_rng(height).normal(size=(height, width, 2)).astype(np.float32))
    whole = decoder.decode_whole(source)
    region = Window(data.draw(spans(whole.shape[0])), data.draw(spans(whole.shape[1])))
    plan = Plan(decoder, height, width, core, region=region)
    found = run_serially(plan, decoder, source.values)
    assert plan.output_shape == found.shape
    np.testing.assert_array_equal(found, whole[region.slices])


def test_a_region_of_the_whole_is_planned_as_no_region_is():
    whole, region = Plan(DECODER, 50, 70, 32), Plan(DECODER, 50, 70, 32, region=Window.whole(400, 560))
    assert list(region.tiles()) == list(whole.tiles())


def test_the_encoder_has_regions_too():
    tile = Plan(ENCODER, 100, 200, 64, region=Window(Span(30, 90), Span(40, 170))).tile(0, 1)
    assert tile.write == Window(Span(0, 60), Span(64, 128))
    assert tile.read.columns == Span((40 + 64 - ENCODER.halo) * 8, (40 + 128 + ENCODER.halo) * 8)


def test_a_plan_tells_of_its_region_alone():
    whole, plan = (Plan(DECODER, 500, 500, 64, region=region) for region in (None, Window(Span(9, 99), Span(0, 600))))
    assert plan.output_shape == (90, 600, 3)
    assert plan.n_image_px == 90 * 600
    assert plan.n_tiles == 2
    assert plan.compute_overhead < whole.compute_overhead / 100
    assert plan.peak_bytes < whole.peak_bytes


def test_what_would_be_too_many_tiles_may_have_regions():
    assert Plan(DECODER, 10**6, 10**6, 128, region=Window(Span(8 * 10**6 - 1, 8 * 10**6), Span(5, 2000))).n_tiles == 2


@pytest.mark.parametrize(("rows", "columns"), [((0, 401), (0, 8)), ((0, 8), (559, 561))])
def test_a_region_that_leaves_the_image_is_refused(rows, columns):
    with pytest.raises(OptionError, match=r"region leaves the image.*image=560 × 400 px") as caught:
        Plan(DECODER, 50, 70, 32, region=Window(Span(*rows), Span(*columns)))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def decoder():
    """The real network, exact and plain, with the same random weights."""
    tensors = random_tensors(DECODER)
    plain = build_whole_image_model(DECODER.layers, tensors)
    return WindowModel(DECODER, tensors), lambda latents: plain.predict_on_batch(latents[None])[0]


def test_fifty_random_regions_are_the_crops_of_the_plain_whole_image(decoder, latents):
    exact, plain = decoder
    height, width = 40, 50
    source = latents(height, width) * 2
    whole = plain(source)
    random = np.random.default_rng(5)
    for _ in range(50):
        (top, bottom), (left, right) = (
            (start, min(start + random.integers(1, 40), size * 8))
            for size in (height, width)
            for start in [random.integers(0, size * 8)]
        )
        region = Window(Span(int(top), int(bottom)), Span(int(left), int(right)))
        found = run_serially(Plan(DECODER, height, width, 8, region=region), exact, source)
        assert found.shape == (*region.shape, 3)
        assert np.abs(found - whole[region.slices]).max() <= 2e-5 * np.ptp(whole)
