"""BMP, PPM and JPEG 2000, which Pillow decodes; and that what is too large is refused before it takes memory."""

import struct
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, features

from tiler.errors import InputError
from tiler.sources import pillow_picture
from tiler.sources.input_file import LIMIT_PX
from tiler.sources.opening import open_image
from tiler.window import Window

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
WIDE = np.random.default_rng(0).integers(0, 65536, (23, 31), np.uint16)


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


def encode_jpeg2000(pixels, **options):
    if not features.check("jpg_2000"):
        pytest.skip("this Pillow lacks the codec")
    return imagecodecs.jpeg2k_encode(pixels, reversible=True, **options)


@pytest.mark.parametrize("ending", ["bmp", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_bmp_and_ppm_are_what_was_saved(tmp_path, ending, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    image.save(tmp_path / f"x.{ending}")
    expected = np.asarray(image.convert("RGB"))
    source = open_image(tmp_path / f"x.{ending}")
    np.testing.assert_array_equal(read_whole(source), (expected / 255).astype(np.float32))


def test_a_palette_in_a_bmp_is_read(tmp_path):
    image = Image.fromarray(PIXELS).quantize(16)
    image.save(tmp_path / "x.bmp")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.bmp")), (expected / 255).astype(np.float32))


def test_a_bmp_of_a_kind_that_is_not_read_is_not_called_damaged(tmp_path):
    for bits, compression, masks in ((32, 3, (0xFF, 0xFF00, 0xFF0000)), (24, 4, ()), (64, 0, ())):
        head = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, bits, compression, 0, 0, 0, 0, 0)
        head += struct.pack(f"<{len(masks)}I", *masks)
        (tmp_path / "x.bmp").write_bytes(b"BM" + struct.pack("<III", 100, 0, 14 + len(head)) + head + bytes(99))
        with pytest.raises(InputError, match=r"A kind of BMP that is not read: .*Save it as a PNG"):
            open_image(tmp_path / "x.bmp")


@pytest.mark.parametrize("codestream", [False, True])
@pytest.mark.parametrize("kind", ["RGB", "grey", "16-bit grey"])
def test_jpeg_2000_is_what_was_encoded(tmp_path, kind, codestream):
    pixels = {"RGB": PIXELS, "grey": PIXELS[..., 0], "16-bit grey": WIDE}[kind]
    content = encode_jpeg2000(pixels, codecformat="j2k" if codestream else "jp2")
    (tmp_path / "x").write_bytes(content)
    expected = pixels / np.iinfo(pixels.dtype).max
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x")), expected.astype(np.float32))


def test_16_bit_grey_in_a_pgm_keeps_its_bits(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 31 23 65535\n" + WIDE.astype(">u2").tobytes())
    expected = (np.dstack([WIDE] * 3) / 65535).astype(np.float32)
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.pgm")), expected)


def test_what_pillow_would_cut_to_8_bits_is_refused(tmp_path):
    wide = WIDE[..., np.newaxis].repeat(3, 2)
    (tmp_path / "x.ppm").write_bytes(b"P6\n# a comment\n31 23\n65535\n" + wide.astype(">u2").tobytes())
    (tmp_path / "x.jp2").write_bytes(encode_jpeg2000(wide))
    (tmp_path / "y.jp2").write_bytes(encode_jpeg2000(WIDE >> 4, bitspersample=12))
    for name in ("x.ppm", "x.jp2", "y.jp2"):
        with pytest.raises(InputError, match="Samples that are not read"):
            open_image(tmp_path / name)


BOMBS = {
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 64, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(9),
    "PPM": b"P6 40000 40000 255\n" + bytes(99),
}


def open_in_300_mb(path):
    """Return what is printed when an image is opened by a process that has 300 MB left, and takes no warnings."""
    program = f"""
import pathlib, resource, warnings
import PIL.Image, numpy
from tiler.sources.libvips import load_vips
load_vips()
from tiler.sources.opening import open_image
from tiler.errors import InputError
warnings.simplefilter("error")
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 10**6,) * 2)
try:
    open_image({str(path)!r})
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
    (tmp_path / "bomb.png").write_bytes(content)
    printed = open_in_300_mb(tmp_path / "bomb.png")
    assert printed.startswith("Image too large to load at once")
    assert f"limit={LIMIT_PX} px" in printed


@pytest.mark.parametrize("ending", ["bmp", "ppm"])
def test_the_limit_is_ours_and_not_that_of_pillow(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(pillow_picture, "LIMIT_PX", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    for height, fits in ((10, True), (11, False)):
        path = tmp_path / f"{height}.{ending}"
        Image.new("RGB", (10, height)).save(path)
        if fits:
            assert open_image(path).shape == (10, 10, 3)
        else:
            with pytest.raises(InputError, match="limit=100 px"):
                open_image(path)
        assert Image.MAX_IMAGE_PIXELS == 7, "Pillow's own limit is as it was"


@pytest.mark.parametrize("ending", ["bmp", "ppm"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_truncated_pictures_are_refused_in_one_line(tmp_path, ending, kept):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match="damaged") as caught:
        open_image(path)
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)


def test_programs_are_not_pictures(tmp_path):
    path = tmp_path / "image.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touch) run\n%%EOF\n")
    with pytest.raises(InputError, match="Not a picture of a known format"):
        open_image(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"hello, world", id="text"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="magic"),
        pytest.param(b"P6 40 40x 255\n" + bytes(4800), id="PPM of letters"),
        pytest.param(b"P6 40\n", id="PPM of half a header"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_image(tmp_path / "image.png")
    assert str(caught.value).isprintable()
