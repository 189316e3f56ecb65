import gc
import io
import itertools
import os
import pickle
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiler.errors import InputError
from tiler.sources import npy_source
from tiler.sources.input_file import shorten
from tiler.sources.npy_source import HEADER_LIMIT_BYTES, NpySource
from tiler.sources.stored_numbers import IMAGE_TYPES, LATENT_TYPES
from tiler.window import Span, Window

HEIGHT, WIDTH, CHANNELS = 7, 9, 4

# How each layout is made from (height, width, channels), and how it is read back with NumPy alone.
LAYOUTS = {
    "1chw": (lambda array: array.transpose(2, 0, 1)[np.newaxis], lambda array: np.moveaxis(array[0], 0, 2)),
    "chw": (lambda array: array.transpose(2, 0, 1), lambda array: np.moveaxis(array, 0, 2)),
    "hwc": (lambda array: array, lambda array: array),
    "1hwc": (lambda array: array[np.newaxis], lambda array: array[0]),
}
LARGEST = {"|u1": 255, "<u2": 65535, ">u2": 65535}
TYPES = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", *LARGEST]


def spans(size):
    return (
        st.tuples(st.integers(0, size - 1), st.integers(1, size))
        .filter(lambda pair: pair[0] < pair[1])
        .map(lambda pair: Span(*pair))
    )


def windows(height=HEIGHT, width=WIDTH):
    return st.builds(Window, spans(height), spans(width))


def save(path, array):
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=True)
    return path


def make_map(dtype="<f4"):
    array = np.random.default_rng(0).uniform(-3, 3, (HEIGHT, WIDTH, CHANNELS))
    largest = LARGEST.get(dtype)
    return np.clip(array * largest / 3, 0, largest).astype(dtype) if largest else array.astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_are_what_numpy_loads(tmp_path, layout, order, dtype):
    to_layout, from_layout = LAYOUTS[layout]
    path = save(tmp_path / "latents.npy", np.asarray(to_layout(make_map(dtype)), order=order))
    loaded = np.load(path)
    assert loaded.flags[f"{order}_CONTIGUOUS"]
    assert loaded.dtype == np.dtype(dtype)
    expected = from_layout(loaded)
    expected = (expected / LARGEST[dtype]).astype(np.float32) if dtype in LARGEST else expected.astype(np.float32)
    source = NpySource(path, CHANNELS, types=IMAGE_TYPES if dtype in LARGEST else LATENT_TYPES)
    assert source.shape == (HEIGHT, WIDTH, CHANNELS)

    @settings(max_examples=25, deadline=None, database=None)
    @given(windows())
    def check(window):
        values = source.read(window)
        np.testing.assert_array_equal(values, expected[window.slices])
        assert values.dtype == np.dtype("=f4")
        assert values.flags.c_contiguous
        assert values.flags.writeable

    check()


@pytest.mark.parametrize(
    ("layout", "order", "window", "n_reads"),
    [
        pytest.param("1chw", "C", Window.whole(HEIGHT, WIDTH), 1, id="whole"),
        pytest.param("chw", "F", Window.whole(HEIGHT, WIDTH), 1, id="whole, Fortran"),
        pytest.param("hwc", "C", Window(Span(2, 6), Span(0, WIDTH)), 1, id="whole rows, channels last"),
        pytest.param("1chw", "C", Window(Span(2, 6), Span(0, WIDTH)), CHANNELS, id="whole rows, channels first"),
        pytest.param("hwc", "C", Window(Span(2, 6), Span(1, 8)), 4, id="one a row"),
        pytest.param("chw", "C", Window(Span(2, 6), Span(1, 8)), 4 * CHANNELS, id="one a row and channel"),
        pytest.param("chw", "F", Window(Span(2, 6), Span(1, 8)), 7, id="one a column"),
        pytest.param("chw", "F", Window(Span(0, HEIGHT), Span(1, 8)), 1, id="whole columns, Fortran"),
    ],
)
def test_what_lies_together_is_read_at_once_and_no_more(tmp_path, monkeypatch, layout, order, window, n_reads):
    source = NpySource(save(tmp_path / "a.npy", np.asarray(LAYOUTS[layout][0](make_map()), order=order)), CHANNELS)
    lengths = []
    pread = os.pread
    monkeypatch.setattr(
        npy_source.os, "pread", lambda fd, length, offset: lengths.append(length) or pread(fd, length, offset)
    )
    source.read(window)
    assert len(lengths) == n_reads
    assert sum(lengths) == window.shape[0] * window.shape[1] * CHANNELS * 4


def test_short_reads_are_completed(tmp_path, monkeypatch):
    source = NpySource(save(tmp_path / "a.npy", make_map()), CHANNELS)
    pread = os.pread
    monkeypatch.setattr(npy_source.os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset))
    np.testing.assert_array_equal(source.read(Window.whole(HEIGHT, WIDTH)), make_map())


def test_a_small_window_of_a_huge_file_takes_little_memory(tmp_path):
    path = tmp_path / "huge.npy"
    path.write_bytes(make_header(shape=(1, 4, 16384, 16384)))
    os.truncate(path, path.stat().st_size + 4 * 16384**2 * 4)
    tracemalloc.start()
    try:
        source = NpySource(path, 4)
        values = source.read(Window(Span(16000, 16064), Span(16320, 16384)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.shape == (64, 64, 4)
    assert peak_bytes < 4 * values.nbytes + 200_000


def test_a_file_that_shrinks_is_an_error_and_not_a_crash(tmp_path):
    path = save(tmp_path / "a.npy", make_map())
    source = NpySource(path, CHANNELS)
    os.truncate(path, path.stat().st_size - 4)
    source.read(Window(Span(0, 6), Span(0, 9)))
    with pytest.raises(InputError, match="shrank while it was read"):
        source.read(Window.whole(HEIGHT, WIDTH))


def test_the_file_is_closed_with_the_source(tmp_path, monkeypatch):
    descriptors = []
    os_open = os.open
    monkeypatch.setattr(npy_source.os, "open", lambda *a: descriptors.append(os_open(*a)) or descriptors[-1])
    good, bad = save(tmp_path / "a.npy", make_map()), save(tmp_path / "b.npy", np.zeros(3))
    source = NpySource(good, CHANNELS)
    os.fstat(descriptors[0])
    del source
    for path in (bad, tmp_path):
        with pytest.raises(InputError):
            NpySource(path, CHANNELS)
    gc.collect()
    assert len(descriptors) == 3
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def make_header(descr="'<f4'", shape=(4, 7, 9), fortran=False, version=1, length=None, text=None):
    text = text or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"
    length = len(text.encode()) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", length) + text.encode()


def to_bytes(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


GOOD = to_bytes(make_map())
BAD = {
    "empty": (b"", "The file is empty"),
    "text": (b"hello, world\n" * 9, "Not a .npy file"),
    "magic alone": (GOOD[:6], "Not a .npy file"),
    "half a header": (GOOD[:40], "Not a .npy file"),
    "header alone": (GOOD[:128], "truncated"),
    "truncated": (GOOD[:-1], "truncated.*size=1135 bytes, declared=1136 bytes"),
    "trailing": (GOOD + b"\0", "Something follows"),
    "two arrays": (GOOD + GOOD, "Something follows"),
    "lies": (make_header(shape=(4, 10**6, 10**6)) + bytes(99), "truncated.*declared=16000000000085 bytes"),
    "wraps at 64 bits": (make_header(shape=(4, 2**31, 2**31)), "truncated"),
    "beyond 64 bits": (make_header(shape=(4, 10**30, 7)), "Impossible shape"),
    "beyond what is printed": (make_header(shape=f"(4, 0x{'f' * 9000}, 7)"), "Impossible shape"),
    "negative": (make_header(shape=(4, -7, 9)), "Impossible shape"),
    "negative twice": (make_header(shape=(4, -7, -9)) + bytes(1008), "Impossible shape"),
    "true": (make_header(shape=(True, 4, 7, 9)) + bytes(1008), "Impossible shape"),
    "fractions": (make_header(shape=(4, 7.0, 9)), "Impossible shape"),
    "zero-sized": (make_header(shape=(4, 0, 9)), "Nothing in it"),
    "one axis": (to_bytes(np.zeros(9, np.float32)), "axes=1"),
    "many axes": (make_header(shape=(1,) * 2000), "axes=2000"),
    "batch": (to_bytes(np.zeros((2, 4, 3, 3), np.float32)), "index=0"),
    "channels": (to_bytes(np.zeros((16, 3, 3), np.float32)), "expected channels=4"),
    "integers": (to_bytes(np.zeros((4, 3, 3), np.int16)), "Wrong number type.*dtype=int16"),
    "bytes": (to_bytes(np.zeros((4, 3, 3), np.uint8)), "Wrong number type.*dtype=uint8"),
    "complex": (to_bytes(np.zeros((4, 3, 3), np.complex64)), "Wrong number type"),
    "structured": (to_bytes(np.zeros((4, 3, 3), [("a", "<f4")])), "A structured array"),
    "subarray": (make_header(descr="('<f4', (7, 9))", shape=(4, 1, 1)) + bytes(1008), "Wrong number type"),
    "unknown type": (make_header(descr="'<q9'"), "Not a .npy file"),
    "version 4": (make_header(version=4), "Not a .npy file"),
    "version 3 with numbers of Python 2": (make_header(shape="(4L, 7, 9)", version=3) + bytes(1008), "Not a .npy file"),
    "version 3 of letters that are none": (make_header(version=3)[:-1] + b"\xff", "Not a .npy file"),
    "fields of any letters": (make_header("[('höhe','<f4')]", version=3), "A structured array, not numbers"),
    "bfloat16 as NumPy saves it": (make_header("'<V2'"), r"Raw bytes, not numbers: .*dtype=V2\. .*bfloat16"),
    "float8 as NumPy saves it": (make_header("'|V1'"), r"Raw bytes, not numbers: .*dtype=V1\. .*float8"),
    "version 9": (make_header(version=9), "Not a .npy file"),
    "header of 4 GB": (make_header(version=2, length=2**32 - 1) + bytes(50_000), "Not a .npy file"),
    "long header": (
        make_header(version=2, text=str(make_header()[10:-1], "ascii") + " " * HEADER_LIMIT_BYTES + "\n"),
        "Not a .npy file",
    ),
    "spaces of no end": (make_header(text="{'descr': '<f4', }(" + " " * 9900 + "\n"), "Not a .npy file"),
    "nested": (make_header(text="(" * 4000), "Not a .npy file"),
    "minus signs": (make_header(text="-" * 9000 + "1"), "Not a .npy file"),
    "code": (make_header(shape="(4, 7, __import__('os').getpid())"), "Not a .npy file"),
    "no latin": (b"\x93NUMPY\x01\x00\x04\x00\xff\xfe\x00\n", "Not a .npy file"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_in_one_line_and_little_memory(tmp_path, content, says):
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=says) as caught:
            NpySource(path, 4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert peak_bytes < 8_000_000


@pytest.mark.parametrize("n_objects", [36, 1])
def test_a_pickle_is_never_run(tmp_path, n_objects):
    marker = tmp_path / "it ran"
    objects = np.empty((4, n_objects, 1), object)
    objects[...] = Bomb(marker)
    for content, says in ((to_bytes(objects), "Python objects"), (pickle.dumps(Bomb(marker)), "Not a .npy file")):
        path = tmp_path / "bad.npy"
        path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            NpySource(path, 4)
        assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "this test could not have failed"


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
def test_a_signalling_nan_is_a_nan_and_no_warning(tmp_path, dtype):
    array = make_map(dtype)
    bits = array.view(dtype.replace("f", "u"))
    bits[0, 0, 0] = {"<f8": 0x7FF0000000000001, "<f4": 0x7F800001, "<f2": 0x7C01}[dtype]
    values = NpySource(save(tmp_path / "a.npy", array), CHANNELS).read(Window.whole(HEIGHT, WIDTH))
    assert np.isnan(values[0, 0, 0])
    assert np.isfinite(values).sum() == values.size - 1


@pytest.mark.parametrize("text", ["{'descr': '<f4', 'fortran_order': False, 'shape': (4L, 7L, 9L), }\n"])
def test_what_the_parser_would_warn_of_is_read_or_refused_in_silence(tmp_path, text):
    path = tmp_path / "a.npy"
    path.write_bytes(make_header(text=text) + bytes(1008))
    assert NpySource(path, CHANNELS).shape == (7, 9, 4)
    path.write_bytes(make_header(text=text.replace("(4L", "'\\d'(4")) + bytes(1008))
    with pytest.raises(InputError, match="of numbers"):
        NpySource(path, CHANNELS)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(tmp_path, version):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, make_map(), version=version)
    np.testing.assert_array_equal(NpySource(path, CHANNELS).read(Window.whole(HEIGHT, WIDTH)), make_map())


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    caught = []

    def open_pipe():
        try:
            NpySource(tmp_path / "pipe.npy", 4)
        except InputError as error:
            caught.append(str(error))

    thread = threading.Thread(target=open_pipe, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert "Not a regular file" in caught[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("missing.npy", "No such file", id="missing"),
        pytest.param("link.npy", "link to nowhere: .*target=nothing", id="dangling link"),
        pytest.param(".", "A folder, not a file", id="folder"),
        pytest.param("file.npy/a.npy", "cannot be opened", id="below a file"),
        pytest.param("x" * 5000, "cannot be opened", id="long name"),
        pytest.param("a\0b", "cannot be opened", id="null byte"),
    ],
)
def test_what_is_no_file_is_refused_in_one_line(tmp_path, name, says):
    (tmp_path / "file.npy").write_bytes(GOOD)
    (tmp_path / "link.npy").symlink_to("nothing")
    with pytest.raises(InputError, match=says) as caught:
        NpySource(tmp_path / name, 4)
    assert "\n" not in str(caught.value)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(npy_source.os, "open", refuse)
    with pytest.raises(InputError, match="may not be read"):
        NpySource(tmp_path / "a.npy", 4)


def test_what_a_library_says_fits_on_one_line():
    said = shorten(ValueError("two\nlines, " + "and more " * 100))
    assert said.startswith("ValueError: two lines, and more")
    assert len(said) < 120
    assert shorten(ValueError("\x1b[1m\0 bold")) == r"ValueError: '\x1b[1m\x00 bold'"


def test_threads_do_not_disturb_each_other(tmp_path):
    array = np.random.default_rng(1).standard_normal((40, 40, CHANNELS), np.float32)
    source = NpySource(save(tmp_path / "a.npy", array.transpose(2, 0, 1).copy()), CHANNELS)
    tiles = [Window(Span(r, r + 10), Span(c, c + 10)) for r, c in itertools.product(range(0, 40, 10), repeat=2)]
    wrong = []

    def read_all(first):
        for window in tiles[first:] + tiles[:first]:
            if not np.array_equal(source.read(window), array[window.slices]):
                wrong.append(window)

    threads = [threading.Thread(target=read_all, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
