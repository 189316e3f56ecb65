import os

import numpy as np
import pytest

from tiler import files
from tiler.errors import InputError, OptionError, OutputExistsError
from tiler.formats.npy import NpySink
from tiler.window import Span, Window


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", ">f4"])
def test_numpy_reads_back_what_was_written_whatever_the_type(tmp_path, dtype, channels_first):
    image = (np.arange(7 * 5 * 4).reshape(7, 5, 4) - 30).astype(dtype)
    sink = NpySink(tmp_path / "a.npy", image.shape, dtype, channels_first=channels_first)
    for window in [
        Window(Span(3, 7), Span(0, 5)),  # whole rows: a single run
        Window(Span(0, 3), Span(2, 5)),
        Window(Span(0, 3), Span(0, 2)),
    ]:
        sink.write(0, window, image[window.slices])
    sink.commit()
    expected = image.transpose(2, 0, 1)[None] if channels_first else image
    stored = np.load(tmp_path / "a.npy")
    assert stored.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(stored, expected, strict=True)
    saved = tmp_path / "b.npy"
    np.save(saved, np.ascontiguousarray(expected))
    assert (tmp_path / "a.npy").read_bytes() == saved.read_bytes()


def test_a_window_that_is_not_contiguous_in_memory_is_written_right(tmp_path):
    image = np.arange(6 * 8 * 3, dtype=np.float32).reshape(3, 8, 6).T
    sink = NpySink(tmp_path / "a.npy", image.shape, "float32")
    sink.write(0, Window.whole(6, 8), image)
    sink.commit()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), image)


def test_the_whole_file_is_allocated_before_anything_is_written(tmp_path):
    sink = NpySink(tmp_path / "a.npy", (512, 512, 4), "float32")
    status = os.stat(sink.part_path)
    sink.close()
    assert status.st_size == 512 * 512 * 4 * 4 + 128
    assert status.st_blocks * 512 >= status.st_size


def test_a_system_without_allocation_gets_a_sparse_file_of_the_same_size(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    sink = NpySink(tmp_path / "a.npy", (512, 512, 4), "float32")
    sink.commit()
    assert not np.load(tmp_path / "a.npy").any()


def test_a_full_disk_is_told_when_the_sink_is_opened_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        NpySink(tmp_path / "a.npy", (64, 64, 3), "uint8")
    assert not list(tmp_path.iterdir())


def test_the_array_can_be_mapped_while_it_is_written(tmp_path):
    sink = NpySink(tmp_path / "a.npy", (4, 4, 1), "uint8")
    mapped = np.load(sink.part_path, mmap_mode="r")
    assert not mapped.any()
    sink.write(0, Window(Span(2, 3), Span(1, 3)), np.full((1, 2, 1), 9, np.uint8))
    assert mapped[2, 1:3, 0].tolist() == [9, 9]
    assert mapped.sum() == 18
    sink.close()


@pytest.mark.parametrize(
    ("level", "window", "shape", "dtype", "words"),
    [
        pytest.param(1, Window.whole(4, 4), (4, 4, 3), "uint8", "no pyramid", id="another level"),
        pytest.param(0, Window(Span(1, 5), Span(0, 4)), (4, 4, 3), "uint8", "leaves", id="too low"),
        pytest.param(0, Window(Span(0, 4), Span(1, 5)), (4, 4, 3), "uint8", "leaves", id="too far right"),
        pytest.param(0, Window.whole(4, 4), (4, 3, 3), "uint8", "do not fit", id="another size"),
        pytest.param(0, Window.whole(4, 4), (4, 4, 1), "uint8", "do not fit", id="other channels"),
        pytest.param(0, Window.whole(4, 4), (4, 4, 3), "int8", "do not fit", id="another type"),
    ],
)
def test_what_does_not_belong_is_refused(tmp_path, level, window, shape, dtype, words):
    sink = NpySink(tmp_path / "a.npy", (4, 4, 3), "uint8")
    with pytest.raises(InputError, match=words):
        sink.write(level, window, np.ones(shape, dtype))
    sink.commit()
    assert not np.load(tmp_path / "a.npy").any()


@pytest.mark.parametrize(("shape", "dtype"), [((0, 4, 3), "uint8"), ((4, 4, 3), object)])
def test_an_array_that_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, shape, dtype):
    with pytest.raises(OptionError):
        NpySink(tmp_path / "a.npy", shape, dtype)
    assert not list(tmp_path.iterdir())


def test_writing_goes_on_where_the_kernel_stopped(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"..........")
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, rest, position: pwrite(file, rest[:3], position))
    with files.open_file(path) as file:
        files.write_at(file, b"abcdefg", 2)
    assert path.read_bytes() == b"..abcdefg."


def test_whole_rows_are_written_as_one_run(tmp_path, monkeypatch):
    sink = NpySink(tmp_path / "a.npy", (9, 5, 2), "uint8")
    pwrite = os.pwrite
    runs = []

    def watch(descriptor, content, position):
        runs.append(len(content))
        return pwrite(descriptor, content, position)

    monkeypatch.setattr(os, "pwrite", watch)
    sink.write(0, Window(Span(2, 6), Span(0, 5)), np.ones((4, 5, 2), np.uint8))
    sink.write(0, Window(Span(6, 9), Span(1, 5)), np.ones((3, 4, 2), np.uint8))
    sink.close()
    assert runs == [40, 8, 8, 8]


def test_a_closed_sink_cannot_be_written(tmp_path):
    sink = NpySink(tmp_path / "a.npy", (1, 1, 1), "uint8")
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        sink.write(0, Window.whole(1, 1), np.ones((1, 1, 1), np.uint8))


def test_an_existing_file_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"old")
    with pytest.raises(OutputExistsError):
        NpySink(tmp_path / "a.npy", (1, 1, 1), "uint8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
