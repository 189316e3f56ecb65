"""What a PNG says in chunks that libvips does not hand on: of colours, of further frames, in texts behind the pixels.

Of several that speak of colours, the first of this order counts: cICP, iCCP, sRGB, gAMA with cHRM.
Source: PNG (third edition), 4.3, 11.3.2 and 11.3.6.1 (acTL), 11.3.3 and 11.3.4.5 (texts, eXIf).
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from tiler.errors import InputError
from tiler.sources.input_file import INFLATED_BYTES_A_BYTE, opened

SIZES = {b"cICP": (4, 4), b"iCCP": (3, 2**24), b"sRGB": (1, 1), b"gAMA": (4, 4), b"cHRM": (32, 32)}
"""Least and most bytes of the chunks that speak of colours."""
PROFILE_BYTES = 2**26
"""Largest profile that is unpacked."""
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a pixel, by type of colours."""
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
    with opened(path) as descriptor:
        for kind, size, start in _walk(descriptor):
            if kind in SIZES:
                least, most = SIZES[kind]
                if not least <= size <= most or kind in found:
                    raise ChunkError(f"its {kind.decode()} is there twice or of an impossible size")
                content = os.pread(descriptor, size + 4, start)
                if zlib.crc32(kind + content[:-4]) != int.from_bytes(content[-4:]):
                    raise ChunkError(f"its {kind.decode()} is damaged")
                found[kind] = content[:-4]
        return found


def check_png_packing(path: Path) -> None:
    """Refuse a PNG of more pixels than can be packed into it, before memory is taken for them.

    Raises:
        InputError: it is one.
    """
    with opened(path) as descriptor:
        start, size_bytes = os.pread(descriptor, 26, 0), os.fstat(descriptor).st_size
    if start[12:16] != b"IHDR" or len(start) < 26:
        return  # Its reader says what is wrong with it.
    width, height, bits, colour = struct.unpack(">IIBB", start[16:])
    if height * width * bits * SAMPLES.get(colour, 1) // 8 > size_bytes * INFLATED_BYTES_A_BYTE:
        raise InputError(
            f"The PNG is damaged: path={path} ({height} × {width} px do not fit into {size_bytes} bytes). Copy or save "
            "it again."
        )


def count_frames_of_png(path: Path) -> int:
    """Return how many frames an animated PNG has, 0 of another.

    Raises:
        ChunkError: it has too many chunks.
    """
    with opened(path) as descriptor:
        for kind, _, start in _walk(descriptor):
            if kind == b"acTL":
                return int.from_bytes(os.pread(descriptor, 4, start))
        return 0


def _walk(descriptor: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, size in bytes and start of each chunk before the pixels."""
    position = 8
    for _ in range(MOST_CHUNKS):
        head = os.pread(descriptor, 8, position)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            return
        size, kind = struct.unpack(">I4s", head)
        yield kind, size, position + 8
        position += 12 + size
    raise ChunkError("it has too many chunks")


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


SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS_BYTES = 2**24
"""Most that is read of texts in all: a workflow of ComfyUI takes some MB."""

CHUNK_BYTES = 100
"""What each of their chunks counts besides, or there could be millions."""


def read_png_texts(descriptor: int) -> tuple[dict[str, str], bytes, list[str]]:
    """Return the texts of an open PNG by their names, its EXIF, and the names of what is damaged or too long."""
    texts: dict[str, str] = {}
    exif, left = b"", []
    position, room = len(SIGNATURE), TEXTS_BYTES
    while len(head := os.pread(descriptor, 8, position)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            content = os.pread(descriptor, min(length, room), position + 8)
            room = max(0, room - len(content) - CHUNK_BYTES)
            if kind == b"eXIf":
                exif = content
            else:
                name = content[:80].partition(b"\0")[0].decode("latin-1")
                text = _decode_text(kind, content[len(name) + 1 :], room) if len(content) == length else None
                if text is None:
                    left.append(name)
                else:
                    room = max(0, room - len(text))
                    texts.setdefault(name, text)
        position += 12 + length
    return texts, exif, left


def _decode_text(kind: bytes, rest: bytes, room: int) -> str | None:
    try:
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"zTXt":
            return _inflate(rest[1:], room).decode("latin-1")
        _, _, text = rest[2:].split(b"\0", 2)  # behind two flags: a language, the name in it
        return (_inflate(text, room) if rest[0] else text).decode()
    except (ValueError, IndexError, zlib.error):
        return None


def _inflate(content: bytes, room: int) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(content, max(room, 1))
    if not inflater.eof:
        raise ValueError("too long, or cut")
    return text
