"""What the file of a picture says of its colours."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tiler.colorimetry import D65, SRGB_PRIMARIES, Chromaticity, srgb_to_linear
from tiler.sources.encoding import ADOBE_RGB, Curve, Encoding, find_coded, find_measured, power
from tiler.sources.icc import IccProfile
from tiler.sources.picture_boxes import BoxError, read_coded_colours, read_profile_of_jpeg2000
from tiler.sources.picture_headers import HeaderError, read_profile_of_bmp
from tiler.sources.png_chunks import ChunkError, read_colour_chunks, unpack_numbers, unpack_profile

if TYPE_CHECKING:
    import pyvips

SRGB = Encoding("sRGB", (srgb_to_linear,))
SRGB_GAMMA, NEAR_GAMMA = 0.45455, 0.0005
"""The gAMA of pictures in sRGB, for readers that do not know its curve; many programs write it alone, without sRGB.
Source: PNG (third edition), 11.3.2.5."""
UNSAID = 2
"""The code of H.273 for what is not said."""
EXIF, INTEROPERABILITY = 0x8769, 0xA005
"""Tables of EXIF."""
COLOUR_SPACE, INDEX = 0xA001, 1
"""Tags in them."""
CALIBRATED, ADOBE, UNCALIBRATED = 1, 2, 0xFFFF
"""Values of the first."""


class SaidError(Exception):
    """What a file says of its colours cannot be used; the message says why."""


def find_said(
    image: "pyvips.Image", path: Path, format: str, tagged: Encoding | str | None = None
) -> tuple[Encoding | IccProfile | None, list[str]]:
    """Return what a file says of the colours of its picture, None where that is nothing, and a remark on it.

    Args:
        image: as it was opened.
        path: the file.
        format: of the file.
        tagged: what a TIFF's tags say beside a profile, or why that is not read.

    Raises:
        SaidError: it says what is not read.
        ProfileError: its profile is damaged.
    """
    try:
        if format == "PNG":
            return _read_png(path), []
        if image.get_typeof("icc-profile-data"):
            return IccProfile(image.get("icc-profile-data")), []
        if format == "AVIF":
            primaries, transfer = read_coded_colours(path) or (UNSAID, UNSAID)
            # Of a half that is not said, the one of sRGB is meant.
            primaries, transfer = 1 if primaries == UNSAID else primaries, 13 if transfer == UNSAID else transfer
            return _read_codes(primaries, transfer), []
        if isinstance(tagged, str):
            raise SaidError(tagged)
        if tagged is not None:
            return tagged, []
        if format == "JPEG2000":
            content = read_profile_of_jpeg2000(path)
            return (None if content is None else IccProfile(content)), []
        if format == "BMP":
            content = read_profile_of_bmp(path)
            return (None if content is None else IccProfile(content)), []
        if format in ("JPEG", "WebP") and image.get_typeof("exif-data"):
            return _read_exif(image.get("exif-data"))
    except (ChunkError, BoxError, HeaderError) as error:
        raise SaidError(str(error)) from error
    return None, []


def _read_png(path: Path) -> Encoding | IccProfile | None:
    chunks = read_colour_chunks(path)
    if b"cICP" in chunks:
        primaries, transfer, matrix, whole = chunks[b"cICP"]
        if matrix or whole != 1:
            raise SaidError(f"its cICP has the matrix {matrix} and the range {whole}")
        return _read_codes(primaries, transfer)
    if b"iCCP" in chunks:
        return IccProfile(unpack_profile(chunks[b"iCCP"]))
    if b"sRGB" in chunks:
        return SRGB
    if b"gAMA" not in chunks and b"cHRM" not in chunks:
        return None
    curve: Curve = srgb_to_linear
    colours: Sequence[Chromaticity] = (D65, *SRGB_PRIMARIES)
    names = []
    if b"gAMA" in chunks:
        (gamma,) = unpack_numbers(chunks[b"gAMA"])
        if not gamma:
            raise SaidError("its gAMA is 0")
        curve = power(1 / gamma)
        names.append(f"gAMA {gamma:g}")
    if b"cHRM" in chunks:
        numbers = unpack_numbers(chunks[b"cHRM"])
        colours = list(zip(numbers[::2], numbers[1::2], strict=True))
        names.append("cHRM")
    if b"gAMA" in chunks and abs(gamma - SRGB_GAMMA) < NEAR_GAMMA:
        numbers_of_srgb = find_measured(colours[1:], colours[0], srgb_to_linear, SRGB.name)
        if numbers_of_srgb is not None and numbers_of_srgb.is_srgb:
            return SRGB
    found = find_measured(colours[1:], colours[0], curve, f"those of a PNG with {' and '.join(names)}")
    if found is None:
        raise SaidError("its cHRM names no colours")
    return found


def _read_codes(primaries: int, transfer: int) -> Encoding:
    found = find_coded(primaries, transfer)
    if isinstance(found, str):
        raise SaidError(found)
    return found


def _read_exif(content: bytes) -> tuple[Encoding | None, list[str]]:
    from PIL import Image

    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif.load(content)
            table = exif.get_ifd(EXIF)
            index = str(exif.get_ifd(INTEROPERABILITY).get(INDEX, ""))
        except Exception:  # What a camera noted may be damaged in any way, and colours are said elsewhere as a rule.
            return None, []
    space = table.get(COLOUR_SPACE)
    if space == ADOBE or (space == UNCALIBRATED and index.startswith("R03")):
        return ADOBE_RGB, []
    return None, ["its EXIF calls the colours uncalibrated; they were taken as sRGB"] if space == UNCALIBRATED else []
