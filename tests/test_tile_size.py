import pytest

from taesd_core.network import Network
from tiler.memory import DEFAULT_BUDGET_BYTES, find_memory, format_bytes
from tiler.plan import Plan
from tiler.tile_size import choose_tile_px

DECODER, ENCODER = Network.decoder(4), Network.encoder(4)


def choose(network, height, width, budget_bytes=DEFAULT_BUDGET_BYTES, **options):
    return Plan(
        network, height, width, choose_tile_px(network, height, width, budget_bytes=budget_bytes, **options) // 8
    )


@pytest.mark.parametrize("network", [DECODER, ENCODER], ids=["decoder", "encoder"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (64, 64), (129, 130), (289, 433), (5000, 4000), (39_500, 39_500)]
)
def test_the_choice_fits_the_budget_and_costs_little_more_than_any_other(network, height, width):
    chosen = choose(network, height, width)
    assert chosen.peak_bytes <= DEFAULT_BUDGET_BYTES
    for tile_px in range(512, 8193, 512):
        other = Plan(network, height, width, tile_px // 8)
        assert other.peak_bytes > DEFAULT_BUDGET_BYTES or chosen.macs <= 1.01 * other.macs


def test_more_memory_never_means_more_work():
    plans = [choose(ENCODER, 2000, 2000, budget_bytes) for budget_bytes in (10**9, 2 * 10**9, 8 * 10**9)]
    assert plans[0].macs >= plans[1].macs >= plans[2].macs
    assert plans[0].core < plans[2].core


def test_too_little_memory_takes_the_smallest_tile():
    assert choose(DECODER, 2000, 2000, 1).core * 8 == 512


def test_an_image_just_over_one_tile_is_not_cut_a_sliver_off():
    assert choose(DECODER, 132, 132).n_tiles == 1


def test_tiles_are_whole_steps():
    assert choose(DECODER, 3000, 3000, step_px=1280).core * 8 % 1280 == 0


def test_more_workers_hold_more():
    assert Plan(DECODER, 999, 999, 128, 8).peak_bytes > Plan(DECODER, 999, 999, 128, 2).peak_bytes


def test_available_memory_is_what_another_program_says():
    psutil = pytest.importorskip("psutil")
    assert 0 < find_memory() <= 1.2 * psutil.virtual_memory().available


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (2.5e12, "2.5 TB")]
)
def test_bytes_are_said_in_three_digits(size, text):
    assert format_bytes(int(size)) == text
