"""The training of the packaged weights, with a budget of a few tiny steps on pictures that are drawn here."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from taesd_core.checkpoint import load_checkpoint
from tiler.sources.array_source import ArraySource
from tiler.sources.upscale import Upscaled
from tiler.window import Span, Window

PARTS = {"encoder": 1_222_532, "decoder": 1_222_531}


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    """The scripts can be imported, and their steps run as they are: to trace one takes longer than ten of them."""
    tensorflow = pytest.importorskip("tensorflow")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


@pytest.fixture
def photographs(tmp_path):
    """Smooth pictures with some noise, and one to hold out."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(3)
    for name in ("one", "two", "kept"):
        coarse = random.integers(40, 215, (6, 8, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((136, 104), Image.Resampling.BICUBIC))
        noise = random.normal(0, 6, smooth.shape)
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def train(photographs, tmp_path, monkeypatch):
    """Run the script for two steps of the smallest crops."""
    module = importlib.import_module("train_photo_autoencoder")
    monkeypatch.setattr(module, "SIZES", ((0.0, 32, 2, 1),))
    (tmp_path / "sources.txt").write_text("drawn, CC0")

    def run(out, *options):
        words = [photographs, "--out", tmp_path / out, "--held-out", "kept", "--steps", 2, *options]
        return CliRunner().invoke(module.main, [*map(str, words), "--card", str(tmp_path / "sources.txt")])

    return run


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(train, tmp_path, monkeypatch):
    done = train("whole")
    assert done.exit_code == 0, done.output
    for part, n_parameters in PARTS.items():
        path = tmp_path / "whole" / f"photo_{part}.safetensors"
        tensors = load_checkpoint(path, part).tensors
        assert sum(values.size for each in tensors for values in each if values is not None) == n_parameters
        with safe_open(path, "np") as file:
            card = file.metadata()
        assert (card["part"], card["photographs"], card["held_out"]) == (part, "drawn, CC0", "kept")
        assert "2 steps" in card["training"]
        # The network starts as means and interpolation: far from noise already.
        assert 15 < json.loads(card["figures"])["dB in 8 bits"] < 45
    with Image.open(tmp_path / "whole" / "sheet.png") as sheet:
        assert sheet.size == (1600, 336)

    batches = importlib.import_module("photo_batches").Batches
    make = batches.make

    def stop(self, step, *sizes):
        if step == 1:
            raise KeyboardInterrupt
        return make(self, step, *sizes)

    with monkeypatch.context() as context:
        context.setattr(batches, "make", stop)
        # click turns Ctrl-C into exit code 1.
        assert train("halves", "--save-minutes", 0).exit_code == 1
    assert not (tmp_path / "halves" / "photo_encoder.safetensors").exists()
    done = train("halves")
    assert done.exit_code == 0, done.output
    assert "goes on at step 1" in done.output
    for part in PARTS:
        whole, halves = (load_file(tmp_path / out / f"photo_{part}.safetensors") for out in ("whole", "halves"))
        for name, values in whole.items():
            np.testing.assert_array_equal(halves[name], values, err_msg=name)


def test_it_starts_as_means_and_interpolation_and_learns(photographs):
    module, batches = (importlib.import_module(name) for name in ("train_photo_autoencoder", "photo_batches"))
    pictures, kept = batches.read_photographs([photographs], ["kept"])
    training = module.Training("float32")
    assert training.model.encoder.count_params() == PARTS["encoder"]
    assert training.model.decoder.count_params() == PARTS["decoder"]

    picture = kept["kept"][None] / np.float32(255)
    latents = np.asarray(training.model.encoder(picture))
    means = picture.reshape(1, 13, 8, 17, 8, 3).mean((2, 4))
    # The free channels add a little.
    np.testing.assert_allclose(latents[..., :3], (means - 0.5) * 3.2, atol=0.15)
    assert np.corrcoef(latents[..., :3].ravel(), means.ravel())[0, 1] > 0.99
    decoder = training.model.decoder
    flat = np.asarray(decoder(np.full((1, 12, 12, 4), [0.8, -0.4, 0, 0], np.float32)))[0, 48, 48]
    np.testing.assert_allclose(flat, [0.75, 0.375, 0.5], atol=0.08)

    before = [each.numpy().copy() for each in training.model.trainable_variables]
    batch = batches.Batches(pictures).make(0, 32, 2, 1) | {"mix": module.find_mix(0)}
    losses = [training.train(batch, rate=0.3) for _ in range(3)]
    assert losses[-1] < losses[0]
    for variable, value in zip(training.model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable.numpy(), value), variable.path


def test_latents_are_upscaled_as_the_engine_does(photographs):
    batches = importlib.import_module("photo_batches")
    values = np.random.default_rng(0).normal(size=(9, 9, 4)).astype(np.float32)
    matrix = batches.bicubic_matrix(9)
    expected = Upscaled(ArraySource(values, 4), 2).read(Window(Span(0, 18), Span(0, 18)))
    np.testing.assert_allclose(np.einsum("ij,jkc,lk->ilc", matrix, values, matrix), expected, atol=1e-6)

    pictures, _ = batches.read_photographs([photographs], [])
    batch = batches.Batches(pictures).make(7, 32, 3, 2)
    assert batch["plain"].shape == (3, 32, 32, 3)
    # The small copies show what the large crops are the middle of.
    middles = batch["small"][:, 8:24, 8:24]
    np.testing.assert_allclose(batch["large"].reshape(2, 16, 2, 16, 2, 3).mean((2, 4)), middles, atol=1e-6)
    assert np.abs(batch["noise"]).max() <= 3 / 255
    again = batches.Batches(pictures).make(7, 32, 3, 2)
    assert all(np.array_equal(values, again[name]) for name, values in batch.items())
    assert not np.array_equal(batches.Batches(pictures, seed=1).make(7, 32, 3, 2)["plain"], batch["plain"])


@pytest.mark.parametrize("stopped", [0, 40])
def test_a_budget_by_the_clock_ends_with_a_low_rate_even_when_the_process_stood_still(stopped):
    module = importlib.import_module("train_photo_autoencoder")
    seconds = np.r_[np.arange(0, 30), np.arange(30, 60) + stopped]
    fractions = [module.find_fraction(step, each, None, 1 + stopped / 60) for step, each in enumerate(seconds)]
    rates = [module.find_rate(1000, each) for each in fractions]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1] < 0.03) == (1, True)
    assert module.find_fraction(5, 0, 10, None) == 0.5
    assert module.find_fraction(5, 50, 10, 1) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--held-out", "three"], "name=three"), (["--steps", "0"], "No budget"), (["--precision", "int8"], "int8")],
)
def test_what_cannot_be_is_refused(train, options, says):
    done = train("out", *options)
    assert done.exit_code != 0
    assert re.search(says, done.output + str(done.exception))


def test_a_perfect_pair_is_measured_as_one(photographs):
    module = importlib.import_module("evaluate_photo_autoencoder")
    picture = np.asarray(Image.open(photographs / "one.png"))[:96, :128]
    levels = np.random.default_rng(0).integers(0, 256, (12, 16, 4), np.uint8)
    np.testing.assert_array_equal(module.latents_to_bytes(module.bytes_to_latents(levels)), levels)
    shifted = np.clip(picture + np.array([0, 2, 0]), 0, 255).astype(np.uint8)

    def encode(each):
        return module.bytes_to_latents(levels[: each.shape[0] // 8, : each.shape[1] // 8])

    pair = module.Pair(encode, lambda latents: shifted)
    measured = module.measure_picture(pair, picture)
    assert measured.figures["largest mean error of a channel, 1/255"] == pytest.approx(2, abs=0.05)
    assert measured.figures["dB in 8 bits"] == pytest.approx(10 * np.log10(255**2 * 3 / 4), abs=0.05)
    assert measured.figures["latents within 3, %"] == 100
    assert measured.figures["kB of JPEG"] <= max(measured.figures["kB as PNG"], 1.2)
    jpeg, n_bytes = module.find_jpeg(picture, 3000)
    assert n_bytes <= 3000
    assert module.psnr(jpeg, picture) > 25
