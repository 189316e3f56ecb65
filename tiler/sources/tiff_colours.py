"""What the tags of a TIFF say of its colours, beside a profile, which counts more.

Source: TIFF 6.0, sections 20 (RGB image colorimetry) and 8 (GrayResponseCurve).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.colorimetry import D65, SRGB_PRIMARIES, srgb_to_linear
from tiler.sources.code_points import find_measured
from tiler.sources.encoding import Encoding

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
