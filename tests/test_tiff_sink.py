import hashlib
import io
import os
import random
import subprocess
import sys
import threading
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from small_sinks import open_tiff

from tiler.errors import InputError, OptionError
from tiler.formats.srgb_profile import srgb_profile
from tiler.pyramid import level_shapes
from tiler.window import Span, Window

ROOT = Path(__file__).parents[1]
COMPRESSIONS = ["deflate", "jpeg", "none"]


def file_tile_windows(height, width, size):
    """Return every file tile of a level, in row-major order."""
    return [
        Window(Span(row, min(row + size, height)), Span(column, min(column + size, width)))
        for row in range(0, height, size)
        for column in range(0, width, size)
    ]


def stored_tiles(path):
    """Return the compressed bytes of every tile of every level."""
    with tifffile.TiffFile(path) as tiff, open(path, "rb") as file:
        return [
            [
                os.pread(file.fileno(), n_bytes, offset)
                for offset, n_bytes in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
            for page in tiff.pages
        ]


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# -- the skeleton


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 3), (17, 5, 3), (16, 16, 3), (32, 32, 3), (16, 33, 3), (64, 64, 3), (97, 31, 3)],
    ids=lambda shape: f"{shape[0]}x{shape[1]}",
)
@pytest.mark.parametrize("pyramid", [True, False])
def test_every_tile_is_absent_until_it_is_written(tmp_path, compression, shape, pyramid):
    sink = open_tiff(tmp_path / "a.tif", shape, compression=compression, file_tile_px=16, pyramid=pyramid)
    sink.close()
    with tifffile.TiffFile(sink.part_path) as tiff:
        assert tiff.is_bigtiff
        assert [page.shape[:2] for page in tiff.pages] == sink.levels
        for page in tiff.pages:
            assert set(page.dataoffsets) == {0}
            assert set(page.databytecounts) == {0}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_no_hole_is_left_where_tifffile_puts_a_single_tile(tmp_path, compression):
    sink = open_tiff(tmp_path / "a.tif", (256, 256, 3), compression=compression, file_tile_px=256)
    sink.close()
    assert os.path.getsize(sink.part_path) < 1500


def test_levels_go_down_to_one_file_tile_and_only_the_reduced_ones_say_so(tmp_path):
    sink = open_tiff(tmp_path / "a.tif", (100, 70, 3), file_tile_px=16)
    sink.close()
    assert sink.levels == level_shapes(100, 70, 16) == [(100, 70), (50, 35), (25, 18), (13, 9)]
    with tifffile.TiffFile(sink.part_path) as tiff:
        assert [page.subfiletype for page in tiff.pages] == [0, 1, 1, 1]
        assert all(page.tile == (16, 16) for page in tiff.pages)


def test_without_a_pyramid_there_is_one_level(tmp_path):
    sink = open_tiff(tmp_path / "a.tif", (100, 70, 3), file_tile_px=16, pyramid=False)
    sink.close()
    assert sink.levels == [(100, 70)]
    with tifffile.TiffFile(sink.part_path) as tiff:
        assert len(tiff.pages) == 1


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_tags_say_what_the_tiles_are(tmp_path, compression):
    description = "a tile of 3 µm; seed 7"
    sink = open_tiff(tmp_path / "a.tif", (40, 40, 3), compression=compression, file_tile_px=32, description=description)
    sink.close()
    with tifffile.TiffFile(sink.part_path) as tiff:
        for page in tiff.pages:
            tags = {tag.name: tag.value for tag in page.tags}
            assert tags["Compression"] == {"deflate": 8, "jpeg": 7, "none": 1}[compression]
            assert tags["PhotometricInterpretation"] == (6 if compression == "jpeg" else 2)
            assert tags.get("YCbCrSubSampling") == ((2, 2) if compression == "jpeg" else None)
            assert tags.get("Predictor", 1) == (2 if compression == "deflate" else 1)
            assert tags["ResolutionUnit"] == 1
            assert tags["Software"] == "taesd-tiler"
            assert tags["InterColorProfile"] == srgb_profile()
            assert "DateTime" not in tags
        assert tiff.pages[0].tags["ImageDescription"].value == description
        assert all("ImageDescription" not in page.tags for page in tiff.pages[1:])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_a_skeleton_of_100_gigapixels_is_quick_and_small(tmp_path):
    # In a process of its own, for the peak of this one is past; tracemalloc would take a minute here.
    program = """
import re, sys, time
import tifffile
from tiler.formats.tiff import Tiff, TiffSink

def peak_bytes():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

before = peak_bytes()
start = time.process_time()
sink = TiffSink(Tiff(sys.argv[1], file_tile_px=512), (316_000, 316_000, 3))
print(peak_bytes() - before, time.process_time() - start)
sink.close()
"""
    path = tmp_path / "a.tif"
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    peak_bytes, seconds = map(float, answer.stdout.split())
    assert peak_bytes < 100e6  # 30e6 measured
    assert seconds < 10  # 0.4 measured
    assert os.path.getsize(f"{path}.part") < 7e6


# -- tiles


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_any_order_stores_the_same_bytes_tile_by_tile(tmp_path, compression):
    stored = []
    for order in range(3):
        sink = open_tiff(tmp_path / f"{order}.tif", (100, 70, 3), compression=compression, file_tile_px=16)
        parts = [(level, w) for level, shape in enumerate(sink.levels) for w in file_tile_windows(*shape, 16)]
        random.Random(order).shuffle(parts)
        for level, window in parts:
            sink.write(level, window, random_image(*sink.levels[level], seed=level)[window.slices])
        sink.commit()
        stored.append(stored_tiles(sink.path))
    assert stored[0] == stored[1] == stored[2]
    assert sum(map(len, stored[0])) == 7 * 5 + 4 * 3 + 2 * 2 + 1
    assert all(tile for level in stored[0] for tile in level)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_large_windows_store_the_same_bytes_as_small_ones(tmp_path, compression):
    image = random_image(100, 70)
    stored = []
    for size in (16, 32, 48, 112):
        sink = open_tiff(tmp_path / f"{size}.tif", image.shape, compression=compression, file_tile_px=16, pyramid=False)
        for window in file_tile_windows(100, 70, size):
            sink.write(0, window, image[window.slices])
        sink.commit()
        stored.append(stored_tiles(sink.path))
    assert all(tiles == stored[0] for tiles in stored)


def test_offsets_are_even_and_tiles_do_not_overlap(tmp_path):
    # Noise compresses to odd and even lengths; 23 letters make the skeleton itself of odd length.
    sink = open_tiff(tmp_path / "a.tif", (160, 160, 3), file_tile_px=16, description="x" * 23)
    windows = file_tile_windows(160, 160, 16)
    image = random_image(160, 160)
    for window in windows:
        sink.write(0, window, image[window.slices])
    sink.commit()
    with tifffile.TiffFile(sink.path) as tiff:
        page = tiff.pages[0]
        assert any(n_bytes % 2 for n_bytes in page.databytecounts)
        assert all(offset % 2 == 0 for offset in page.dataoffsets)
        places = sorted(zip(page.dataoffsets, page.databytecounts, strict=True))
        assert all(offset + n <= following for (offset, n), (following, _) in pairwise(places))
        np.testing.assert_array_equal(page.asarray(), image)


def test_tiles_at_the_edge_are_filled_by_repetition(tmp_path):
    image = random_image(17, 5)
    sink = open_tiff(tmp_path / "a.tif", image.shape, compression="none", file_tile_px=16, pyramid=False)
    sink.write(0, Window.whole(17, 5), image)
    sink.commit()
    upper, lower = (np.frombuffer(tile, np.uint8).reshape(16, 16, 3) for tile in stored_tiles(sink.path)[0])
    np.testing.assert_array_equal(upper[:, :5], image[:16])
    np.testing.assert_array_equal(upper[:, 5:], np.repeat(image[:16, 4:], 11, axis=1))
    np.testing.assert_array_equal(lower[:, :5], np.repeat(image[16:], 16, axis=0))
    np.testing.assert_array_equal(lower[:, 5:], np.broadcast_to(image[16, 4], (16, 11, 3)))


def test_a_jpeg_tile_is_a_complete_file_of_the_asked_quality(tmp_path):
    image = random_image(32, 32)
    sizes = {}
    for quality in (50, 95):
        sink = open_tiff(tmp_path / f"{quality}.tif", image.shape, compression="jpeg", quality=quality, file_tile_px=32)
        sink.write(0, Window.whole(32, 32), image)
        sink.commit()
        [[tile]] = stored_tiles(sink.path)
        expected = io.BytesIO()
        Image.fromarray(image).save(expected, "JPEG", quality=quality, subsampling=2)
        with Image.open(io.BytesIO(tile)) as ours, Image.open(expected) as theirs:
            assert ours.size == (32, 32)
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        sizes[quality] = len(tile)
    assert sizes[50] < sizes[95]


def test_the_byte_count_is_patched_after_the_tile_and_its_offset(tmp_path, monkeypatch):
    sink = open_tiff(tmp_path / "a.tif", (16, 16, 3), file_tile_px=16)
    pwrite = os.pwrite
    seen = []

    def watch(descriptor, content, position):
        n_bytes = pwrite(descriptor, content, position)
        with tifffile.TiffFile(sink.part_path) as tiff:
            offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        stored = sink.part_path.read_bytes()[-len(sink._encode(image)) :] == sink._encode(image)
        seen.append((stored, offset > 0, count > 0))
        return n_bytes

    image = random_image(16, 16)
    monkeypatch.setattr(os, "pwrite", watch)
    sink.write(0, Window.whole(16, 16), image)
    sink.close()
    assert seen == [(True, False, False), (True, True, False), (True, True, True)]


def test_a_tile_written_again_replaces_the_first(tmp_path):
    sink = open_tiff(tmp_path / "a.tif", (48, 16, 3), file_tile_px=16, pyramid=False)
    image = random_image(48, 16)
    sink.write(0, Window.whole(48, 16), np.zeros_like(image))
    sink.write(0, Window.whole(48, 16), image)
    sink.commit()
    np.testing.assert_array_equal(tifffile.imread(sink.path), image)


def test_a_kernel_that_takes_little_at_a_time_loses_nothing(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, rest, position: pwrite(file, rest[:5], position))
    image = random_image(40, 40)
    sink = open_tiff(tmp_path / "a.tif", image.shape, file_tile_px=16, pyramid=False)
    sink.write(0, Window.whole(40, 40), image)
    sink.commit()
    np.testing.assert_array_equal(tifffile.imread(sink.path), image)


def test_threads_that_meet_at_the_end_of_the_file_do_not_share_a_place(tmp_path, monkeypatch):
    image = random_image(64, 64)
    sink = open_tiff(tmp_path / "a.tif", image.shape, file_tile_px=16, pyramid=False)
    windows = file_tile_windows(64, 64, 16)
    together = threading.Barrier(len(windows), timeout=10)

    def encode(tile):
        together.wait()  # so that all of them take their space at the same time
        return zlib_tile(tile)

    zlib_tile = sink._encode
    monkeypatch.setattr(sink, "_encode", encode)
    threads = [threading.Thread(target=sink.write, args=(0, w, image[w.slices])) for w in windows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.commit()
    np.testing.assert_array_equal(tifffile.imread(sink.path), image)


def test_compressing_needs_the_memory_of_a_few_file_tiles_however_large_the_window(tmp_path):
    image = np.zeros((2048, 2048, 3), np.uint8)
    sink = open_tiff(tmp_path / "a.tif", image.shape, file_tile_px=256)
    file_tile_bytes = 256 * 256 * 3
    tracemalloc.start()
    try:
        sink.write(0, Window.whole(2048, 2048), image)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sink.close()
    assert peak_bytes < 3 * file_tile_bytes  # the whole window would be 64


def test_a_deflated_tile_holds_differences_to_the_left(tmp_path):
    image = np.full((16, 16, 3), (10, 20, 255), np.uint8)
    image[:, 8:] = (5, 21, 0)
    sink = open_tiff(tmp_path / "a.tif", image.shape, file_tile_px=16)
    sink.write(0, Window.whole(16, 16), image)
    sink.commit()
    [[tile]] = stored_tiles(sink.path)
    assert tile[:2] == bytes([0x78, 0x01])  # zlib's level 1: 6 is a third as fast and saves 3 %
    row = np.frombuffer(zlib.decompress(tile), np.uint8).reshape(16, 16, 3)[3]
    assert row[[0, 1, 8, 9]].tolist() == [[10, 20, 255], [0, 0, 0], [251, 1, 1], [0, 0, 0]]


# -- what is refused


@pytest.mark.parametrize(
    "options",
    [
        {"file_tile_px": 500},
        {"file_tile_px": 0},
        {"file_tile_px": -16},
        {"compression": "lzma"},
        {"layout": "tiles"},
        {"dtype": "int8"},
        {"dtype": "uint16", "compression": "jpeg"},
        {"dtype": "uint16", "compression": "webp"},
        {"dtype": "float32", "compression": "jxl"},
        {"quality": 0},
        {"quality": 101},
        {"shape": (16, 16, 4)},
        {"shape": (0, 16, 3)},
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused_and_leaves_nothing(tmp_path, options):
    with pytest.raises(OptionError):
        open_tiff(tmp_path / "a.tif", **{"shape": (16, 16, 3), **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("level", "rows", "columns", "error", "words"),
    [
        pytest.param(0, (8, 16), (0, 16), OptionError, "whole TIFF tiles", id="start between tiles"),
        pytest.param(0, (0, 16), (0, 24), OptionError, "whole TIFF tiles", id="stop between tiles"),
        pytest.param(0, (0, 40), (0, 30), OptionError, "whole TIFF tiles", id="stop at the other edge"),
        pytest.param(1, (0, 20), (0, 16), OptionError, "whole TIFF tiles", id="short of the edge of a level"),
        pytest.param(0, (32, 48), (0, 16), InputError, "leaves", id="below the image"),
        pytest.param(0, (0, 16), (32, 48), InputError, "leaves", id="right of the image"),
        pytest.param(3, (0, 5), (0, 4), InputError, "No such level", id="too high"),
        pytest.param(-1, (0, 10), (0, 8), InputError, "No such level", id="negative"),
    ],
)
def test_a_window_that_does_not_belong_is_refused_and_writes_nothing(tmp_path, level, rows, columns, error, words):
    sink = open_tiff(tmp_path / "a.tif", (42, 40, 3), file_tile_px=16)
    before = sink.part_path.read_bytes()
    window = Window(Span(*rows), Span(*columns))
    with pytest.raises(error, match=words):
        sink.write(level, window, np.ones((*window.shape, 3), np.uint8))
    sink.close()
    assert sink.part_path.read_bytes() == before


@pytest.mark.parametrize(("shape", "dtype"), [((16, 15, 3), "uint8"), ((16, 16, 4), "uint8"), ((16, 16, 3), "float32")])
def test_pixels_that_do_not_fit_their_window_are_refused(tmp_path, shape, dtype):
    sink = open_tiff(tmp_path / "a.tif", (32, 32, 3), file_tile_px=16)
    with pytest.raises(InputError, match="do not fit"):
        sink.write(0, Window.whole(16, 16), np.ones(shape, dtype))
    sink.close()


def test_a_skeleton_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OSError, match="No space"):
        open_tiff(tmp_path / "a.tif", (16, 16, 3))
    assert not list(tmp_path.iterdir())


# -- the profile


def test_the_profile_never_changes():
    assert hashlib.sha256(srgb_profile()).hexdigest() == PROFILE_SHA256


PROFILE_SHA256 = "f5baa769cc5dcaac6e966bf66fe57063e3a55c26d0dfa1731c00797dc7c157e5"


def test_the_profile_is_srgb_to_little_cms():
    ours = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    theirs = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(52, -1, 3)
    for source, target in [(ours, theirs), (theirs, ours)]:
        seen = np.asarray(ImageCms.profileToProfile(Image.fromarray(colours), source, target))
        assert np.abs(seen.astype(int) - colours).max() <= 1
    assert ImageCms.getProfileDescription(ours).strip() == "sRGB"
