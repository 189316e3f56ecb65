"""What is particular to an OME-Zarr: it is valid, it is a folder, and its shards are files."""

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from small_sinks import open_zarr

from tiler import files
from tiler.codecs import CODECS
from tiler.errors import InputError, OptionError, OutputExistsError, TileError
from tiler.formats.places import check_output
from tiler.formats.zarr_shard import ShardCodec, crc32c
from tiler.window import Span, Window

SHAPE = (70, 90, 3)
OPTIONS = {"shard_px": 32, "file_tile_px": 16}


def fill(sink, value=7):
    for level, (height, width) in enumerate(sink.levels):
        sink.write(level, Window.whole(height, width), np.full((height, width, 3), value, sink.dtype))


def make(path, value=7, **options):
    sink = open_zarr(path, SHAPE, **OPTIONS, **options)
    fill(sink, value)
    sink.commit()
    return sink


def first_pixel(path):
    codec = ShardCodec(CODECS["gzip"], 32, 16, np.dtype(np.uint8))
    return codec.read((path / "0" / "c" / "0" / "0" / "0").read_bytes())[0, 0, 0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_it_is_valid_ome_zarr(tmp_path, dtype):
    models = pytest.importorskip("ome_zarr_models.v05")
    zarr = pytest.importorskip("zarr")
    path = make(tmp_path / "a.zarr", dtype=dtype, description='{"software": "x"}').path
    group = zarr.open_group(path, mode="r")
    image = models.Image.from_zarr(group)
    [multiscale] = image.attributes.ome.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [each.path for each in multiscale.datasets] == ["0", "1", "2", "3"]
    assert group["0"].shards == (3, 32, 32)
    assert group["0"].chunks == (3, 16, 16)
    assert group.attrs["taesd-tiler"] == {"software": "x"}


def test_pixels_of_a_level_lie_in_the_middle_of_the_four_below(tmp_path):
    document = json.loads((make(tmp_path / "a.zarr").path / "zarr.json").read_text())
    datasets = document["attributes"]["ome"]["multiscales"][0]["datasets"]
    for level, dataset in enumerate(datasets):
        scale, *shift = dataset["coordinateTransformations"]
        assert scale["scale"] == [1, 2**level, 2**level]
        # Pixel 0 of level 2 is the mean of pixels 0 to 3: its middle is at 1.5.
        assert [each["translation"] for each in shift] == ([[0, (2**level - 1) / 2, (2**level - 1) / 2]] * bool(level))


def test_all_chunks_exist_even_black_ones_and_none_beyond_the_edge(tmp_path):
    path = make(tmp_path / "a.zarr", 0).path
    assert sum(each.is_file() for each in (path / "0" / "c").rglob("*")) == 3 * 3
    content = (path / "0" / "c" / "0" / "2" / "2").read_bytes()  # 6 × 26 px
    index = np.frombuffer(content[-(4 * 16 + 4) : -4], "<u8").reshape(4, 2)
    assert (index == 2**64 - 1).all(axis=1).tolist() == [False, False, True, True]


def test_the_checksum_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283  # Source: the catalogue of checksums, CRC-32/ISCSI


# -- damage


def test_what_is_absent_or_damaged_is_not_read_back_as_0(tmp_path):
    sink = open_zarr(tmp_path / "a.zarr", SHAPE, **OPTIONS)
    with pytest.raises(TileError, match="damaged"):
        sink.read(0, Window.whole(32, 32))
    fill(sink)
    shard = tmp_path / "a.zarr.part" / "0" / "c" / "0" / "0" / "0"
    content = shard.read_bytes()
    for place in (len(content) - 10, 20):  # the index; a chunk
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(TileError, match="damaged"):
            sink.read(0, Window.whole(32, 32))
    shard.write_bytes(content[:40])
    with pytest.raises(TileError, match="damaged"):
        sink.read(0, Window.whole(32, 32))


@pytest.mark.parametrize("options", [{"compression": "jpeg"}, {"file_tile_px": 24}, {"dtype": "int8"}], ids=str)
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(OptionError):
        open_zarr(tmp_path / "a.zarr", SHAPE, **(OPTIONS | options))
    assert not list(tmp_path.iterdir())


def test_a_window_that_is_not_whole_shards_is_refused(tmp_path):
    sink = open_zarr(tmp_path / "a.zarr", SHAPE, **OPTIONS)
    with pytest.raises(OptionError, match=r"whole shards: .*shard=32 px\. Use a tile size that is"):
        sink.write(0, Window(Span(16, 32), Span(0, 32)), np.zeros((16, 32, 3), np.uint8))


# -- what is on the disk


def test_a_shard_written_while_another_thread_syncs_is_named_on_the_disk_by_the_next_sync(tmp_path, monkeypatch):
    """Whenever that is: before each file is made or gets its name."""
    sink = open_zarr(tmp_path / "a.zarr", SHAPE, **OPTIONS)
    shard = sink.part_path / "0" / "c" / "0" / "0" / "0"
    seen = []
    real = files.sync_folder

    def sync_folder(folder):
        seen.append((folder, shard.exists()))
        real(folder)

    monkeypatch.setattr(files, "sync_folder", sync_folder)
    for name in ("open_file", "replace"):
        step = getattr(files, name)
        monkeypatch.setattr(files, name, lambda *args, step=step, **options: (sink.sync(), step(*args, **options))[1])
    sink.write(0, Window.whole(32, 32), np.zeros((32, 32, 3), np.uint8))
    sink.sync()
    assert (shard.parent, True) in seen


def test_no_sync_returns_before_what_another_thread_began_to_sync_is_on_the_disk(tmp_path, monkeypatch):
    sink = open_zarr(tmp_path / "a.zarr", SHAPE, **OPTIONS)
    sink.write(0, Window.whole(32, 32), np.zeros((32, 32, 3), np.uint8))
    begun, may_end = Event(), Event()

    def sync_folder(folder):
        begun.set()
        assert may_end.wait(20)

    monkeypatch.setattr(files, "sync_folder", sync_folder)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(sink.sync)
        assert begun.wait(20)
        second = threads.submit(sink.sync)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        may_end.set()
        first.result()
        second.result()


# -- tasks that are late, done twice or killed


def list_files(folder):
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


def test_a_shard_that_is_written_again_is_whole_at_any_time(tmp_path, monkeypatch):
    sink = open_zarr(tmp_path / "a.zarr", SHAPE, **OPTIONS)
    window = Window.whole(32, 32)
    sink.write(0, window, np.full((32, 32, 3), 1, np.uint8))
    before = list_files(sink.part_path)
    write_at, seen = files.write_at, []

    def look_and_fail(*args):
        seen.append(first_pixel(sink.part_path))
        if len(seen) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_at(*args)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_at", look_and_fail)
        with pytest.raises(OSError, match="No space"):
            sink.write(0, window, np.full((32, 32, 3), 2, np.uint8))
    assert seen == [1, 1, 1]
    assert first_pixel(sink.part_path) == 1
    assert list_files(sink.part_path) == before
    sink.write(0, window, np.full((32, 32, 3), 2, np.uint8))
    assert first_pixel(sink.part_path) == 2


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_task_of_a_job_that_was_started_over_writes_nothing_into_the_new_one(tmp_path, monkeypatch, when):
    path = tmp_path / "a.zarr"
    open_zarr(path, SHAPE, **OPTIONS).close()
    late = open_zarr(path, SHAPE, begun={}, **OPTIONS)
    begun = []

    def start_over():
        if not begun:
            begun.append(None)
            files.remove(late.part_path)
            begun[0] = open_zarr(path, SHAPE, **OPTIONS)
            begun.append(list_files(late.part_path))

    if when == "before":
        start_over()
    else:
        write = ShardCodec.write
        monkeypatch.setattr(ShardCodec, "write", lambda *args, **options: (write(*args, **options), start_over()))
    with pytest.raises(FileNotFoundError):
        late.write(0, Window.whole(32, 32), np.zeros((32, 32, 3), np.uint8))
    assert list_files(late.part_path) == begun[1]
    monkeypatch.undo()
    fill(begun[0])
    begun[0].commit()
    assert first_pixel(path) == 7


def walk(path):
    """Names of all folders and files, in order."""
    return [(os.path.relpath(folder, path), sorted(names), sorted(found)) for folder, names, found in os.walk(path)]


def test_what_a_kill_left_unfinished_is_not_in_the_image(tmp_path):
    whole = make(tmp_path / "whole.zarr").path
    path = tmp_path / "a.zarr"
    code = (
        f"import os, sys, numpy; sys.path.insert(0, {str(Path(__file__).parent)!r}); from tiler import files; "
        "from small_sinks import open_zarr; "
        "from tiler.window import Window; "
        f"sink = open_zarr({str(path)!r}, {SHAPE}, **{OPTIONS}); files.sync = lambda file: os.kill(os.getpid(), 9); "
        "sink.write(0, Window.whole(32, 32), numpy.zeros((32, 32, 3), 'uint8'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    sink = open_zarr(path, SHAPE, begun={}, **OPTIONS)
    fill(sink)
    sink.commit()
    assert sorted(walk(path)) == sorted(walk(whole))


# -- folders


def test_a_folder_that_is_no_zarr_is_never_replaced(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "precious").write_text("x")
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path / "a.zarr", overwrite=True, marker="zarr.json")
    with pytest.raises(InputError, match="is a folder"):
        open_zarr(tmp_path / "a.zarr", SHAPE, overwrite=True, **OPTIONS)


def test_an_old_zarr_stays_until_the_new_one_is_complete(tmp_path):
    path = make(tmp_path / "a.zarr", 1).path
    with pytest.raises(OutputExistsError):
        open_zarr(path, SHAPE, **OPTIONS)
    sink = open_zarr(path, SHAPE, overwrite=True, **OPTIONS)
    fill(sink, 2)
    assert first_pixel(path) == 1
    sink.commit()
    assert first_pixel(path) == 2
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_rename_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    path = make(tmp_path / "a.zarr", 1).path
    sink = open_zarr(path, SHAPE, overwrite=True, **OPTIONS)
    fill(sink, 2)
    replace = files.replace

    def fail(source, target):
        if source == sink.part_path:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", fail)
        with pytest.raises(OSError, match="Input/output"):
            sink.commit()
    assert first_pixel(path) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "a.zarr.part"]


@pytest.mark.parametrize("then", ["go on", "start over"])
def test_a_kill_between_the_two_renames_loses_neither(tmp_path, then):
    path = make(tmp_path / "a.zarr", 1).path
    sink = open_zarr(path, SHAPE, overwrite=True, **OPTIONS)
    fill(sink, 2)
    sink.close()
    path.rename(tmp_path / "a.zarr.part.old")
    if then == "go on":
        open_zarr(path, SHAPE, overwrite=True, begun={}, **OPTIONS).commit()
        assert first_pixel(path) == 2
    else:
        open_zarr(path, SHAPE, overwrite=True, **OPTIONS).discard()
        assert first_pixel(path) == 1
    assert os.listdir(tmp_path) == ["a.zarr"]
