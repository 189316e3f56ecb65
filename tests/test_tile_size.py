import pytest

from taesd_core.network import Network
from tiler.memory import find_memory, format_bytes
from tiler.plan import Plan
from tiler.tile_size import LARGEST_PX, fit_plan

DECODER, ENCODER = Network.decoder(4), Network.encoder(4)


def choose(network, height, width, budget_bytes=10**12, step_px=512, **options):
    return fit_plan(Plan(network, height, width, 256, **options), budget_bytes, step_px)


@pytest.mark.parametrize("network", [DECODER, ENCODER], ids=["decoder", "encoder"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (64, 64), (129, 130), (289, 433), (5000, 4000), (39_500, 39_500)]
)
@pytest.mark.parametrize("budget_bytes", [600_000_000, 10**12])
def test_the_choice_fits_the_memory_and_costs_little_more_than_any_other(network, height, width, budget_bytes):
    chosen = choose(network, height, width, budget_bytes)
    assert chosen.peak_bytes <= budget_bytes
    for tile_px in range(512, LARGEST_PX + 1, 512):
        other = Plan(network, height, width, tile_px // 8)
        assert other.peak_bytes > budget_bytes or chosen.macs <= 1.01 * other.macs


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 64}, {"engine": "keras"}])
def test_where_there_is_memory_nothing_but_network_and_image_make_the_plan(options):
    chosen = choose(DECODER, 5000, 4000, **options)
    assert chosen.core == choose(DECODER, 5000, 4000).core
    assert chosen.usual_px is None


def test_too_little_memory_is_said():
    usual = choose(DECODER, 2000, 2000)
    smaller = choose(DECODER, 2000, 2000, usual.peak_bytes - 1)
    assert smaller.core < usual.core
    assert smaller.usual_px == usual.core * 8
    assert f"for lack of memory; with more of {usual.core * 8:,} px" in smaller.summary()


def test_more_memory_never_means_more_work():
    plans = [choose(ENCODER, 2000, 2000, budget_bytes) for budget_bytes in (300 * 10**6, 500 * 10**6, 8 * 10**9)]
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
