"""Latents in TIFF, read by window."""

import itertools
import struct
import tracemalloc

import numpy as np
import pytest
import tifffile

from tiler.errors import InputError
from tiler.sources import tiff_latents, tiff_segments
from tiler.sources.opening import open_latents
from tiler.sources.strided_source import StridedSource
from tiler.sources.tiff_source import TiffSource
from tiler.window import Span, Window

HEIGHT, WIDTH = 70, 90
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
LATENTS = RANDOM.normal(size=(HEIGHT, WIDTH, 4)).astype(np.float32)
CHANNELS_FIRST = np.ascontiguousarray(LATENTS.transpose(2, 0, 1))

RGB, GREY = {"photometric": "rgb"}, {"photometric": "minisblack"}
TILED, STRIPED = {"tile": (32, 16)}, {"rowsperstrip": 16}


def read(source):
    return source.read(Window.whole(*source.shape[:2]))


def check_windows(source, whole):
    random = np.random.default_rng(1)
    for _ in range(8):
        spans = [np.sort(random.choice(size + 1, 2, replace=False)).tolist() for size in whole.shape[:2]]
        window = Window(*(Span(*span) for span in spans))
        np.testing.assert_array_equal(source.read(window), whole[window.slices])


LATENT_FILES = {
    "planes": (CHANNELS_FIRST, GREY | {"planarconfig": "separate"}, StridedSource),
    "interleaved": (LATENTS, GREY | {"planarconfig": "contig"}, StridedSource),
    "pages": (CHANNELS_FIRST, GREY, StridedSource),
    "pages, tiled, deflate": (CHANNELS_FIRST, GREY | TILED | {"compression": "zlib"}, TiffSource),
    "a page a row": (LATENTS, GREY, StridedSource),
    "big-endian": (CHANNELS_FIRST, GREY | {"byteorder": ">"}, StridedSource),
    "tiled": (LATENTS, GREY | TILED | {"planarconfig": "contig"}, TiffSource),
    "tiled planes, deflate": (
        CHANNELS_FIRST,
        GREY | TILED | {"planarconfig": "separate", "compression": 8},
        TiffSource,
    ),
    "strips, deflate": (LATENTS, GREY | STRIPED | {"planarconfig": "contig", "compression": "zlib"}, TiffSource),
    "float predictor": (
        LATENTS,
        GREY | TILED | {"planarconfig": "contig", "compression": "zlib", "predictor": 3},
        TiffSource,
    ),
    "float predictor, half, big-endian": (
        LATENTS.astype(np.float16),
        GREY | STRIPED | {"planarconfig": "contig", "compression": "zlib", "predictor": 3, "byteorder": ">"},
        TiffSource,
    ),
    "half": (CHANNELS_FIRST.astype(np.float16), GREY, StridedSource),
    "double, deflate": (CHANNELS_FIRST.astype(np.float64), GREY | {"compression": "zlib"}, TiffSource),
}


@pytest.mark.parametrize(("array", "options", "kind"), LATENT_FILES.values(), ids=LATENT_FILES)
def test_windows_of_latents_are_what_tifffile_wrote(tmp_path, array, options, kind):
    path = tmp_path / "latents.tif"
    tifffile.imwrite(path, array, **options)
    source = open_latents(path, 4)
    assert type(source) is kind
    expected = LATENTS.astype(array.dtype).astype(np.float32)
    np.testing.assert_array_equal(read(source), expected)
    check_windows(source, expected)


BATCHES = {
    "pages": (lambda batch: batch.transpose(0, 3, 1, 2), {}),
    "planes": (lambda batch: batch.transpose(0, 3, 1, 2), {"planarconfig": "separate"}),
    "interleaved": (lambda batch: batch, {"planarconfig": "contig"}),
}


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("order", "options"), BATCHES.values(), ids=BATCHES)
def test_one_of_a_batch_is_chosen(tmp_path, order, options, compression):
    path, batch = tmp_path / "x.tif", np.stack([LATENTS, LATENTS[::-1], LATENTS[:, ::-1]])
    tifffile.imwrite(path, order(batch), compression=compression, **GREY, **options)
    sources = [open_latents(path, 4, index=index) for index in range(3)]
    for source, expected in zip(sources, batch, strict=True):
        np.testing.assert_array_equal(read(source), expected)
    assert len({source.fingerprint for source in sources}) == 3
    with pytest.raises(InputError, match=r"batch of several.*index=0 to 2"):
        open_latents(path, 4)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore:.*geotransform")
def test_floats_stored_as_differences_of_integers_are_what_gdal_wrote(tmp_path, dtype, interleave):
    rasterio = pytest.importorskip("rasterio")
    size = {"height": HEIGHT, "width": WIDTH, "count": 4, "dtype": dtype}
    options = {"compress": "deflate", "predictor": 2, "interleave": interleave, "tiled": interleave == "band"}
    with rasterio.open(
        tmp_path / "x.tif", "w", driver="GTiff", blockxsize=32, blockysize=16, **size, **options
    ) as tiff:
        tiff.write(CHANNELS_FIRST.astype(dtype))
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        assert tiff.pages.first.predictor == 2
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x.tif", 4)), LATENTS)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_page_a_channel_is_read(tmp_path, compression):
    path = tmp_path / "latents.tif"
    with tifffile.TiffWriter(path) as tiff:
        for channel in CHANNELS_FIRST:
            tiff.write(channel, contiguous=False, compression=compression, **GREY)
    if compression is None:
        # Separate arrays to tifffile: the first has one channel.
        with pytest.raises(InputError):
            open_latents(path, 4)
    tifffile.imwrite(path, CHANNELS_FIRST, compression=compression, metadata={"axes": "CYX"}, ome=True, **GREY)
    np.testing.assert_array_equal(read(open_latents(path, 4)), LATENTS)


def save(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path.read_bytes()


BAD_LATENTS = {
    "bytes": (lambda path: save(path, NOISE, **RGB), "Wrong number type.*uint8"),
    "channels": (lambda path: save(path, CHANNELS_FIRST[:3], **GREY), "expected channels=4"),
    "truncated": (lambda path: save(path, CHANNELS_FIRST, **GREY)[:-2000], "truncated|damaged"),
    "truncated, deflate": (lambda path: save(path, CHANNELS_FIRST, compression="zlib", **GREY)[:-1000], "damaged"),
    "lzma": (lambda path: save(path, CHANNELS_FIRST, compression="lzma", **GREY), "No latents that can be read"),
}


@pytest.mark.parametrize(("make", "says"), BAD_LATENTS.values(), ids=BAD_LATENTS)
def test_bad_latents_are_refused_in_one_line(tmp_path, make, says):
    (tmp_path / "x.tif").write_bytes(make(tmp_path / "good.tif"))
    with pytest.raises(InputError, match=says) as caught:
        open_latents(tmp_path / "x.tif", 4)
    assert str(caught.value).isprintable()


def test_a_deflate_stream_inflates_to_no_more_than_its_segment(tmp_path):
    import zlib

    path = tmp_path / "x.tif"
    bomb = zlib.compress(bytes(2**26))
    tifffile.imwrite(path, CHANNELS_FIRST, compression="zlib", rowsperstrip=HEIGHT, **GREY)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags["StripOffsets"].valueoffset
    content = content[:place] + struct.pack("<I", len(content)) + content[place + 4 :]
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags["StripByteCounts"].valueoffset
    path.write_bytes(content[:place] + struct.pack("<I", len(bomb)) + content[place + 4 :] + bomb)
    source = open_latents(path, 4)
    tracemalloc.start()
    try:
        read(source)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 500_000


def count_decodes(monkeypatch):
    decoded = []
    decode = tiff_segments.Segments.decode
    monkeypatch.setattr(
        tiff_segments.Segments, "decode", lambda *arguments: decoded.append(arguments[2]) or decode(*arguments)
    )
    return decoded


def test_strips_are_decoded_once_for_a_row_of_tiles(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, LATENTS, **GREY, **STRIPED, planarconfig="contig", compression="zlib")
    source = open_latents(path, 4)
    decoded = count_decodes(monkeypatch)
    for row, column in itertools.product(range(0, 64, 32), range(0, 80, 20)):
        source.read(Window(Span(row, row + 32), Span(column, column + 10)))
    assert len(decoded) == 4


def test_the_cache_keeps_to_its_size_and_the_windows_are_right_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, LATENTS, **GREY, **STRIPED, planarconfig="contig", compression="zlib")
    strip_bytes = 16 * WIDTH * 16
    source = TiffSource(path, tiff_latents.read_first_series(path).pages, cache_bytes=2 * strip_bytes)
    decoded = count_decodes(monkeypatch)
    for _ in range(2):
        np.testing.assert_array_equal(read(source), LATENTS)
    assert len(decoded) == 10
    assert source._held_bytes == sum(each.nbytes for each in source._cache.values()) <= 2 * strip_bytes


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    """Nor is the tile tried again in parts: that is for the memory of a GPU."""
    tifffile.imwrite(tmp_path / "a.tif", CHANNELS_FIRST, tile=(32, 32), compression="zlib", **GREY)
    source = open_latents(tmp_path / "a.tif", 4)

    def decode(*arguments):
        raise MemoryError("no more")

    monkeypatch.setattr(type(source._pages[0]), "decode", decode)
    with pytest.raises(MemoryError):
        source.read(Window.whole(HEIGHT, WIDTH))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_thumbnail_in_front_is_not_taken_for_the_latents(tmp_path, compression):
    values = np.random.default_rng(0).normal(size=(13, 21, 4)).astype(np.float32)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for array, kind in ((values[::4, ::4], 1), (values, 0)):
            file.write(
                array, photometric="minisblack", planarconfig="contig", subfiletype=kind, compression=compression
            )
    source = open_latents(tmp_path / "a.tif", 4)
    np.testing.assert_array_equal(source.read(Window.whole(13, 21)), values)


@pytest.mark.parametrize("shape", [(13, 21, 4), (5, 21, 4)])
def test_of_two_arrays_in_a_tiff_none_is_taken_silently(tmp_path, shape):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for size in ((13, 21, 4), shape):
            file.write(np.zeros(size, np.float32), photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"Several arrays.*arrays=2"):
        open_latents(tmp_path / "a.tif", 4)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2"])
@pytest.mark.parametrize("text", ["-9999.1", "nan", "none"])
def test_values_that_are_gdals_nodata_are_nan(tmp_path, compression, dtype, text):
    values = np.random.default_rng(0).normal(size=(13, 21, 4)).astype(dtype)
    values[9, 11, 2], values[9, 12, 2] = -9999.1, -9990
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        photometric="minisblack",
        planarconfig="contig",
        compression=compression,
        byteorder=dtype[0],
        extratags=[(42113, "s", 0, text, True)],
    )
    expected = values.astype(np.float32)
    if text == "-9999.1":
        expected[9, 11, 2] = np.nan
    np.testing.assert_array_equal(read(open_latents(tmp_path / "a.tif", 4)), expected)


PACKED = [("scale", "0.1"), ("offset", "5"), ("scale", "?")]


@pytest.mark.parametrize(("role", "value"), PACKED)
def test_a_tiff_of_numbers_that_are_to_be_scaled_first_is_refused(tmp_path, role, value):
    values = np.random.default_rng(0).normal(size=(13, 21, 4)).astype(np.float32)
    for number, items in enumerate(({"scale": "1", "offset": "0"}, {role: value})):
        words = "".join(
            f'<Item name="{each.upper()}" sample="3" role="{each}">{text}</Item>' for each, text in items.items()
        )
        tifffile.imwrite(
            tmp_path / f"{number}.tif",
            values,
            photometric="minisblack",
            planarconfig="contig",
            extratags=[(42112, "s", 0, f"<GDALMetadata>{words}</GDALMetadata>", True)],
        )
    np.testing.assert_array_equal(read(open_latents(tmp_path / "0.tif", 4)), values)
    with pytest.raises(InputError, match=f"Packed numbers: path=.*, {role}="):
        open_latents(tmp_path / "1.tif", 4)
