"""Whether a TIFF is a part of a picture whose channels lie in several files, as OME-XML tells.

Source: OME-TIFF specification 6, "OME-XML metadata" and "Multi-file OME-TIFF filesets".
"""

import re
from typing import Any

BINARY_ONLY = re.compile(r"<(?:\w+:)?BinaryOnly\b")
"""Stands where the XML is in another file."""
PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
SIZE = re.compile(r"\bSize([XYC])\s*=\s*[\"'](\d+)[\"']")


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
    return ""
