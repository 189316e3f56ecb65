"""One contract for every sink: opened, written in any order from many threads, committed or discarded."""

import multiprocessing
import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import pytest
import small_sinks
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from small_sinks import open_sink, open_zarr

from tiler.codecs import CODECS
from tiler.errors import InputError, OutputExistsError, TileError
from tiler.formats.encoded_sink import count_encoded_bytes
from tiler.formats.jpeg_webp import Jpeg, WebP
from tiler.formats.latents import SafetensorsSink
from tiler.formats.npy import NpySink
from tiler.formats.picture import PictureSink
from tiler.formats.places import check_apart, check_output
from tiler.formats.png import Png
from tiler.formats.png_latents import LatentPngSink
from tiler.formats.tiff import TiffSink
from tiler.window import Span, Window

FILE_TILE_PX = 16
SHARED_SIZE = (300, 333)


@dataclass
class Case:
    """A kind of sink, and how another library reads what it wrote."""

    name: str
    open: Any
    read: Any
    n_channels: int = 3
    dtype: str = "uint8"
    exact: bool = True


def read_tiff(path, level):
    with Image.open(path) as image:
        image.seek(level)
        assert image.mode == "RGB"
        return np.asarray(image)


def read_any_tiff(path, level):
    with tifffile.TiffFile(path) as tiff:
        # Not by its series: a level 1 px high is no half of one 1 px high, and so of another series.
        return [*tiff.pages, *(tiff.pages[0].pages or ())][level].asarray()


def read_zarr(path, level):
    zarr = pytest.importorskip("zarr")
    return zarr.open_group(path, mode="r")[str(level)][:].transpose(1, 2, 0)


def read_npy(path, level):
    return np.load(path)


def read_picture(path, level):
    if path.suffix == ".part":  # an array until it is complete
        return np.load(path)
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def read_16_bit_png(path, level):
    if path.suffix == ".part":
        return np.load(path)
    return imagecodecs.png_decode(path.read_bytes())


def read_channels_first(path, level):
    [stored] = np.load(path)
    return stored.transpose(1, 2, 0)


def read_tensor(path, level):
    [stored] = load_file(path)["latents"]
    return stored.transpose(1, 2, 0)


open_tiff = partial(small_sinks.open_tiff, file_tile_px=FILE_TILE_PX)


CASES = [
    Case("tiff-deflate", open_tiff, read_tiff),
    Case("tiff-jpeg", partial(open_tiff, compression="jpeg", quality=95), read_tiff, exact=False),
    Case("tiff-none", partial(open_tiff, compression="none"), read_tiff),
    Case("tiff-one-level", partial(open_tiff, pyramid=False), read_tiff),
    Case("tiff-webp", partial(open_tiff, compression="webp", quality=100), read_any_tiff),
    Case("tiff-lzw", partial(open_tiff, compression="lzw"), read_any_tiff),
    Case("tiff-zstd-uint16", partial(open_tiff, compression="zstd", dtype="uint16"), read_any_tiff, dtype="uint16"),
    Case(
        "tiff-jxl-uint16",
        partial(open_tiff, compression="jxl", quality=100, dtype="uint16"),
        read_any_tiff,
        dtype="uint16",
    ),
    Case("tiff-jxl-lossy", partial(open_tiff, compression="jxl", quality=95), read_any_tiff, exact=False),
    Case("tiff-uint16", partial(open_tiff, dtype="uint16"), read_any_tiff, dtype="uint16"),
    Case("tiff-float32", partial(open_tiff, dtype="float32"), read_any_tiff, dtype="float32"),
    Case("tiff-ome", partial(open_tiff, layout="ome"), read_any_tiff),
    Case("tiff-ome-one-level", partial(open_tiff, layout="ome", pyramid=False, compression="none"), read_any_tiff),
    Case("zarr", partial(open_zarr, shard_px=32, file_tile_px=16), read_zarr),
    Case("zarr-none", partial(open_zarr, shard_px=16, file_tile_px=16, compression="none"), read_zarr),
    Case(
        "zarr-zstd-uint16",
        partial(open_zarr, shard_px=32, file_tile_px=16, compression="zstd", dtype="uint16"),
        read_zarr,
        dtype="uint16",
    ),
    Case(
        "zarr-float32",
        partial(open_zarr, shard_px=32, file_tile_px=16, dtype="float32", pyramid=False),
        read_zarr,
        dtype="float32",
    ),
    Case("png", partial(open_sink, Png), read_picture),
    Case("png-uint16", partial(open_sink, Png, dtype="uint16"), read_16_bit_png, dtype="uint16"),
    Case("jpeg", partial(open_sink, Jpeg, quality=95), read_picture, exact=False),
    Case("webp", partial(open_sink, WebP, quality=100), read_picture),
    Case("webp-lossy", partial(open_sink, WebP, quality=95), read_picture, exact=False),
    Case("npy", partial(NpySink, dtype="uint8"), read_npy),
    Case(
        "npy-channels-first",
        partial(NpySink, dtype="float32", channels_first=True),
        read_channels_first,
        n_channels=4,
        dtype="float32",
    ),
]

CASES += [
    Case(
        "safetensors",
        partial(SafetensorsSink, dtype="float32", channels_first=True),
        read_tensor,
        n_channels=4,
        dtype="float32",
    ),
]

every_sink = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def make_image(case, height, width, level=0):
    """Return an image whose every row, column, channel and level differ, smooth enough for JPEG."""
    rows, columns, channels = np.ogrid[:height, :width, : case.n_channels]
    return (40 + rows + (channels + 1) * columns + 30 * channels + 20 * level).clip(0, 255).astype(case.dtype)


def content(path):
    """Return all bytes of a file, or of every file in a folder."""
    if path.is_dir():
        return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    return path.read_bytes()


def cut(height, width, seed, unit_px=FILE_TILE_PX):
    """Cover a level once with windows of whole file tiles, of many sizes, in random order."""
    order = random.Random(seed)

    def spans(size):
        start, result = 0, []
        while start < size:
            stop = min(start + unit_px * order.randint(1, 3), size)
            result.append(Span(start, stop))
            start = stop
        return result

    windows = [Window(rows, columns) for rows in spans(height) for columns in spans(width)]
    order.shuffle(windows)
    return windows


def find_unit(sink):
    """Side of what windows of a sink must consist of."""
    return getattr(sink, "square_px", FILE_TILE_PX)


def fill(case, sink, seed=0):
    """Write every level from threads, in random order."""
    jobs = [
        (level, window, make_image(case, *shape, level)[window.slices])
        for level, shape in enumerate(sink.levels)
        for window in cut(*shape, seed + level, find_unit(sink))
    ]
    random.Random(seed).shuffle(jobs)
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(sink.write, *job) for job in jobs]:
            done.result()


def assert_holds(case, path, shapes):
    for level, shape in enumerate(shapes):
        stored, expected = case.read(path, level), make_image(case, *shape, level)
        if case.exact:
            np.testing.assert_array_equal(stored, expected, strict=True)
        else:
            assert stored.shape == expected.shape
            difference = np.abs(stored.astype(float) - expected)
            assert difference.mean() < 2
            assert difference.max() < 16


@every_sink
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_another_library_reads_what_threads_wrote_in_any_order(tmp_path, case, height, width, seed):
    sink = case.open(tmp_path / "a.out", (height, width, case.n_channels), overwrite=True)
    fill(case, sink, seed)
    assert sink.levels[0] == (height, width)
    sink.commit()
    assert_holds(case, tmp_path / "a.out", sink.levels)


@every_sink
@pytest.mark.parametrize("shape", [(1, 1), (17, 5), (5, 17), (16, 16), (32, 32), (33, 47)], ids=str)
def test_small_and_odd_sizes(tmp_path, case, shape):
    sink = case.open(tmp_path / "a.out", (*shape, case.n_channels))
    fill(case, sink)
    sink.commit()
    assert_holds(case, tmp_path / "a.out", sink.levels)


@every_sink
def test_what_was_not_written_reads_as_0(tmp_path, case):
    sink = case.open(tmp_path / "a.out", (40, 40, case.n_channels))
    window = Window(Span(32, 40), Span(32, 40))
    sink.write(0, window, np.full((8, 8, case.n_channels), 200, case.dtype))
    sink.commit()
    # Pillow does not read absent tiles.
    stored = tifffile.imread(sink.path, key=0) if isinstance(sink, TiffSink) else case.read(sink.path, 0)
    expected = np.zeros((40, 40, case.n_channels))
    expected[window.slices] = 200
    assert np.abs(stored - expected).max() <= (0 if case.exact else 2)


@every_sink
def test_the_final_name_is_absent_until_commit_and_nothing_else_stays_after(tmp_path, case):
    sink = case.open(tmp_path / "a.out", (40, 24, case.n_channels))
    assert [path.name for path in tmp_path.iterdir()] == ["a.out.part"]
    fill(case, sink)
    assert [path.name for path in tmp_path.iterdir()] == ["a.out.part"]
    sink.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["a.out"]


@every_sink
def test_discard_leaves_nothing(tmp_path, case):
    sink = case.open(tmp_path / "a.out", (40, 24, case.n_channels))
    fill(case, sink)
    sink.discard()
    sink.discard()
    assert not list(tmp_path.iterdir())


@every_sink
def test_close_keeps_the_part_and_may_come_twice(tmp_path, case):
    sink = case.open(tmp_path / "a.out", (40, 24, case.n_channels))
    fill(case, sink)
    sink.close()
    sink.close()
    assert_holds(case, tmp_path / "a.out.part", sink.levels)
    assert not (tmp_path / "a.out").exists()
    with pytest.raises(ValueError, match="closed"):
        sink.write(0, Window.whole(40, 24), np.ones((40, 24, case.n_channels), case.dtype))


@every_sink
def test_an_existing_output_is_refused_and_stays(tmp_path, case):
    (tmp_path / "a.out").write_text("old")
    with pytest.raises(OutputExistsError):
        case.open(tmp_path / "a.out", (40, 24, case.n_channels))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@every_sink
@pytest.mark.parametrize("end", ["commit", "discard"])
def test_an_output_to_be_replaced_stays_until_commit(tmp_path, case, end):
    (tmp_path / "a.out").write_text("old")
    sink = case.open(tmp_path / "a.out", (40, 24, case.n_channels), overwrite=True)
    fill(case, sink)
    assert (tmp_path / "a.out").read_text() == "old"
    getattr(sink, end)()
    if end == "discard":
        assert (tmp_path / "a.out").read_text() == "old"
    else:
        assert_holds(case, tmp_path / "a.out", sink.levels)
    assert len(list(tmp_path.iterdir())) == 1


@every_sink
def test_a_missing_folder_is_told_at_once(tmp_path, case):
    with pytest.raises(InputError, match="No such folder"):
        case.open(tmp_path / "none" / "a.out", (40, 24, case.n_channels))
    assert not list(tmp_path.iterdir())


@every_sink
def test_pixels_may_be_any_view_and_are_not_changed(tmp_path, case):
    image = make_image(case, 40, 24)
    sink = case.open(tmp_path / "a.out", (40, 24, case.n_channels))
    view = np.asfortranarray(image)[::1]
    view.flags.writeable = False
    sink.write(0, Window.whole(40, 24), view)
    sink.commit()
    assert_holds(case, sink.path, [(40, 24)])


@every_sink
def test_a_sink_is_reopened_and_written_on(tmp_path, case):
    """As after a kill: half of the windows by one sink, the others by another on the same part."""
    for name, n_first in (("once", None), ("twice", 7)):
        path = tmp_path / name / "a.out"
        path.parent.mkdir()
        sink = case.open(path, (70, 40, case.n_channels))
        jobs = [
            (level, window) for level, shape in enumerate(sink.levels) for window in cut(*shape, level, find_unit(sink))
        ]
        for number, (level, window) in enumerate(jobs):
            if number == n_first:
                sink.close()
                sink = case.open(path, (70, 40, case.n_channels), begun={})
            sink.write(level, window, make_image(case, *sink.levels[level], level)[window.slices])
        sink.commit()
        assert_holds(case, path, sink.levels)
    once, twice = (tmp_path / name / "a.out" for name in ("once", "twice"))
    # A TIFF too: tiles were written in the same order, and nothing is lost in between.
    assert content(once) == content(twice)


def write_share(number, path, share):
    """Write a share of the windows from threads, as another process does."""
    case = CASES[number]
    sink = case.open(path, (*SHARED_SIZE, case.n_channels), begun={})
    sink.share()
    with ThreadPoolExecutor(2) as threads:
        jobs = [(level, window, make_image(case, *sink.levels[level], level)[window.slices]) for level, window in share]
        for done in [threads.submit(sink.write, *job) for job in jobs]:
            done.result()
    sink.close()


def test_processes_write_the_same_file(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        for number, case in enumerate(CASES):
            sink = case.open(path := tmp_path / case.name, (*SHARED_SIZE, case.n_channels))
            unit_px = find_unit(sink)
            windows = [(level, each) for level, shape in enumerate(sink.levels) for each in cut(*shape, level, unit_px)]
            # One share is written twice at the same time, as when a worker only seems to be dead.
            shares = [windows[::2], windows[1::2], windows[::2]]
            pool.starmap(write_share, [(number, path, share) for share in shares])
            sink.commit()
            assert_holds(case, path, sink.levels)


@every_sink
def test_a_part_that_is_another_file_is_not_written_on(tmp_path, case):
    case.open(tmp_path / "a.out", (70, 41, case.n_channels)).close()
    before = content(tmp_path / "a.out.part")
    with pytest.raises(InputError, match=r"has changed: .*Start over with overwrite=True and without resume=\."):
        case.open(tmp_path / "a.out", (70, 42, case.n_channels), begun={})
    assert content(tmp_path / "a.out.part") == before
    damaged = tmp_path / "a.out.part"
    damaged = damaged / "0" / "zarr.json" if damaged.is_dir() else damaged
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(InputError, match=r"has changed: .*Start over with overwrite=True and without resume=\."):
        case.open(tmp_path / "a.out", (70, 41, case.n_channels), begun={})
    assert [path.name for path in tmp_path.iterdir()] == ["a.out.part"]


def test_a_picture_that_was_encoded_before_a_kill_takes_no_more_pixels(tmp_path):
    PictureSink(Png(tmp_path / "a.png"), (16, 16, 3)).commit()
    (tmp_path / "a.png").rename(tmp_path / "a.png.part")
    sink = PictureSink(Png(tmp_path / "a.png"), (16, 16, 3), begun={})
    with pytest.raises(InputError, match=r"is complete: .*Start over with overwrite=True and without resume=\."):
        sink.write(0, Window.whole(16, 16), np.zeros((16, 16, 3), np.uint8))
    sink.commit()
    assert not read_picture(tmp_path / "a.png", 0).any()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name.startswith(("tiff", "zarr"))],
    ids=lambda case: case.name,
)
def test_what_was_written_is_read_back_where_nothing_is_lost(tmp_path, case):
    sink = case.open(tmp_path / "a.out", (70, 41, 3))
    noise = np.random.default_rng(0).integers(0, 256, (70, 41, 3)).astype(case.dtype)
    sink.write(0, Window.whole(70, 41), noise)
    sink.close()
    sink = case.open(tmp_path / "a.out", (70, 41, 3), begun={})
    assert sink.reads_back == case.exact
    window = Window(Span(32, 70), Span(32, 41))
    if case.exact:
        np.testing.assert_array_equal(sink.read(0, window), noise[window.slices], strict=True)
    sink.close()


@pytest.mark.parametrize("compression", ["deflate", "none", "webp"])
def test_what_is_absent_is_not_read_back_as_0(tmp_path, compression):
    quality = {"quality": 100} if compression == "webp" else {}
    sink = open_tiff(tmp_path / "a.out", (16, 16, 3), compression=compression, **quality)
    with pytest.raises(TileError, match="damaged"):
        sink.read(0, Window.whole(16, 16))
    sink.close()


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    sink = NpySink(tmp_path / "a.npy", (4, 4, 3), "uint8")
    (tmp_path / "a.npy").write_text("precious")
    with pytest.raises(OutputExistsError):
        sink.commit()
    assert (tmp_path / "a.npy").read_text() == "precious"
    assert sink.part_path.exists()


@pytest.mark.parametrize(
    ("compression", "dtype"), [(name, dtype) for name, codec in CODECS.items() for dtype in codec.dtypes]
)
@pytest.mark.parametrize("quality", [1, 90, 100])
def test_no_tile_takes_more_than_the_predicted_bytes(compression, dtype, quality):
    codec, shape, dtype = CODECS[compression], (64, 64, 3), np.dtype(dtype)
    random = np.random.default_rng(1)
    n_bytes = 64 * 64 * 3 * dtype.itemsize
    noise = [random.integers(0, top, n_bytes) * (255 // (top - 1)) for top in (2, 256)]
    most = max(len(codec.encode(each.astype(np.uint8).view(dtype).reshape(shape), quality)) for each in noise)
    predicted = codec.count_most_bytes(shape, dtype, quality)
    assert 0.9 * predicted < most <= predicted


@pytest.mark.parametrize(
    ("make", "shape", "most"),
    [
        (partial(open_sink, Png), (300, 200, 3), 1.1),
        (partial(open_sink, Png, dtype="uint16"), (300, 200, 3), 1.1),
        (partial(open_sink, Jpeg, quality=100), (300, 200, 3), 3),
        (partial(open_sink, WebP, quality=100), (300, 200, 3), 1.2),
        (LatentPngSink, (300, 200, 4), 1.1),
    ],
    ids=["png", "png-uint16", "jpeg", "webp", "latents"],
)
def test_no_encoded_file_takes_more_than_the_predicted_bytes(tmp_path, make, shape, most):
    """Noise, which nothing compresses."""
    sink = make(tmp_path / "a", shape)
    noise = np.random.default_rng(0).integers(0, 256, (*shape[:2], shape[2] * sink.dtype.itemsize), np.uint8)
    noise = noise / np.float32(42.5) - 3 if make is LatentPngSink else noise.view(sink.dtype)
    sink.write(0, Window.whole(*shape[:2]), noise)
    sink.commit()
    assert sink.path.stat().st_size <= count_encoded_bytes(shape, sink.dtype) < most * sink.path.stat().st_size + 21_000


# -- where an output may not be


def long_name(folder):
    return folder / ("a" * 245 + ".npy")


def link(folder):
    (folder / "target.npy").write_bytes(b"precious")
    (folder / "a.npy").symlink_to("target.npy")
    return folder / "a.npy"


def dangling_link(folder):
    (folder / "a.npy").symlink_to("no-such-folder/a.npy")
    return folder / "a.npy"


def pipe(folder):
    os.mkfifo(folder / "a.npy")
    return folder / "a.npy"


def folder_in_the_way(folder):
    (folder / "a.npy.part").mkdir()
    return folder / "a.npy"


def link_in_the_way(folder):
    (folder / "precious").write_bytes(b"precious")
    (folder / "a.npy.part.journal").symlink_to("precious")
    return folder / "a.npy"


def below_a_file(folder):
    (folder / "file").write_bytes(b"precious")
    return folder / "file" / "a.npy"


NO_PLACES = [long_name, link, dangling_link, pipe, folder_in_the_way, link_in_the_way, below_a_file]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("make", NO_PLACES)
def test_where_no_file_can_be_or_something_else_is_nothing_is_touched(tmp_path, make, overwrite):
    path = make(tmp_path)
    before = {each: each.is_file() and each.read_bytes() for each in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="path=") as caught:
        check_output(path, overwrite=overwrite)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match="path="):
        NpySink(path, (2, 2, 3), "uint8", overwrite=overwrite)
    assert {each: each.is_file() and each.read_bytes() for each in tmp_path.rglob("*")} == before


def test_a_folder_that_may_not_be_written_to_is_told_at_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(InputError, match="Nothing may be written to the folder"):
        check_output(tmp_path / "a.npy", overwrite=True)
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_folder_that_is_mounted_read_only_is_told_at_once(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts file systems")
    try:
        with pytest.raises(InputError, match="Nothing may be written to the folder"):
            check_output(tmp_path / "a.npy", overwrite=False)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("name", ["a.npy", "hard.npy", "soft.npy", "b/../a.npy"])
@pytest.mark.parametrize("output", ["a.npy", "a", "other/a.npy"])
def test_an_output_never_takes_the_place_of_its_input(tmp_path, name, output):
    """Also under another of its names, and when the input is called as what lies beside the output."""
    (tmp_path / "b").mkdir()
    (tmp_path / "other").symlink_to(tmp_path)
    (tmp_path / "a.npy").write_bytes(b"precious")
    (tmp_path / "a.part.journal").hardlink_to(tmp_path / "a.npy")
    (tmp_path / "hard.npy").hardlink_to(tmp_path / "a.npy")
    (tmp_path / "soft.npy").symlink_to("a.npy")
    with pytest.raises(InputError, match=r"take the place of its input: output=.*, latents=.*Name another output"):
        check_apart(tmp_path / output, {"weights": "photo", "latents": tmp_path / name})


def test_what_is_no_file_or_another_is_no_reason_to_refuse(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"precious")
    (tmp_path / "b.npy").write_bytes(b"precious")
    inputs = {"weights": "photo", "latents": np.zeros(3), "more": tmp_path / "b.npy", "odd": "a\0b", "long": "a" * 999}
    check_apart(tmp_path / "a.npy", inputs)
    check_apart(tmp_path / "c.npy", inputs | {"more": tmp_path / "c.npy"})


def test_an_output_that_holds_its_input_is_refused(tmp_path):
    """Replacing a Zarr would take what lies in it along."""
    inside = tmp_path / "run.zarr" / "latents"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inside)
    for path in (inside, tmp_path / "link"):
        with pytest.raises(InputError, match="take the place of its input"):
            check_apart(tmp_path / "run.zarr", {"latents": path})
    check_apart(tmp_path / "other.zarr", {"latents": inside})
    # Nor does it become a part of its input, which would be another one for whoever goes on.
    for output in ("image.tif", "deep/image.zarr"):
        with pytest.raises(InputError, match="would lie in its input"):
            check_apart(tmp_path / "run.zarr" / output, {"latents": tmp_path / "run.zarr"})
