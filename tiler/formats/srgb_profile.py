"""An ICC profile that says "these pixels are sRGB", made of the numbers of the standard.

Little CMS puts today's date in its own, so a file would differ from run to run; these bytes never do. The
profile is of version 4, with a matrix and one curve for the three channels::

    header, 128 bytes │ number of tags │ (signature, offset, size) a tag │ the tags, each on a multiple of 4

Source: ICC.1:2022 (layout).
"""

import struct
from collections.abc import Iterable
from functools import cache

from tiler.colorimetry import D50, D65, SRGB_CURVE, SRGB_PRIMARIES, adapt_to_d50, rgb_to_d50


@cache
def srgb_profile() -> bytes:
    """Return the profile; always the same bytes."""
    colorants = rgb_to_d50(SRGB_PRIMARIES, D65)
    curve = _element(b"para", struct.pack(">HH", 3, 0) + _fixed(SRGB_CURVE))
    tags = {
        b"desc": _text("sRGB"),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _element(b"XYZ ", _fixed(D50)),
        b"chad": _element(b"sf32", _fixed(adapt_to_d50(D65).flat)),
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
