"""What a PNG says of its colours, in the chunks before its pixels.

Of several, the first of this order counts: cICP, iCCP, sRGB, gAMA with cHRM.
Source: PNG (third edition), 4.3 and 11.3.2.
"""

import os
import struct
import zlib
from pathlib import Path

from tiler.sources.input_file import open_regular_file

SIZES = {b"cICP": (4, 4), b"iCCP": (3, 2**24), b"sRGB": (1, 1), b"gAMA": (4, 4), b"cHRM": (32, 32)}
"""Least and most bytes of the chunks that speak of colours."""
PROFILE_BYTES = 2**26
"""Largest profile that is unpacked."""
MOST_CHUNKS = 100_000
"""So many may stand before the pixels."""


class ChunkError(Exception):
    """A chunk cannot be used; the message says why."""


def read_colour_chunks(path: Path) -> dict[bytes, bytes]:
    """Return the contents of the chunks that speak of colours.

    Raises:
        ChunkError: one is damaged, there twice, or of an impossible size.
    """
    found: dict[bytes, bytes] = {}
    descriptor = open_regular_file(path)
    try:
        position = 8
        for _ in range(MOST_CHUNKS):
            head = os.pread(descriptor, 8, position)
            if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
                return found
            size, kind = struct.unpack(">I4s", head)
            if kind in SIZES:
                least, most = SIZES[kind]
                if not least <= size <= most or kind in found:
                    raise ChunkError(f"its {kind.decode()} is there twice or of an impossible size")
                content = os.pread(descriptor, size + 4, position + 8)
                if zlib.crc32(kind + content[:-4]) != int.from_bytes(content[-4:]):
                    raise ChunkError(f"its {kind.decode()} is damaged")
                found[kind] = content[:-4]
            position += 12 + size
        raise ChunkError("it has too many chunks")
    finally:
        os.close(descriptor)


def unpack_profile(content: bytes) -> bytes:
    """Return the ICC profile in an iCCP chunk.

    Raises:
        ChunkError: it is damaged.
    """
    packed = content.partition(b"\0")[2]
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], PROFILE_BYTES)
    except zlib.error as error:
        raise ChunkError("its iCCP is damaged") from error
    if packed[:1] != b"\0" or not unpacker.eof:
        raise ChunkError("its iCCP is damaged")
    return profile


def unpack_numbers(content: bytes) -> tuple[float, ...]:
    """Return the numbers of a gAMA or cHRM chunk."""
    return tuple(number / 100_000 for number in struct.unpack(f">{len(content) // 4}I", content))
