"""The exported models in other runtimes: the pixels and latents of the exact model, at any size."""

import numpy as np
import pytest
from conftest import random_tensors, run_serially
from safetensors.numpy import save_file

from taesd_core.checkpoint import Checkpoint, load_checkpoint, name_tensors
from taesd_core.families import FAMILIES
from taesd_core.network import Network
from taesd_core.variants import find_weights
from tiler.command.cli import main
from tiler.plan import Plan

SIZES = [(9, 14), (24, 17)]


def export(runner, *words):
    result = runner.invoke(main, ["weights", "export", *map(str, words)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def runner():
    from click.testing import CliRunner

    return CliRunner()


def run_ours(part, x, output):
    """The exact model, tile by tile."""
    from taesd_core.window_model import WindowModel

    checkpoint = load_checkpoint(find_weights("photo", part), part)
    height, width = (side // checkpoint.network.scale_in for side in x.shape[:2])
    model = WindowModel(checkpoint.network, checkpoint.tensors, output=output)
    return run_serially(Plan(checkpoint.network, height, width, 16), model, x)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_onnx_runtime_gives_what_we_give_at_two_sizes(tmp_path, runner, latents, part):
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    printed = export(runner, "photo", tmp_path / "x.onnx", "--part", part)
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert printed.splitlines()[-1] == "ONNX operators: " + ", ".join(
        sorted({each.op_type for each in model.graph.node})
    )
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        x = latents(height, width) * 2 if part == "decoder" else latents(8 * height, 8 * width, channels=3)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.transpose(2, 0, 1)[None]})
        ours = run_ours(part, x, "float32")
        assert np.ptp(ours) > 0.1
        assert np.abs(found[0].transpose(1, 2, 0) - ours).max() <= 2e-5 * np.ptp(ours)


def test_bytes_of_a_fixed_size_are_ours(latents):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from taesd_core.onnx_model import build_onnx_model

    checkpoint = load_checkpoint(find_weights("photo", "decoder"), "decoder")
    model = build_onnx_model(checkpoint, output="uint8", size=(9, 14)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == [1, 72, 112, 3]
    x = latents(9, 14) * 2
    (found,) = session.run(None, {"latents": x.transpose(2, 0, 1)[None]})
    ours = run_ours("decoder", x, "uint8")
    assert np.abs(found[0].astype(int) - ours).max() <= 1


def save_random(family, part, path):
    """Random weights of a family as published, and the checkpoint that they are."""
    network = Network(getattr(FAMILIES[family], part)(32))
    checkpoint = Checkpoint(network, random_tensors(network), "upstream", "", family, part)
    save_file(name_tensors(checkpoint, "upstream"), path)
    return checkpoint


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize("family", ["taef2", "taesana"])
def test_the_other_families_give_what_the_plain_model_gives(tmp_path, runner, latents, family, part):
    """The plain model, for it is the one that is exported; that ours is like it is tested elsewhere."""
    import keras

    from taesd_core.whole_image import build_whole_image_model

    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    checkpoint = save_random(family, part, tmp_path / "x")
    network = checkpoint.network
    for name in ("x.onnx", "x.keras"):
        assert f"{part}, family {family}" in export(runner, tmp_path / "x", tmp_path / name)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    plain = build_whole_image_model(network.layers, checkpoint.tensors)
    for height, width in [(3, 4), (6, 5)]:
        x = latents(height * network.scale_in, width * network.scale_in, network.channels_in)[None] * 2
        expected = np.asarray(plain(x))
        (found,) = session.run(None, {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2)})
        assert np.ptp(expected) > 0.1
        for each in (found.transpose(0, 2, 3, 1), np.asarray(loaded(x))):
            assert np.abs(each - expected).max() <= 2e-5 * np.ptp(expected)


# Keras 3.15 saves variables of TensorFlow 2.21 in a way that NumPy warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_a_keras_file_is_the_model(tmp_path, runner, latents):
    import keras

    export(runner, "photo", tmp_path / "x.keras")
    model = keras.saving.load_model(tmp_path / "x.keras")
    for height, width in SIZES:
        x = latents(height, width) * 2
        ours = run_ours("decoder", x, "float32")
        assert np.abs(np.asarray(model(x[None]))[0] - ours).max() <= 2e-5 * np.ptp(ours)


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, runner, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "taesd_core.onnx_model", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = runner.invoke(main, ["weights", "export", "photo", str(tmp_path / "x.onnx")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "taesd-tiler[onnx]" in result.stderr
    assert list(tmp_path.iterdir()) == []
