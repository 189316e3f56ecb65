"""Every layout and variant, against networks that are typed in apart (``reference_networks``) and against diffusers."""

import re
import shutil
import warnings
from functools import cache

import h5py
import numpy as np
import pytest
from reference_networks import NETWORKS, WRITERS, build_torch, run_torch
from safetensors.numpy import load_file, save_file

from taesd_core.checkpoint import CheckpointError, load_checkpoint, load_parts

torch = pytest.importorskip("torch")

# Keras 3.15 saves variables of TensorFlow 2.21 in a way that NumPy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

LIKE = {"taesd": "taesd", "taesdxl": "taesd", "photo": "taesd", "taesd3": "taesd3", "taef1": "taesd3"}
LIKE |= {"taef2": "taef2", "taesana": "taesana"}
PARTS = ("decoder", "encoder")


@cache
def make_reference(variant, part):
    """The network of a variant, an input, its output, and the state_dict."""
    layers = NETWORKS[variant, part]
    model = build_torch(layers)
    n_in = next(layer[1] for layer in layers if isinstance(layer, tuple))
    side = 2 ** sum("stride 2" in layer for layer in layers if isinstance(layer, tuple))
    x = np.random.default_rng(1).uniform(-1, 1, (3 * side, 4 * side, n_in)).astype(np.float32)
    state = {name: values.numpy() for name, values in model.state_dict().items()}
    return layers, x, run_torch(model, x), state


@cache
def run_ours(variant, part, folder):
    """The tensors of the upstream file and what our network makes of the input with them."""
    from taesd_core.whole_image import build_whole_image_model

    checkpoint = load_checkpoint(write("upstream", variant, part, folder), part)
    _, x, _, _ = make_reference(variant, part)
    model = build_whole_image_model(checkpoint.network.layers, checkpoint.tensors)
    return checkpoint, np.asarray(model(x[None]))[0]


@cache
def write(layout, variant, part, folder):
    layers, _, _, state = make_reference(variant, part)
    writer, name = WRITERS[layout]
    writer(folder / name, part, layers, state)
    # A name that tells nothing: the layout must follow from what is inside.
    return (folder / name).rename(folder / f"{len(list(folder.iterdir()))}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", LIKE)
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_of_every_variant_gives_the_output_of_the_reference(folder, layout, variant, part):
    if layout == "keras-2":
        pytest.importorskip("tf_keras")
    like = LIKE[variant]
    expected, output = run_ours(like, part, folder)
    _, _, reference, _ = make_reference(like, part)
    assert np.abs(output - reference).max() <= 2e-5 * np.ptp(reference)
    # The same tensors to the bit give the same output.
    checkpoint = load_checkpoint(write(layout, like, part, folder), part)
    assert (checkpoint.layout, checkpoint.part) == (layout.split()[0], part)
    assert checkpoint.network == expected.network
    for each, other in zip(checkpoint.tensors, expected.tensors, strict=True):
        for values, others in zip(each.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", [each for each in WRITERS if "upstream " not in each])
def test_a_file_of_the_other_part_says_so(folder, layout, part):
    if layout == "keras-2":
        pytest.importorskip("tf_keras")
    other = PARTS[PARTS.index(part) - 1]
    with pytest.raises(CheckpointError, match=f"it holds the {other}") as caught:
        load_checkpoint(write(layout, "taesd3", other, folder), part)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_parts_under_each_others_names_are_called_swapped(tmp_path, folder, layout):
    """As TAEF1 1.1 was published."""
    both = {}
    for part in PARTS:
        both |= load_file(write(layout, "taesd3", part, folder))
    swap = {"encoder": "decoder", "decoder": "encoder"}
    swapped = {re.sub("encoder|decoder", lambda found: swap[found[0]], name): each for name, each in both.items()}
    save_file(swapped, tmp_path / "swapped")
    save_file(both, tmp_path / "right")
    for part in PARTS:
        with pytest.raises(CheckpointError, match=f"the {swap[part]} under the {part}'s names: the two were swapped"):
            load_checkpoint(tmp_path / "swapped", part)
    assert [each.part for each in load_parts(tmp_path / "right")] == list(PARTS)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_what_is_wrong_with_one_of_two_parts_is_not_hidden_by_the_other(tmp_path, folder, layout):
    both = {}
    for part in PARTS:
        both |= load_file(write(layout, "taesd", part, folder))
    name = next(name for name in both if "decoder" in name and name.endswith("conv.2.bias"))
    del both[name]
    save_file(both, tmp_path / "x")
    with pytest.raises(CheckpointError, match=f"tensor {re.escape(name)} is missing"):
        load_checkpoint(tmp_path / "x", "decoder")
    assert load_checkpoint(tmp_path / "x", "encoder").part == "encoder"


@pytest.mark.parametrize("how", ["weights", "whole model"])
@pytest.mark.parametrize("part", PARTS)
def test_a_model_without_layers_in_layers_is_read_by_the_order_of_its_convolutions(tmp_path, folder, part, how):
    from taesd_core.whole_image import build_whole_image_model

    expected, _ = run_ours("taesd", part, folder)
    model = build_whole_image_model(expected.network.layers, expected.tensors)
    name = "model.weights.h5" if how == "weights" else "model.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, that .h5 is legacy
        (model.save_weights if how == "weights" else model.save)(tmp_path / name)
    checkpoint = load_checkpoint(tmp_path / name, part)
    assert checkpoint.layout == ("keras-3" if how == "weights" else "keras-2")
    for each, other in zip(checkpoint.tensors, expected.tensors, strict=True):
        for values, others in zip(each.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "variant", ["taesd", *(pytest.param(each, marks=pytest.mark.slow) for each in ("taesd3", "taef2", "taesana"))]
)
def test_what_is_exported_as_keras_is_read_back(tmp_path, folder, variant, part):
    from taesd_core.keras_model import build_portable_model

    path = write("upstream", variant, part, folder)
    expected = load_checkpoint(path, part)
    build_portable_model(expected).save(tmp_path / "model.keras")
    (found,) = load_parts((tmp_path / "model.keras").rename(tmp_path / "x"))
    assert (found.part, found.layout, found.network) == (part, "keras-3", expected.network)
    for each, other in zip(found.tensors, expected.tensors, strict=True):
        for values, others in zip(each.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(values, others)


def drop_bias(file):
    del file["layers/conv2d/vars/1"]


def drop_block(file):
    del file["layers/block_4"]


def add_bias(file):
    file["layers/conv2d_1/vars/1"] = np.zeros(64, np.float32)


def add_layer(file):
    file["layers/conv2d_99/vars/0"] = np.zeros((3, 3, 64, 64), np.float32)


def rename_layer(file):
    file.move("layers/block_4", "layers/block_c")


def widen(file):
    del file["layers/conv2d_1/vars/0"]
    file["layers/conv2d_1/vars/0"] = np.zeros((3, 3, 64, 32), np.float32)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop_bias, r"tensor 1\.bias \(by its order\) is missing"),
        (drop_block, r"tensor 18\.conv\.0\.weight \(by its order\) is missing"),
        (add_bias, "tensor layers/conv2d_1/vars/1 is left over"),
        (add_layer, "tensor layers/conv2d_99/vars/0 is left over"),
        (rename_layer, "the numbers of the layers layers/block have a gap"),
        (widen, r"tensor layers/conv2d_1/vars/0 has shape \(3, 3, 64, 32\) instead of"),
    ],
)
def test_tensors_of_keras_3_are_matched_strictly(tmp_path, folder, spoil, says):
    path = shutil.copy(write("keras-3", "taesd", "decoder", folder), tmp_path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path, "decoder")


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda names: names[:-1], "is missing"), (lambda names: [*names, names[0]], "occurs twice")],
    ids=["one less", "one twice"],
)
def test_tensors_of_keras_2_are_matched_strictly(tmp_path, folder, change, says):
    pytest.importorskip("tf_keras")
    path = shutil.copy(write("keras-2", "taesd", "decoder", folder), tmp_path)
    with h5py.File(path, "r+") as file:
        layer = next(name for name in file.attrs["layer_names"] if "block" in name)
        file[layer].attrs["weight_names"] = change(list(file[layer].attrs["weight_names"]))
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path, "decoder")
