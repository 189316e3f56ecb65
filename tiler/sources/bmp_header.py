"""What a BMP says of its colours: nothing, or sRGB, or a profile behind its pixels.

Source: BITMAPV4HEADER and BITMAPV5HEADER of the Windows API.
"""

import os
import struct
from pathlib import Path

from tiler.sources.input_file import open_regular_file

FILE_HEADER_BYTES = 14
V4_BYTES, V5_BYTES = 108, 124
"""Sizes of the headers that speak of colours."""
SRGB, WINDOWS, EMBEDDED = 0x73524742, 0x57696E20, 0x4D424544
"""Kinds of colours; 0 is: primaries in the header."""
SRGB_XY = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
NEAR = 0.005
PROFILE_BYTES = 2**24
"""Largest profile that is read."""


class HeaderError(Exception):
    """What a header says of colours cannot be used; the message says why."""


def read_profile_of_bmp(path: Path) -> bytes | None:
    """Return the ICC profile in a BMP; None where its colours are sRGB or not said.

    Raises:
        HeaderError: they are others.
    """
    descriptor = open_regular_file(path)
    try:
        head = os.pread(descriptor, FILE_HEADER_BYTES + V5_BYTES, 0)[FILE_HEADER_BYTES:]
        size = int.from_bytes(head[:4], "little")
        if size < V4_BYTES or len(head) < V4_BYTES:
            return None
        (kind,) = struct.unpack_from("<I", head, 56)
        if kind in (SRGB, WINDOWS):
            return None
        if kind == EMBEDDED and size >= V5_BYTES:
            offset, n_bytes = struct.unpack_from("<II", head, 112)
            return os.pread(descriptor, min(n_bytes, PROFILE_BYTES), FILE_HEADER_BYTES + offset)
        if kind == 0:
            ends = struct.unpack_from("<9I", head, 60)
            sums = [sum(ends[n : n + 3]) for n in (0, 3, 6)]
            found = [ends[3 * n + axis] / max(sums[n], 1) for n in range(3) for axis in range(2)]
            if not any(sums) or all(abs(ours - its) < NEAR for ours, its in zip(SRGB_XY, found, strict=True)):
                return None
        raise HeaderError(f"its header says colours of the kind {kind:#x}")
    finally:
        os.close(descriptor)
