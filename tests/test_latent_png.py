"""8-bit latents: the bytes of an RGBA PNG, whatever it says of colours."""

import struct
import zlib

import numpy as np
import pytest
from fuzz_png import BOMB, to_bytes
from PIL import Image, PngImagePlugin

from tiler.errors import InputError
from tiler.sources.opening import open_latents
from tiler.window import Window

RGBA = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


def test_latents_are_rgba_bytes_from_minus_3_to_3(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    Image.fromarray(pixels).save(tmp_path / "latents.png")
    source = open_latents(tmp_path / "latents.png", 4)
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
    with pytest.raises(InputError, match=r"Not 8-bit latents.*bits=") as caught:
        open_latents(tmp_path / "latents.png", 4)
    assert "\n" not in str(caught.value)


def test_what_a_png_says_of_colours_and_how_it_is_turned_means_nothing(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100000))
    info.add(b"cHRM", struct.pack(">8I", 31270, 32900, 70000, 30000, 20000, 70000, 15000, 5000))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = b"no profile at all, but long enough to be one" * 9
    Image.fromarray(RGBA).save(tmp_path / "x.png", pnginfo=info, exif=exif, icc_profile=profile)
    values = read_whole(open_latents(tmp_path / "x.png", 4))
    np.testing.assert_array_equal(values, ((RGBA / 255 - 0.5) * 6).astype(np.float32))


def make_png(width, height, pixels, *, bits=8, colour=6):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return to_bytes([(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")])


def test_16_bits_are_no_latents(tmp_path):
    (tmp_path / "x.png").write_bytes(make_png(1, 1, zlib.compress(bytes(9)), bits=16))
    with pytest.raises(InputError, match="bits=16"):
        open_latents(tmp_path / "x.png", 4)


@pytest.mark.parametrize("size", [(9_000, 9_000), (2**14, 2**14 + 1), (2**31 - 1, 2**31 - 1)], ids=str)
def test_a_small_file_does_not_make_huge_latents(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(make_png(*size, BOMB))
    with pytest.raises(InputError, match=r"far larger than its file|too large to load at once"):
        open_latents(tmp_path / "bomb.png", 4)


def test_a_changed_byte_is_damage(tmp_path):
    content = bytearray(make_png(4, 3, zlib.compress(b"".join(b"\0" + row.tobytes() for row in RGBA), 0)))
    np.testing.assert_array_equal(write_and_read(tmp_path, content), ((RGBA / 255 - 0.5) * 6).astype(np.float32))
    content[60] ^= 1
    with pytest.raises(InputError, match="damaged"):
        write_and_read(tmp_path, content)


def write_and_read(folder, content):
    (folder / "x.png").write_bytes(content)
    return read_whole(open_latents(folder / "x.png", 4))
