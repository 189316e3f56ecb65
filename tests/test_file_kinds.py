"""Formats are told apart by what only they can be, for weights and latents, and what is neither is named."""

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import load_file, save

from taesd_core.checkpoint import CheckpointError, load_checkpoint
from taesd_core.file_kinds import find_kind
from taesd_core.variants import find_weights
from tiler.errors import InputError
from tiler.sources.opening import open_latents
from tiler.window import Window

MAP = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
SEEN = np.moveaxis(MAP, 0, 2)


def read(path):
    source = open_latents(path, 4)
    return source.read(Window.whole(*source.shape[:2]))


def find(content):
    return find_kind(io.BytesIO(content))


def pad_header(content, low, space=b" "):
    """Lengthen the header of a safetensors file until its length has this low byte."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    header += space * ((low - len(header)) % 256)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


# Every low byte of the number that a safetensors file begins with: 0x80 begins a pickle, 0x89 PNG and HDF5,
# 0x93 .npy, "P" a zip archive, "I" and "M" TIFF, "{" JSON, "<" a web page.


def test_weights_are_read_whatever_the_length_of_their_header_looks_like(tmp_path):
    path = find_weights("photo", "decoder")
    expected = load_file(path)["19.bias"].astype(np.float32)
    for low in range(256):
        content = pad_header(path.read_bytes(), low)
        assert content[0] == low
        assert find(content).name == "safetensors"
        if low in b"\0\x80\x89\x93PIMG{<":
            (tmp_path / "x").write_bytes(content)
            np.testing.assert_array_equal(load_checkpoint(tmp_path / "x", "decoder").tensors[-1].bias, expected)


@pytest.mark.parametrize("key", ["latents", "latent_tensor"], ids=["safetensors", "latent"])
def test_latents_are_read_whatever_the_length_of_their_header_looks_like(tmp_path, key):
    content = save({key: MAP, "latent_format_version_0": np.zeros(0, np.float32)})
    for low in range(256):
        (tmp_path / "x").write_bytes(pad_header(content, low))
        np.testing.assert_array_equal(read(tmp_path / "x"), SEEN)


def test_a_npy_file_is_read_whatever_the_length_of_its_header(tmp_path):
    dictionary = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5, 6), }"
    for low in range(256):
        header = dictionary + b" " * ((low - 1 - len(dictionary)) % 256) + b"\n"
        (tmp_path / "x").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + MAP.tobytes())
        np.testing.assert_array_equal(read(tmp_path / "x"), SEEN)


def test_the_first_eight_bytes_may_be_those_of_any_format_with_a_short_header():
    for start in (b"\x80\2\x8a\n", b"\x89HDF", b"\x89PNG", b"\x93NUM", b"PK\3\4", b"II*\0", b"MM\0*", b"GGUF", b"<htm"):
        assert find(start + bytes(4) + b'{"a": ').name == "safetensors"
    for space in (b" ", b"\n", b" \t\r\n"):
        assert find(struct.pack("<Q", 99) + space + b"{}").name == "safetensors"


def make_hdf5(user_block=0):
    content = io.BytesIO()
    with h5py.File(content, "w", userblock_size=user_block) as file:
        file["layers/conv2d/vars/0"] = np.zeros((3, 3, 2, 2), np.float32)
    return bytes(user_block and b"# a note" + bytes(user_block - 8)) + content.getvalue()[user_block:]


def make_zip(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return content.getvalue()


def make_tar():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return content.getvalue()


def saved(write, *arguments, **options):
    content = io.BytesIO()
    write(content, *arguments, **options)
    return content.getvalue()


def save_torch(protocol, new):
    torch = pytest.importorskip("torch")
    content = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, content, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    return content.getvalue()


def save_script():
    torch = pytest.importorskip("torch")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), content)
    return content.getvalue()


RGB = Image.new("RGB", (8, 8))
KINDS = {
    "npy": lambda: saved(np.save, MAP),
    "npz": lambda: saved(np.savez, a=MAP),
    "hdf5": make_hdf5,
    **{f"hdf5 behind {size} bytes": lambda size=size: make_hdf5(size) for size in (512, 1024, 2**16)},
    "keras": lambda: make_zip("metadata.json", "config.json", "model.weights.h5"),
    "zarr.zip": lambda: make_zip("x.zarr/zarr.json", "x.zarr/c/0"),
    "zip": lambda: make_zip("a.txt"),
    "tar": make_tar,
    "png": lambda: saved(RGB.save, "png"),
    "jpeg": lambda: saved(RGB.save, "jpeg"),
    "webp": lambda: saved(RGB.save, "webp"),
    "gif": lambda: saved(RGB.save, "gif"),
    **{f"tiff {big}": lambda big=big: saved(tifffile.imwrite, MAP[0], bigtiff=big) for big in (False, True)},
    **{f"tiff {order}": lambda order=order: saved(tifffile.imwrite, MAP[0], byteorder=order) for order in "<>"},
    "gguf": lambda: b"GGUF\3\0\0\0" + bytes(16),
    "packed": lambda: b"\x1f\x8b\x08\0" + bytes(16),
    **{
        f"torch {protocol} {new}": lambda protocol=protocol, new=new: save_torch(protocol, new)
        for protocol in range(6)
        for new in (True, False)
    },
    "torchscript": save_script,
    **{f"pickle {protocol}": lambda protocol=protocol: pickle.dumps({"a": MAP}, protocol) for protocol in range(6)},
    **{f"pickle of list {n}": lambda n=n: pickle.dumps([MAP], n) for n in range(6)},
    "text": lambda: b"Entry not found",
    "empty": lambda: b"",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_told(kind):
    assert find(KINDS[kind]()).name == kind.split()[0]


def make_onnx():
    onnx = pytest.importorskip("onnx")
    return onnx.helper.make_model(onnx.helper.make_graph([], "x", [], [])).SerializeToString()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4895612\n"
INDEX = json.dumps({"metadata": {"total_size": 1}, "weight_map": {"1.weight": "model-00001-of-00002.safetensors"}})
NAMED = {
    "LFS": (lambda: LFS, r"a pointer of Git LFS.*Run git lfs pull"),
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html><title>404</title>", r"a web page.*'<!DOCTYPE html>'.*Download"),
    "XML": (lambda: b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML text"),
    "index": (lambda: INDEX.encode(), r"the index of a model in several files.*Name a file of tensors"),
    "JSON": (lambda: b'{"_class_name": "AutoencoderTiny"}', "a JSON text; it begins"),
    "text": (lambda: "Invalid username or password. Größe\n".encode(), "a text; it begins"),
    "zeros": (lambda: bytes(5000), "a file of zeros, perhaps a download that has stopped"),
    "noise": (lambda: np.random.default_rng(0).bytes(999), "of no format that is known here, first bytes="),
    "ONNX": (make_onnx, "an ONNX model"),
    **{name: (KINDS[name], says) for name, says in {
        "gguf": "a GGUF file", "packed": "packed by gzip", "tar": "a tar archive", "zip": "archive of a.txt",
        "jpeg": "a JPEG picture", "webp": "a WebP picture", "torchscript": "TorchScript", "pickle 0": "a pickle that",
        "pickle 5": "a pickle that torch.save has not written", "zarr.zip": "a Zarr folder in an archive",
    }.items()},
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), NAMED.values(), ids=NAMED)
def test_what_is_neither_weights_nor_latents_is_named_in_a_line(tmp_path, make, says):
    (tmp_path / "x.safetensors").write_bytes(make())
    for error, load in ((CheckpointError, lambda path: load_checkpoint(path, "decoder")), (InputError, read)):
        with pytest.raises(error, match=says) as caught:
            load(tmp_path / "x.safetensors")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400 + len(str(tmp_path))
        assert "PyTorch" not in str(caught.value) or "tar" in says


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "tiff <"])
def test_latents_and_pictures_are_no_weights_and_weights_no_latents(tmp_path, kind):
    (tmp_path / "x").write_bytes(KINDS[kind]())
    with pytest.raises(CheckpointError, match=r"it is an? .*\. Weights are \.safetensors, \.pth"):
        load_checkpoint(tmp_path / "x", "decoder")
    for other in ("hdf5", "keras"):
        (tmp_path / "x").write_bytes(KINDS[other]())
        with pytest.raises(InputError, match=r"is an? (HDF5|\.keras) file\. They must be a \.npy"):
            read(tmp_path / "x")
