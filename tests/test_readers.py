"""Programs that people open large images with read every level of ours."""

import warnings
from contextlib import closing
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from small_sinks import open_tiff

from tiler.codecs import CODECS
from tiler.formats.tiff_options import Compression
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
    first = pyvips.Image.new_from_file(str(path))
    if "n-subifds" in first.get_fields():
        places = [{"subifd": number} for number in range(-1, first.get("n-subifds"))]
    else:
        places = [{"page": number} for number in range(first.get("n-pages"))]
    for place in places:
        image = pyvips.Image.new_from_file(str(path), **place, fail_on="error")
        assert image.interpretation in ("srgb", "rgb16", "scrgb")
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
        [series] = tiff.series
        assert series.is_pyramidal == (len(series.levels) > 1)
        for level in series.levels:
            yield level.asarray()


def read_rasterio(path):
    """By GDAL."""
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            levels = [{}, *({"overview_level": number} for number in range(len(dataset.overviews(1))))]
        for level in levels:
            with rasterio.open(path, **level) as dataset:
                yield dataset.read().transpose(1, 2, 0)


READERS = [read_openslide, read_vips, read_pillow, read_tifffile, read_rasterio]
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
    assert seen.dtype == expected.dtype
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
    sink = open_tiff(tmp_path / "a.tif", (*size, 3), compression=compression, file_tile_px=FILE_TILE_PX)
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
    sink = open_tiff(tmp_path / "a.tif", (*SIZE, 3), compression=compression, file_tile_px=FILE_TILE_PX)
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
    sink = open_tiff(tmp_path / "a.tif", (*SIZE, 3), compression=compression, file_tile_px=FILE_TILE_PX)
    with closing(sink), Image.open(sink.part_path) as image:
        assert image.n_frames == N_LEVELS
        for level, (height, width) in enumerate(sink.levels):
            image.seek(level)
            assert image.size == (width, height)


# -- readers × outputs


@dataclass(frozen=True)
class Output:
    """A kind of TIFF."""

    layout: str
    compression: str
    quality: int
    dtype: str

    def __str__(self):
        return f"{self.layout}-{self.compression}{self.quality if self.quality != 90 else ''}-{self.dtype}"

    @property
    def lossless(self):
        return self.compression != "jpeg" and (self.compression not in ("webp", "jxl") or self.quality == 100)

    def convert(self, pixels):
        """Return bytes as numbers of this type; floats go beyond [0, 1]."""
        if self.dtype == "float32":
            return (pixels / np.float32(200) - np.float32(0.1)).astype(np.float32)
        return pixels.astype(self.dtype) * (257 if self.dtype == "uint16" else 1)


OUTPUTS = [
    Output(layout, compression, quality, dtype)
    for layout in ("pages", "ome")
    for compression, kind in CODECS.items()
    if compression in get_args(Compression)
    for quality in ((90, 100) if kind.loss == "below 100" else (90,))
    for dtype in kind.dtypes
]
OF_8_BITS = ("openslide", "pillow")
"""Of 16 bits they show the upper ones, of floats nothing."""
NOT_READ = {"openslide": ("webp", "jxl"), "pillow": ("webp", "jxl"), "vips": ("zstd", "jxl"), "rasterio": ("jxl",)}
ONE_LEVEL_OF_OME = ("openslide", "pillow")


@pytest.mark.parametrize("output", OUTPUTS, ids=str)
@every_reader
def test_every_reader_sees_every_output_but_where_a_caveat_says_not(tmp_path, read, output):
    name = read.__name__.removeprefix("read_")
    if output.compression in NOT_READ.get(name, ()):
        assert CODECS[output.compression].caveat
        pytest.skip(f"{name} does not read {output.compression}")
    if name in OF_8_BITS and output.dtype == "float32":
        pytest.skip(f"{name} does not read floats")
    sink = open_tiff(
        tmp_path / "a.tif",
        (*SIZE, 3),
        dtype=output.dtype,
        layout=output.layout,
        compression=output.compression,
        quality=output.quality if CODECS[output.compression].loss != "never" else None,
        file_tile_px=FILE_TILE_PX,
        description='{"software": "a <test>"}',
    )
    levels = make_levels(sink.levels)
    for number, level in enumerate(levels):
        sink.write(number, Window.whole(*level.shape[:2]), output.convert(level))
    sink.commit()
    seen = list(read(sink.path))
    assert len(seen) == (1 if output.layout == "ome" and name in ONE_LEVEL_OF_OME else N_LEVELS)
    for one, other in zip(seen, levels, strict=False):
        expected = other if name in OF_8_BITS else output.convert(other)
        if output.lossless:
            np.testing.assert_array_equal(one, expected, strict=True)
        else:
            assert one.dtype == expected.dtype
            difference = np.abs(one.astype(float) - expected) / output.convert(np.uint8(1))
            assert difference.mean() < 2.5
            assert difference.max() < 20


def test_an_ome_tiff_describes_the_image_and_how_it_was_made(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    described = []
    for name in ("a", "b"):
        sink = open_tiff(
            tmp_path / f"{name}.tif", (*SIZE, 3), layout="ome", dtype="uint16", description='{"software": "a <test>"}'
        )
        sink.commit()
        with tifffile.TiffFile(sink.path) as tiff:
            assert tiff.is_ome
            described.append(tiff.ome_metadata)
            [plane] = [tiff.series[0]]
            assert (plane.kind, plane.axes, plane.shape, plane.dtype) == ("ome", "YXS", (*SIZE, 3), np.uint16)
    assert described[0] == described[1]
    assert '<M K="software">a &lt;test&gt;</M>' in described[0]
