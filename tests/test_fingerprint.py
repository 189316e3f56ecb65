"""Another input is another fingerprint; the same one, read again, is the same."""

import hashlib
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from tiler.sources import fingerprint
from tiler.sources.array_source import ArraySource
from tiler.sources.fingerprint import fingerprint_array, fingerprint_file, spread
from tiler.sources.npy_source import NpySource
from tiler.sources.opening import open_image, open_latents
from tiler.sources.positions import EdgePadded
from tiler.sources.source import fingerprint_source
from tiler.sources.upscale import Upscaled
from tiler.window import Window


class CustomSource:
    """A source without a fingerprint of its own."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def read(self, window):
        return self.values[window.slices]


def save(path, values):
    np.save(path, values)
    return path


def of_file(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return fingerprint_file(descriptor)
    finally:
        os.close(descriptor)


OPEN = {
    "npy": lambda folder, values: NpySource(save(folder / "a.npy", values), 4),
    "array": lambda folder, values: ArraySource(values, 4),
    "fortran array": lambda folder, values: ArraySource(np.asfortranarray(values), 4),
    "memory map": lambda folder, values: ArraySource(np.load(save(folder / "a.npy", values), mmap_mode="r"), 4),
    "custom": lambda folder, values: CustomSource(values),
    "upscaled": lambda folder, values: Upscaled(ArraySource(values, 4), 3),
    "padded": lambda folder, values: EdgePadded(CustomSource(values), 8),
}


@pytest.mark.parametrize("kind", OPEN)
def test_one_value_changed_is_another_fingerprint(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(50, 70, 4)).astype(np.float32)
    first = fingerprint_source(OPEN[kind](tmp_path, values))
    assert fingerprint_source(OPEN[kind](tmp_path, values.copy())) == first
    for place in [(0, 0, 0), (49, 69, 3), (20, 33, 1)]:
        changed = values.copy()
        changed[place] += 1e-3
        assert fingerprint_source(OPEN[kind](tmp_path, changed)) != first


def test_a_picture_is_told_from_another(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    found = set()
    for number in range(2):
        values[29, 39, 2] ^= 1
        Image.fromarray(values, "RGBA").save(tmp_path / f"{number}.png")
        Image.fromarray(values[..., :3]).save(tmp_path / f"{number}.bmp")
        found.add(fingerprint_source(open_latents(tmp_path / f"{number}.png", 4)))
        found.add(fingerprint_source(open_image(tmp_path / f"{number}.bmp")))
    assert len(found) == 4


def test_the_same_bytes_in_another_shape_or_type_are_another_array():
    values = np.zeros((4, 6, 4), np.float32)
    arrays = [values, values.reshape(6, 4, 4), values.view(np.int32), np.zeros((4, 6, 5), np.float32)]
    assert len({fingerprint_array(array) for array in arrays}) == len(arrays)


def test_a_copy_of_a_file_is_the_same_and_its_date_does_not_matter(tmp_path):
    first = save(tmp_path / "a.npy", np.arange(60.0))
    (tmp_path / "b.npy").write_bytes(first.read_bytes())
    os.utime(tmp_path / "b.npy", (5, 5))
    assert of_file(first) == of_file(tmp_path / "b.npy")


def test_of_a_large_file_pieces_are_read_and_its_date_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "PIECE_BYTES", 10)
    monkeypatch.setattr(fingerprint, "N_PIECES", 20)
    path = tmp_path / "a"

    def write(content):
        path.write_bytes(content)
        os.utime(path, (5, 5))
        return of_file(path)

    content = bytes(range(250)) * 8
    first = write(content)
    for place in (0, 9, 1990, 1999):  # the first and the last piece
        assert write(content[:place] + b"\xff" + content[place + 1 :]) != first
    assert write(content + b"a") != first
    assert write(content) == first
    os.utime(path, (6, 6))
    assert of_file(path) != first
    pread, n_bytes = os.pread, []
    monkeypatch.setattr(os, "pread", lambda *args: n_bytes.append(args[1]) or pread(*args))
    of_file(path)
    assert sum(n_bytes) == 200


@pytest.mark.parametrize(("size", "n_spans", "length"), [(5, 8, 32), (256, 8, 32), (257, 8, 32), (10**6, 8, 32)])
def test_spans_reach_from_the_first_to_the_last_position(size, n_spans, length):
    spans = list(spread(size, n_spans, length))
    assert (spans[0].start, spans[-1].stop) == (0, size)
    assert len(spans) <= n_spans
    if size <= n_spans * length:
        assert sum(map(len, spans)) == size
    else:
        assert [len(span) for span in spans] == [length] * n_spans


def test_of_a_source_of_any_size_little_is_read():
    class HugeSource:
        shape = (10**6, 10**6, 4)
        n_values = 0

        def read(self, window: Window):
            self.n_values += window.shape[0] * window.shape[1]
            return np.zeros((*window.shape, 4), np.float32)

    source = HugeSource()
    assert fingerprint_source(source).startswith("1000000 × 1000000 × 4")
    assert source.n_values == 256 * 256


def test_a_source_may_know_better():
    source = CustomSource(np.zeros((9, 9, 4), np.float32))
    source.fingerprint = "seed 5"
    assert fingerprint_source(source) == "seed 5"
    assert fingerprint_source(Upscaled(source, 2)) == "seed 5"


def test_a_dask_array_is_not_computed_as_a_whole():
    dask_array = pytest.importorskip("dask.array")
    computed = []

    def make(block_info=None):
        computed.append(block_info)
        return np.zeros((64, 64, 4), np.float32)

    array = dask_array.map_blocks(
        make, chunks=((64,) * 40, (64,) * 40, (4,)), dtype=np.float32, meta=np.empty((0, 0, 0))
    )
    fingerprint_source(ArraySource(array, 4))
    assert len(computed) <= 4 * 64


@pytest.mark.parametrize("view", [lambda x: x[:, 8:], lambda x: x.transpose(0, 2, 1)], ids=["part", "turned"])
def test_a_part_of_a_memory_map_is_not_copied_to_be_told(tmp_path, view):
    np.save(tmp_path / "a.npy", np.arange(4 * 1000 * 1000, dtype=np.float32).reshape(4, 1000, 1000))
    array = view(np.load(tmp_path / "a.npy", mmap_mode="r"))
    tracemalloc.start()
    try:
        found = fingerprint_array(array)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6
    assert hashlib.sha256(np.ascontiguousarray(array)).hexdigest() in found
