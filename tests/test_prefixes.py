"""Weights that somebody has wrapped, nested or joined load, matched strictly all the same; other models are named."""

import json

import numpy as np
import pytest
from reference_networks import NETWORKS, write_diffusers
from safetensors.numpy import load_file, save, save_file

from taesd_core.checkpoint import CheckpointError, load_checkpoint, load_parts
from taesd_core.variants import find_weights

PARTS = ("decoder", "encoder")
STATES = {part: load_file(find_weights("photo", part)) for part in PARTS}


def write(path, tensors):
    save_file(tensors, path)
    return path


def prefix(text, state):
    return {text + name: values for name, values in state.items()}


def assert_loads(path, part, layout=None):
    checkpoint = load_checkpoint(path, part)
    # In order of execution, by the published names: numbers are sorted as numbers.
    names = sorted(STATES[part], key=lambda name: [int(each) if each.isdigit() else each for each in name.split(".")])
    layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
    for each, name in zip(checkpoint.tensors, layers, strict=True):
        np.testing.assert_array_equal(each.kernel.transpose(3, 2, 0, 1), STATES[part][f"{name}.weight"])
        bias = STATES[part].get(f"{name}.bias")
        assert (each.bias is None) == (bias is None)
        if bias is not None:
            np.testing.assert_array_equal(each.bias, bias)
    assert layout in (None, checkpoint.layout)


PREFIXES = [
    "_orig_mod.", "module.", "{part}.", "vae.", "taesd_{part}.", "vae.{part}.", "module._orig_mod.",
    "_orig_mod.module.", "{part}._orig_mod.", "module.vae._orig_mod.{part}.", "state_dict.model.", "autoencoder.",
    "nets.0.", "x_{part}.model.",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_whatever_stands_in_front_of_the_published_names_the_weights_load(tmp_path, part):
    for text in PREFIXES:
        path = write(tmp_path / "x", prefix(text.format(part=part), STATES[part]))
        assert_loads(path, part, "comfyui" if text == "taesd_{part}." else "upstream")
        assert [each.part for each in load_parts(path)] == [part]


@pytest.mark.parametrize("part", PARTS)
def test_whatever_stands_in_front_of_the_names_of_diffusers_the_weights_load(tmp_path, part):
    write_diffusers(tmp_path / "x", part, NETWORKS["taesd", part], STATES[part])
    state = load_file(tmp_path / "x")
    for text in ("", "module.", "_orig_mod.vae.", "first_stage_model.", "tae."):
        assert_loads(write(tmp_path / "x", prefix(text, state)), part, "diffusers")
    # The decoder's positions without the words that go with them.
    bare = {name.removeprefix(f"{part}.layers."): values for name, values in state.items()}
    assert_loads(write(tmp_path / "x", bare), part)


@pytest.mark.parametrize("texts", [("{part}.", "{part}."), ("vae.{part}.", "vae.{part}."), ("a.", "b."), ("", "e.")])
def test_of_both_parts_in_a_file_each_is_found(tmp_path, texts):
    both = {}
    for part, text in zip(PARTS, texts, strict=True):
        both |= prefix(text.format(part=part), STATES[part])
    path = write(tmp_path / "x", both)
    for part in PARTS:
        assert_loads(path, part)
    assert [each.part for each in load_parts(path)] == list(PARTS)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"state_dict": state, "epoch": 3, "scheduler": {"last_lr": [1e-4]}},
        lambda state: {"model": {"state_dict": prefix("module.", state)}},
        lambda state: {"params": state},
        lambda state: {"params_ema": prefix("decoder.", state), "iter": 5},
        lambda state: [{"weights": (state,)}],
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": state["7.weight"] * 2}}}},
    ],
)
def test_nested_weights_of_pytorch_load(tmp_path, nest):
    torch = pytest.importorskip("torch")
    for new in (True, False):
        state = {name: torch.from_numpy(values) for name, values in STATES["decoder"].items()}
        torch.save(nest(state), tmp_path / "x", _use_new_zipfile_serialization=new)
        assert_loads(tmp_path / "x", "decoder")


def refuse(path, says, part="decoder"):
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(path, part)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 450 + len(str(path))
    with pytest.raises(CheckpointError, match="weights="):
        load_parts(path)


def test_weights_that_are_there_twice_are_asked_for(tmp_path):
    state = STATES["decoder"]
    other = {name: values * 2 for name, values in state.items()}
    path = write(tmp_path / "x", prefix("params.", state) | prefix("params_ema.", other))
    refuse(path, r"the decoder more than once, behind the names 'params\.' and 'params_ema\.'\. Save the one")
    refuse(write(tmp_path / "x", state | prefix("decoder.", other)), "the decoder more than once")


def drop(state):
    del state["w.4.conv.2.bias"]


def rename(state):
    state["v.4.conv.2.bias"] = state.pop("w.4.conv.2.bias")


def add(state):
    state["w.20.weight"] = np.zeros((3, 3, 3, 3), np.float32)


def add_elsewhere(state):
    state["discriminator.0.weight"] = np.zeros((3, 3, 3, 3), np.float32)


def add_text_encoder(state):
    state["text_encoder.layers.0.weight"] = np.zeros((4, 4), np.float32)


def add_a_part(state):
    state |= prefix("other.", {name: values for name, values in STATES["encoder"].items() if name != "0.bias"})


def misshape(state):
    state["w.8.conv.0.weight"] = np.zeros((64, 32, 3, 3), np.float32)


def turn(state):
    for name, values in state.items():
        if values.ndim == 4:
            state[name] = np.ascontiguousarray(values.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop, r"tensor w\.4\.conv\.2\.bias is missing"),
        (rename, r"tensor w\.4\.conv\.2\.bias is missing"),
        (add, r"tensor w\.20\.weight is left over"),
        (add_elsewhere, r"tensor discriminator\.0\.weight is left over"),
        (add_text_encoder, r"tensor text_encoder\.layers\.0\.weight is left over"),
        (add_a_part, r"tensor other\.\S+ is left over"),
        (misshape, r"tensor w\.8\.conv\.0\.weight has shape \(64, 32, 3, 3\)"),
        (turn, r"w\.1\.weight has shape \(64, 3, 3, 4\) instead of .*: its channels come last, as MLX keeps them"),
    ],
)
def test_behind_a_prefix_tensors_are_matched_strictly(tmp_path, spoil, says):
    state = prefix("w.", STATES["decoder"])
    spoil(state)
    refuse(write(tmp_path / "x", state), says)


def test_a_part_behind_the_word_of_the_other_is_called_swapped(tmp_path):
    path = write(tmp_path / "x", prefix("vae.encoder.", STATES["decoder"]))
    refuse(path, "it holds the decoder under the encoder's names: the two were swapped", part="encoder")
    refuse(path, "it holds the encoder alone")


def test_small_floats_are_named(tmp_path):
    state = {name: values.astype(np.uint8) for name, values in STATES["decoder"].items()}
    content = save(state).replace(b'"U8"', b'"F8_E4M3"')
    length = int.from_bytes(content[:8], "little") + 5 * len(state)
    (tmp_path / "x").write_bytes(length.to_bytes(8, "little") + content[8:])
    refuse(tmp_path / "x", r"number type F8_E4M3, not one of F64, F32, F16, BF16")


def zeros(*shape):
    return np.zeros(shape, np.float32)


OTHERS = {
    "LoRA": ({"lora_unet_down_blocks_0.lora_up.weight": zeros(320, 4)}, "it is a LoRA"),
    "LoRA of diffusers": ({"unet.mid_block.attentions.0.to_k.lora_A.weight": zeros(4, 320)}, "it is a LoRA"),
    "LoRA of FLUX": ({"double_blocks.0.processor.proj_lora1.down.weight": zeros(4, 320)}, "it is a LoRA"),
    "large autoencoder": (
        {"decoder.conv_in.weight": zeros(512, 4, 3, 3), "post_quant_conv.weight": zeros(4, 4, 1, 1)},
        "it is a large autoencoder",
    ),
    "large autoencoder, diffusers": (
        {"encoder.down_blocks.0.resnets.0.conv1.weight": zeros(128, 128, 3, 3)}, "it is a large autoencoder"
    ),
    "large autoencoder, first layout": (
        {"decoder.up.0.block.0.norm1.weight": zeros(128), "encoder.down.0.block.0.norm1.weight": zeros(128)},
        "it is a large autoencoder",
    ),
    "checkpoint": (
        {
            "model.diffusion_model.input_blocks.0.0.weight": zeros(320, 4, 3, 3),
            "first_stage_model.decoder.conv_in.weight": zeros(512, 4, 3, 3),
        },
        "it is a whole checkpoint",
    ),
    "UNet": (
        {"down_blocks.0.resnets.0.conv1.weight": zeros(320, 320, 3, 3), "conv_in.weight": zeros(320, 4, 3, 3)},
        "it is a diffusion model",
    ),
    "transformer": ({"transformer_blocks.0.attn.to_q.weight": zeros(64, 64)}, "it is a diffusion model"),
    "text encoder": ({"text_model.encoder.layers.0.mlp.fc1.weight": zeros(64, 64)}, "it is a text encoder"),
    "video, stages": (
        {"decoder.1.weight": zeros(256, 16, 3, 3), "decoder.3.conv.0.weight": zeros(256, 512, 3, 3)},
        r"it is a video autoencoder \(TAEHV\)",
    ),
    "video, growth": ({"decoder.7.conv.weight": zeros(256, 256, 1, 1)}, r"it is a video autoencoder \(TAEHV\)"),
    "nothing": ({}, r"tensor 0\.weight is missing|tensor 1\.weight is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "says"), OTHERS.values(), ids=OTHERS)
def test_other_models_are_named_for_what_they_are(tmp_path, tensors, says):
    refuse(write(tmp_path / "x", tensors), says)
    refuse(write(tmp_path / "x", tensors), says, part="encoder")


def test_a_large_file_of_another_model_is_named_without_reading_it(tmp_path):
    header = {"model.diffusion_model.out.0.weight": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    with (tmp_path / "x").open("r+b") as file:
        file.truncate(8 + len(text) + 2**33)  # sparse
    refuse(tmp_path / "x", "it is a whole checkpoint, of a diffusion model and its large autoencoder")
