"""The colours of a picture as sRGB, or a refusal that says what they are.

What a file says of its colours counts in this order: a PNG's cICP, an ICC profile, a PNG's sRGB, its gAMA and cHRM; an
AVIF's colr; a TIFF's tags; a camera's "Adobe RGB" in EXIF. Integers of which nothing is said are sRGB; floats may be
that or linear light, so they are asked about.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tiler.errors import InputError, Option, OptionError
from tiler.sources.encoding import STEPS, Encoding, power, through_integers
from tiler.sources.icc import IccProfile, ProfileError, convert_by_tables
from tiler.sources.picture_boxes import BoxError, is_premultiplied
from tiler.sources.said_colours import SaidError, find_said

if TYPE_CHECKING:
    import pyvips

Colour = Literal["srgb", "linear"]
"""What the numbers of a picture are, whatever its file says."""

KINDS = {"b-w": "grey", "grey16": "grey", "srgb": "RGB", "rgb16": "RGB", "rgb": "RGB", "scrgb": "RGB", "cmyk": "CMYK"}
"""What libvips's interpretations are here; another one is not read."""
N_COLOURS = {"grey": 1, "RGB": 3, "CMYK": 4}
TYPES = ("uchar", "ushort", "float")
LINEAR = Encoding("linear light", (power(1),))
ASSOCIATED, UNASSOCIATED = 1, 2
"""What TIFF calls alpha among the extra samples of a pixel; all else is 0. libvips divides by the first kind."""


def to_srgb(
    image: "pyvips.Image",
    *,
    path: Path,
    format: str,
    colour: Colour | None = None,
    extra: Sequence[int] | None = None,
    tagged: Encoding | str | None = None,
) -> "tuple[pyvips.Image, list[str]]":
    """Return a picture of libvips in sRGB, and what is to be said of how it became that.

    Args:
        image: any number of bands; nothing of it is read.
        path: the file, which may say more of its colours than libvips hands on.
        format: of the file, such as "PNG".
        colour: what its numbers are, whatever the file says.
        extra: a TIFF's ExtraSamples: what the samples behind the colours are.
        tagged: what a TIFF's tags say of its colours beside a profile, or why that is not read.

    Returns:
        Three bands of uchar, ushort or float, and where it may be transparent a fourth of alpha, and no uchar.

    Raises:
        InputError: its colours cannot be told, or cannot be shown in sRGB.
    """
    check_colour(colour)
    image = _divide(image, path) if format == "AVIF" and image.hasalpha() else image
    kind, colours, alpha, notes = _split(image, path, extra)
    if format == "AVIF":
        colours, alpha = _fill_range(colours, image), None if alpha is None else _fill_range(alpha, image)
    try:
        convert, said = _choose(colours, kind, path, format, colour, tagged)
        converted = convert(colours)
    except (SaidError, ProfileError) as error:
        help = "" if kind == "CMYK" else f" With {Option('colour', 'srgb')} its numbers are taken as sRGB."
        raise InputError(f"Colours that are not read: path={path}, {kind} ({error}). Save it in sRGB.{help}") from error
    if converted.bands == 1:
        converted = converted.bandjoin([converted, converted])
    if alpha is not None:
        converted = _widen(converted).bandjoin(_widen(alpha))
    return converted.copy(interpretation="multiband"), notes + said


def check_colour(colour: object) -> None:
    """Refuse what is no choice of colours.

    Raises:
        OptionError: it is none.
    """
    if colour is not None and colour not in get_args(Colour):
        raise OptionError(f"No such colours: colour={str(colour)[:40]}. Use {' or '.join(get_args(Colour))}.")


def _split(
    image: "pyvips.Image", path: Path, extra: Sequence[int] | None
) -> "tuple[str, pyvips.Image, pyvips.Image | None, list[str]]":
    """Return the kind of colours, their bands, the one of alpha, and what is to be said of others."""
    kind = KINDS.get(image.interpretation)
    n_colours = N_COLOURS.get(kind or "", 0)
    n_extra = image.bands - n_colours
    if kind is None or image.format not in TYPES or n_extra < 0:
        raise InputError(
            f"Colours that are not read: path={path}, {image.interpretation}, {image.bands} × {image.format}. They "
            "must be grey, RGB or CMYK of unsigned integers or floats. Save it as RGB."
        )
    if extra is None:
        alphas, n_others = list(range(n_colours, image.bands)), 0
    else:
        alphas = [
            n_colours + number for number, what in enumerate(extra[:n_extra]) if what in (ASSOCIATED, UNASSOCIATED)
        ]
        n_others = n_extra - len(alphas)
    if image.format == "float" and ASSOCIATED in (extra or ()):
        raise InputError(
            f"Floats multiplied by their transparency: path={path}. Those that are nearly transparent would be lost. "
            "Save the picture with unassociated alpha, or without."
        )
    if len(alphas) > 1 or (n_others and kind == "grey"):
        raise InputError(
            f"More channels than colours: path={path}, {kind} and {n_extra} more. Which of them are colours it does "
            "not say. Save the picture as RGB."
        )
    notes = [f"{n_others} channels that are no colours were left out"] if n_others > 1 else []
    notes += ["a channel that is no colour, and not said to be transparency, was left out"] if n_others == 1 else []
    return kind, image[:n_colours], image[alphas[0]] if alphas else None, notes


def _choose(
    image: "pyvips.Image", kind: str, path: Path, format: str, colour: Colour | None, tagged: Encoding | str | None
) -> "tuple[Callable[[pyvips.Image], pyvips.Image], list[str]]":
    """Return what converts colours, and what is to be said of it."""
    if kind == "CMYK":
        said = None if image.format == "float" else find_said(image, path, format, tagged)[0]
        if not isinstance(said, IccProfile) or said.space != kind:
            raise SaidError("it has no profile that says which colours its inks give")
        return partial(convert_by_tables, profile=said), [_describe(said)]
    if colour == "srgb":
        return _keep, ["colours taken as sRGB, as asked for"]
    if colour == "linear":
        return LINEAR.apply, ["colours taken as linear light, as asked for"]
    said, notes = find_said(image, path, format, tagged)
    encoding = said.read_encoding() if isinstance(said, IccProfile) else said
    if isinstance(said, IccProfile) and said.space != kind and not (encoding and encoding.is_srgb):
        raise SaidError(f"it has a profile for {said.space}")
    if said is None and image.format == "float":
        raise InputError(
            f"Floats without a profile: path={path}. They may be the numbers of sRGB or linear light. Say which: "
            f"{Option('colour', 'srgb')} or {Option('colour', 'linear')}."
        )
    if said is None or (encoding and encoding.is_srgb):
        return _keep, notes
    if encoding:
        # White and all greys stay greys between primaries.
        encoding = replace(encoding, matrix=None) if kind == "grey" else encoding
        return encoding.apply, [*notes, _describe(encoding)]
    assert isinstance(said, IccProfile)
    return partial(through_integers, convert=partial(convert_by_tables, profile=said)), [*notes, _describe(said)]


def _describe(said: Encoding | IccProfile) -> str:
    return f"colours converted to sRGB: they were {said.name}"


def _keep(image: "pyvips.Image") -> "pyvips.Image":
    return image


def _widen(image: "pyvips.Image") -> "pyvips.Image":
    return (image * (STEPS // 255)).cast("ushort") if image.format == "uchar" else image


def _divide(image: "pyvips.Image", path: Path) -> "pyvips.Image":
    """Return the colours of an AVIF as they are without their transparency, which libvips leaves multiplied in some."""
    try:
        if not is_premultiplied(path):
            return image
    except BoxError as error:
        raise InputError(f"The AVIF is damaged: path={path} ({error}). Copy or save it again.") from error
    divided = image.unpremultiply(max_alpha=_find_largest(image)).linear(1, 0.5).cast(image.format)
    return divided.copy(interpretation=image.interpretation)


def _fill_range(image: "pyvips.Image", header: "pyvips.Image") -> "pyvips.Image":
    """Return the colours of 10 or 12 bits, which libvips only shifts, so that the largest is white."""
    if image.format != "ushort":
        return image
    return image.linear(STEPS / _find_largest(header), 0.5).cast("ushort")


def _find_largest(image: "pyvips.Image") -> int:
    """Return the largest value that the samples of an AVIF have."""
    return 255 if image.format == "uchar" else 2**16 - 2 ** (16 - image.get("bits-per-sample"))
