import json
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import random_tensors
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from taesd_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from taesd_core.network import Network
from taesd_core.variants import VARIANTS, find_weights

PARTS = {"decoder": Network.decoder, "encoder": Network.encoder}


def upstream_names(part):
    """The published key of every tensor, typed in from the list of layers, not derived from our table."""
    blocks = {"decoder": [3, 4, 5, 8, 9, 10, 13, 14, 15, 18], "encoder": [1, 3, 4, 5, 7, 8, 9, 11, 12, 13]}[part]
    plain = {"decoder": [1, 7, 12, 17, 19], "encoder": [0, 2, 6, 10, 14]}[part]
    names = {k: [str(k)] for k in plain} | {k: [f"{k}.conv.{i}" for i in (0, 2, 4)] for k in blocks}
    return [name for k in sorted(names) for name in names[k]]


def to_upstream(part, tensors):
    state = {}
    for name, each in zip(upstream_names(part), tensors, strict=True):
        state[name + ".weight"] = np.ascontiguousarray(each.kernel.transpose(3, 2, 0, 1))
        if each.bias is not None:
            state[name + ".bias"] = each.bias
    return state


def to_diffusers(part, state):
    def rename(name):
        position, rest = name.split(".", 1)
        return f"{part}.layers.{int(position) - (part == 'decoder')}.{rest}"

    return {rename(name): values for name, values in state.items()}


def assert_same(tensors, expected):
    for each, other in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(each.kernel, other.kernel)
        assert (each.bias is None) == (other.bias is None)
        if each.bias is not None:
            np.testing.assert_array_equal(each.bias, other.bias)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("part", PARTS)
def test_both_layouts_give_the_tensors(tmp_path, part, channels):
    expected = random_tensors(PARTS[part](channels))
    state = to_upstream(part, expected)
    save_file(state, tmp_path / "upstream.safetensors")
    other = "encoder" if part == "decoder" else "decoder"
    both = to_diffusers(part, state) | to_diffusers(other, to_upstream(other, random_tensors(PARTS[other](channels))))
    save_file(both, tmp_path / "diffusers.safetensors")
    for layout in ("upstream", "diffusers"):
        checkpoint = load_checkpoint(tmp_path / f"{layout}.safetensors", part)
        assert (checkpoint.layout, checkpoint.network) == (layout, PARTS[part](channels))
        assert_same(checkpoint.tensors, expected)


def test_half_precision_is_widened(tmp_path):
    state = to_upstream("decoder", random_tensors(Network.decoder(4)))
    save_file({name: values.astype(np.float16) for name, values in state.items()}, tmp_path / "half.safetensors")
    kernel = load_checkpoint(tmp_path / "half.safetensors", "decoder").tensors[0].kernel
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, state["1.weight"].transpose(2, 3, 1, 0).astype(np.float16))


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("part", PARTS)
def test_what_is_saved_is_upstreams_layout_in_half_precision_with_its_card(tmp_path, part, channels):
    tensors = random_tensors(PARTS[part](channels))
    save_checkpoint(tmp_path / "saved.safetensors", part, tensors, {"licence": "CC0"})
    expected = {name: values.astype(np.float16) for name, values in to_upstream(part, tensors).items()}
    found = load_file(tmp_path / "saved.safetensors")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], values)
    with safe_open(tmp_path / "saved.safetensors", "np") as file:
        assert file.metadata() == {"licence": "CC0"}
    assert load_checkpoint(tmp_path / "saved.safetensors", part).network == PARTS[part](channels)


@pytest.mark.parametrize("value", [70_000, np.nan, -np.inf])
def test_weights_beyond_half_precision_are_not_saved(tmp_path, value):
    tensors = random_tensors(Network.encoder(4))
    tensors[3].kernel[1, 2, 5, 7] = value
    with pytest.raises(CheckpointError, match=r"float16.*tensor=1\.conv\.4\.weight"):
        save_checkpoint(tmp_path / "saved.safetensors", "encoder", tensors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", PARTS)
def test_packaged_photo_weights_load(part):
    path = find_weights("photo", part)
    checkpoint = load_checkpoint(path, part)
    n_parameters = sum(values.size for values in load_file(path).values())
    assert n_parameters == {"decoder": 1_222_531, "encoder": 1_222_532}[part]
    assert sum(each.kernel.size + (0 if each.bias is None else each.bias.size) for each in checkpoint.tensors) == (
        n_parameters
    )
    assert len(checkpoint.sha256) == 64


def drop(state):
    del state["4.conv.2.bias"]


def add(state):
    state["20.weight"] = np.zeros((3, 3, 3, 3), np.float32)


def misshape(state):
    state["8.conv.0.weight"] = np.zeros((64, 32, 3, 3), np.float32)


def narrow_bias(state):
    state["19.bias"] = np.zeros(1, np.float32)


def poison(state):
    state["7.weight"] = np.full((64, 64, 3, 3), np.nan, np.float32)


def swap(state):
    state.clear()
    state.update(to_upstream("encoder", random_tensors(Network.encoder(4))))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (drop, r"tensor 4\.conv\.2\.bias is missing"),
        (add, r"tensor 20\.weight is left over"),
        (misshape, r"tensor 8\.conv\.0\.weight has shape \(64, 32, 3, 3\) instead of \(64, 64, 3, 3\)"),
        (narrow_bias, r"tensor 19\.bias has shape \(1,\) instead of \(3,\)"),
        (poison, r"NaN or Inf: .*layer=7\."),
        (swap, "it holds the encoder"),
        (dict.clear, "is missing"),
    ],
    ids=["missing", "extra", "misshapen", "misshapen bias", "nan", "encoder", "empty"],
)
def test_wrong_tensors_are_named(tmp_path, break_it, message):
    state = to_upstream("decoder", random_tensors(Network.decoder(4)))
    break_it(state)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "broken.safetensors", "decoder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"\x80\x04K\x01.",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        json.dumps({"a": 1}).encode(),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="weights="):
        load_checkpoint(path, "decoder")


def narrow(state):
    state["1.weight"] = np.zeros((64, 0, 3, 3), np.float32)


def count(state):
    state["7.weight"] = np.zeros((64, 64, 3, 3), np.int64)


def hide(state):
    state["20.weight\n\x1b[2J" + "x" * 999] = np.zeros(3, np.float32)


def fill(state):
    state["7.weight"] = np.zeros((64, 64, 3, 3), np.float32)


def fold(state):
    state["7.weight"] = np.zeros((1,) * 60, np.float32)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (narrow, r"tensor 1\.weight has shape \(64, 0, 3, 3\) instead of \(64, 1, 3, 3\)"),
        (count, "tensor 7.weight has number type I64"),
        (hide, "is left over"),
        (fold, "tensor 7.weight has shape"),
        (fill, "a kernel of zeros alone: .*, tensor=7.weight"),
    ],
    ids=["no channels", "whole numbers", "unprintable", "60 axes", "half downloaded"],
)
def test_hostile_tensors_are_refused_in_a_line_that_can_be_printed(tmp_path, break_it, message):
    state = to_upstream("decoder", random_tensors(Network.decoder(4)))
    break_it(state)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "broken.safetensors", "decoder")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("has_torch", [True, False], ids=["with PyTorch", "without"])
@pytest.mark.parametrize("kind", ["pickle", "zip", "old zip"])
def test_a_pickle_is_never_run(tmp_path, monkeypatch, kind, has_torch):
    torch = pytest.importorskip("torch")
    path, bomb = tmp_path / "weights.pth", Bomb(tmp_path / "it ran")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=kind == "zip")
    if not has_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    # PyTorch reads no pickle that it has not written, so who has none need not install it.
    says = "never loaded" if has_torch or kind == "pickle" else r"Install PyTorch.*weights_only=True"
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(path, "decoder")
    assert "\n" not in str(caught.value)
    assert not bomb.marker.exists()
    pickle.loads(pickle.dumps(bomb))
    assert bomb.marker.exists(), "this test could not have failed"


def test_what_is_no_file_of_weights_is_said(tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    for name, says in {"": "A folder", "link": "link to nowhere", "missing": "No such weights"}.items():
        with pytest.raises(CheckpointError, match=says):
            find_weights(tmp_path / name, "decoder")


def test_an_unknown_name_names_the_ways():
    with pytest.raises(CheckpointError, match=r"weights=sdxl.*safetensors.*photo"):
        find_weights("sdxl", "decoder")
    assert {"taesd", "taesdxl", "taesd3", "taef1", "taef2", "taesana", "photo"} == set(VARIANTS)
