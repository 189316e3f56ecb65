"""The operations that the plan counts against those that stand in TensorFlow's graphs."""

import itertools

import numpy as np
import pytest
from conftest import random_tensors, run_serially

from taesd_core import window_model
from taesd_core.costs import axis_spans
from taesd_core.families import FAMILIES
from taesd_core.network import Network
from taesd_core.whole_image import build_whole_image_model
from taesd_core.window_model import WindowModel
from tiler.jobs.statistics import prepare_model
from tiler.plan import Plan
from tiler.sources.array_source import ArraySource

NETWORKS = {
    "decoder": Network.decoder(4),
    "encoder": Network.encoder(4),
    "taef2 decoder": Network(FAMILIES["taef2"].decoder(32)),
    "taef2 encoder": Network(FAMILIES["taef2"].encoder(32)),
    "taesana decoder": Network(FAMILIES["taesana"].decoder(32)),
    "taesana encoder": Network(FAMILIES["taesana"].encoder(32)),
}


def count_macs(function, shape):
    """Return the multiply-accumulates of the convolutions in the graph of a function."""
    import tensorflow as tf

    graph = tf.function(function).get_concrete_function(tf.TensorSpec(shape)).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type == "Conv2D":
            kernel = operation.inputs[1].shape
            total += int(np.prod(operation.outputs[0].shape)) * int(np.prod(kernel[:3]))
    return total


@pytest.mark.parametrize("part", NETWORKS)
def test_count_of_the_whole_is_that_of_the_keras_model(part):
    network = NETWORKS[part]
    model = build_whole_image_model(network.layers)
    shape = (1, 24 * network.scale_in, 17 * network.scale_in, network.channels_in)
    assert network.macs_of_whole(24, 17) == count_macs(model, shape)


def test_decoder_takes_269_604_macs_a_pixel():
    assert Network.decoder(4).macs_of_whole(64, 64) == 269_604 * 512 * 512


@pytest.mark.parametrize("part", NETWORKS)
def test_count_of_the_tiles_is_that_of_the_keras_model(monkeypatch, part):
    counts = []

    def compile_and_count(stage, channels, dtype):
        def program(x, borders, *norms):
            counts.append(count_macs(lambda x: stage(x, norms, borders=borders), x.shape))
            return stage(x, norms, borders=borders)

        return program

    monkeypatch.setattr(window_model, "compile_stage", compile_and_count)
    network = NETWORKS[part]
    monkeypatch.setattr("tiler.plan.PASS_CORE", 30)
    plan = Plan(network, 5, 4, 3) if "taesana" in part else Plan(network, 40, 33, 24)
    source = np.zeros((plan.height * network.scale_in, plan.width * network.scale_in, network.channels_in), np.float32)
    model = WindowModel(network, random_tensors(network))
    run_serially(plan, prepare_model(model, plan, ArraySource(source, network.channels_in)), source)
    assert plan.macs == sum(counts)


@pytest.mark.parametrize("size", [512, 4000])
def test_tiles_of_512_px_cost_at_most_2_percent_more_than_the_whole(size):
    assert Plan(NETWORKS["decoder"], size, size, 512 // 8).compute_overhead <= 1.02


def test_tiles_of_1024_px_cost_less_than_the_whole():
    assert Plan(NETWORKS["decoder"], 4000, 4000, 1024 // 8).compute_overhead < 1


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("axis", [(1, True, True), (21, True, False), (100, False, False), (300, False, True)])
def test_every_stage_gives_what_the_next_one_takes(part, axis):
    network = NETWORKS[part]
    if axis[0] > network.halo * (2 - axis[1] - axis[2]):
        spans = axis_spans(network.layers, axis)
        assert len(spans) == len(network.stages)
        for before, span in itertools.pairwise(spans):
            assert span.read == slice(0, before.crop.stop - before.crop.start)


@pytest.mark.parametrize("core", [32, 64, 128, 1024])
@pytest.mark.parametrize("size", [1, 60, 130, 1000, 5000])
def test_statistics_of_flux_2_cost_at_most_4_percent_of_a_decode(size, core):
    plan = Plan(NETWORKS["taef2 decoder"], size, size, core)
    assert 0.03 < plan.pass_overhead <= 0.04
    assert plan.compute_overhead == pytest.approx((plan.macs - plan.pass_macs) / plan._whole_macs + plan.pass_overhead)
