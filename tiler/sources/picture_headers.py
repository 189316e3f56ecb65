"""What BMP and JPEG files say that their readers do not hand on: colours of a BMP; whether a JPEG is all there.

Each pass of a progressive JPEG brings some of the 64 frequencies of some components, down to some bit; a file that is
cut between two of them, and closed, is a blurred picture.
Source: BITMAPV4HEADER and BITMAPV5HEADER of the Windows API; ITU-T T.81, B.2 (markers), G.1.1 (passes).
"""

import os
import struct
from pathlib import Path

from tiler.sources.input_file import open_regular_file, opened

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
    with opened(path) as descriptor:
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


START_OF_SCAN, END = 0xDA, 0xD9
PROGRESSIVE = (0xC2, 0xCA)
"""Markers of frames in passes: Huffman's code, and arithmetic."""
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length behind them."""
UNSENT = 99
"""In place of the lowest bit of a frequency that no pass brings."""


def lacks_passes(path: Path) -> bool:
    """Say whether a progressive JPEG ends before all of its frequencies are there, down to the last bit."""
    with open(open_regular_file(path), "rb") as file:
        content = file.read()
    lowest: dict[int, list[int]] = {}
    position = 2
    while (position := content.find(b"\xff", position)) != -1 and position + 4 < len(content):
        marker = content[position + 1]
        if marker in (0x00, 0xFF, *ALONE):
            position += 1 if marker == 0xFF else 2
            continue
        if marker == END:
            break
        start = position + 4
        position += 2 + int.from_bytes(content[position + 2 : start])
        header = content[start:position]
        if marker in PROGRESSIVE and len(header) > 5:
            lowest = {header[6 + 3 * number]: [UNSENT] * 64 for number in range((len(header) - 6) // 3)}
        elif marker == START_OF_SCAN and len(header) >= 4:
            first, last, bits = header[-3:]
            for component in header[1:-3:2]:
                if component in lowest:
                    lowest[component][first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    return bool(lowest) and any(max(bits) > 0 for bits in lowest.values())
