"""Programs of fixed size: windows of all kinds through Winograd's convolutions against the plain whole-image model."""

import numpy as np
import pytest
from conftest import random_tensors, run_serially

from taesd_core import fixed_programs
from taesd_core.families import FAMILIES
from taesd_core.network import Network
from taesd_core.tensors import ConvolutionTensors
from taesd_core.whole_image import build_whole_image_model
from taesd_core.window_model import WindowModel
from taesd_core.winograd import N_ROWS, combine_products, transform_kernel, transform_rows
from tiler.jobs.statistics import prepare_model
from tiler.plan import Plan
from tiler.sources.array_source import ArraySource

NETWORKS = {
    "decoder": Network.decoder(4),
    "encoder": Network.encoder(4),
    "taef2 decoder": Network(FAMILIES["taef2"].decoder(32)),
}


def test_six_products_give_four_rows_of_a_convolution():
    import tensorflow as tf

    random = np.random.default_rng(0)
    x = random.normal(size=(1, 5 * N_ROWS, 7, 3)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 3, 2)).astype(np.float32)
    rows, kernels = transform_rows(tf.constant(x)), transform_kernel(kernel)
    products = [tf.nn.conv2d(each, one, 1, "SAME") for each, one in zip(rows, kernels, strict=True)]
    expected = np.asarray(tf.nn.conv2d(x.astype(np.float64), kernel.astype(np.float64), 1, "SAME"))
    assert np.abs(np.asarray(combine_products(products)) - expected).max() < 1e-5


@pytest.fixture
def run_of_stages(monkeypatch):
    """Small pieces, taken wherever they can be; returns the numbers of the stages that ran in them."""
    ran = []
    plan = fixed_programs.FixedPrograms.plan

    def note(self, rows, columns):
        runs = plan(self, rows, columns)
        ran.append(set(runs))
        return runs

    monkeypatch.setattr(fixed_programs, "FIXED_PIECE", 56)
    monkeypatch.setattr(fixed_programs, "MOST_EXCESS", 1e9)
    monkeypatch.setattr(fixed_programs.FixedPrograms, "plan", note)
    return ran


@pytest.mark.parametrize("part", NETWORKS)
def test_windows_of_all_kinds_equal_the_whole_image(run_of_stages, latents, part):
    network = NETWORKS[part]
    # A bias of every sign, or nothing would be seen of zeros that are not set again.
    tensors = tuple(
        each._replace(bias=each.bias + 0.1) if each.bias is not None else each for each in random_tensors(network)
    )
    source = latents(23 * network.scale_in, 37 * network.scale_in, network.channels_in) * 2
    model = WindowModel(network, tensors)
    # Tiles of 10: at every border, inside, and thin ones at the ends, all through programs made for those inside.
    plan = Plan(network, 23, 37, 10)
    fitted = model.fit(plan.rows[1].axis, plan.columns[1].axis)
    prepared = prepare_model(fitted, plan, ArraySource(source, network.channels_in))
    tiled = run_serially(plan, prepared, source)
    plain = build_whole_image_model(network.layers, tensors)
    whole = plain.predict_on_batch(source[None])[0]
    assert len(run_of_stages) >= plan.n_tiles
    assert all(len(each) >= 2 for each in run_of_stages)
    assert np.abs(tiled - whole).max() <= 2e-5 * np.ptp(whole)


def test_a_large_image_is_decoded_by_them_and_a_small_one_is_not(run_of_stages, latents, monkeypatch):
    network = NETWORKS["decoder"]
    model = WindowModel(network, random_tensors(network), output="uint8")
    source = ArraySource(latents(20, 20), 4)
    small = Plan(network, 20, 20, 10)
    prepare_model(model, small, source)(latents(20, 20), ((True, True), (True, True)))
    assert not run_of_stages
    monkeypatch.setattr("tiler.plan.FITTED_PX", 100)
    prepare_model(model, small, source)(latents(20, 20), ((True, True), (True, True)))
    assert run_of_stages


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_only_float32_is_exact_enough_for_them(run_of_stages, latents, dtype):
    network = NETWORKS["decoder"]
    model = WindowModel(network, random_tensors(network), output="uint8", dtype=dtype)
    axis = (20, True, True)
    assert model.fit(axis, axis) is model


def test_a_block_without_biases_has_none(run_of_stages, latents):
    network = NETWORKS["decoder"]
    tensors = tuple(ConvolutionTensors(each.kernel, None) for each in random_tensors(network))
    source = latents(11, 12)
    axes = (11, True, True), (12, True, True)
    exact = WindowModel(network, tensors).fit(*axes)(source, ((True, True), (True, True)))
    direct = WindowModel(network, tensors)(source, ((True, True), (True, True)))
    assert np.abs(exact - direct).max() <= 2e-5 * np.ptp(direct)
