"""The computed receptive field against the one that an impulse shows in the real graph."""

import numpy as np
import pytest

from taesd_core.families import FAMILIES
from taesd_core.layers import convolutions
from taesd_core.network import Network
from taesd_core.receptive_field import Extent, backward_through, forward_through
from taesd_core.tensors import ConvolutionTensors
from taesd_core.whole_image import build_whole_image_model
from taesd_core.window_model import WindowModel

NETWORKS = [
    Network.decoder(4),
    Network.encoder(4),
    Network(FAMILIES["taesana"].decoder(32)),
    Network(FAMILIES["taesana"].encoder(32)),
]
IDS = ["decoder", "encoder", "taesana decoder", "taesana encoder"]


def positive_tensors(network):
    """All weights positive and no bias: nothing cancels and no ReLU hides how far an impulse reaches."""
    return tuple(
        ConvolutionTensors(
            np.full((3, 3, c.n_in, c.n_out), 1 / (9 * c.n_in), np.float32),
            np.zeros(c.n_out, np.float32) if c.bias else None,
        )
        for _, _, c in convolutions(network.layers)
    )


@pytest.fixture(scope="module", params=NETWORKS, ids=IDS)
def positive(request):
    import keras

    keras.config.set_floatx("float64")
    try:
        yield request.param, build_whole_image_model(request.param.layers, positive_tensors(request.param))
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize(("network", "halo"), list(zip(NETWORKS, (19, 19, 20, 19), strict=True)), ids=IDS)
def test_halo_is_19_or_20_latents(network, halo):
    assert network.halo == halo


def test_margins_before_the_three_upsamplings_are_9_7_and_3():
    stages = Network.decoder(4).stages
    pixels = Extent(8 * 1000, 8 * 1001)
    for number, (scale, margin) in enumerate([(1, 9), (2, 7), (4, 3)], start=1):
        behind = [step for stage in stages[number:] for step in stage]
        needed = backward_through(behind, pixels)
        assert (1000 * scale - needed.start, needed.stop - 1001 * scale) == (margin, margin)


def reach_of_impulse(network, model, position):
    """Return the farthest output of one impulse, in latent px before and behind the latent it lies in."""
    size = 48
    x = np.zeros((1, size * network.scale_in, network.scale_in, network.channels_in))
    x[0, position, :, :] = 1
    lit = np.flatnonzero(np.asarray(model(x))[0].any(axis=(1, 2)))
    latents = lit // network.scale_out
    return position // network.scale_in - latents.min(), latents.max() - position // network.scale_in


def test_halo_is_what_an_impulse_shows(positive):
    network, model = positive
    middle = 24 * network.scale_in
    reaches = [reach_of_impulse(network, model, middle + phase) for phase in range(network.scale_in)]
    assert max(max(reach) for reach in reaches) == network.halo


def test_one_latent_less_of_context_changes_pixels(positive):
    """An input made for it: nothing but an impulse exactly a halo away from the core."""
    network, model = positive
    if network.scale_in > 1:
        pytest.skip("the decoder's impulse is enough")
    core = 24
    x = np.zeros((1, 48, 72 // network.scale_out, network.channels_in))
    x[0, core - network.halo] = 1
    scale = network.scale_out
    whole = np.asarray(model(x))[0, core * scale : (core + 1) * scale]
    assert whole.any()
    for margin, same in ((network.halo, True), (network.halo - 1, False)):
        window = np.asarray(model(x[:, core - margin :]))[0, margin * scale : (margin + 1) * scale]
        # The zeros around the window stand for nothing lit beyond it.
        assert bool(window.any()) is same


def test_exact_model_does_not_give_pixels_that_lack_one_latent_of_context():
    network = Network.decoder(4)
    model = WindowModel(network, positive_tensors(network))
    inside = ((False, False), (False, False))
    assert model(np.zeros((40, 39, 4), np.float32), inside).shape == (16, 8, 3)
    with pytest.raises(ValueError, match="all halo"):
        model(np.zeros((40, 38, 4), np.float32), inside)


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
@pytest.mark.parametrize("length", [8, 16, 64, 200])
def test_backward_is_the_least_input_that_gives_the_output(network, length):
    """Each stage: what is needed suffices, and one row less at either end does not."""
    for stage in network.stages:
        for start in (1000, 1001):
            wanted = Extent(start, start + length)
            needed = backward_through(stage, wanted)
            got = forward_through(stage, needed)
            assert got.start <= wanted.start < wanted.stop <= got.stop
            late = forward_through(stage, Extent(needed.start + 1, needed.stop))
            early = forward_through(stage, Extent(needed.start, needed.stop - 1))
            assert late.start > wanted.start
            assert early.stop < wanted.stop
