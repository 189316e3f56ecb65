import builtins
import io
import itertools
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tiler.errors import InputError
from tiler.sources import tiff_segments
from tiler.sources.image_source import PixelSource
from tiler.sources.opening import open_image, open_latents
from tiler.sources.strided_source import StridedSource
from tiler.sources.tiff_source import TiffImage, TiffSource
from tiler.window import Span, Window

HEIGHT, WIDTH = 70, 90
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
SMOOTH = np.add.outer(2 * np.arange(HEIGHT), np.arange(WIDTH))[..., None] // np.array([1, 2, 3]) % 256
WORDS = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)
LATENTS = RANDOM.normal(size=(HEIGHT, WIDTH, 4)).astype(np.float32)
CHANNELS_FIRST = np.ascontiguousarray(LATENTS.transpose(2, 0, 1))

RGB, GREY = {"photometric": "rgb"}, {"photometric": "minisblack"}
TILED, STRIPED = {"tile": (32, 16)}, {"rowsperstrip": 16}
IMAGES = {
    "striped": (NOISE[..., :3], RGB | STRIPED),
    "one strip": (NOISE[..., :3], RGB | {"rowsperstrip": HEIGHT}),
    "tiled": (NOISE[..., :3], RGB | TILED),
    "tiled BigTIFF": (NOISE[..., :3], RGB | TILED | {"bigtiff": True}),
    "deflate": (NOISE[..., :3], RGB | TILED | {"compression": "zlib"}),
    "deflate, strips": (NOISE[..., :3], RGB | STRIPED | {"compression": "zlib"}),
    "deflate, predictor": (NOISE[..., :3], RGB | TILED | {"compression": "zlib", "predictor": True}),
    "LZW": (NOISE[..., :3], RGB | STRIPED | {"compression": "lzw", "predictor": True}),
    "packbits": (NOISE[..., :3], RGB | STRIPED | {"compression": "packbits"}),
    "zstd": (NOISE[..., :3], RGB | TILED | {"compression": "zstd"}),
    "planes": (np.moveaxis(NOISE[..., :3], 2, 0), RGB | TILED | {"planarconfig": "separate"}),
    "planes, strips": (np.moveaxis(NOISE[..., :3], 2, 0), RGB | STRIPED | {"planarconfig": "separate"}),
    "planes, deflate": (
        np.moveaxis(NOISE[..., :3], 2, 0),
        RGB | STRIPED | {"planarconfig": "separate", "compression": "zlib"},
    ),
    "alpha": (NOISE, RGB | TILED | {"extrasamples": ["unassalpha"]}),
    "grey": (NOISE[..., 0], GREY | STRIPED),
    "grey and alpha": (NOISE[..., :2], GREY | STRIPED | {"extrasamples": ["unassalpha"], "planarconfig": "contig"}),
    "16 bits": (WORDS[..., :3], RGB | TILED | {"compression": "zlib", "predictor": True}),
    "16 bits, big-endian": (
        WORDS[..., :3],
        RGB | TILED | {"compression": "zlib", "predictor": True, "byteorder": ">"},
    ),
    "16 bits, grey, big-endian": (WORDS[..., 0], GREY | STRIPED | {"byteorder": ">"}),
    "one pixel": (NOISE[:1, :1, :3], RGB),
    "one row": (NOISE[:1, :, :3], RGB | {"compression": "zlib"}),
}


def read(source):
    return source.read(Window.whole(*source.shape[:2]))


def check_windows(source, whole):
    random = np.random.default_rng(1)
    for _ in range(8):
        spans = [np.sort(random.choice(size + 1, 2, replace=False)).tolist() for size in whole.shape[:2]]
        window = Window(*(Span(*span) for span in spans))
        np.testing.assert_array_equal(source.read(window), whole[window.slices])


def to_rgb(array, planes):
    array = np.moveaxis(array, 0, 2) if planes else array
    array = array[..., None] if array.ndim == 2 else array
    array = array[..., :3] if array.shape[2] > 2 else array[..., [0, 0, 0]]
    return (array / np.iinfo(array.dtype).max).astype(np.float32)


@pytest.mark.parametrize(("array", "options"), IMAGES.values(), ids=IMAGES)
def test_windows_of_an_image_are_what_tifffile_wrote(tmp_path, array, options):
    if options.get("compression") in ("lzw", "zstd", "packbits") or options.get("predictor"):
        pytest.importorskip("imagecodecs")
    path = tmp_path / "image.bin"
    tifffile.imwrite(path, array, **options)
    source = open_image(path)
    assert type(source) is TiffImage
    expected = to_rgb(array, options.get("planarconfig") == "separate")
    assert source.shape == expected.shape
    np.testing.assert_array_equal(read(source), expected)
    assert read(source).dtype == np.float32
    check_windows(source, expected)


@pytest.mark.parametrize("kind", ["ycbcr", "ycbcr, shared tables", "grey", "rgb"])
def test_jpeg_tiles_are_what_tifffile_reads(tmp_path, kind):
    pytest.importorskip("imagecodecs")
    path = tmp_path / "image.tif"
    options = {"compression": "jpeg", "compressionargs": {"level": 95}, "tile": (32, 32)}
    if kind == "ycbcr, shared tables":
        Image.fromarray(SMOOTH.astype(np.uint8)).save(path, compression="jpeg", quality=95)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages.first.jpegtables
    elif kind == "grey":
        tifffile.imwrite(path, SMOOTH[..., 0].astype(np.uint8), photometric="minisblack", **options)
    else:
        options["compressionargs"]["outcolorspace"] = kind
        tifffile.imwrite(path, SMOOTH.astype(np.uint8), photometric="rgb" if kind == "rgb" else "ycbcr", **options)
    source = open_image(path)
    assert type(source) is TiffImage
    expected = to_rgb(tifffile.imread(path), planes=False)
    # Two libraries round chroma differently.
    np.testing.assert_allclose(read(source), expected, rtol=0, atol=4 / 255)
    np.testing.assert_allclose(read(source).mean((0, 1)), expected.mean((0, 1)), atol=0.5 / 255)
    check_windows(source, read(source))


ODD = {
    "palette": lambda path: Image.fromarray(NOISE[..., 0]).convert("P").save(path),
    "black and white": lambda path: Image.fromarray(NOISE[..., 0] > 99).save(path),
    "CMYK": lambda path: Image.fromarray(NOISE[..., :3]).convert("CMYK").save(path),
    "white is 0": lambda path: tifffile.imwrite(path, NOISE[..., 0], photometric="miniswhite"),
    "turned": lambda path: Image.fromarray(NOISE[..., :3]).save(path, tiffinfo={274: 6}),
}


@pytest.mark.parametrize("save", ODD.values(), ids=ODD)
def test_odd_pictures_are_left_to_pillow(tmp_path, save):
    save(tmp_path / "image.tif")
    source = open_image(tmp_path / "image.tif")
    assert type(source) is PixelSource
    with Image.open(tmp_path / "image.tif") as image:
        expected = np.asarray(image.convert("RGB"))
    if save is ODD["turned"]:
        expected = np.rot90(NOISE[..., :3], -1)
    np.testing.assert_array_equal(read(source), (expected / 255).astype(np.float32))


def test_without_imagecodecs_lzw_is_left_to_pillow(tmp_path, monkeypatch):
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "image.tif", compression="tiff_lzw")
    import_ = builtins.__import__

    def refuse(name, *arguments):
        if name == "imagecodecs":
            raise ImportError(name)
        return import_(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    source = open_image(tmp_path / "image.tif")
    assert type(source) is PixelSource
    np.testing.assert_array_equal(read(source), (NOISE[..., :3] / 255).astype(np.float32))


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
    if options.get("predictor"):
        pytest.importorskip("imagecodecs")
    path = tmp_path / "latents.tif"
    tifffile.imwrite(path, array, **options)
    source = open_latents(path, 4)
    assert type(source) is kind
    expected = LATENTS.astype(array.dtype).astype(np.float32)
    np.testing.assert_array_equal(read(source), expected)
    check_windows(source, expected)


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


def make_tiff(height, width, *, bits=8, compression=1, tile=None, offset=8, n_bytes=64):
    """The tags of a grey TIFF of one segment, and hardly any pixels."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 1)]
    if tile:
        tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, offset), (325, 4, 1, n_bytes)]
    else:
        tags += [(273, 4, 1, offset), (278, 4, 1, height), (279, 4, 1, n_bytes)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(68)


BAD_IMAGES = {
    "header alone": b"II*\0\x08\0\0\0",
    "no page": b"II*\0\0\0\0\0",
    "a page that is itself the next": make_tiff(16, 16, tile=16)[:-68] + struct.pack("<I", 8) + bytes(64),
    "a page of no tags": b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8),
    "a page of 60,000 tags": b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + bytes(12 * 60_000 + 4),
    "larger than the file": make_tiff(40_000, 40_000),
    "larger than the file, and says so": make_tiff(40_000, 40_000, n_bytes=40_000**2),
    "a huge tile": make_tiff(16, 16, tile=2**15),
    "a huge tile, deflated": make_tiff(16, 16, tile=2**15, compression=8),
    "a tile of 2^32 px": make_tiff(16, 16, tile=2**31),
    "a missing tile": make_tiff(16, 16, tile=16, n_bytes=0),
    "a tile at 0": make_tiff(16, 16, tile=16, offset=0),
    "tiles of no size": make_tiff(16, 16, tile=2**32 - 1),
    "BigTIFF, header alone": b"II+\0\x08\0\0\0" + bytes(8),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="takes Linux to count memory")
def test_bad_images_are_refused_in_one_line_and_little_memory(tmp_path):
    paths = []
    for name, content in BAD_IMAGES.items():
        paths.append(str(tmp_path / f"{name}.tif"))
        Path(paths[-1]).write_bytes(content)
    program = f"""
import pathlib, resource, warnings
import PIL.Image, PIL.ImageOps, numpy, tifffile
from tiler.sources.opening import open_image
from tiler.errors import InputError
warnings.simplefilter("error")
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 10**6,) * 2)
for path in {paths!r}:
    try:
        open_image(path)
    except InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(BAD_IMAGES)
    for path, line in zip(paths, lines, strict=True):
        assert path in line
        assert "damaged" in line


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


@pytest.mark.parametrize(
    ("compression", "change"),
    [
        pytest.param("zlib", lambda segment: segment[:20] + bytes(20) + segment[40:], id="deflate, damaged"),
        pytest.param("zlib", lambda segment: bytes(len(segment)), id="deflate, gone"),
        pytest.param("zlib", lambda segment: segment[:-1] + bytes([segment[-1] ^ 1]), id="deflate, checksum"),
        pytest.param("jpeg", lambda segment: bytes(len(segment)), id="jpeg, gone"),
        pytest.param("jpeg", lambda segment: segment.replace(b"\0\x20\0\x20", b"\xff\x20\xff\x20", 1), id="jpeg, bomb"),
    ],
)
def test_a_damaged_segment_is_an_error_when_it_is_read(tmp_path, compression, change):
    if compression == "jpeg":
        pytest.importorskip("imagecodecs")
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, NOISE[:64, :64, 0], tile=(32, 32), compression=compression, **GREY)
    with tifffile.TiffFile(path) as tiff:
        start, n_bytes = tiff.pages.first.dataoffsets[3], tiff.pages.first.databytecounts[3]
    content = path.read_bytes()
    changed = change(content[start : start + n_bytes])
    assert changed != content[start : start + n_bytes]
    path.write_bytes(content[:start] + changed[:n_bytes].ljust(n_bytes, b"\0") + content[start + n_bytes :])
    source = open_image(path)
    source.read(Window(Span(0, 32), Span(0, 64)))
    with pytest.raises(InputError, match=r"damaged: path=.*segment 3") as caught:
        read(source)
    assert str(caught.value).isprintable()


def test_a_deflate_stream_inflates_to_no_more_than_its_segment(tmp_path):
    import zlib

    path = tmp_path / "x.tif"
    bomb = zlib.compress(bytes(2**26))
    path.write_bytes(make_tiff(16, 16, tile=16, compression=8, offset=200, n_bytes=len(bomb)).ljust(200, b"\0") + bomb)
    source = open_image(path)
    tracemalloc.start()
    try:
        read(source)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 500_000


def test_a_file_that_shrinks_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, NOISE[..., :3], **RGB)
    source = open_image(path)
    os.truncate(path, 3000)
    with pytest.raises(InputError, match="shrank while it was read"):
        read(source)


def count_decodes(monkeypatch):
    decoded = []
    decompress = tiff_segments.decompress
    monkeypatch.setattr(
        tiff_segments, "decompress", lambda *arguments: decoded.append(arguments[2]) or decompress(*arguments)
    )
    return decoded


def test_strips_are_decoded_once_for_a_row_of_tiles(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, NOISE[..., :3], **RGB, **STRIPED, compression="zlib")
    source = open_image(path)
    decoded = count_decodes(monkeypatch)
    for row, column in itertools.product(range(0, 64, 32), range(0, 80, 20)):
        source.read(Window(Span(row, row + 32), Span(column, column + 10)))
    assert len(decoded) == 4


def test_the_cache_keeps_to_its_size_and_the_windows_are_right_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, NOISE[..., :3], **RGB, **STRIPED, compression="zlib")
    strip_bytes = 16 * WIDTH * 3
    source = TiffSource(path, [tiff_segments.read_first_page(path)], cache_bytes=2 * strip_bytes)
    decoded = count_decodes(monkeypatch)
    for _ in range(2):
        np.testing.assert_array_equal(read(source), NOISE[..., :3])
    assert len(decoded) == 10
    assert source._held_bytes == sum(each.nbytes for each in source._cache.values()) <= 2 * strip_bytes


def test_a_window_of_one_long_strip_takes_little_memory(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((3000, 3000, 3), np.uint8), rowsperstrip=3000, **RGB)
    source = open_image(path)
    tracemalloc.start()
    try:
        source.read(Window(Span(10, 42), Span(10, 42)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000


def test_a_tiff_that_this_package_wrote_is_read(tmp_path):
    from tiler.sinks.tiff_sink import TiffSink

    for compression in ("deflate", "jpeg"):
        sink = TiffSink(tmp_path / f"{compression}.tif", (64, 64, 3), file_tile_px=32, compression=compression)
        sink.write(0, Window.whole(64, 64), SMOOTH[:64, :64].astype(np.uint8))
        for level, (height, width) in list(enumerate(sink.levels))[1:]:
            sink.write(level, Window.whole(height, width), np.zeros((height, width, 3), np.uint8))
        sink.commit()
        source = open_image(tmp_path / f"{compression}.tif")
        assert type(source) is TiffImage
        np.testing.assert_allclose(read(source), SMOOTH[:64, :64] / 255, atol=0.3 if compression == "jpeg" else 1e-6)


def test_the_file_is_closed_and_nothing_is_logged(tmp_path, capfd):
    content = io.BytesIO()
    tifffile.imwrite(content, NOISE[..., :3], **RGB)
    # A tag of an unknown type makes tifffile warn.
    (tmp_path / "x.tif").write_bytes(
        content.getvalue().replace(struct.pack("<HHI", 305, 2, 12), b"\x31\x01\x63\0\x0c\0\0\0")
    )
    open_image(tmp_path / "x.tif")
    assert capfd.readouterr() == ("", "")


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    """The engine tries again with a quarter of the tile."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), tile=(32, 32), compression="zlib")
    source = open_image(tmp_path / "a.tif")

    def decode(*arguments):
        raise MemoryError("no more")

    monkeypatch.setattr(type(source._source._pages[0]), "decode", decode)
    with pytest.raises(MemoryError):
        source.read(Window.whole(64, 64))
