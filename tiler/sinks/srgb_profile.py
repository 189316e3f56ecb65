"""An ICC profile that says "these pixels are sRGB", made of the numbers of the standard.

Little CMS puts today's date in its own, so a file would differ from run to run; these bytes never do. The
profile is of version 4, with a matrix and one curve for the three channels::

    header, 128 bytes │ number of tags │ (signature, offset, size) a tag │ the tags, each on a multiple of 4

Source: ICC.1:2022 (layout, D50, Bradford matrix in Annex E); IEC 61966-2-1 (primaries, white, curve).
"""

import struct
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

PRIMARIES = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
"""Chromaticities (x, y) of red, green and blue."""

D65 = (0.3127, 0.3290)
"""Chromaticity (x, y) of the white of sRGB."""

D50 = (0.9642, 1.0, 0.8249)
"""(X, Y, Z) of the white that every profile refers to."""

BRADFORD = [(0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)]
"""From XYZ to responses of the eye's cones, in which one white is turned into another."""

CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""g, a, b, c, d of: linear = (a·v + b)^g where v ≥ d, else c·v."""


@cache
def srgb_profile() -> bytes:
    """Return the profile; always the same bytes."""
    adaptation = _white_to_d50()
    colorants = adaptation @ _rgb_to_xyz()
    curve = _element(b"para", struct.pack(">HH", 3, 0) + _fixed(CURVE))
    tags = {
        b"desc": _text("sRGB"),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _element(b"XYZ ", _fixed(D50)),
        b"chad": _element(b"sf32", _fixed(adaptation.flat)),
        b"rXYZ": _element(b"XYZ ", _fixed(colorants[:, 0])),
        b"gXYZ": _element(b"XYZ ", _fixed(colorants[:, 1])),
        b"bXYZ": _element(b"XYZ ", _fixed(colorants[:, 2])),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table = struct.pack(">I", len(tags))
    start = 128 + 4 + 12 * len(tags)
    # Equal elements are stored once, as the standard allows: the three channels share the curve.
    offsets: dict[bytes, int] = {}
    body = b""
    for signature, element in tags.items():
        if element not in offsets:
            offsets[element] = start + len(body)
            body += element + bytes(-len(element) % 4)
        table += struct.pack(">4sII", signature, offsets[element], len(element))
    return _header(start + len(body)) + table + body


def _header(size: int) -> bytes:
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return (
        struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04400000, b"mntr", b"RGB ", b"XYZ ")
        + date
        + struct.pack(">4s28x", b"acsp")  # no platform, flags, maker, model, attributes; intent 0
        + _fixed(D50)
        + bytes(48)  # no creator and no checksum; the rest is reserved
    )


def _element(kind: bytes, content: bytes) -> bytes:
    return kind + bytes(4) + content


def _text(words: str) -> bytes:
    encoded = words.encode("utf-16-be")
    # One record of 12 bytes: language, country, length, offset of the words from the start of the element.
    return _element(b"mluc", struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded)


def _fixed(values: Iterable[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _rgb_to_xyz() -> NDArray[np.float64]:
    """Return the matrix whose columns are the primaries, so scaled that they add up to white."""
    columns = np.stack([_xyz(x, y) for x, y in PRIMARIES], axis=1)
    scaled: NDArray[np.float64] = columns * np.linalg.solve(columns, _xyz(*D65))
    return scaled


def _white_to_d50() -> NDArray[np.float64]:
    """Return the matrix from colours under the white of sRGB to colours under D50."""
    bradford = np.array(BRADFORD)
    gains = (bradford @ np.array(D50)) / (bradford @ _xyz(*D65))
    adaptation: NDArray[np.float64] = np.linalg.solve(bradford, gains[:, None] * bradford)
    return adaptation
