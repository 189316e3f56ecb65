"""PNG files that Pillow would read, but not as they were written."""

import struct
import zlib

import numpy as np
import pytest
from fuzz_png import BOMB, to_bytes
from PIL import Image

from tiler.errors import InputError
from tiler.sources.image_source import open_image_file, open_latent_image
from tiler.window import Window

ROWS = [bytes([0, *range(n, n + 12)]) for n in range(0, 60, 12)]
PIXELS = np.frombuffer(b"".join(row[1:] for row in ROWS), np.uint8).reshape(5, 4, 3)
RAW = b"".join(ROWS)


def header(width=4, height=5, bits=8, colour=2, interlace=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)


def pixels(raw=RAW, level=0):
    return b"IDAT", zlib.compress(raw, level)


END = (b"IEND", b"")
COMMENT = (b"tEXt", b"Comment\0one")
BAD = {
    "a row more than there is": ([header(height=6), pixels(), END], "13 of 78 bytes of pixels are missing"),
    "no pixels": ([header(), (b"IDAT", b""), END], "65 of 65 bytes"),
    "half the stream": ([header(), (b"IDAT", pixels()[1][:30]), END], "are missing"),
    "a wrong checksum in the stream": ([header(), (b"IDAT", pixels()[1][:-1] + b"x"), END], "cannot be inflated"),
    "and in a chunk of its own": (
        [header(), (b"IDAT", pixels()[1][:-2]), (b"IDAT", b"xx"), END],
        "cannot be inflated",
    ),
    "no chunk of pixels": ([header(), END], "65 of 65|cannot identify|damaged"),
    "pixels in two places": ([header(), pixels(RAW[:30]), COMMENT, pixels(RAW[30:]), END], "not in one place"),
    "two headers": ([header(), header(), pixels(), END], "two headers"),
    "another header behind": ([header(), pixels(), header(2, 2), END], "two headers"),
    "no palette": ([header(colour=3, width=12), pixels(), END], "no palette"),
    "two palettes": ([header(colour=3, width=12), *[(b"PLTE", bytes(768))] * 2, pixels(), END], "wrong palette"),
    "a palette too small": (
        [header(colour=3, width=12), (b"PLTE", bytes(3 * 59)), pixels(), END],
        "colours are missing",
    ),
    "three bits": ([header(bits=3), pixels(), END], "damaged|Not an image"),
    "interlaced in a way of its own": ([header(interlace=2), pixels(), END], "no such image"),
    "no end": ([header(), pixels()], "truncated"),
}


@pytest.mark.parametrize(("chunks", "says"), BAD.values(), ids=BAD)
def test_damaged_files_are_refused_in_one_line(tmp_path, chunks, says):
    (tmp_path / "x.png").write_bytes(to_bytes(chunks))
    with pytest.raises(InputError, match=says) as caught:
        open_image_file(tmp_path / "x.png")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("position", [45, 60, -9, -5, -1], ids=lambda position: f"byte {position}")
def test_a_flipped_bit_is_no_other_picture(tmp_path, position):
    """The pixels are stored, not compressed: nothing but a checksum can tell."""
    content = bytearray(to_bytes([header(), pixels(), END]))
    content[position] ^= 1
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        open_image_file(tmp_path / "x.png")


def test_a_cut_of_any_length_is_noticed(tmp_path):
    content = to_bytes([header(), pixels(), END])
    for length in range(1, len(content)):
        (tmp_path / "x.png").write_bytes(content[:length])
        with pytest.raises(InputError):
            open_image_file(tmp_path / "x.png")


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([header(), pixels(), END], id="plain"),
        pytest.param([header(), COMMENT, pixels(), COMMENT, END], id="comments"),
        pytest.param([header(), *[(b"IDAT", bytes([byte])) for byte in pixels(level=9)[1]], END], id="a chunk a byte"),
        pytest.param([header(), pixels(RAW + b"more"), END], id="more than is needed"),
    ],
)
def test_what_is_not_damaged_is_read(tmp_path, chunks):
    (tmp_path / "x.png").write_bytes(to_bytes(chunks))
    source = open_image_file(tmp_path / "x.png")
    np.testing.assert_array_equal(source.read(Window.whole(5, 4)), (PIXELS / 255).astype(np.float32))


@pytest.mark.parametrize(("bits", "fits"), [(8, True), (16, False)])
def test_latents_have_8_bits(tmp_path, bits, fits):
    raw = b"".join(b"\0" + bytes(8 * bits // 2) for _ in range(5))
    (tmp_path / "x.png").write_bytes(to_bytes([header(8, 5, bits=bits, colour=6), pixels(raw), END]))
    if fits:
        assert open_latent_image(tmp_path / "x.png").shape == (5, 8, 4)
    else:
        with pytest.raises(InputError, match="bits=16"):
            open_latent_image(tmp_path / "x.png")


def test_a_small_file_does_not_make_a_huge_image(tmp_path):
    (tmp_path / "bomb.png").write_bytes(to_bytes([header(9_000, 9_000, colour=6), (b"IDAT", BOMB), END]))
    with pytest.raises(InputError, match="far larger than its file"):
        open_image_file(tmp_path / "bomb.png")


def test_a_flat_picture_of_usual_size_is_no_bomb(tmp_path):
    Image.new("L", (5_000, 4_000)).save(tmp_path / "flat.png")
    assert open_image_file(tmp_path / "flat.png").shape == (4_000, 5_000, 3)
