import pytest
from hypothesis import given
from hypothesis import strategies as st

from taesd_core.network import Network
from tiler.errors import InputError, OptionError
from tiler.plan import Plan, plan_axis

DECODER, ENCODER = Network.decoder(4), Network.encoder(4)


@given(size=st.integers(1, 400), core=st.integers(1, 300), halo=st.integers(0, 40))
def test_cores_cover_an_axis_once_and_have_their_halo(size, core, halo):
    tiles = list(plan_axis(size, core, halo))
    assert [position for tile in tiles for position in range(tile.core.start, tile.core.stop)] == list(range(size))
    assert all(len(tile.core) == core for tile in tiles[:-1])
    for tile in tiles:
        low, high = tile.borders
        assert low == (tile.read.start == 0)
        assert high == (tile.read.stop == size)
        assert low or tile.core.start - tile.read.start == halo
        assert high or tile.read.stop - tile.core.stop == halo
        # What a decoder gives back begins at the border, or a halo inside of the window.
        given_back = range(0 if low else tile.read.start + halo, size if high else tile.read.stop - halo)
        assert list(given_back[tile.crop.slice]) == list(range(tile.core.start, tile.core.stop))


def test_windows_are_in_px_of_input_and_output():
    tile = Plan(DECODER, 100, 200, 64).tile(1, 1)
    assert (tile.read.shape, tile.write.shape) == ((36 + 19, 64 + 2 * 19), (36 * 8, 64 * 8))
    tile = Plan(ENCODER, 100, 200, 64).tile(1, 1)
    assert (tile.read.shape, tile.write.shape) == (((36 + 19) * 8, (64 + 2 * 19) * 8), (36, 64))


def test_tiles_come_in_row_major_order():
    plan = Plan(DECODER, 100, 200, 64)
    assert [(tile.row, tile.column) for tile in plan.tiles()] == [(r, c) for r in range(2) for c in range(4)]
    assert plan.n_tiles == 8


def test_a_plan_of_100_gigapixels_is_only_its_axes():
    plan = Plan(DECODER, 39_500, 39_500, 128)
    assert plan.n_image_px > 99e9
    assert plan.n_tiles == 309**2
    assert 0.9 < plan.compute_overhead < 1


def test_nothing_to_decode_is_refused():
    with pytest.raises(InputError, match="no pixels"):
        Plan(DECODER, 0, 5, 8)
    with pytest.raises(OptionError, match="tile_size_px="):
        Plan(DECODER, 5, 5, 0)


@pytest.mark.parametrize(
    ("height", "width", "core", "fits"),
    [
        (10**5, 10**5, 128, True),
        (10**6, 10**6, 128, False),
        (1, 10**12, 128, False),
        (10**12, 1, 10**9, True),
        (2**17, 32, 1, True),
        (2**17 + 1, 32, 1, False),
        (2**11 * 9, 2**11 * 9, 9, True),
        (2**11 * 9 + 1, 2**11 * 9, 9, False),
    ],
)
def test_more_tiles_than_anybody_would_wait_for_are_refused(height, width, core, fits):
    if fits:
        assert Plan(DECODER, height, width, core).n_tiles <= 2**22
    else:
        with pytest.raises(InputError, match=f"Too many tiles.*{height} × {width} latent px"):
            Plan(DECODER, height, width, core)
