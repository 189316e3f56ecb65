import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tiler.errors import InputError, OptionError
from tiler.sources import image_source
from tiler.sources.array_source import ArraySource
from tiler.sources.edges import EdgePadded
from tiler.sources.image_source import FORMATS, LIMIT_PX, open_image_file, open_latent_image
from tiler.window import Span, Window

ENDINGS = {
    "PNG": "png",
    "JPEG": "jpg",
    "TIFF": "tif",
    "WEBP": "webp",
    "BMP": "bmp",
    "PPM": "ppm",
    "JPEG2000": "jp2",
}
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
CODECS = {"WEBP": "webp", "JPEG2000": "jpg_2000"}


def make_pixels(height=40, width=30, channels=3):
    """Smooth, so that JPEG keeps them, and different along each axis."""
    rows, columns, colours = np.ogrid[:height, :width, :channels]
    return (3 * rows + 2 * columns + 20 * colours).astype(np.uint8)


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


def make_png(width, height, *, bits=8, colour=2, rows=b""):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make_tiff(width, height, tile=None):
    """The header of a TIFF that claims a size, and hardly any pixels."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    if tile:
        tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, 64)]
    else:
        tags += [(273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, 64)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(68)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_as_rgb_in_0_to_1(tmp_path, name):
    if name in CODECS and not features.check(CODECS[name]):
        pytest.skip("this Pillow lacks the codec")
    path = tmp_path / f"image.{ENDINGS[name]}"
    Image.fromarray(make_pixels()).save(path, format=name, **LOSSLESS.get(name, {}))
    source = open_image_file(path)
    values = read_whole(source)
    assert source.shape == values.shape == (40, 30, 3)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values, make_pixels() / 255, rtol=0, atol=3 / 255 if name == "JPEG" else 1e-7)


def make_palette_image(transparency):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), "L")
    image.putpalette([value for index in range(256) for value in (index * 3 % 256, 255 - index, index)])
    image = image.convert("P") if image.mode != "P" else image
    image.info["transparency"] = transparency
    return image


PALETTE = np.array([[(i * 3 % 256, 255 - i, i) for i in row] for row in np.arange(12).reshape(3, 4)])
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGBA = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
WIDE = np.array([[0, 1, 255, 256], [4660, 32768, 65534, 65535], [7, 8, 9, 10]], np.uint16)
KINDS = {
    "grey": (lambda: Image.fromarray(GREY), np.dstack([GREY] * 3) / 255),
    "black and white": (lambda: Image.fromarray(GREY > 100), np.dstack([GREY > 100] * 3)),
    "grey and alpha": (lambda: Image.fromarray(RGBA[..., 2:]), np.dstack([RGBA[..., 2]] * 3) / 255),
    "alpha": (lambda: Image.fromarray(RGBA), RGBA[..., :3] / 255),
    "palette": (lambda: make_palette_image(None), PALETTE / 255),
    "palette, transparent colour": (lambda: make_palette_image(3), PALETTE / 255),
    "palette, transparency each": (lambda: make_palette_image(bytes(range(12))), PALETTE / 255),
    "16-bit grey": (lambda: Image.fromarray(WIDE), np.dstack([WIDE] * 3) / 65535),
}


@pytest.mark.parametrize(("make", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_png_becomes_rgb(tmp_path, make, expected):
    make().save(tmp_path / "image.png")
    values = read_whole(open_image_file(tmp_path / "image.png"))
    np.testing.assert_array_equal(values, expected.astype(np.float32))


def test_16_bit_colour_keeps_its_upper_8_bits(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 65536, (3, 5, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "image.png").write_bytes(make_png(5, 3, bits=16, rows=rows))
    values = read_whole(open_image_file(tmp_path / "image.png"))
    np.testing.assert_array_equal(values, ((pixels >> 8) / 255).astype(np.float32))


@pytest.mark.parametrize("big_endian", [False, True])
def test_16_bit_grey_tiff_is_not_clipped(tmp_path, big_endian):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "grey.tif", WIDE, byteorder=">" if big_endian else "<")
    values = read_whole(open_image_file(tmp_path / "grey.tif"))
    np.testing.assert_array_equal(values, (np.dstack([WIDE] * 3) / 65535).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.zeros((4, 4), dtype)).save(tmp_path / "image.tif")
    with pytest.raises(InputError, match="without a fixed range"):
        open_image_file(tmp_path / "image.tif")


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (8, np.rot90),
    ],
    ids=["upright", "mirrored", "upside down", "left side up", "right side up"],
)
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_the_orientation_of_the_camera_is_applied(tmp_path, orientation, turn, mode):
    pixels = make_pixels(4, 6) if mode == "RGB" else WIDE
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=exif)
    expected = pixels / 255 if mode == "RGB" else np.dstack([pixels] * 3) / 65535
    values = read_whole(open_image_file(tmp_path / "image.png"))
    np.testing.assert_array_equal(values, turn(expected).astype(np.float32))


def test_latents_are_rgba_bytes_from_minus_3_to_3(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    Image.fromarray(pixels).save(tmp_path / "latents.png")
    source = open_latent_image(tmp_path / "latents.png")
    assert source.shape == (8, 8, 4)
    values = read_whole(source)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, ((pixels / 255 - 0.5) * 6).astype(np.float32))
    assert values.min() == -3
    assert values.max() == 3
    # The way there, as tools write it, and back.
    assert (np.round(np.clip(values / 6 + 0.5, 0, 1) * 255) == pixels).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "1"])
def test_other_pngs_are_no_latents(tmp_path, mode):
    Image.new(mode, (8, 8)).save(tmp_path / "latents.png")
    with pytest.raises(InputError, match=f"Not 8-bit latents.*mode={mode}") as caught:
        open_latent_image(tmp_path / "latents.png")
    assert "\n" not in str(caught.value)


def test_latents_in_another_format_are_refused(tmp_path):
    Image.fromarray(RGBA).save(tmp_path / "latents.tif")
    with pytest.raises(InputError, match="It must be one of PNG"):
        open_latent_image(tmp_path / "latents.tif")


BOMBS = {
    "PNG": make_png(40_000, 40_000),
    "PNG just too large": make_png(2**14, 2**14 + 1),
    "PNG, sides of 2^31 - 1": make_png(2**31 - 1, 2**31 - 1),
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 64, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(9),
    "PPM": b"P6 40000 40000 255\n" + bytes(99),
    "WebP": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + struct.pack("<I", 2**24 - 1)[:3] * 2 + bytes(20),
}


def open_in_300_mb(path):
    """Return what is printed when an image is opened by a process that has 300 MB left, and takes no warnings."""
    program = f"""
import pathlib, resource, warnings
import PIL.Image, PIL.ImageOps, numpy
from tiler.sources.image_source import open_image_file
from tiler.errors import InputError
warnings.simplefilter("error")
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 10**6,) * 2)
try:
    open_image_file({str(path)!r})
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="takes Linux to count memory")
@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_decompression_bombs_are_refused_before_they_go_off(tmp_path, content):
    if content.startswith(b"RIFF") and not features.check("webp"):
        pytest.skip("this Pillow lacks the codec")
    (tmp_path / "bomb.png").write_bytes(content)
    printed = open_in_300_mb(tmp_path / "bomb.png")
    assert printed.startswith("Image too large to load at once")
    assert f"limit={LIMIT_PX} px" in printed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="takes Linux to count memory")
def test_a_huge_tile_in_a_small_image_takes_no_memory(tmp_path):
    (tmp_path / "bomb.tif").write_bytes(make_tiff(16, 16, tile=2**15))
    assert open_in_300_mb(tmp_path / "bomb.tif").startswith("The image is damaged")


@pytest.mark.parametrize("ending", ["png", "bmp", "webp"])
def test_the_limit_is_ours_and_not_that_of_pillow(tmp_path, monkeypatch, ending):
    if ending == "webp" and not features.check("webp"):
        pytest.skip("this Pillow lacks the codec")
    monkeypatch.setattr(image_source, "LIMIT_PX", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    for height, fits in ((10, True), (11, False)):
        path = tmp_path / f"{height}.{ending}"
        Image.new("RGB", (10, height)).save(path)
        if fits:
            assert open_image_file(path).shape == (10, 10, 3)
        else:
            with pytest.raises(InputError, match="limit=100 px"):
                open_image_file(path)
        assert Image.MAX_IMAGE_PIXELS == 7, "Pillow's own limit is as it was"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_truncated_images_are_refused_in_one_line(tmp_path, name, kept):
    if name in CODECS and not features.check(CODECS[name]):
        pytest.skip("this Pillow lacks the codec")
    path = tmp_path / f"image.{ENDINGS[name]}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, format=name, **LOSSLESS.get(name, {}))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError) as caught:
        open_image_file(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_programs_are_not_images(tmp_path):
    path = tmp_path / "image.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touch) run\n%%EOF\n")
    with pytest.raises(InputError, match="Not an image of a known format"):
        open_image_file(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"hello, world", id="text"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="magic"),
        pytest.param(b"P6 40 40x 255\n" + bytes(4800), id="PPM of letters"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_image_file(tmp_path / "image.png")
    assert "\n" not in str(caught.value)


def test_a_window_takes_only_its_own_memory(tmp_path):
    Image.new("RGB", (2000, 2000)).save(tmp_path / "image.png")
    source = open_image_file(tmp_path / "image.png")
    tracemalloc.start()
    try:
        source.read(Window(Span(10, 42), Span(10, 42)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000


@pytest.mark.parametrize("multiple", [1, 2, 8, 32])
@pytest.mark.parametrize("size", [(1, 1), (8, 16), (7, 17), (33, 5)], ids=str)
def test_edges_are_repeated_up_to_a_multiple(size, multiple):
    values = np.random.default_rng(0).standard_normal((*size, 3)).astype(np.float32)
    more = [next(n for n in range(multiple) if (length + n) % multiple == 0) for length in size]
    whole = np.pad(values, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    padded = EdgePadded(ArraySource(values, 3), multiple)
    assert padded.shape == whole.shape

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.data())
    def check(data):
        top, left = (data.draw(st.integers(0, length - 1)) for length in whole.shape[:2])
        bottom, right = (
            data.draw(st.integers(top + 1, whole.shape[0])),
            data.draw(st.integers(left + 1, whole.shape[1])),
        )
        window = Window(Span(top, bottom), Span(left, right))
        read = padded.read(window)
        np.testing.assert_array_equal(read, whole[window.slices])
        assert read.flags.c_contiguous

    check()


def test_edges_are_repeated_only_to_a_multiple_of_1_or_more():
    with pytest.raises(OptionError, match="multiple=0 px"):
        EdgePadded(ArraySource(np.zeros((4, 4, 3), np.float32), 3), 0)
