"""What overflows inside a network is found, wherever it hides, before it becomes a pixel; nothing else is refused."""

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_tensors
from safetensors.numpy import load_file, save_file

import tiler
from taesd_core.bounds import Range, choose_looks
from taesd_core.layers import Block, Clamp, Convolution, Pool, Relu, Upsample
from taesd_core.network import Network
from taesd_core.variants import find_weights
from taesd_core.whole_image import KeepingRelu, build_whole_image_model
from taesd_core.window_model import WindowModel
from tiler.command.cli import main
from tiler.errors import ModelOverflowError

WHOLE = ((True, True), (True, True))
UP = (Upsample(), Convolution(32, 32, bias=False))
SMALL = Network((Clamp(), Convolution(4, 32), Relu(), Block(32), *UP, Block(32), Convolution(32, 3)))
POOLED = Network((Clamp(), Convolution(4, 32), Relu(), Block(32, Pool(32, hidden=32)), *UP, Convolution(32, 3)))


def hide(tensors, large):
    """A network whose second block makes a large value, and of that with small negative weights what a ReLU makes 0."""
    small = np.float32(-0.5 / large)
    first, second = tensors[5], tensors[6]
    kernel, behind = first.kernel.copy(), second.kernel.copy()
    kernel[..., 0], kernel[1, 1, :, 0], behind[:, :, 0] = 0, large / 4, small
    return (*tensors[:5], first._replace(kernel=kernel), second._replace(kernel=behind), *tensors[7:])


@pytest.mark.parametrize(
    ("dtype", "output", "large", "says"),
    [
        pytest.param("float16", "uint8", 6e4, "float32 holds them.*precision float32 or bfloat16", id="float16"),
        pytest.param("float32", "float32", 3e38, "float32.*other weights", id="float32"),
        pytest.param("bfloat16", "uint16", 3e38, "bfloat16.*other weights", id="bfloat16"),
    ],
)
def test_what_a_relu_hides_is_found(latents, dtype, output, large, says):
    source, tensors = latents(9, 7), hide(random_tensors(SMALL), large)
    if dtype == "float32":
        # It does hide: the plain model's output is finite, and what it should be is not known.
        assert np.isfinite(build_whole_image_model(SMALL.layers, tensors).predict_on_batch(source[None])).all()
    model = WindowModel(SMALL, tensors, output=output, dtype=dtype)
    with pytest.raises(OverflowError, match=says):
        model(source, WHOLE)


def test_the_reference_of_verify_shows_what_a_relu_hides(latents):
    tensors = hide(random_tensors(SMALL), 3e38)
    keeping = build_whole_image_model(SMALL.layers, tensors, relu=KeepingRelu)
    assert not np.isfinite(keeping.predict_on_batch(latents(9, 7)[None])).all()
    plain = build_whole_image_model(SMALL.layers, random_tensors(SMALL)).predict_on_batch(latents(9, 7)[None])
    same = build_whole_image_model(SMALL.layers, random_tensors(SMALL), relu=KeepingRelu)
    np.testing.assert_array_equal(same.predict_on_batch(latents(9, 7)[None]), plain)


@pytest.mark.parametrize(("dtype", "large", "tolerance"), [("float16", 300, 0.01), ("float32", 1e33, 2e-5)])
def test_large_values_that_do_not_overflow_are_decoded(latents, dtype, large, tolerance):
    source, tensors = latents(9, 7), hide(random_tensors(SMALL), large)
    plain = build_whole_image_model(SMALL.layers, tensors).predict_on_batch(source[None])[0]
    model = WindowModel(SMALL, tensors, dtype=dtype)
    assert np.abs(model(source, WHOLE) - plain).max() <= tolerance * np.ptp(plain)


@pytest.mark.parametrize(("dtype", "factor"), [("float16", 1e5), ("float32", 1e25), ("float32", 1e38)])
def test_statistics_that_overflow_are_none(latents, dtype, factor):
    first, *others = random_tensors(POOLED)
    model = WindowModel(POOLED, (first._replace(kernel=first.kernel * np.float32(factor)), *others), dtype=dtype)
    with pytest.raises(OverflowError, match="precision float32" if dtype == "float16" else "other weights"):
        model.gather(latents(9, 7), WHOLE, (slice(None), slice(None)))


def test_a_network_with_norms_is_looked_at_behind_them(latents):
    source, (*others, behind, a, b, c, up, last) = latents(9, 7), random_tensors(POOLED)
    model = WindowModel(POOLED, (*others, behind, a, b, c, up, last))
    moments = model.gather(source, WHOLE, (slice(None), slice(None)))
    assert np.isfinite(model.with_statistics([moments])(source, WHOLE)).all()
    hot = behind._replace(kernel=behind.kernel * np.float32(3e38))
    with pytest.raises(OverflowError):
        WindowModel(POOLED, (*others, hot, a, b, c, up, last)).with_statistics([moments])(source, WHOLE)


def test_a_range_holds_all_sums_of_a_convolution_and_no_more():
    random = np.random.default_rng(0)
    kernel, bounds = random.normal(size=(3, 3, 5, 4)).astype(np.float32), random.normal(size=(2, 5))
    low, high = np.minimum(bounds, 0).min(axis=0), np.maximum(bounds, 0).max(axis=0)
    found = Range(low, high).convolve(kernel)
    for channel in range(4):
        up = np.where(kernel[..., channel] > 0, high, low)
        down = np.where(kernel[..., channel] > 0, low, high)
        np.testing.assert_allclose(found.high[channel], (up * kernel[..., channel]).sum(), rtol=1e-6)
        np.testing.assert_allclose(found.low[channel], (down * kernel[..., channel]).sum(), rtol=1e-6)


@pytest.mark.parametrize("network", [Network.decoder(4), Network.encoder(4)], ids=["decoder", "encoder"])
def test_looks_are_few(network):
    tensors = network.tensors_of_stages(random_tensors(network))
    stages = list(zip(network.stages, tensors, strict=True))
    for dtype in ("float32", "bfloat16"):
        assert not any(choose_looks(stage, own, dtype).maps for stage, own in stages)
    n_looks = sum(len(choose_looks(stage, own, "float16").maps) for stage, own in stages)
    assert 4 <= n_looks <= sum(map(len, tensors)) / 2


@pytest.fixture
def folder(tmp_path, monkeypatch, latents):
    """A folder with latents, and weights whose maps are 25,000 or 3 · 10^38 times those of the shipped ones."""
    monkeypatch.chdir(tmp_path)
    np.save("latents.npy", latents(20, 44) * 3)
    for part in ("decoder", "encoder"):
        tensors = load_file(find_weights("photo", part))
        first, *_, last = sorted({int(name.split(".")[0]) for name in tensors})
        for factor in (25_000, 3e38):
            hot = dict(tensors)
            for name, values in tensors.items():
                place = int(name.split(".")[0])
                if place == first or (place != last and name.endswith("bias")):
                    hot[name] = values * np.float32(factor)
                elif place == last and name.endswith("weight"):
                    hot[name] = values / np.float32(factor)
            save_file(hot, f"{part}_{factor:.0e}.safetensors")
    return tmp_path


def test_float16_is_refused_by_the_command_line_and_float32_gives_the_picture(folder):
    def run(*words):
        words = "decode", "latents.npy", "image.npy", *words, "--tile-size", "64", "--quiet"
        return CliRunner().invoke(main, words)

    hot = "--weights", "decoder_2e+04.safetensors"
    result = run(*hot, "--precision", "float16")
    assert result.exit_code == 3
    assert "tiler: Tile " in result.stderr
    assert "Use the precision float32" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(folder.glob("image.*"))
    assert run(*hot).exit_code == 0
    picture = np.load("image.npy").astype(int)
    assert run("--weights", "photo", "--overwrite").exit_code == 0
    assert np.abs(np.load("image.npy").astype(int) - picture).max() <= 1


@pytest.mark.slow
def test_every_call_refuses_what_overflows(folder, latents):
    options = {"weights": "decoder_3e+38.safetensors"}
    source = latents(12, 9) * 3
    with pytest.raises(ModelOverflowError, match="float32"):
        tiler.decode(source, "image.tif", **options)
    with pytest.raises(ModelOverflowError, match="float32"):
        tiler.preview(source, **options)
    with pytest.raises(ModelOverflowError, match="float32"):
        tiler.decode_lazily(source, **options).compute()
    with pytest.raises(ModelOverflowError, match="float32"):
        tiler.encode(
            np.full((64, 64, 3), 0.5, np.float32), "latents.npy", overwrite=True, weights="encoder_3e+38.safetensors"
        )
    tiler.decode(source, "image.tif", weights="photo")
    with pytest.raises(ModelOverflowError, match="plain model"):
        tiler.verify("image.tif", source, samples=1, **options)


@pytest.mark.slow
def test_a_run_that_overflowed_is_resumed_in_no_other_precision(folder):
    latents = np.load("latents.npy")
    latents[:, 1:] = 0
    np.save("latents.npy", latents)
    tensors = load_file(find_weights("photo", "decoder"))
    tensors["1.weight"] = tensors["1.weight"] * np.float32(25_000)
    save_file(tensors, "some.safetensors")
    words = [
        "decode",
        "latents.npy",
        "image.npy",
        "--weights",
        "some.safetensors",
        "--tile-size",
        "64",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(main, [*words, "--precision", "float16"])
    assert result.exit_code == 3
    assert "finished and kept" in result.stderr
    assert "Go on" not in result.stderr
    result = CliRunner().invoke(main, [*words, "--precision", "float32", "--resume"])
    assert result.exit_code == 3
    assert "first difference: precision, begun with float16, now float32" in result.stderr
    assert CliRunner().invoke(main, [*words, "--precision", "float32", "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("values", "options"),
    [
        pytest.param(np.full((9, 9, 4), 1e300), {}, id="float64 beyond float32"),
        pytest.param(np.full((9, 9, 4), 1e30, np.float32), {"space": "vae", "scale": 1e38}, id="a scale"),
        pytest.param(
            np.tile(np.float32([[3.4e38], [-3.4e38]]), (8, 16, 4)).reshape(16, 16, 4), {"upscale": 2}, id="overshoot"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::tiler.errors.InputWarning")
def test_latents_that_become_infinite_on_the_way_are_refused(values, options):
    with pytest.raises(tiler.InputError, match="NaN or Inf"):
        tiler.preview(tiler.Latents(values, **options), weights="photo")
