"""What a PNG says besides its pixels, wherever in the file it stands.

Source: https://www.w3.org/TR/png-3, 11.3.3 and 11.3.4.5.
"""

import os
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LIMIT_BYTES = 2**24
"""Most that is read of it in all: a workflow of ComfyUI takes some MB."""

CHUNK_BYTES = 100
"""What each chunk counts besides, or there could be millions."""


def read_png_texts(descriptor: int) -> tuple[dict[str, str], bytes, list[str]]:
    """Return the texts of an open PNG by their names, its EXIF, and the names of what is damaged or too long."""
    texts: dict[str, str] = {}
    exif, left = b"", []
    position, room = len(SIGNATURE), LIMIT_BYTES
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
