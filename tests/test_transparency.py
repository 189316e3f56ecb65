"""What is transparent is shown on the background, by every way that files say it; what it hides is never seen."""

import struct
import zlib

import numpy as np
import profiles
import pytest
import tifffile
from PIL import Image

from tiler.errors import InputError, OptionError
from tiler.sources.opening import open_image
from tiler.sources.transparency import Background
from tiler.window import Window

HEIGHT, WIDTH = 40, 64
y, x = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.dstack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (x // 8 + y // 8) % 2 * 200 + 20]).astype(np.uint8)
GREY = RGB[:, :, 0]
ALPHA = np.minimum((x - 8).clip(0) * 6, 255).astype(np.uint8)  # 0 at the left, 255 at the right
COLOURS = {"white": (1, 1, 1), "black": (0, 0, 0), "#204080": (32 / 255, 64 / 255, 128 / 255)}


def read(path, **options):
    source = open_image(path, **options)
    values = source.read(Window.whole(*source.shape[:2])).astype(np.float64)
    return values, tuple(source.notes)


def compose(colours, alpha, background):
    """The right picture, in float64: numbers of sRGB, alpha 0 to 1."""
    colours = colours if colours.ndim == 3 else colours[:, :, None].repeat(3, axis=2)
    return colours * alpha[:, :, None] + np.array(COLOURS[background]) * (1 - alpha[:, :, None])


def png(rows, bits, kind, *chunks):
    """A PNG written by hand, not interlaced: big-endian rows of bytes, and chunks in front of them."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)
    between = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + between + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


WIDE = (RGB.astype(int) * 257 + np.arange(WIDTH)[:, None]).clip(0, 65535).astype(np.uint16)
WIDE_ALPHA = np.minimum((x - 8).clip(0) * 1500, 65535).astype(np.uint16)
PALETTE = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=-1).astype(np.uint8)
OPACITY = np.arange(256).astype(np.uint8)


def make_picture(kind, path):
    """Write a transparent picture; return its colours and its alpha, 0 to 1."""
    if kind == "colours of 8 bits":
        Image.fromarray(np.dstack([RGB, ALPHA])).save(path)
        return RGB / 255, ALPHA / 255
    if kind == "colours of 16 bits":
        path.write_bytes(png(np.dstack([WIDE, WIDE_ALPHA]).astype(">u2"), 16, 6))
        return WIDE / 65535, WIDE_ALPHA / 65535
    if kind == "grey of 8 bits":
        Image.fromarray(np.dstack([GREY, ALPHA]), "LA").save(path)
        return GREY / 255, ALPHA / 255
    if kind == "grey of 16 bits":
        path.write_bytes(png(np.dstack([WIDE[:, :, 0], WIDE_ALPHA]).astype(">u2"), 16, 4))
        return WIDE[:, :, 0] / 65535, WIDE_ALPHA / 65535
    if kind == "a palette":
        path.write_bytes(png(GREY, 8, 3, (b"PLTE", PALETTE.tobytes()), (b"tRNS", OPACITY[:200].tobytes())))
        return PALETTE[GREY] / 255, np.where(GREY < 200, OPACITY[GREY], 255) / 255
    if kind == "a key among colours of 8 bits":
        key = RGB[5, 17]
        path.write_bytes(png(RGB, 8, 2, (b"tRNS", key.astype(">u2").tobytes())))
        return RGB / 255, 1.0 - (key == RGB).all(axis=2)
    if kind == "a key among colours of 16 bits":
        key = WIDE[5, 17]
        path.write_bytes(png(WIDE.astype(">u2"), 16, 2, (b"tRNS", key.astype(">u2").tobytes())))
        return WIDE / 65535, 1.0 - (key == WIDE).all(axis=2)
    if kind == "a key among grey of 8 bits":
        path.write_bytes(png(GREY, 8, 0, (b"tRNS", struct.pack(">H", GREY[0, 30]))))
        return GREY / 255, 1.0 - (GREY[0, 30] == GREY)
    if kind == "a key among grey of 16 bits":
        grey = WIDE[:, :, 0]
        path.write_bytes(png(grey.astype(">u2"), 16, 0, (b"tRNS", struct.pack(">H", grey[0, 30]))))
        return grey / 65535, 1.0 - (grey[0, 30] == grey)
    raise AssertionError(kind)


PNG_KINDS = [
    *(f"{what} of {bits} bits" for what in ("colours", "grey") for bits in (8, 16)),
    "a palette",
    *(f"a key among {what} of {bits} bits" for what in ("colours", "grey") for bits in (8, 16)),
]


@pytest.mark.parametrize("background", COLOURS)
@pytest.mark.parametrize("kind", PNG_KINDS)
def test_a_png_is_shown_on_the_background(kind, background, tmp_path):
    colours, alpha = make_picture(kind, tmp_path / "a.png")
    assert (alpha < 1).any()
    values, notes = read(tmp_path / "a.png", background=background)
    assert np.abs(values - compose(colours, alpha, background)).max() < 1 / 65535
    np.testing.assert_array_equal(
        values[alpha == 0], np.float32(COLOURS[background])[None].repeat((alpha == 0).sum(), 0)
    )
    assert notes == (f"transparency composited on {background}",)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_tiff_is_shown_on_the_background_as_it_says(kind, dtype, compression, tile, tmp_path):
    largest = {"u1": 255, "u2": 65535, "f4": 1}[dtype]
    alpha = (ALPHA / 255 * largest).astype(dtype)
    colours = (RGB / 255 * largest).astype(dtype)
    shares = (alpha / largest)[:, :, None]
    stored = (colours * shares).astype(dtype) if kind == "assocalpha" else colours
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([stored, alpha]),
        photometric="rgb",
        extrasamples=[kind],
        compression=compression,
        tile=tile,
        iccprofile=profiles.rgb(),
    )
    if kind == "assocalpha" and dtype == "f4":
        with pytest.raises(InputError, match=r"Floats multiplied by their transparency.*unassociated"):
            read(tmp_path / "a.tif")
        return
    values, notes = read(tmp_path / "a.tif")
    if kind == "unspecified":
        np.testing.assert_allclose(values, colours / largest, atol=1e-7)
        assert notes == ("a channel that is no colour, and not said to be transparency, was left out",)
        return
    expected = stored / largest + 1 - shares if kind == "assocalpha" else colours / largest * shares + 1 - shares
    assert np.abs(values - expected).max() <= {"u1": 1.01 / 255, "u2": 2 / 65535, "f4": 1e-6}[dtype]
    assert (values[alpha == 0] == 1).all()
    assert notes == ("transparency composited on white",)


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_webp_and_avif_are_shown_on_the_background(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    options = {"lossless": True, "exact": True} if kind == "webp" else {"quality": 90, "subsampling": "4:4:4"}
    Image.fromarray(np.dstack([RGB, ALPHA])).save(path, **options)
    with Image.open(path) as image:
        stored = np.asarray(image.convert("RGBA")) / 255
    values, notes = read(path, background="#204080")
    expected = compose(stored[:, :, :3], stored[:, :, 3], "#204080")
    # Two libraries round the colours of an AVIF in their own ways.
    assert np.abs(values - expected).max() <= (3 / 255 if kind == "avif" else 1 / 65535)
    assert notes == ("transparency composited on #204080",)


def test_an_avif_whose_colours_are_multiplied_by_their_transparency_is_divided(tmp_path):
    path = tmp_path / "a.avif"
    Image.fromarray(np.dstack([RGB, ALPHA])).save(path, quality=100, subsampling="4:4:4", alpha_premultiplied=True)
    assert b"prem" in path.read_bytes()
    with Image.open(path) as image:
        stored = np.asarray(image.convert("RGBA")) / 255
    values, _ = read(path)
    expected = compose(stored[:, :, :3], stored[:, :, 3], "white")
    assert np.abs(values - expected).max() <= 4 / 255
    assert np.abs(values - compose(RGB / 255, ALPHA / 255, "white")).max() <= 6 / 255


def test_hidden_colours_are_not_seen_whatever_profile_turns_them(tmp_path):
    hidden = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    alpha = np.where(x < 30, 0, 255).astype(np.uint8)
    for seen_through in (None, profiles.rgb(profiles.DISPLAY_P3)):
        found = []
        for pixels in (RGB, np.where(alpha[:, :, None], RGB, hidden)):
            Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png", icc_profile=seen_through)
            found.append(read(tmp_path / "a.png")[0])
        np.testing.assert_array_equal(*found)
        assert (found[0][:, :30] == 1).all()


def test_colours_are_converted_before_they_are_composited(tmp_path):
    profile = profiles.rgb(profiles.DISPLAY_P3)
    Image.fromarray(RGB).save(tmp_path / "opaque.png", icc_profile=profile)
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "a.png", icc_profile=profile)
    opaque = read(tmp_path / "opaque.png")[0]
    values, notes = read(tmp_path / "a.png", background="#204080")
    assert np.abs(values - compose(opaque, ALPHA / 255, "#204080")).max() <= 1 / 65535
    assert len(notes) == 2


@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_of_alpha_that_hides_nothing_nothing_is_said_and_the_pixels_are_exact(kind, tmp_path):
    pixels = np.dstack([RGB, np.full_like(GREY, 255)])
    if kind == "tif":
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    else:
        Image.fromarray(pixels).save(tmp_path / f"a.{kind}", lossless=True)
    values, notes = read(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(values, (RGB / 255).astype(np.float32))
    assert notes == ()


def test_transparency_of_a_turned_picture_is_turned_along(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "a.webp", lossless=True, exact=True, exif=exif)
    values, notes = read(tmp_path / "a.webp", background="black")
    assert np.abs(values - np.rot90(compose(RGB / 255, ALPHA / 255, "black"), -1)).max() < 1 / 65535
    assert notes == ("transparency composited on black",)


def test_alpha_of_floats_that_is_no_share_is_refused():
    pixels = np.full((2, 2, 4), 0.5, np.float32)
    for alpha in (1.5, -0.1, np.nan):
        pixels[1, 1, 3] = alpha
        with pytest.raises(InputError, match="Transparency out of its range"):
            Background().lay_under(pixels)


def test_what_is_hidden_may_be_nan():
    pixels = np.full((2, 2, 4), 0.5, np.float32)
    pixels[0, 0] = [np.nan, np.inf, -np.inf, 0]
    assert (Background("white").lay_under(pixels)[0, 0] == 1).all()


@pytest.mark.parametrize("colour", ["", "red", "#fff", "#12345g", "ffffff", 7, None, "#ffffff "])
def test_a_background_that_is_no_colour_is_refused(colour):
    with pytest.raises(OptionError, match=r"No such background: background=.*#rrggbb"):
        Background(colour)
