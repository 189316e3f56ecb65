import numpy as np
import pytest

from taesd_core.network import Network
from tiler.errors import OptionError
from tiler.latents import Latents
from tiler.sources.array_source import ArraySource
from tiler.sources.latent_space import Converted, to_diffusion_space
from tiler.window import Span, Window

VAE = np.random.default_rng(0).normal(0, 5, (6, 7, 16)).astype(np.float32)
WINDOW = Window(Span(1, 5), Span(0, 7))
FLUX = {"scale": 0.3611, "shift": 0.1159}


def test_vae_space_becomes_diffusion_space_as_pipelines_do_it():
    source = to_diffusion_space(ArraySource(VAE, 16), "vae", **FLUX)
    # As diffusers has it on the way from the encoder to the sampler.
    expected = (VAE.astype(np.float64) - 0.1159) * 0.3611
    np.testing.assert_allclose(source.read(WINDOW), expected[WINDOW.slices], rtol=1e-5, atol=1e-6)
    assert source.read(WINDOW).dtype == np.float32
    assert source.shape == (6, 7, 16)
    assert source.space == "diffusion"


class Saying(ArraySource):
    """A source that says which space it is in."""

    space = "vae"


@pytest.mark.parametrize(
    ("source", "space", "converts"),
    [
        pytest.param(ArraySource(VAE, 16), None, False, id="nobody says"),
        pytest.param(ArraySource(VAE, 16), "diffusion", False, id="diffusion"),
        pytest.param(ArraySource(VAE, 16), "vae", True, id="vae"),
        pytest.param(Saying(VAE, 16), None, True, id="the file says"),
        pytest.param(Saying(VAE, 16), "diffusion", False, id="the user knows better"),
        pytest.param(Converted(ArraySource(VAE, 16), scale=1, shift=0, space="vae"), None, True, id="a wrapper says"),
        pytest.param(Converted(Saying(VAE, 16), scale=2, shift=0), None, False, id="a wrapper that is silent"),
    ],
)
def test_what_is_said_goes_before_what_the_source_says(source, space, converts):
    assert (to_diffusion_space(source, space, **FLUX) is not source) == converts


def test_what_needs_no_number_asks_for_none():
    source = ArraySource(VAE, 16)
    assert to_diffusion_space(source, scale=None, shift=None) is source
    with pytest.raises(OptionError, match=r"scale and shift are not known.*scale=.*space="):
        to_diffusion_space(source, "vae", scale=None, shift=None)
    with pytest.raises(OptionError, match="No such space of latents: space=pixels"):
        to_diffusion_space(source, "pixels", **FLUX)


@pytest.mark.parametrize(("scale", "shift"), [(0, 0), (float("nan"), 0), (1, float("inf"))])
def test_numbers_that_convert_nothing_are_refused(scale, shift):
    with pytest.raises(OptionError, match="Not a scale and a shift"):
        Converted(ArraySource(VAE, 16), scale=scale, shift=shift)


def test_the_fingerprint_tells_latents_scale_and_shift():
    texts = {
        Converted(ArraySource(values, 16), scale=scale, shift=shift).fingerprint
        for values in (VAE, VAE + 1)
        for scale in (1.0, 2.0)
        for shift in (0.0, 1e-9)
    }
    assert len(texts) == 8


def test_infinite_values_are_left_for_the_engine_to_find():
    source = Converted(ArraySource(np.full((1, 1, 1), 3e38, np.float32), 1, axes="HWC"), scale=10, shift=-1)
    assert np.isinf(source.read(Window.whole(1, 1))).all()


def test_a_variant_by_its_name_knows_the_way_from_vae_space(monkeypatch):
    from tiler.models import find_convention

    monkeypatch.delenv("TAESD_TILER_WEIGHTS", raising=False)
    assert find_convention("taesdxl") == (0.13025, 0.0)
    assert find_convention("taef1") == (0.3611, 0.1159)
    assert find_convention("photo") is None
    assert find_convention(None) is None
    monkeypatch.setenv("TAESD_TILER_WEIGHTS", "taesd3")
    assert find_convention(None) == (1.5305, 0.0609)


@pytest.mark.parametrize("said", [{"scale": 0.5}, {"shift": 3.0}, {"scale": 0.5, "space": "diffusion"}])
def test_a_scale_that_nothing_is_converted_by_is_refused(said):
    with pytest.raises(OptionError, match=r"Nothing to convert: .*space=.vae."):
        Latents(np.ones((4, 5, 6), np.float32), **said).open(Network.decoder(4))
