"""FLUX.2 and Sana against networks that are typed in apart; statistics of the whole input, in any plan."""

import numpy as np
import pytest
from conftest import random_tensors
from reference_networks import NETWORKS, build_torch, run_torch
from safetensors.numpy import save_file

import tiler
from taesd_core.checkpoint import CheckpointError, load_checkpoint
from taesd_core.engines import DeviceMemoryError
from taesd_core.families import FAMILIES
from taesd_core.network import Network
from taesd_core.tensors import ConvolutionTensors
from taesd_core.window_model import WindowModel
from tiler import models
from tiler.checks.reference import load_reference
from tiler.jobs.engine import run_tile
from tiler.jobs.statistics import gather_statistics, prepare_model
from tiler.plan import Plan
from tiler.sources.array_source import ArraySource
from tiler.sources.positions import Wrapped

torch = pytest.importorskip("torch")


class Case:
    """A network with its weights, a source, and the output for the whole of it."""

    def __init__(self, folder, family, part, make, height, width):
        reference = build_torch(NETWORKS[family, part])
        self.state = {name: values.numpy().copy() for name, values in reference.state_dict().items()}
        self.path = folder / f"{family}_{part}.safetensors"
        save_file(self.state, self.path)
        checkpoint = load_checkpoint(self.path, part)
        self.network = checkpoint.network
        self.model = WindowModel(checkpoint.network, checkpoint.tensors)
        scale, channels = self.network.scale_in, self.network.channels_in
        self.shape = height, width
        # A gradient: no part has the statistics of the whole.
        slope = np.linspace(-1, 1, height * scale, dtype=np.float32)[:, None, None]
        self.array = make(height * scale, width * scale, channels) * (1.5 + slope) + slope
        if part == "encoder":
            self.array = np.clip(self.array / 5 + 0.5, 0, 1)
        self.source = ArraySource(self.array, channels)
        self.whole = run_torch(reference.double(), self.array.astype(np.float64))

    def run(self, core, **options):
        plan = Plan(self.network, *self.shape, core, **options)
        model = prepare_model(self.model, plan, self.source)
        output = np.empty(plan.output_shape, np.float32)
        for tile in plan.tiles():
            output[tile.write.slices] = run_tile(tile, self.source, model)
        return output

    def error(self, output):
        return np.abs(output - self.whole).max() / np.ptp(self.whole)


SIZES = {
    ("taef2", "decoder"): (45, 53),
    ("taef2", "encoder"): (21, 38),
    ("taesana", "decoder"): (9, 13),
    ("taesana", "encoder"): (8, 11),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}

    def make_latents(height, width, channels):
        random = np.random.default_rng(0)
        coarse = random.normal(size=(height // 4 + 2, width // 4 + 2, channels))
        smooth = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
        return (smooth + 0.3 * random.normal(size=(height, width, channels))).astype(np.float32)

    def find(family, part):
        if (family, part) not in made:
            folder = tmp_path_factory.mktemp("weights")
            made[family, part] = Case(folder, family, part, make_latents, *SIZES[family, part])
        return made[family, part]

    return find


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    """Passes of many tiles, with margins on all sides."""
    monkeypatch.setattr("tiler.plan.PASS_CORE", 16)


@pytest.mark.parametrize(
    ("family", "part", "core"),
    [
        pytest.param("taef2", "decoder", 16, marks=pytest.mark.slow),
        ("taef2", "decoder", 100),
        ("taef2", "encoder", 20),
        pytest.param("taesana", "decoder", 8, marks=pytest.mark.slow),
        ("taesana", "encoder", 6),
    ],
)
def test_tiles_are_the_whole_output_of_the_reference(cases, family, part, core):
    case = cases(family, part)
    assert case.network.layers == getattr(FAMILIES[family], part)(32)
    assert np.ptp(case.whole) > 0.5
    assert case.error(case.run(core)) <= 2e-5


def test_statistics_of_tiles_would_not_do(cases):
    """The input is made so that this suite could see a model whose norms look at their tile."""
    case = cases("taef2", "decoder")
    plan = Plan(case.network, *case.shape, 23)
    tile = plan.tile(0, 0)
    alone = Plan(case.network, *tile.read.shape, 100)
    model = prepare_model(case.model, alone, ArraySource(case.array[tile.read.slices], 32))
    expected = case.whole[tile.write.slices]
    assert np.abs(run_tile(tile, case.source, model) - expected).max() > 0.005 * np.ptp(case.whole)


def test_statistics_do_not_depend_on_the_plan_or_the_workers(cases):
    case = cases("taef2", "decoder")
    first, *others = (
        gather_statistics(Plan(case.network, *case.shape, core, workers), case.source, case.model)
        for core, workers in ((16, 1), (16, 4), (100, 3))
    )
    assert len(first) == 3
    for other in others:
        for one, same in zip(first, other, strict=True):
            np.testing.assert_array_equal(one.mean, same.mean)
            np.testing.assert_array_equal(one.squares, same.squares)


@pytest.mark.parametrize("pass_core", [5, 23, 128])
def test_tiles_of_another_size_give_the_same_statistics_but_for_roundings(cases, monkeypatch, pass_core):
    case = cases("taef2", "decoder")
    expected = gather_statistics(Plan(case.network, *case.shape, 16), case.source, case.model)
    monkeypatch.setattr("tiler.plan.PASS_CORE", pass_core)
    found = gather_statistics(Plan(case.network, *case.shape, 16), case.source, case.model)
    for one, other in zip(expected, found, strict=True):
        assert one.count == other.count == case.shape[0] * case.shape[1] * 64
        np.testing.assert_allclose(one.norm, other.norm, rtol=2e-6, atol=2e-6)


def test_where_ends_join_every_latent_counts_once_wherever_the_image_is_cut(cases):
    case, margin = cases("taef2", "decoder"), 21

    def gather(array):
        plan = Plan(case.network, *case.shape, 16, margins=(margin, margin))
        return gather_statistics(plan, Wrapped(ArraySource(array, 32), (margin, margin)), case.model)

    for one, other in zip(gather(case.array), gather(np.roll(case.array, (11, 30), (0, 1))), strict=True):
        assert one.count == other.count == case.shape[0] * case.shape[1] * 64
        np.testing.assert_allclose(one.norm, other.norm, rtol=2e-6, atol=2e-6)


def test_a_pass_whose_tile_does_not_fit_is_gathered_in_quarters(cases):
    case = cases("taef2", "decoder")
    plan = Plan(case.network, *case.shape, 16)

    class Small:
        def __init__(self, model):
            self.model, self.n_refused = model, 0

        def with_statistics(self, statistics):
            self.model = self.model.with_statistics(statistics)
            return self

        def gather(self, window, borders, crop, origin):
            if crop[0].stop - crop[0].start > 10:
                self.n_refused += 1
                raise DeviceMemoryError
            return self.model.gather(window, borders, crop, origin)

        __call__ = None

    small = Small(case.model)
    found = gather_statistics(plan, case.source, small)
    assert small.n_refused > 3
    for one, other in zip(gather_statistics(plan, case.source, case.model), found, strict=True):
        assert one.count == other.count
        np.testing.assert_allclose(one.norm, other.norm, rtol=2e-6, atol=2e-6)


def to_bytes(whole):
    return np.round(np.clip(whole, 0, 1) * 255)


def assert_equal_but_for_roundings(image, expected):
    difference = np.abs(image.astype(int) - expected)
    assert np.ptp(expected) > 200
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-4


def test_decode_of_flux_2_is_the_whole_image_and_verifies(cases, tmp_path):
    case, calls = cases("taef2", "decoder"), []
    report = tiler.decode(
        case.array,
        tmp_path / "image.npy",
        weights=case.path,
        tile_size_px=256,
        verify="all",
        progress=lambda *call: calls.append(call),
    )
    assert_equal_but_for_roundings(np.load(tmp_path / "image.npy"), to_bytes(case.whole))
    assert report.n_tiles == 4
    assert report.verification.ok
    n_all = 3 * 3 * 4 + 4
    assert [call[:2] for call in calls] == [(number + 1, n_all) for number in range(n_all)]
    lazy = tiler.decode_lazily(case.array, weights=case.path, tile_size_px=256)
    np.testing.assert_array_equal(lazy.compute(), np.load(tmp_path / "image.npy"))


def test_an_image_whose_ends_join_and_a_preview_know_their_statistics(cases, tmp_path):
    case = cases("taef2", "decoder")
    latents = tiler.Latents(case.array, wrap="both")
    assert tiler.decode(latents, tmp_path / "image.npy", weights=case.path, verify="all").verification.ok
    picture = tiler.preview(case.array, weights=case.path)
    assert_equal_but_for_roundings(picture, to_bytes(case.whole))


def test_an_image_of_other_statistics_does_not_verify(cases, tmp_path):
    case = cases("taef2", "decoder")
    np.save(tmp_path / "image.npy", to_bytes(case.whole).astype(np.uint8))
    good = tiler.verify(tmp_path / "image.npy", case.array, weights=case.path, samples=2)
    assert good.ok
    other = np.concatenate([case.array[:30], case.array[30:] * 1.5])
    bad = tiler.verify(tmp_path / "image.npy", other, weights=case.path, samples="all")
    assert not bad.ok
    # Far from what was changed as well.
    assert not bad.windows[0].ok


def test_a_resumed_decode_gathers_again_and_gives_the_same_bytes(cases, tmp_path, monkeypatch):
    case = cases("taef2", "decoder")
    options = {"weights": case.path, "tile_size_px": 128, "workers": 1}
    tiler.decode(case.array, tmp_path / "whole.npy", **options)
    load, n_calls = models.load_model, []

    class Failing:
        def __init__(self, model):
            self.gather, self.model = model.gather, model

        def with_statistics(self, statistics):
            return Failing(self.model.with_statistics(statistics))

        def __call__(self, window, *place):
            n_calls.append(window.shape)
            if len(n_calls) == 5:
                raise OSError("gone")
            return self.model(window, *place)

    with monkeypatch.context() as patch:
        patch.setattr(models, "load_model", lambda *arguments: Failing(load(*arguments)))
        with pytest.raises(tiler.TileError, match="gone"):
            tiler.decode(case.array, tmp_path / "image.npy", **options)
    report = tiler.decode(case.array, tmp_path / "image.npy", resume=True, **options)
    assert report.n_resumed == 4
    assert (tmp_path / "image.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_latents_that_are_not_finite_are_refused_before_any_tile(cases, tmp_path):
    case = cases("taef2", "decoder")
    bad = case.array.copy()
    bad[-1, -1, 7] = np.nan
    with pytest.raises(tiler.InputError, match=r"NaN or Inf: value=nan at row 44, column 52, channel 7"):
        tiler.decode(bad, tmp_path / "image.npy", weights=case.path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:The image is not in")
def test_encode_for_flux_2_is_the_whole_latent(cases, tmp_path):
    case = cases("taef2", "encoder")
    tiler.encode(case.array, tmp_path / "latents.npy", weights=case.path, tile_size_px=192)
    assert case.error(np.load(tmp_path / "latents.npy")[0].transpose(1, 2, 0)) <= 2e-5


def test_half_precision_keeps_statistics_in_float32(cases):
    case = cases("taef2", "decoder")
    checkpoint = load_checkpoint(case.path, "decoder")
    case_16 = WindowModel(checkpoint.network, checkpoint.tensors, dtype="float16")
    plan = Plan(case.network, *case.shape, 30)
    model = prepare_model(case_16, plan, case.source)
    tile = plan.tile(1, 1)
    expected = case.whole[tile.write.slices]
    assert np.abs(run_tile(tile, case.source, model) - expected).max() < 0.02 * np.ptp(case.whole)


def test_the_plan_says_what_the_statistics_cost():
    plan = Plan(Network(FAMILIES["taef2"].decoder(32)), 500, 400, 128)
    (line,) = [line for line in plan.summary().splitlines() if line.startswith("passes")]
    assert f"{plan.pass_overhead:.3f} × the whole image" in line
    assert not any(line.startswith("passes") for line in Plan(Network.decoder(4), 500, 400, 128).summary().splitlines())


@pytest.mark.parametrize("name", ["4.pool.1.weight", "3.pool.1.bias", "5.pool.3.weight", "3.pool.0.weight"])
def test_a_pool_without_one_of_its_tensors_is_named(cases, tmp_path, name):
    state = dict(cases("taef2", "decoder").state)
    del state[name]
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=f"tensor {name} is missing"):
        load_checkpoint(tmp_path / "broken.safetensors", "decoder")


def test_a_norm_that_is_not_finite_is_refused(cases, tmp_path):
    state = dict(cases("taef2", "decoder").state)
    state["4.pool.1.bias"] = np.full(256, np.inf, np.float32)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match="NaN or Inf"):
        load_checkpoint(tmp_path / "broken.safetensors", "decoder")


def test_32_channels_without_pools_are_taesd_or_sana_by_their_names(tmp_path):
    for family in ("taesd", "taesana"):
        network = Network(FAMILIES[family].decoder(32))
        state = {}
        for place, each in zip(_names(network), random_tensors(network), strict=True):
            assert isinstance(each, ConvolutionTensors)
            state[f"{place}.weight"] = np.ascontiguousarray(each.kernel.transpose(3, 2, 0, 1))
            if each.bias is not None:
                state[f"{place}.bias"] = each.bias
        save_file(state, tmp_path / "weights.safetensors")
        assert load_checkpoint(tmp_path / "weights.safetensors", "decoder").network == network


def _names(network):
    from taesd_core.layers import convolutions

    return [".".join(map(str, (place.position, *(place.inner or ())))) for place in convolutions(network.layers)]


def test_verifying_windows_of_many_sizes_compiles_once_and_tensorflow_warns_nobody(cases, caplog, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    monkeypatch.setattr(tensorflow.get_logger(), "propagate", True)  # as far as caplog
    case = cases("taef2", "decoder")
    reference = load_reference(case.path, case.source)
    for size in range(8, 16):
        window = case.array[:size, : 30 - size]
        assert reference(window).shape == (8 * size, 8 * (30 - size), 3)
    assert not caplog.records
    # And it is still the plain model.
    assert case.error(reference(case.array)) < 1e-5
