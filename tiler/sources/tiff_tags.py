"""The tags of a TIFF, and what they say of its colours, beside a profile, and of channels in other files.

Source: TIFF 6.0, sections 20 (RGB image colorimetry) and 8 (GrayResponseCurve); OME-TIFF specification 6, "OME-XML
metadata" and "Multi-file OME-TIFF filesets".
"""

import logging
import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiler.colorimetry import D65, SRGB_PRIMARIES, srgb_to_linear
from tiler.errors import InputError
from tiler.sources.encoding import Encoding, find_measured
from tiler.sources.input_file import open_regular_file, shorten

T = TypeVar("T")
PAGE_LIMIT = 4096
"""Most pages of a file; a circle of them has no end."""
TAG_LIMIT = 1000
"""Most tags of a page; microscopes write up to 100."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # What it warns of is checked here.


def read_tiff(path: Path, read: Callable[[Any, int], T]) -> T:
    """Return what ``read`` finds in a file, given tifffile's view of it and its size in bytes.

    Raises:
        InputError: it is damaged, or ``read`` says so.
    """
    from tifffile import TiffFile

    try:
        with os.fdopen(open_regular_file(path), "rb") as file:
            check_directories(file.fileno())
            with TiffFile(file, name=path.name) as tiff:
                return read(tiff, os.fstat(file.fileno()).st_size)
    except InputError:
        raise
    except Exception as error:  # tifffile raises a dozen kinds for a damaged file.
        raise InputError(f"The TIFF is damaged: path={path} ({shorten(error)}). Copy or save it again.") from error


def check_directories(descriptor: int) -> None:
    """Go along the list of pages before tifffile does, which spends minutes on what is none.

    Raises:
        ValueError: there are too many pages, or too many tags in one.
        struct.error: the file ends before the list does.
    """
    start = os.pread(descriptor, 16, 0)
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
    count, tag_bytes, place = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    (position,) = struct.unpack_from(place, start, 8 if big else 4)
    for _ in range(PAGE_LIMIT):
        (n_tags,) = struct.unpack(count, os.pread(descriptor, struct.calcsize(count), position))
        if not 0 < n_tags <= TAG_LIMIT:
            raise ValueError(f"a page of {n_tags} tags")
        end = position + struct.calcsize(count) + n_tags * tag_bytes
        (position,) = struct.unpack(place, os.pread(descriptor, struct.calcsize(place), end))
        if not position:
            return
    raise ValueError(f"more than {PAGE_LIMIT} pages")


GREY_RESPONSE, TRANSFER, WHITE, PRIMARIES, TRANSFER_RANGE, REFERENCE = 291, 301, 318, 319, 342, 532
"""The tags."""
NAMES = {TRANSFER: "TransferFunction", WHITE: "WhitePoint", PRIMARIES: "PrimaryChromaticities"}
FULL_LIGHT = 65535
"""In a TransferFunction."""
NEAR = 0.001
"""Chromaticities that differ by less are the same, rounded."""
MINISWHITE, MINISBLACK, PALETTE, YCBCR = 0, 1, 3, 6
UINT = 1
RATIONALS = (5, 10)
"""Types of tags that hold two integers a number."""


def find_tiff_colours(tags: Any) -> Encoding | str | None:
    """Return what the colours of a page are by its tags, why that is not read, or None where they say nothing."""
    said = tags.tags
    grey = tags.photometric in (MINISWHITE, MINISBLACK)
    if grey and GREY_RESPONSE in said:
        return "its greys are the densities of a GrayResponseCurve"
    if not grey and REFERENCE in said and not _is_whole(tags):
        return "its black and white are others by ReferenceBlackWhite"
    if TRANSFER_RANGE in said:
        return "its black and white are others by TransferRange"
    # Between primaries greys stay greys.
    names = [name for code, name in NAMES.items() if code in said and (code == TRANSFER or not grey)]
    if not names:
        return None
    name = " and ".join(names)
    white, primaries = _read_numbers(tags, WHITE, D65), _read_numbers(tags, PRIMARIES, SRGB_PRIMARIES)
    if grey:
        found: Encoding | None = Encoding(name, (srgb_to_linear,))
    elif len(white) != 2 or len(primaries) != 6:
        found = None
    else:
        pairs = [(float(x), float(y)) for x, y in primaries.reshape(3, 2)]
        found = find_measured(pairs, (float(white[0]), float(white[1])), srgb_to_linear, name)
        same = np.abs(np.concatenate([white - D65, primaries - np.ravel(SRGB_PRIMARIES)])).max() < NEAR
        found = replace(found, matrix=None) if found and same else found
    if found is None:
        return f"its {name} name no colours"
    if TRANSFER in said:
        curves = _read_curves(tags, 1 if grey else 3)
        if curves is None:
            return "its TransferFunction does not fit its samples"
        return replace(found, name=f"those of a TIFF with {name}", curves=curves)
    if found.matrix is None:
        return None
    if tags.sampleformat != UINT:
        return f"floats with {name}, which may be linear light or not"
    return replace(found, name=f"those of a TIFF with {name}")


def _read_numbers(tags: Any, code: int, otherwise: Sequence[Any]) -> NDArray[np.float64]:
    """Return the numbers of a tag; none where they are not finite."""
    if code not in tags.tags:
        return np.ravel(otherwise).astype(np.float64)
    tag = tags.tags[code]
    numbers = np.ravel(tag.value).astype(np.float64)
    if int(tag.dtype) in RATIONALS:
        numerators, denominators = numbers[::2], numbers[1::2]
        if not denominators.all():
            return np.empty(0)
        numbers = numerators / denominators
    return numbers if np.isfinite(numbers).all() else np.empty(0)


def _is_whole(tags: Any) -> bool:
    """Say whether black and white are the smallest and the largest number, as by default."""
    largest = 2.0**tags.bitspersample - 1
    defaults = [(0, largest) * 3]
    if tags.photometric == YCBCR:
        defaults.append((0, largest, (largest + 1) / 2, largest, (largest + 1) / 2, largest))
    numbers = _read_numbers(tags, REFERENCE, ())
    return any(np.array_equal(numbers, default) for default in defaults)


def _read_curves(tags: Any, n_most: int) -> tuple[Any, ...] | None:
    """Return the curves from numbers to light, one or three; None where they do not fit the samples."""
    table, n_entries = np.ravel(tags.tags[TRANSFER].value).astype(np.float64), 2**tags.bitspersample
    fits = tags.sampleformat == UINT and tags.photometric not in (MINISWHITE, PALETTE)
    if not fits or table.size not in (n_entries, n_most * n_entries):
        return None
    axis = np.linspace(0, 1, n_entries)
    return tuple(partial(np.interp, xp=axis, fp=part / FULL_LIGHT) for part in table.reshape(-1, n_entries))


BINARY_ONLY = re.compile(r"<(?:\w+:)?BinaryOnly\b")
"""Stands where the XML is in another file."""
PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
SIZE = re.compile(r"\bSize([XYCZT])\s*=\s*[\"'](\d+)[\"']")


def name_other_channels(tiff: Any, page: int) -> str:
    """Return what of the picture on a page lies in other files, in words; nothing where it is all here."""
    tags = tiff.pages[page]
    if not tiff.is_ome:
        return ""
    text = tiff.pages.first.description
    if BINARY_ONLY.search(text):
        return "its OME-XML is in another file" if tags.samplesperpixel == 1 else ""
    for found in PIXELS.findall(text):
        sizes = {letter: int(digits) for letter, digits in SIZE.findall(found)}
        here = sizes.get("X") == tags.imagewidth and sizes.get("Y") == tags.imagelength
        if here and sizes.get("C", 1) > tags.samplesperpixel:
            return f"channels={sizes['C']} by its OME-XML, here={tags.samplesperpixel}"
        slices = sizes.get("Z", 1) * sizes.get("T", 1)
        if here and slices > 1:
            return f"slices={slices} by its OME-XML, here=1"
    return ""
