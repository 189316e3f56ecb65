"""What a picture's file says of its colours is what its pixels are taken for, or it is refused by name."""

import io
import re
import struct
import zlib

import numpy as np
import profiles
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms

import tiler
from tiler.errors import InputError, OptionError
from tiler.formats.srgb_profile import srgb_profile
from tiler.sources.opening import open_image
from tiler.window import Window

random = np.random.default_rng(7)
axis = np.arange(0, 256, 15)
CUBE = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 18 * 4, 3).astype(np.uint8)
"""Colours of the whole cube, its corners and edges among them, a pixel each."""
RGB = np.concatenate([CUBE, np.repeat(np.arange(256), 9).reshape(32, 72, 1).repeat(3, axis=2)]).astype(np.uint8)
"""And all greys."""
GREY = np.arange(256).repeat(4).reshape(32, 32).astype(np.uint8)
MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def read(path, **options):
    """Return the colours of a picture as the encoder gets them, float64, and what is said of them."""
    source = open_image(path, **options)
    return source.read(Window.whole(*source.shape[:2])).astype(np.float64), list(source.notes)


def as_given(pixels):
    """Return what 8-bit pixels of sRGB or grey are to the encoder."""
    return (pixels if pixels.ndim == 3 else pixels[:, :, None].repeat(3, axis=2)) / np.float32(255)


def by_image_cms(pixels, profile, flags=0):
    """Return what Little CMS makes of 8-bit pixels, by way of Pillow."""
    mode = MODES[1 if pixels.ndim == 2 else pixels.shape[2]]
    converted = ImageCms.profileToProfile(
        Image.fromarray(pixels, mode) if mode == "CMYK" else Image.fromarray(pixels),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=flags,
    )
    return np.asarray(converted) / 255


def to_light(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_light(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def save(path, pixels, profile):
    if path.suffix == ".tif":
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(path, pixels, photometric=photometric, iccprofile=profile)
        return pixels
    options = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}
    if path.suffix == ".avif":
        # Pillow's is never without losses, and its reader rounds otherwise.
        image = pyvips.Image.new_from_array(pixels)
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
        image.heifsave(str(path), compression="av1", lossless=True)
    else:
        Image.fromarray(pixels).save(path, icc_profile=profile, **options.get(path.suffix, {}))
    with Image.open(path) as image:
        return np.asarray(image)


MATRIX_PROFILES = {
    "Display P3": profiles.rgb(profiles.DISPLAY_P3),
    "red and green exchanged": profiles.rgb(profiles.EXCHANGED),
    "wide, gamma 1.8": profiles.rgb(profiles.PROPHOTO, profiles.gamma(1.8)),
    "linear": profiles.rgb(curves=profiles.curve()),
    "a table": profiles.rgb(profiles.DISPLAY_P3, profiles.sampled(lambda v: v**2.6)),
    "a curve each": profiles.rgb(curves=(profiles.gamma(2.2), profiles.gamma(1.5), profiles.SRGB_CURVE)),
    "parametric 0": profiles.rgb(curves=profiles.parametric(0, 1.9)),
    "parametric 1": profiles.rgb(curves=profiles.parametric(1, 2, 1.1, -0.1)),
    "parametric 2": profiles.rgb(curves=profiles.parametric(2, 2, 0.9, -0.1, 0.3)),
    "parametric 4": profiles.rgb(curves=profiles.parametric(4, 2.2, 0.9, 0.1, 0.2, 0.3, -0.04, 0.01)),
}


@pytest.mark.parametrize("name", MATRIX_PROFILES)
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_profile_is_followed_as_little_cms_does(name, kind, tmp_path):
    profile, path = MATRIX_PROFILES[name], tmp_path / f"a.{kind}"
    save(path, RGB, profile)
    expected = by_image_cms(RGB, profile)
    assert np.abs(expected - RGB / 255).max() > 8 / 255  # it is no profile of sRGB
    values, notes = read(path)
    assert np.abs(values - expected).max() <= 1 / 255
    assert notes == ["colours converted to sRGB: they were of a test"]


@pytest.mark.parametrize("kind", ["jpg", "webp", "avif"])
@pytest.mark.parametrize("name", ["Display P3", "red and green exchanged"])
def test_a_profile_is_found_in_every_format(kind, name, tmp_path):
    path = tmp_path / f"a.{kind}"
    decoded = save(path, RGB, MATRIX_PROFILES[name])
    assert np.abs(read(path)[0] - by_image_cms(decoded, MATRIX_PROFILES[name])).max() <= 1 / 255


def test_a_profile_in_several_parts_of_a_jpeg_is_put_together(tmp_path):
    profile = bytearray(profiles.rgb(profiles.DISPLAY_P3) + bytes(150_000))
    profile[:4] = struct.pack(">I", len(profile))
    decoded = save(tmp_path / "a.jpg", RGB, bytes(profile))
    assert np.abs(read(tmp_path / "a.jpg")[0] - by_image_cms(decoded, bytes(profile))).max() <= 1 / 255
    content = (tmp_path / "a.jpg").read_bytes()
    second = [found.start() for found in re.finditer(b"\xff\xe2..ICC_PROFILE", content, re.DOTALL)][1]
    size = int.from_bytes(content[second + 2 : second + 4]) + 2
    (tmp_path / "a.jpg").write_bytes(content[:second] + content[second + size :])
    with pytest.raises(InputError, match=rf"{len(profile)} bytes long by its header, .*colour=.srgb."):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["Display P3", "a table", "wide, gamma 1.8"])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_more_than_eight_bits_are_kept_through_a_profile(name, dtype, tmp_path):
    fine = (RGB.astype(np.float64) * 256 + random.integers(0, 256, RGB.shape)) / 65535
    pixels = np.rint(fine * 65535).astype("u2") if dtype == "u2" else fine.astype("f4")
    save(tmp_path / "a.tif", pixels, MATRIX_PROFILES[name])
    columns = {"Display P3": profiles.DISPLAY_P3, "a table": profiles.DISPLAY_P3, "wide, gamma 1.8": profiles.PROPHOTO}
    gamma = {"Display P3": to_light, "a table": lambda v: v**2.6, "wide, gamma 1.8": lambda v: v ** (461 / 256)}
    matrix = np.linalg.solve(np.array(profiles.SRGB).T, np.array(columns[name]).T)
    expected = from_light(gamma[name](fine) @ matrix.T)
    # The white of sRGB is known to four digits, which tells in the dark, where its curve is steep.
    assert np.abs(read(tmp_path / "a.tif")[0] - expected).max() <= 0.5 / 255


@pytest.mark.parametrize(
    "profile",
    [
        profiles.rgb(profiles.FIRST_SRGB, profiles.sampled(to_light)),
        profiles.rgb(profiles.FIRST_SRGB, profiles.sampled(to_light, 4096)),
        profiles.rgb(profiles.SRGB, profiles.SRGB_CURVE),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        srgb_profile(),
    ],
    ids=["the first", "of 4096 entries", "Lindbloom's", "Little CMS's", "ours"],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_pictures_with_a_profile_of_srgb_are_left_as_they_are(profile, dtype, tmp_path):
    pixels = {"u1": RGB, "u2": RGB.astype("u2") * 251, "f4": (RGB / 200 - 0.1).astype("f4")}[dtype]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", iccprofile=profile)
    values, notes = read(tmp_path / "a.tif")
    assert notes == []
    np.testing.assert_array_equal(values, (pixels / {"u1": 255, "u2": 65535, "f4": 1}[dtype]).astype(np.float32))


@pytest.mark.parametrize("format", ["png", "jpg", "tif"])
def test_a_profile_of_grey_is_followed_and_one_of_srgb_beside_grey_left(format, tmp_path):
    profile, path = profiles.grey(profiles.gamma(1.4)), tmp_path / f"a.{format}"
    decoded = save(path, GREY, profile)
    # Its shortcut for greys is off by up to ten levels in the dark.
    expected = by_image_cms(decoded, profile, ImageCms.Flags.NOOPTIMIZE)
    assert np.abs(expected[:, :, 0] - decoded / 255).max() > 8 / 255
    assert np.abs(read(path)[0] - expected).max() <= 0.51 / 255
    decoded = save(path, GREY, profiles.rgb())
    np.testing.assert_array_equal(read(path)[0], as_given(decoded))


@pytest.mark.parametrize("space", [b"RGB ", b"GRAY", b"CMYK"])
def test_a_profile_of_tables_is_followed(space, tmp_path):
    def to_lab(colours):
        lightness = 100 * colours.mean(axis=1) ** 0.8
        return np.stack([lightness, 30 * (colours[:, 0] - colours[:, -1]), 40 * (0.5 - colours[:, 0])], axis=-1)

    profile = profiles.tables(space, profiles.inks_to_lab if space == b"CMYK" else to_lab)
    pixels = {b"RGB ": RGB, b"GRAY": GREY, b"CMYK": np.dstack([RGB, RGB[::-1, :, 0]])}[space]
    photometric = {b"RGB ": "rgb", b"GRAY": "minisblack", b"CMYK": "separated"}[space]
    for depth in (1, 257):
        tifffile.imwrite(
            tmp_path / "a.tif", pixels.astype(f"u{min(depth, 2)}") * depth, photometric=photometric, iccprofile=profile
        )
        assert np.abs(read(tmp_path / "a.tif")[0] - by_image_cms(pixels, profile)).max() <= 1 / 255, depth


def test_a_jpeg_of_inks_is_read_by_its_profile_and_refused_without_one(tmp_path):
    inks = Image.fromarray(np.dstack([RGB, RGB[::-1, :, 0] // 2]), "CMYK")
    profile = profiles.tables(b"CMYK", profiles.inks_to_lab)
    inks.save(tmp_path / "a.jpg", quality=95, subsampling=0, icc_profile=profile)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.abs(read(tmp_path / "a.jpg")[0] - by_image_cms(np.asarray(image), profile)).max() <= 1 / 255
    inks.save(tmp_path / "b.jpg")
    for colour in (None, "srgb", "linear"):
        with pytest.raises(InputError, match=r"CMYK .*no profile .*Save it in sRGB\.$"):
            read(tmp_path / "b.jpg", colour=colour)


def test_a_jpeg_of_inks_coded_as_luma_and_chroma_is_read_as_other_readers_do(tmp_path):
    profile = profiles.tables(b"CMYK", profiles.inks_to_lab)
    Image.fromarray(np.dstack([RGB, RGB[::-1, :, 0] // 2]), "CMYK").save(tmp_path / "a.jpg", icc_profile=profile)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[content.index(b"Adobe") + 11] = 2
    (tmp_path / "a.jpg").write_bytes(content)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.info["adobe_transform"] == 2
        assert np.abs(read(tmp_path / "a.jpg")[0] - by_image_cms(np.asarray(image), profile)).max() <= 1 / 255


def test_a_jpeg_of_rgb_is_told_from_one_of_luma_and_chroma(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=100, keep_rgb=True)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.info["adobe_transform"] == 0
    assert np.abs(read(tmp_path / "a.jpg")[0] - RGB / 255).max() <= 3 / 255


TRUNCATED = profiles.rgb(profiles.DISPLAY_P3)[:-200]
NO_CURVE = profiles.build(
    {f"{c}XYZ".encode(): profiles.xyz(p) for c, p in zip("rgb", profiles.DISPLAY_P3, strict=True)}
)
BAD_CURVE = profiles.rgb(curves=b"para\0\0\0\0\0\x09\0\0" + bytes(16))
UNFIT = {
    "no profile": (RGB, b"nothing" * 40, "no ICC profile"),
    "cut": (RGB, TRUNCATED, "bytes long by its header"),
    "without curves": (RGB, NO_CURVE, "rTRC is missing"),
    "with a curve of no kind": (RGB, BAD_CURVE, "rTRC is missing or damaged"),
    "with a curve that ends nowhere": (
        RGB,
        profiles.rgb(curves=profiles.parametric(0, -1.5)),
        "rTRC is missing or damaged",
    ),
    "with a curve of huge values": (
        RGB,
        profiles.rgb(curves=profiles.parametric(1, 9999, 30000, 0)),
        "rTRC is missing",
    ),
    "of a tag outside": (RGB, profiles.rgb().replace(b"rXYZ\0\0", b"rXYZ\xff\0"), "a tag lies outside"),
    "of a link": (RGB, profiles.rgb(kind=b"link"), "no picture of grey, RGB or CMYK has: linkRGB"),
    "of Lab": (RGB, profiles.rgb(space=b"Lab "), "no picture of grey, RGB or CMYK has: mntrLab"),
    "of grey beside colours": (RGB, profiles.grey(profiles.gamma(1.4)), "a profile for grey"),
    "of colours beside grey": (GREY, profiles.rgb(profiles.DISPLAY_P3), "a profile for RGB"),
    "of inks beside colours": (RGB, profiles.tables(b"CMYK", profiles.inks_to_lab, 3), "a profile for CMYK"),
    "of damaged tables": (
        RGB,
        profiles.build({b"A2B0": b"mft2\0\0\0\0\x03\x03\xff\0"}, pcs=b"Lab "),
        "PyCMSError|cannot build",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_profile_that_does_not_fit_or_is_damaged_is_refused_by_name(name, kind, tmp_path):
    pixels, profile, words = UNFIT[name]
    save(tmp_path / f"a.{kind}", pixels, profile)
    with pytest.raises(InputError, match=words) as told:
        read(tmp_path / f"a.{kind}")
    assert len(str(told.value).splitlines()) == 1
    values, notes = read(tmp_path / f"a.{kind}", colour="srgb")
    np.testing.assert_array_equal(values, as_given(pixels))
    assert notes == ["colours taken as sRGB, as asked for"]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def save_png(path, pixels, *chunks):
    """Save a PNG with more chunks in front of its palette and pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = file.getvalue()
    path.write_bytes(content[:33] + b"".join(chunk(*each) for each in chunks) + content[33:])


def gamma_chunk(value):
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def primaries_chunk(*numbers):
    return b"cHRM", struct.pack(">8I", *[round(number * 100_000) for number in numbers])


SRGB_XY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_XY = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3_XY = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
D50_XY = (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)
BT2020_XY = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)


def to_srgb_light(light, xy):
    """Light in primaries as light in those of sRGB, white to white by Bradford, in float64."""

    def to_xyz(white_x, white_y, *primaries):
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(primaries[::2], primaries[1::2], strict=True)])
        white = np.array([white_x / white_y, 1, (1 - white_x - white_y) / white_y])
        return columns.T * np.linalg.solve(columns.T, white), white

    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    (matrix, white), (srgb, d65) = to_xyz(*xy), to_xyz(*SRGB_XY)
    adapted = np.linalg.inv(cones) @ np.diag((cones @ d65) / (cones @ white)) @ cones
    return light @ (np.linalg.inv(srgb) @ adapted @ matrix).T


def bt709(values):
    beyond = 0.09929682680944
    return np.where(values < 4.5 * 0.018053968510807, values / 4.5, ((values + beyond) / (1 + beyond)) ** (1 / 0.45))


P3_PROFILE = b"iCCP", b"x\0\0" + zlib.compress(profiles.rgb(profiles.DISPLAY_P3))
SRGB_CHUNK = b"sRGB", b"\0"
CODED_P3, CODED_SRGB = (b"cICP", bytes([12, 13, 0, 1])), (b"cICP", bytes([1, 13, 0, 1]))
CHUNKS = {
    "linear": ([gamma_chunk(1)], lambda v: v),
    "gamma 2.0": ([gamma_chunk(0.5)], lambda v: v**2),
    "the gamma of sRGB": ([gamma_chunk(0.45455)], to_light),
    "gamma and primaries of sRGB": ([gamma_chunk(0.45455), primaries_chunk(*SRGB_XY)], to_light),
    "gamma of sRGB, other primaries": (
        [gamma_chunk(0.45455), primaries_chunk(*P3_XY)],
        lambda v: to_srgb_light(v ** (1 / 0.45455), P3_XY),
    ),
    "gamma and primaries": ([gamma_chunk(0.5), primaries_chunk(*ADOBE_XY)], lambda v: to_srgb_light(v**2, ADOBE_XY)),
    "primaries alone": ([primaries_chunk(*P3_XY)], lambda v: to_srgb_light(to_light(v), P3_XY)),
    "another white": ([gamma_chunk(1 / 1.8), primaries_chunk(*D50_XY)], lambda v: to_srgb_light(v**1.8, D50_XY)),
    "primaries of sRGB": ([primaries_chunk(*SRGB_XY)], to_light),
    "sRGB": ([SRGB_CHUNK], to_light),
    "nothing": ([], to_light),
    "sRGB before gamma": ([gamma_chunk(1), primaries_chunk(*P3_XY), SRGB_CHUNK], to_light),
    "a profile before sRGB and gamma": (
        [SRGB_CHUNK, gamma_chunk(1), P3_PROFILE],
        lambda v: to_srgb_light(to_light(v), P3_XY),
    ),
    "codes before a profile": ([P3_PROFILE, CODED_SRGB], to_light),
    "codes before all": ([gamma_chunk(1), SRGB_CHUNK, CODED_P3], lambda v: to_srgb_light(to_light(v), P3_XY)),
    "codes of BT.2020": ([(b"cICP", bytes([9, 14, 0, 1]))], lambda v: to_srgb_light(bt709(v), BT2020_XY)),
    "codes of linear light": ([(b"cICP", bytes([1, 8, 0, 1]))], lambda v: v),
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("kind", ["colours", "palette", "grey"])
def test_what_a_png_says_of_its_colours_is_followed_in_the_order_of_the_standard(name, kind, tmp_path):
    chunks, light = CHUNKS[name]
    path = tmp_path / "a.png"
    if kind == "palette":
        palette = Image.fromarray(np.arange(256).astype(np.uint8)[None], "P")
        palette.putpalette(CUBE.reshape(-1, 3)[::23][:256].tobytes())
        file = io.BytesIO()
        palette.save(file, "PNG")
        content = file.getvalue()
        path.write_bytes(content[:33] + b"".join(chunk(*each) for each in chunks) + content[33:])
        pixels = np.asarray(palette.convert("RGB"))
    else:
        pixels = RGB if kind == "colours" else GREY
        save_png(path, pixels, *chunks)
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None].repeat(3, axis=2)
    if kind == "grey" and "a profile" in name and "before a" not in name:
        with pytest.raises(InputError, match="a profile for RGB"):
            read(path)
        return
    values, notes = read(path)
    assert np.abs(values - from_light(light(pixels / 255))).max() <= 0.5 / 255
    assert (notes == []) == (light is to_light)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([(b"cICP", bytes([9, 16, 0, 1]))], "PQ, which is brighter"),
        ([(b"cICP", bytes([9, 18, 0, 1]))], "HLG, which is brighter"),
        ([(b"cICP", bytes([1, 13, 0, 0]))], "the range 0"),
        ([(b"cICP", bytes([1, 13, 1, 1]))], "the matrix 1"),
        ([(b"cICP", bytes([3, 13, 0, 1]))], "primaries 3 with the curve 13"),
        ([(b"cICP", bytes([1, 9, 0, 1]))], "primaries 1 with the curve 9"),
        ([(b"cICP", bytes([1, 13]))], "cICP is there twice or of an impossible size"),
        ([gamma_chunk(0)], "gAMA is 0"),
        ([gamma_chunk(1), gamma_chunk(1)], "gAMA is there twice"),
        ([primaries_chunk(*SRGB_XY[:4], *SRGB_XY[2:4], 0.15, 0.06)], "cHRM names no colours"),
        ([primaries_chunk(0.3, 0, *SRGB_XY[2:])], "cHRM names no colours"),
        ([(b"iCCP", b"x\0\0" + zlib.compress(profiles.rgb())[:-9])], "iCCP is damaged"),
        ([(b"iCCP", b"x\0\1" + zlib.compress(profiles.rgb()))], "iCCP is damaged"),
        ([(b"iCCP", b"x\0\0" + zlib.compress(bytes(400)))], "no ICC profile"),
    ],
)
def test_what_a_png_says_that_cannot_be_followed_is_refused_by_name(chunks, words, tmp_path):
    save_png(tmp_path / "a.png", RGB, *chunks)
    with pytest.raises(InputError, match=f"{words}.*colour=.srgb."):
        read(tmp_path / "a.png")


def test_a_chunk_of_colours_that_is_damaged_is_refused(tmp_path):
    save_png(tmp_path / "a.png", RGB, gamma_chunk(1))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"gAMA") + 6] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="gAMA is damaged"):
        read(tmp_path / "a.png")


def test_an_avif_that_says_its_colours_in_numbers_is_followed(tmp_path):
    path = tmp_path / "a.avif"
    pyvips.Image.new_from_array(RGB).heifsave(str(path), compression="av1", lossless=True)
    content = path.read_bytes()
    place = content.index(b"colrnclx") + 8
    assert content[place : place + 4] == bytes([0, 1, 0, 13])
    np.testing.assert_array_equal(read(path)[0], as_given(RGB))

    def say(primaries, transfer):
        path.write_bytes(content[:place] + struct.pack(">HH", primaries, transfer) + content[place + 4 :])

    say(12, 13)
    assert np.abs(read(path)[0] - from_light(to_srgb_light(to_light(RGB / 255), P3_XY))).max() <= 0.5 / 255
    say(2, 2)
    np.testing.assert_array_equal(read(path)[0], as_given(RGB))
    say(9, 16)
    with pytest.raises(InputError, match="PQ, which is brighter"):
        read(path)


@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_of_more_bits_has_white_where_all_of_them_are_set(bits, tmp_path):
    pixels = np.rint(np.linspace(0, 65535, 64 * 48 * 3)).astype("u2").reshape(48, 64, 3)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16")
    image.heifsave(str(tmp_path / "a.avif"), compression="av1", lossless=True, bitdepth=bits)
    got, _ = read(tmp_path / "a.avif")
    assert got.max() == 1
    assert np.abs(got - pixels / 65535).max() < 1.01 / (2**bits - 1)


def exif(space, index=b""):
    """EXIF with a ColorSpace and an InteroperabilityIndex, made by hand."""
    table = struct.pack(">HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    inner = struct.pack(">H", 2) + struct.pack(">HHIHxx", 0xA001, 3, 1, space) + struct.pack(">HHII", 0xA005, 4, 1, 56)
    interop = struct.pack(">HHHI4s", 1, 1, 2, 4, index.ljust(4, b"\0")) + bytes(4)
    return b"Exif\0\0" + b"MM\0*\0\0\0\x08" + table + inner + bytes(4) + interop


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_adobe_rgb_by_exif_is_converted_and_uncalibrated_colours_are_said(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    options = {"quality": 95, "subsampling": 0} if kind == "jpg" else {"lossless": True}

    def save_with(content, **more):
        Image.fromarray(RGB).save(path, exif=content, **options, **more)
        with Image.open(path) as image:
            return np.asarray(image) / 255

    decoded = save_with(exif(0xFFFF, b"R03"))
    expected = from_light(to_srgb_light(decoded ** (563 / 256), ADOBE_XY))
    values, notes = read(path)
    assert np.abs(values - expected).max() <= 0.5 / 255
    assert notes == ["colours converted to sRGB: they were Adobe RGB (1998)"]
    decoded = save_with(exif(0xFFFF))
    values, notes = read(path)
    np.testing.assert_array_equal(values, decoded.astype(np.float32))
    assert notes == ["its EXIF calls the colours uncalibrated; they were taken as sRGB"]
    for content, more in ((exif(1, b"R98"), {}), (exif(0xFFFF, b"R03"), {"icc_profile": profiles.rgb()})):
        decoded = save_with(content, **more)
        values, notes = read(path)
        np.testing.assert_array_equal(values, decoded.astype(np.float32))
        assert notes == []


@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["colours", "grey"])
def test_floats_are_asked_about_where_no_profile_says_what_they_are(pixels, tmp_path):
    floats = (pixels / 200 - 0.05).astype("f4")  # also beyond [0, 1]
    tifffile.imwrite(tmp_path / "a.tif", floats, photometric="rgb" if floats.ndim == 3 else "minisblack")
    with pytest.raises(InputError, match=r"Floats without a profile.*sRGB or linear light.*colour=.srgb. or colour="):
        read(tmp_path / "a.tif")
    expected = floats if floats.ndim == 3 else floats[:, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(read(tmp_path / "a.tif", colour="srgb")[0], expected)
    linear, _ = read(tmp_path / "a.tif", colour="linear")
    inside = (expected >= 0) & (expected <= 1)
    assert np.abs(linear - from_light(expected.astype("f8")))[inside].max() < 1e-4
    # What lies beyond stays beyond as far, for the check of ranges to see.
    assert np.abs(linear - np.where(expected > 1, expected, linear)).max() < 1e-6
    assert np.abs(linear - np.where(expected < 0, expected, linear)).max() < 1e-6


def test_nan_and_infinity_are_still_there_after_a_conversion(tmp_path):
    floats = np.full((4, 4, 3), 0.5, "f4")
    floats[1, 1, 1], floats[2, 2, 2] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", floats, photometric="rgb", iccprofile=profiles.rgb(profiles.DISPLAY_P3))
    got, _ = read(tmp_path / "a.tif")
    assert np.isnan(got[1, 1, 1])
    assert np.isinf(got[2, 2, 2])
    assert np.isfinite(got[3, 3]).all()


def test_integers_are_linear_light_where_that_is_said(tmp_path):
    pixels = RGB.astype("u2") * 257
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    assert np.abs(read(tmp_path / "a.tif", colour="linear")[0] - from_light(RGB / 255)).max() < 1e-4
    with pytest.raises(OptionError, match="No such colours: colour=lab"):
        read(tmp_path / "a.tif", colour="lab")


def test_arrays_are_no_linear_light():
    image = np.full((8, 8, 3), 0.5, np.float32)
    assert open_image(image, colour="srgb").shape == (8, 8, 3)
    with pytest.raises(OptionError, match="Arrays hold the numbers of sRGB"):
        open_image(image, colour="linear")
    with pytest.raises(OptionError, match="No such background"):
        open_image(image, background="red")


@pytest.mark.parametrize("photometric", ["cielab", "minisblack"])
def test_colours_of_another_kind_are_refused(photometric, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype("u2"), photometric=photometric, planarconfig="contig")
    with pytest.raises(
        InputError, match=r"Colours that are not read|More channels than colours|A kind of TIFF that is not read"
    ):
        read(tmp_path / "a.tif")


def test_a_dry_run_says_what_is_made_of_the_colours(tmp_path):
    save(tmp_path / "a.png", RGB, profiles.rgb(profiles.DISPLAY_P3, name="wide"))
    last = tiler.plan_encode(tmp_path / "a.png").summary().splitlines()[-1]
    assert last == "note     colours converted to sRGB: they were wide"
