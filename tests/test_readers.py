"""Programs that people open large images with read every level of ours."""

from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from tiler.tiff_sink import TiffSink
from tiler.window import Span, Window

SIZE = (300, 205)
FILE_TILE_PX = 64
N_LEVELS = 4


def read_openslide(path):
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(path) as slide:
        assert slide.properties.get("openslide.mpp-x") is None
        for level, (width, height) in enumerate(slide.level_dimensions):
            yield np.asarray(slide.read_region((0, 0), level, (width, height)))[..., :3]


def read_vips(path):
    pyvips = pytest.importorskip("pyvips")
    n_pages = pyvips.Image.new_from_file(str(path)).get("n-pages")
    for level in range(n_pages):
        image = pyvips.Image.new_from_file(str(path), page=level, fail_on="error")
        assert image.interpretation == "srgb"
        yield image.numpy()


def read_pillow(path):
    with Image.open(path) as image:
        for level in range(image.n_frames):
            image.seek(level)
            assert image.mode == "RGB"
            assert image.info["icc_profile"]
            yield np.asarray(image)


def read_tifffile(path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(path) as tiff:
        if tiff.pages[0].compression == 7:
            pytest.importorskip("imagecodecs")
        [series] = tiff.series
        assert series.is_pyramidal == (len(series.levels) > 1)
        for level in series.levels:
            yield level.asarray()


READERS = [read_openslide, read_vips, read_pillow, read_tifffile]
every_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__.removeprefix("read_"))
every_compression = pytest.mark.parametrize("compression", ["deflate", "jpeg", "none"])


def make_levels(shapes):
    """Return a colourful image for every level, smooth enough for JPEG, none alike."""
    levels = []
    for number, (height, width) in enumerate(shapes):
        rows, columns = np.mgrid[:height, :width] / max(height, width, FILE_TILE_PX)
        channels = [200 * rows + 10 * number, 220 * columns, 255 - 150 * rows - 100 * columns]
        levels.append(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))
    return levels


def assert_close(seen, expected, compression):
    assert seen.shape == expected.shape
    if compression == "jpeg":
        difference = np.abs(seen.astype(float) - expected)
        assert difference.mean() < 1.5
        assert difference.max() < 12
    else:
        np.testing.assert_array_equal(seen, expected)


@every_compression
@every_reader
@pytest.mark.parametrize(
    "size", [SIZE, (1, 1), (17, 5), (64, 64), (128, 128), (65, 63)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_every_reader_sees_every_level(tmp_path, read, compression, size):
    sink = TiffSink(tmp_path / "a.tif", (*size, 3), compression=compression, file_tile_px=FILE_TILE_PX)
    levels = make_levels(sink.levels)
    for number, level in enumerate(levels):
        sink.write(number, Window.whole(*level.shape[:2]), level)
    sink.commit()
    seen = list(read(sink.path))
    assert len(seen) == len(levels)
    assert size != SIZE or len(seen) == N_LEVELS
    for one, other in zip(seen, levels, strict=True):
        assert_close(one, other, compression)


@pytest.mark.parametrize(
    ("read", "compression"),
    [
        (read_openslide, "deflate"),
        (read_openslide, "jpeg"),
        (read_openslide, "none"),
        (read_vips, "deflate"),
        (read_vips, "none"),  # with JPEG, libvips fails at absent tiles
        (read_tifffile, "deflate"),
        (read_tifffile, "jpeg"),
        (read_tifffile, "none"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.removeprefix("read_"),
)
def test_a_file_that_is_still_being_written_reads_as_0_where_it_is_empty(tmp_path, read, compression):
    sink = TiffSink(tmp_path / "a.tif", (*SIZE, 3), compression=compression, file_tile_px=FILE_TILE_PX)
    levels = make_levels(sink.levels)
    expected = [np.zeros_like(level) for level in levels]
    with closing(sink):
        for number, window in [
            (0, Window(Span(64, 192), Span(128, 205))),
            (2, Window(Span(64, 75), Span(0, 52))),
        ]:
            expected[number][window.slices] = levels[number][window.slices]
            sink.write(number, window, expected[number][window.slices])
        seen = list(read(sink.part_path))
    assert len(seen) == N_LEVELS
    for one, other in zip(seen, expected, strict=True):
        assert_close(one, other, compression)


@every_compression
def test_pillow_opens_a_file_that_is_still_being_written_though_it_reads_no_absent_tiles(tmp_path, compression):
    sink = TiffSink(tmp_path / "a.tif", (*SIZE, 3), compression=compression, file_tile_px=FILE_TILE_PX)
    with closing(sink), Image.open(sink.part_path) as image:
        assert image.n_frames == N_LEVELS
        for level, (height, width) in enumerate(sink.levels):
            image.seek(level)
            assert image.size == (width, height)
