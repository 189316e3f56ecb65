"""What the tags of a TIFF say of its colours, without a profile, is followed or refused by name."""

import numpy as np
import profiles
import pytest
import tifffile

from tiler.errors import InputError
from tiler.sources.opening import open_image
from tiler.window import Window

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 24, 3), np.uint8)
PIXELS[0] = np.arange(24)[:, None] * 11
SRGB, P3 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06), (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SHORT, RATIONAL, FLOAT = 3, 5, 11
NO_CURVE = 65535 * (np.arange(256) / 255)


def rationals(code, numbers, scale=10**6):
    pairs = [part for number in numbers for part in (round(number * scale), scale)]
    return code, RATIONAL, len(numbers), pairs, True


def transfer(*curves):
    values = np.rint(np.concatenate(curves)).astype(int).tolist()
    return 301, SHORT, len(values), values, True


def read(path, pixels, *tags, colour=None, **options):
    options.setdefault("photometric", "rgb" if pixels.ndim == 3 else "minisblack")
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **options)
    source = open_image(path, colour=colour)
    return source.read(Window.whole(*source.shape[:2])).astype(np.float64), source.notes


def to_light(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_light(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def xyz(x, y):
    return np.array([x / y, 1, (1 - x - y) / y])


def matrix(primaries, white):
    columns = np.stack([xyz(*primaries[at : at + 2]) for at in (0, 2, 4)], axis=1)
    return columns * np.linalg.solve(columns, xyz(*white))


def convert(light, primaries, white):
    """Return light as numbers of sRGB, through XYZ, von Kries with Bradford's cones between the whites."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = np.diag((cones @ xyz(*D65)) / (cones @ xyz(*white)))
    adapted = np.linalg.inv(cones) @ scale @ cones @ matrix(primaries, white)
    return from_light(light @ (np.linalg.inv(matrix(SRGB, D65)) @ adapted).T)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("tags", "primaries", "white", "words"),
    [
        ([rationals(319, P3), rationals(318, D65)], P3, D65, "WhitePoint and PrimaryChromaticities"),
        ([rationals(319, P3)], P3, D65, "PrimaryChromaticities"),
        ([rationals(318, D50)], SRGB, D50, "WhitePoint"),
        ([(319, FLOAT, 6, P3, True)], P3, D65, "PrimaryChromaticities"),
    ],
)
def test_primaries_and_white_are_followed(tags, primaries, white, words, dtype, compression, tmp_path):
    pixels = PIXELS.astype(dtype) * (257 if dtype == np.uint16 else 1)
    values, notes = read(tmp_path / "a.tif", pixels, *tags, compression=compression)
    expected = convert(to_light(PIXELS / 255), primaries, white)
    np.testing.assert_allclose(values, expected, atol=0.2 / 255)
    if words != "WhitePoint":  # Of another white alone, white becomes white, and little changes.
        assert np.abs(expected - PIXELS / 255).max() > 8 / 255
    assert notes == (f"colours converted to sRGB: they were those of a TIFF with {words}",)


@pytest.mark.parametrize("three", [False, True])
def test_a_transfer_function_is_followed(three, tmp_path):
    gammas = (1.8, 1.0, 2.6) if three else (1.8,)
    curves = [65535 * (np.arange(256) / 255) ** gamma for gamma in gammas]
    values, notes = read(tmp_path / "a.tif", PIXELS, transfer(*curves), rationals(319, P3))
    expected = convert((PIXELS / 255) ** np.array(gammas), P3, D65)
    np.testing.assert_allclose(values, expected, atol=0.2 / 255)
    assert notes == (
        "colours converted to sRGB: they were those of a TIFF with TransferFunction and PrimaryChromaticities",
    )
    grey, _ = read(tmp_path / "b.tif", PIXELS[:, :, 0], transfer(curves[0]), rationals(319, P3))
    expected = from_light((PIXELS[:, :, :1] / 255) ** gammas[0]).repeat(3, axis=2)
    np.testing.assert_allclose(grey, expected, atol=0.2 / 255)


SRGB_TAGS = {
    "primaries": [rationals(319, SRGB), rationals(318, D65)],
    "rounded": [rationals(319, SRGB, 2**10), rationals(318, (0.3127, 0.3290), 10**3)],
    "black and white": [rationals(532, (0, 255) * 3, 1)],
    "curve": [transfer(65535 * to_light(np.arange(256) / 255))],
    "none": [],
}


@pytest.mark.parametrize("name", SRGB_TAGS)
def test_those_of_srgb_change_nothing(name, tmp_path):
    values, notes = read(tmp_path / "a.tif", PIXELS, *SRGB_TAGS[name])
    np.testing.assert_array_equal(values, (PIXELS / 255).astype(np.float32))
    assert notes == ()


def test_greys_have_no_primaries(tmp_path):
    values, notes = read(tmp_path / "a.tif", PIXELS[:, :, 0], rationals(319, P3), rationals(318, D50))
    np.testing.assert_array_equal(values, (PIXELS[:, :, [0, 0, 0]] / 255).astype(np.float32))
    assert notes == ()


def test_a_jpeg_in_a_tiff_has_its_usual_black_and_white(tmp_path):
    flat, options = np.full((32, 32, 3), 90, np.uint8), {"compression": "jpeg", "photometric": "ycbcr"}
    values, _ = read(tmp_path / "a.tif", flat, rationals(532, (0, 255, 128, 255, 128, 255), 1), **options)
    # Luma and both chromas are 90; source: JFIF 1.02.
    expected = 90 + np.array([1.402, -0.344136 - 0.714136, 1.772]) * (90 - 128)
    np.testing.assert_allclose(values, np.broadcast_to(expected / 255, values.shape), atol=2 / 255)
    with pytest.raises(InputError, match="ReferenceBlackWhite"):
        read(tmp_path / "b.tif", flat, rationals(532, (16, 235, 128, 240, 128, 240), 1), **options)


REFUSED = {
    "ReferenceBlackWhite": (PIXELS, rationals(532, (16, 235) * 3, 1)),
    "TransferRange": (PIXELS, (342, SHORT, 6, (0, 200) * 3, True)),
    "TransferFunction does not fit": (PIXELS, transfer(NO_CURVE[:200])),
    "PrimaryChromaticities name no colours": (PIXELS, rationals(319, (0.3, 0.3) * 3)),
    "GrayResponseCurve": (PIXELS[:, :, 0], (291, SHORT, 256, list(range(256)), True)),
    "WhitePoint name no colours": (PIXELS, (318, RATIONAL, 2, (1, 0, 1, 0), True)),
    "floats with PrimaryChromaticities": ((PIXELS / 255).astype(np.float32), rationals(319, P3)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name_and_may_be_overruled(words, tmp_path):
    pixels, tag = REFUSED[words]
    with pytest.raises(InputError, match=rf"Colours that are not read.*{words}.*colour=.srgb."):
        read(tmp_path / "a.tif", pixels, tag)
    values, notes = read(tmp_path / "a.tif", pixels, tag, colour="srgb")
    given = (pixels / 255 if pixels.dtype == np.uint8 else pixels).astype(np.float32)
    np.testing.assert_array_equal(values, given if given.ndim == 3 else given[:, :, None].repeat(3, axis=2))
    assert notes == ("colours taken as sRGB, as asked for",)


def test_a_profile_counts_more_than_tags(tmp_path):
    tags = [rationals(532, (16, 235) * 3, 1), rationals(319, P3), (291, SHORT, 256, list(range(256)), True)]
    profile = profiles.rgb()
    values, notes = read(tmp_path / "a.tif", PIXELS, *tags, iccprofile=profile)
    np.testing.assert_array_equal(values, (PIXELS / 255).astype(np.float32))
    assert notes == ()
