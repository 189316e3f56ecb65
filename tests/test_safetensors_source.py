import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from tiler.errors import InputError
from tiler.sources.opening import open_latents
from tiler.sources.safetensors_source import COMFY_KEY, COMFY_VERSION
from tiler.window import Span, Window

BATCH = np.random.default_rng(0).normal(size=(2, 4, 7, 9)).astype(np.float32)
WHOLE = np.moveaxis(BATCH[1], 0, 2)


def save(path, **arrays):
    save_file(arrays, path)
    return path


def read(source):
    return source.read(Window.whole(*source.shape[:2]))


@pytest.mark.parametrize("name", ["x.safetensors", "x.latent", "x", "x.npy"])
@pytest.mark.parametrize("n_others", [0, 1, 40])
def test_the_content_tells_whatever_the_name_and_the_length_of_the_header(tmp_path, name, n_others):
    others = {f"other {n}": np.zeros(n) for n in range(n_others)}
    source = open_latents(save(tmp_path / name, z=BATCH, **others), 4, index=1)
    np.testing.assert_array_equal(read(source), WHOLE)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    text = json.dumps({"z": {"dtype": "F32", "shape": [4, 7, 9], "data_offsets": [0, 1008]}}).ljust(128).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", 128) + text + BATCH[1].tobytes())
    assert (tmp_path / "x").read_bytes().startswith(b"\x80\0")
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x", 4)), WHOLE)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_float_is_read(tmp_path, dtype):
    source = open_latents(save(tmp_path / "x", z=BATCH.astype(dtype)), 4, index=1)
    np.testing.assert_array_equal(read(source), WHOLE.astype(dtype).astype(np.float32))


def test_bfloat16_is_read_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    tensor = torch.from_numpy(BATCH).to(torch.bfloat16)
    tensor[1, 2, 3, 4] = float("nan")
    save_tensors({"z": tensor}, tmp_path / "x")
    expected = tensor[1].float().numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x", 4, index=1)), expected)


@pytest.mark.parametrize(("version", "factor"), [(True, 1), (False, 1 / 0.18215)], ids=["new", "old"])
def test_a_latent_file_of_comfyui_is_in_vae_space(tmp_path, version, factor):
    arrays = {COMFY_KEY: BATCH[1:]} | ({COMFY_VERSION: np.zeros(0, np.float32)} if version else {})
    source = open_latents(save(tmp_path / "ComfyUI_00001_.latent", **arrays), 4)
    assert source.space == "vae"
    np.testing.assert_allclose(read(source), WHOLE * factor, rtol=1e-6)


def test_other_tensors_say_nothing_of_their_space(tmp_path):
    assert getattr(open_latents(save(tmp_path / "x", latents=BATCH[1]), 4), "space", None) is None


def test_a_tensor_is_chosen_by_its_key(tmp_path):
    path = save(tmp_path / "x", one=BATCH[0], two=BATCH[1])
    np.testing.assert_array_equal(read(open_latents(path, 4, key="two")), WHOLE)
    with pytest.raises(InputError, match=r"Several arrays: path=.*one \(4, 7, 9\), two .*key="):
        open_latents(path, 4)
    with pytest.raises(InputError, match="key=three"):
        open_latents(path, 4, key="three")


def test_the_fingerprint_tells_tensor_and_index(tmp_path):
    path = save(tmp_path / "x", one=BATCH, two=BATCH)
    texts = {open_latents(path, 4, key=key, index=index).fingerprint for key in ("one", "two") for index in (0, 1)}
    assert len(texts) == 4


def test_a_small_window_of_a_huge_file_takes_little_memory(tmp_path):
    path = tmp_path / "huge.safetensors"
    header = json.dumps({"z": {"dtype": "BF16", "shape": [1, 4, 16384, 16384], "data_offsets": [0, 2**31]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, path.stat().st_size + 2**31)
    tracemalloc.start()
    try:
        values = open_latents(path, 4).read(Window(Span(16000, 16064), Span(16320, 16384)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.shape == (64, 64, 4)
    assert peak_bytes < 4 * values.nbytes + 200_000


GOOD = {"z": {"dtype": "F32", "shape": [4, 7, 9], "data_offsets": [0, 1008]}}
BAD = {
    "truncated": (GOOD, bytes(1007), "Not a whole .safetensors file"),
    "trailing": (GOOD, bytes(1009), "Not a whole .safetensors file"),
    "another size": ({"z": {**GOOD["z"], "shape": [4, 7, 8]}}, bytes(1008), "Not a whole .safetensors file"),
    "huge": ({"z": {**GOOD["z"], "shape": [4, 2**40, 2**40]}}, bytes(1008), "Not a whole .safetensors file"),
    "integers": ({"z": {**GOOD["z"], "dtype": "I32"}}, bytes(1008), "Wrong number type.*key=z.*I32"),
    "8-bit floats": (
        {"z": {"dtype": "F8_E4M3", "shape": [4, 7, 9], "data_offsets": [0, 252]}},
        bytes(252),
        "Wrong number type",
    ),
    "channels": ({"z": {**GOOD["z"], "shape": [12, 7, 3]}}, bytes(1008), "key=z.*expected channels=4"),
    "batch": ({"z": {"dtype": "F16", "shape": [2, 4, 7, 9], "data_offsets": [0, 1008]}}, bytes(1008), "index=0"),
    "nothing": ({}, b"", "No latents"),
    "weights": ({"0.bias": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, bytes(36), "No latents"),
    "line ends": ({"z\n\x1b[2J": GOOD["z"], "y": {**GOOD["z"], "data_offsets": [1008, 2016]}}, bytes(2016), "Several"),
}


@pytest.mark.parametrize(("header", "content", "says"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_in_one_line(tmp_path, header, content, says):
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + content)
    with pytest.raises(InputError, match=says) as caught:
        open_latents(tmp_path / "x", 4)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_file_that_shrinks_is_an_error_and_not_a_crash(tmp_path):
    path = save(tmp_path / "x", z=BATCH[1])
    source = open_latents(path, 4)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(InputError, match="shrank while it was read"):
        read(source)


@pytest.mark.parametrize("space", ["vae", "diffusion", None, "elsewhere"])
def test_the_space_that_a_file_names_is_that_of_its_latents(tmp_path, space):
    save_file({"latents": BATCH[1:]}, tmp_path / "a", metadata=None if space is None else {"latent_space": space})
    assert open_latents(tmp_path / "a", 4).space == (space if space in ("vae", "diffusion") else None)
