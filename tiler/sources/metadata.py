"""What a file says besides its values."""

import os
import struct
import zlib
from pathlib import Path

from taesd_core.file_kinds import BoundedFile, find_kind
from taesd_core.safetensors_file import SafetensorsError, read_metadata
from tiler.sources.input_file import open_regular_file

PNG_START_BYTES = 8
"""What comes before a PNG's first chunk."""
LIMIT_BYTES = 2**24
"""Most that is read of all texts of a file: a workflow takes some MB."""


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts of a ``.safetensors`` or PNG file by their names; of others none.

    Raises:
        InputError: the file cannot be opened.
    """
    if path.is_dir():
        return {}
    with BoundedFile(open_regular_file(path), "rb") as file:
        kind = find_kind(file).name
        try:
            if kind == "png":
                return _read_png_texts(file.fileno())
            return read_metadata(file.fileno()) if kind == "safetensors" else {}
        except SafetensorsError:
            return {}


def _read_png_texts(descriptor: int) -> dict[str, str]:
    """Source: https://www.w3.org/TR/png-3, 11.3.3; a chunk that is no such text is passed over."""
    texts: dict[str, str] = {}
    position, room = PNG_START_BYTES, LIMIT_BYTES
    while len(head := os.pread(descriptor, 8, position)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= room:
            name, _, rest = os.pread(descriptor, length, position + 8).partition(b"\0")
            text = _decode_text(kind, rest, room)
            room -= length
            if text is not None:
                room -= len(text)
                texts.setdefault(name.decode("latin-1"), text)
        position += 12 + length
    return texts


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
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("too long, or cut")
    return text
