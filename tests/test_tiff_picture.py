"""TIFF pictures of all kinds are the pictures that they are, or refused by their name."""

import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiff_kinds
import tifffile
from PIL import Image
from tiff_kinds import make_pixels, make_tiff, to_picture

from tiler.errors import InputError
from tiler.sources.opening import open_image
from tiler.window import Span, Window

KINDS = list(dict.fromkeys([*tiff_kinds.pairs(), *tiff_kinds.product()]))


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


def judge(kind, path):
    """Return "same", or why it is refused."""
    pixels = make_pixels(kind)
    path.write_bytes(make_tiff(kind, pixels))
    expected = to_picture(kind, pixels)
    try:
        source = open_image(path, colour="srgb" if kind.bits[0] == "float" else None)
        values = read_whole(source)
    except InputError as error:
        return str(error)
    assert expected is not None, "a picture was made of what does not say how it looks"
    lossy = kind.compression == "jpeg"
    levels = {("uint", 16): 65535, ("float", 16): 2048}.get(kind.bits, 255)
    tolerance = 4 / 255 if lossy else 2e-7 if kind.bits[0] == "uint" else 1 / levels
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    random = np.random.default_rng(0)
    for _ in range(3):
        spans = [Span(*sorted(random.choice(size + 1, 2, replace=False).tolist())) for size in values.shape[:2]]
        window = Window(*spans)
        np.testing.assert_array_equal(source.read(window), values[window.slices])
    return "same"


@pytest.mark.parametrize("bits", tiff_kinds.AXES["bits"], ids=lambda bits: f"{bits[1]}-bit {bits[0]}")
def test_every_kind_is_the_picture_that_it_is_or_refused_by_its_name(tmp_path, bits):
    """All pairs of all properties, and all triples of bits, colours and compression."""
    said = [judge(kind, tmp_path / "x.tif") for kind in KINDS if kind.bits == bits]
    print(Counter(said))
    refused = {each for each in said if each != "same"}
    for message in refused:
        assert message.isprintable()
        assert re.search("A kind of TIFF that is not read|Colours that are not read|zstd needs a codec", message), (
            message
        )
    read = bits in (("uint", 1), ("uint", 2), ("uint", 4), ("uint", 8), ("uint", 16), ("float", 16), ("float", 32))
    assert ("same" in said) == read


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_the_files_are_what_tifffile_reads_in_them(tmp_path, step):
    """The other tests stand on how they are put together."""
    n_compared = 0
    for kind in KINDS[::step]:
        pixels = make_pixels(kind)
        if kind.bits == ("uint", 24) or (kind.bits[1] == 24 and kind.predictor > 1):
            continue  # tifffile has no such numbers
        (tmp_path / "x.tif").write_bytes(make_tiff(kind, pixels))
        found = tifffile.imread(tmp_path / "x.tif").astype(np.float64)
        found = np.moveaxis(found, 0, 2) if kind.separate else found.reshape(pixels.shape)
        if kind.compression == "jpeg" and kind.photometric == "ycbcr":
            continue  # tifffile makes it RGB
        tolerance = 4 if kind.compression == "jpeg" else 1e-4 if kind.bits == ("float", 24) else 0
        np.testing.assert_allclose(found, pixels.astype(np.float64), rtol=0, atol=tolerance)
        n_compared += 1
    assert n_compared > 800 // step


HEIGHT, WIDTH = 70, 90
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
SMOOTH = np.add.outer(2 * np.arange(HEIGHT), np.arange(WIDTH))[..., None] // np.array([1, 2, 3]) % 256
WORDS = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)
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
    "grey": (NOISE[..., 0], GREY | STRIPED),
    "16 bits": (WORDS[..., :3], RGB | TILED | {"compression": "zlib", "predictor": True}),
    "16 bits, big-endian": (
        WORDS[..., :3],
        RGB | TILED | {"compression": "zlib", "predictor": True, "byteorder": ">"},
    ),
    "16 bits, grey, big-endian": (WORDS[..., 0], GREY | STRIPED | {"byteorder": ">"}),
    "one pixel": (NOISE[:1, :1, :3], RGB),
    "one row": (NOISE[:1, :, :3], RGB | {"compression": "zlib"}),
}


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
    path = tmp_path / "image.bin"
    tifffile.imwrite(path, array, **options)
    source = open_image(path)
    expected = to_rgb(array, options.get("planarconfig") == "separate")
    assert source.shape == expected.shape
    np.testing.assert_array_equal(read_whole(source), expected)
    assert read_whole(source).dtype == np.float32
    check_windows(source, expected)


@pytest.mark.parametrize("kind", ["ycbcr", "ycbcr, shared tables", "grey", "rgb"])
def test_jpeg_tiles_are_what_tifffile_reads(tmp_path, kind):
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
    expected = to_rgb(tifffile.imread(path), planes=False)
    # Two libraries round chroma differently.
    np.testing.assert_allclose(read_whole(source), expected, rtol=0, atol=4 / 255)
    np.testing.assert_allclose(read_whole(source).mean((0, 1)), expected.mean((0, 1)), atol=0.5 / 255)
    check_windows(source, read_whole(source))


def make_tags(height, width, *, bits=8, compression=1, tile=None, offset=8, n_bytes=64):
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
    "a page that is itself the next": make_tags(16, 16, tile=16)[:-68] + struct.pack("<I", 8) + bytes(64),
    "a page of no tags": b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8),
    "a page of 60,000 tags": b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + bytes(12 * 60_000 + 4),
    "larger than the file": make_tags(40_000, 40_000),
    "larger than the file, and says so": make_tags(40_000, 40_000, n_bytes=40_000**2),
    "a huge tile": make_tags(16, 16, tile=2**15),
    "a huge tile, deflated": make_tags(16, 16, tile=2**15, compression=8),
    "a tile of 2^32 px": make_tags(16, 16, tile=2**31),
    "a missing tile": make_tags(16, 16, tile=16, n_bytes=0),
    "a tile at 0": make_tags(16, 16, tile=16, offset=0),
    "tiles of no size": make_tags(16, 16, tile=2**32 - 1),
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
import numpy, tifffile
from tiler.sources.libvips import load_vips
load_vips()
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
        assert "damaged" in line or "1 of 1 tiles or strips are not stored" in line


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
    with pytest.raises(InputError, match="damaged: path=") as caught:
        read_whole(source)
    assert str(caught.value).isprintable()


def test_a_file_that_shrinks_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, NOISE[..., :3], **RGB)
    source = open_image(path)
    os.truncate(path, 3000)
    with pytest.raises(InputError, match=r"The file changed while it was in use|shrank while it was read"):
        read_whole(source)


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
    from small_sinks import open_tiff

    for compression in ("deflate", "jpeg"):
        sink = open_tiff(tmp_path / f"{compression}.tif", (64, 64, 3), file_tile_px=32, compression=compression)
        sink.write(0, Window.whole(64, 64), SMOOTH[:64, :64].astype(np.uint8))
        for level, (height, width) in list(enumerate(sink.levels))[1:]:
            sink.write(level, Window.whole(height, width), np.zeros((height, width, 3), np.uint8))
        sink.commit()
        source = open_image(tmp_path / f"{compression}.tif")
        np.testing.assert_allclose(
            read_whole(source), SMOOTH[:64, :64] / 255, atol=0.3 if compression == "jpeg" else 1e-6
        )


def test_the_file_is_closed_and_nothing_is_logged(tmp_path, capfd):
    content = io.BytesIO()
    tifffile.imwrite(content, NOISE[..., :3], **RGB)
    # A tag of an unknown type makes tifffile warn.
    (tmp_path / "x.tif").write_bytes(
        content.getvalue().replace(struct.pack("<HHI", 305, 2, 12), b"\x31\x01\x63\0\x0c\0\0\0")
    )
    open_image(tmp_path / "x.tif")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_small_picture_in_large_tiles_is_read(tmp_path, compression, bigtiff, byteorder):
    random = np.random.default_rng(5)
    for tile, height, width in ((512, 48, 56), (1024, 300, 20), (256, 5, 700), (2048, 1, 1)):
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        options = {"bigtiff": bigtiff, "byteorder": byteorder, "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(tile, tile), photometric="rgb", **options)
        source = open_image(tmp_path / "a.tif")
        assert source.shape == pixels.shape
        values = source.read(Window.whole(height, width))
        np.testing.assert_array_equal(values, pixels / np.float32(255))
