import builtins
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tiler.errors import InputError
from tiler.sources import archive_source
from tiler.sources.opening import open_latents
from tiler.window import Span, Window

BATCH = np.random.default_rng(0).normal(size=(2, 4, 7, 9)).astype(np.float32)
WHOLE = np.moveaxis(BATCH[1], 0, 2)


def read(source):
    return source.read(Window.whole(*source.shape[:2]))


def save_npz(path, save=np.savez, **arrays):
    with path.open("wb") as file:
        save(file, **arrays)
    return path


def to_npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


both = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])


@both
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_an_npz_file_is_what_numpy_loads(tmp_path, save, order, dtype):
    path = save_npz(tmp_path / "x.bin", save, seed=np.arange(3), z=np.asarray(BATCH.astype(dtype), order=order))
    with np.load(path) as loaded:
        expected = np.moveaxis(loaded["z"][1], 0, 2).astype(np.float32)
    source = open_latents(path, 4, index=1)
    np.testing.assert_array_equal(read(source), expected)
    window = Window(Span(2, 6), Span(1, 8))
    np.testing.assert_array_equal(source.read(window), expected[window.slices])


@both
def test_an_array_is_chosen_by_its_key(tmp_path, save):
    path = save_npz(tmp_path / "x.npz", save, one=BATCH[0], two=BATCH[1])
    np.testing.assert_array_equal(read(open_latents(path, 4, key="two")), WHOLE)
    with pytest.raises(InputError, match=r"Several arrays: path=.*one \(4, 7, 9\), two .*key="):
        open_latents(path, 4)
    assert open_latents(path, 4, key="one").fingerprint != open_latents(path, 4, key="two").fingerprint


def test_a_window_of_a_stored_array_takes_little_memory(tmp_path):
    path = save_npz(tmp_path / "x.npz", z=np.zeros((4, 1024, 1024), np.float32))
    tracemalloc.start()
    try:
        values = open_latents(path, 4).read(Window(Span(9, 99), Span(9, 99)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * values.nbytes + 500_000


def make_zip(*members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def patch(content, start, value):
    """Change what both headers of the only member say, from ``start`` on, counted from its CRC."""
    local, central = 14, content.index(b"PK\x01\x02") + 16
    for position in (local + start, central + start):
        content = content[:position] + value + content[position + len(value) :]
    return content


GOOD = make_zip(("z.npy", to_npy(BATCH[1])))
DEFLATED = make_zip(("z.npy", to_npy(BATCH[1])), compression=zipfile.ZIP_DEFLATED)
BAD = {
    "zip alone": (GOOD[:4], "damaged"),
    "half": (GOOD[:600], "damaged"),
    "no end": (GOOD[:-1], "damaged"),
    "objects": (make_zip(("z.npy", to_npy(np.empty((4, 7, 9), object)))), "Python objects"),
    "no array": (make_zip(("z.txt", b"hello")), r"a zip archive of z\.txt\. Unpack it"),
    "nothing": (make_zip(), "a zip archive of nothing"),
    "array of no header": (make_zip(("z.npy", b"hello")), "Not a .npy file"),
    "truncated array": (make_zip(("z.npy", to_npy(BATCH[1])[:-1])), "truncated"),
    "truncated array, compressed": (
        make_zip(("z.npy", to_npy(BATCH[1])[:-1]), compression=zipfile.ZIP_DEFLATED),
        "truncated",
    ),
    "something behind the array": (make_zip(("z.npy", to_npy(BATCH[1]) + b"\0")), "Something follows"),
    "bzip2": (make_zip(("z.npy", to_npy(BATCH[1])), compression=zipfile.ZIP_BZIP2), "No latents"),
    "wrong checksum": (patch(DEFLATED, 0, b"abcd"), "damaged"),
    "larger than the file": (patch(GOOD, 4, struct.pack("<II", 9999, 9999)), "damaged"),
    "damaged stream": (DEFLATED[:300] + b"\xff" * 50 + DEFLATED[350:], "damaged"),
    "integers": (make_zip(("z.npy", to_npy(np.zeros((4, 7, 9), np.int32)))), "Wrong number type"),
    "channels": (make_zip(("z.npy", to_npy(np.zeros((16, 7, 9), np.float32)))), "key=z.*expected channels=4"),
    "encrypted": (patch(GOOD, -8, b"\1"), "damaged"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_bad_archives_are_refused_in_one_line(tmp_path, content, says):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_latents(tmp_path / "x", 4)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2048, 8192), }".ljust(117) + b"\n"
    header = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("z.npy", "w") as file:
        file.write(header)
        for _ in range(256):
            file.write(bytes(2**20))
    assert path.stat().st_size < 10**6
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"Too large to inflate: .*inflated=268435584 bytes"):
            open_latents(path, 4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


def test_a_list_of_members_that_is_too_long_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"PK\x03\x04")
    n_bytes = 2**28
    os.truncate(path, n_bytes + 4)
    with path.open("ab") as file:
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, n_bytes, 4, 0))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"damaged.*list of members"):
            open_latents(path, 4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2_000_000


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("make", "key"),
    [
        pytest.param(lambda tensor: tensor, None, id="tensor"),
        pytest.param(lambda tensor: {"samples": tensor, "step": 3}, None, id="dictionary"),
        pytest.param(lambda tensor: {"a": tensor + 1, "b": tensor}, "b", id="key"),
        pytest.param(lambda tensor: [tensor], None, id="list"),
        pytest.param(lambda tensor: (tensor + 1, tensor), "1", id="tuple, by number"),
        pytest.param(lambda tensor: tensor.to_dense().bfloat16(), None, id="bfloat16"),
        pytest.param(lambda tensor: {"out": {"latents": tensor, "noise": tensor + 1}}, None, id="nested, usual name"),
        pytest.param(lambda tensor: {"a": [{"b": tensor}, {"b": tensor + 1}]}, "a.0.b", id="nested, key"),
        pytest.param(lambda tensor: tensor.half().requires_grad_(), None, id="half, trainable"),
    ],
)
def test_tensors_are_read_by_torch(tmp_path, make, key, zipped):
    torch = pytest.importorskip("torch")
    content = make(torch.from_numpy(BATCH))
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    source = open_latents(tmp_path / "x", 4, key=key, index=1)
    tolerance = {torch.float32: 0, torch.float16: 1e-3, torch.bfloat16: 1e-2}[getattr(content, "dtype", torch.float32)]
    np.testing.assert_allclose(read(source), WHOLE, rtol=tolerance)


def test_the_keys_of_nested_tensors_are_listed(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"steps": [{"x": torch.zeros(1, 4, 7, 9)}] * 2, "seed": 3}, tmp_path / "x")
    with pytest.raises(InputError, match=r"steps\.0\.x \(1, 4, 7, 9\), steps\.1\.x .*Choose one with key="):
        open_latents(tmp_path / "x", 4)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_pickle_is_never_run(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    marker = tmp_path / "it ran"
    torch.save(
        {"latents": torch.zeros(4, 7, 9), "x": Bomb(marker)}, tmp_path / "x", _use_new_zipfile_serialization=zipped
    )
    for content in ((tmp_path / "x").read_bytes(), pickle.dumps(Bomb(marker))):
        (tmp_path / "y").write_bytes(content)
        with pytest.raises(InputError, match="could run code and is never loaded") as caught:
            open_latents(tmp_path / "y", 4)
        assert str(caught.value).isprintable()
        assert not marker.exists()
    torch.load(tmp_path / "x", weights_only=False)
    assert marker.exists(), "this test could not have failed"


def test_compressed_tensors_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(4, 7, 9), tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    (tmp_path / "y").write_bytes(make_zip(*members, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="Compressed tensors"):
        open_latents(tmp_path / "y", 4)


@pytest.mark.parametrize(
    "content",
    [make_zip(("latents/data.pkl", b"")), b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.junk"],
    ids=["zip", "old"],
)
def test_without_torch_one_line_says_how_to_convert(tmp_path, monkeypatch, content):
    import_ = builtins.__import__

    def refuse(name, *arguments):
        if name == "torch":
            raise ImportError(name)
        return import_(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    path = tmp_path / "latents.pt"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"Only torch can read.*never loaded.*numpy\.save.*weights_only=True"
    ) as caught:
        open_latents(path, 4)
    assert str(caught.value).isprintable()


def test_parts_of_any_size_make_the_array(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_source, "PART_BYTES", 7)
    path = save_npz(tmp_path / "x.npz", np.savez_compressed, z=BATCH[1])
    np.testing.assert_array_equal(read(open_latents(path, 4)), WHOLE)


@pytest.mark.parametrize("names", [("latents.npy", "latents"), ("latents", "latents.npy")])
def test_of_two_members_of_one_name_none_is_taken(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, to_npy(BATCH[number]))
    with pytest.raises(InputError, match=f"Two members of one name: .*members={names[0]} and {names[1]}"):
        open_latents(tmp_path / "x.npz", 4)
