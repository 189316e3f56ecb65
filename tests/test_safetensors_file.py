"""Files of tensors against the safetensors library, and what no reader should take."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from taesd_core.safetensors_file import HEADER_LIMIT_BYTES, SafetensorsError, SafetensorsFile
from taesd_core.tensor_file import LIMIT_BYTES, TensorFileError

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, header, tensors=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + tensors)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_tensors_are_what_was_saved(tmp_path, dtype):
    random = np.random.default_rng(0)
    saved = {"a": random.normal(size=(2, 3, 4)), "b": random.normal(size=5), "c": np.zeros(0)}
    saved = {name: values.astype(dtype) for name, values in saved.items()}
    save_file(saved, tmp_path / "x.safetensors", metadata={"about": "nothing"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.entries.keys() == saved.keys()
    for name, values in saved.items():
        assert file.read(name).dtype == np.float32
        np.testing.assert_array_equal(file.read(name), values.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    values = np.array([1, -2.5, 3e38, np.inf], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    path = write(tmp_path / "x", {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, halves.tobytes())
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(SafetensorsFile(path).read("a"), expected)
    np.testing.assert_allclose(expected, values, rtol=1 / 128)


def test_numbers_beyond_float32_are_infinite_and_no_warning(tmp_path):
    save_file({"a": np.array([1e300, -1e300])}, tmp_path / "x")
    np.testing.assert_array_equal(SafetensorsFile(tmp_path / "x").read("a"), [np.inf, -np.inf])


def test_whole_numbers_are_no_weights(tmp_path):
    save_file({"a": np.arange(4)}, tmp_path / "x")
    with pytest.raises(SafetensorsError, match="number type I64"):
        SafetensorsFile(tmp_path / "x").read("a")


BAD = {
    "no header": (b"", "one behind the other|not JSON", {}),
    "length of nearly 2^64": (GOOD, "truncated: its header takes", {"length": 2**64 - 1}),
    "longer than the file": (GOOD, "truncated: its header takes 10000 bytes", {"length": 10_000}),
    "not JSON": (b"{'a': 1}", "not JSON", {}),
    "not text": (b'{"\xff": 1}', "not JSON", {}),
    "nested": (b'{"a": ' + b"[" * 100_000, "nested|not JSON", {}),
    "endless number": (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON", {}),
    "a list": ([GOOD], "not a list of tensors", {}),
    "twice": (b'{"a": %b, "a": %b}' % ((json.dumps(GOOD).encode(),) * 2), "occurs twice", {}),
    "metadata": ({"__metadata__": {"a": 1}, "a": GOOD}, "metadata", {}),
    "no fields": ({"a": {"dtype": "F32"}}, "not described", {}),
    "one field more": ({"a": GOOD | {"more": 1}}, "not described", {}),
    "unknown type": ({"a": GOOD | {"dtype": "O"}}, "unknown number type", {}),
    "no type": ({"a": GOOD | {"dtype": ["F32"]}}, "unknown number type", {}),
    "negative": ({"a": GOOD | {"shape": [-2]}}, "impossible shape", {}),
    "fraction": ({"a": GOOD | {"shape": [2.0]}}, "impossible shape", {}),
    "true": ({"a": GOOD | {"shape": [2, True]}}, "impossible shape", {}),
    "beyond 64 bits": ({"a": GOOD | {"shape": [2**63, 2**63]}}, "impossible shape", {}),
    "terabytes": ({"a": GOOD | {"shape": [10**6, 10**6]}}, "another size", {}),
    "terabytes, and a place for them": (
        {"a": GOOD | {"shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        "but 8 bytes follow",
        {},
    ),
    "a thousand axes": ({"a": GOOD | {"shape": [1] * 1000}}, "impossible shape", {}),
    "three offsets": ({"a": GOOD | {"data_offsets": [0, 4, 8]}}, "impossible place", {}),
    "backwards": ({"a": GOOD | {"data_offsets": [8, 0]}}, "another size", {}),
    "overlap": ({"a": GOOD, "b": GOOD}, "does not begin where", {}),
    "hole": ({"a": GOOD | {"data_offsets": [8, 16]}}, "does not begin where", {"tensors": bytes(16)}),
    "truncated": ({"a": GOOD}, "8 bytes, but 7 bytes", {"tensors": bytes(7)}),
    "trailing": ({"a": GOOD}, "8 bytes, but 9 bytes", {"tensors": bytes(9)}),
}


@pytest.mark.parametrize(("header", "says", "more"), BAD.values(), ids=BAD)
def test_bad_headers_are_refused_in_one_line_and_little_memory(tmp_path, header, says, more):
    path = write(tmp_path / "x", header, **more)
    tracemalloc.start()
    try:
        with pytest.raises(SafetensorsError, match=says) as caught:
            SafetensorsFile(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    assert peak_bytes < 5_000_000


def test_names_that_would_disturb_a_terminal_are_not_printed(tmp_path):
    for name in ("a\nb\x1b[31m", "x" * 5000):
        with pytest.raises(SafetensorsError) as caught:
            SafetensorsFile(write(tmp_path / "x", {name: GOOD | {"dtype": name}}))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250


def test_a_header_that_is_too_long_is_refused_unread(tmp_path):
    path = write(tmp_path / "x", {"a": GOOD}, length=HEADER_LIMIT_BYTES + 1)
    os.truncate(path, 10**12)  # sparse
    with pytest.raises(SafetensorsError, match="too long a header: length=16777217 bytes, limit=16777216 bytes"):
        SafetensorsFile(path)


def test_a_huge_file_is_never_read_whole(tmp_path):
    path = write(tmp_path / "x", {"a": GOOD | {"shape": [LIMIT_BYTES], "data_offsets": [0, 4 * LIMIT_BYTES]}})
    os.truncate(path, path.stat().st_size - 8 + 4 * LIMIT_BYTES)  # sparse
    file = SafetensorsFile(path)
    assert file.shapes == {"a": (LIMIT_BYTES,)}
    with pytest.raises(TensorFileError, match="too large: size="):
        file.sha256()


def test_a_file_that_shrinks_is_an_error_and_not_a_crash(tmp_path):
    file = SafetensorsFile(write(tmp_path / "x", {"a": GOOD}))
    os.truncate(tmp_path / "x", 30)
    with pytest.raises(SafetensorsError, match="truncated"):
        file.read("a")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(TensorFileError, match="not a regular file"):
        SafetensorsFile(tmp_path / "x")
