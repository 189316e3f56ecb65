"""PNG files that are damaged, or put together in an unusual way; libvips knows which."""

import struct
import zlib

import numpy as np
import pytest
from fuzz_png import to_bytes

from tiler.errors import InputError
from tiler.sources.opening import open_image
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


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


BAD = {
    "a row more than there is": [header(height=6), pixels(), END],
    "no pixels": [header(), (b"IDAT", b""), END],
    "half the stream": [header(), (b"IDAT", pixels()[1][:30]), END],
    "a wrong checksum in the stream": [header(), (b"IDAT", pixels()[1][:-1] + b"x"), END],
    "no chunk of pixels": [header(), END],
    "pixels in two places": [header(), pixels(RAW[:30]), COMMENT, pixels(RAW[30:]), END],
    "two headers": [header(), header(), pixels(), END],
    "no palette": [header(colour=3, width=12), pixels(), END],
    "two palettes": [header(colour=3, width=12), *[(b"PLTE", bytes(768))] * 2, pixels(), END],
    "three bits": [header(bits=3), pixels(), END],
    "interlaced in a way of its own": [header(interlace=2), pixels(), END],
    "a filter of its own": [header(), pixels(b"\x05" + RAW[1:]), END],
    "sides of 2^31 - 1": [header(2**31 - 1, 2**31 - 1), pixels(), END],
}


@pytest.mark.parametrize("chunks", BAD.values(), ids=BAD)
def test_damaged_files_are_refused_in_one_line(tmp_path, chunks):
    (tmp_path / "x.png").write_bytes(to_bytes(chunks))
    with pytest.raises(InputError, match="damaged") as caught:
        read_whole(open_image(tmp_path / "x.png"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("position", [45, 60, 100], ids=lambda position: f"byte {position}")
def test_a_flipped_bit_is_no_other_picture(tmp_path, position):
    """The pixels are stored, not compressed: nothing but a checksum can tell."""
    content = bytearray(to_bytes([header(), pixels(), END]))
    content[position] ^= 1
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_whole(open_image(tmp_path / "x.png"))


def test_a_cut_of_any_length_is_noticed_where_pixels_are_missing(tmp_path):
    content = to_bytes([header(), pixels(), END])
    last = content.index(b"IEND") - 4
    for length in range(1, len(content)):
        (tmp_path / "x.png").write_bytes(content[:length])
        if length < last - 8:  # the checksums of the pixels
            with pytest.raises(InputError):
                read_whole(open_image(tmp_path / "x.png"))
        elif length >= last:
            np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.png")), (PIXELS / 255).astype(np.float32))


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([header(), pixels(), END], id="plain"),
        pytest.param([header(), COMMENT, pixels(), COMMENT, END], id="comments"),
        pytest.param([header(), *[(b"IDAT", bytes([byte])) for byte in pixels(level=9)[1]], END], id="a chunk a byte"),
        pytest.param([header(), pixels(RAW + b"more"), END], id="more than is needed"),
        pytest.param([header(), pixels(), header(2, 2), END], id="another header behind"),
        pytest.param([header(), pixels()], id="no end"),
    ],
)
def test_what_is_whole_is_read_whatever_follows(tmp_path, chunks):
    (tmp_path / "x.png").write_bytes(to_bytes(chunks))
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.png")), (PIXELS / 255).astype(np.float32))


def to_exif(orientation):
    return b"eXIf", struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
def test_a_picture_is_turned_as_its_exif_says_wherever_that_stands(tmp_path, place):
    chunks = (
        [header(), to_exif(6), pixels(), END] if place == "before the pixels" else [header(), pixels(), to_exif(6), END]
    )
    (tmp_path / "x.png").write_bytes(to_bytes(chunks))
    values = read_whole(open_image(tmp_path / "x.png"))
    np.testing.assert_allclose(values, np.rot90(PIXELS, -1) / 255, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"MM", to_exif(6)[1][:12], to_exif(9)[1], b"MM" + bytes(30)])
def test_exif_that_makes_no_sense_turns_nothing(tmp_path, content):
    (tmp_path / "x.png").write_bytes(to_bytes([header(), pixels(), (b"eXIf", content), END]))
    np.testing.assert_allclose(read_whole(open_image(tmp_path / "x.png")), PIXELS / 255, atol=1e-6)
