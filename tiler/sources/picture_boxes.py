"""What the boxes of an AVIF or a JPEG 2000 say of its picture, where no library hands it on.

::

    AVIF        meta ─┬─ pitm: which item is the picture
                      ├─ iref: what items are to each other; prem: colours are multiplied by their transparency
                      └─ iprp ─┬─ ipco: properties, among them colr
                               └─ ipma: which properties belong to which item, counted from 1
                moov ─── trak ─── mdia ─┬─ hdlr: pict where it is one of pictures
                                        └─ minf ─── stbl ─── stsz: how many
    JPEG 2000   jp2h ─── colr

Source: ISO/IEC 14496-12, 8.4.3 (hdlr), 8.7.3 (stsz), 8.11 (meta, items, properties), 12.1.5 (colr);
ISO/IEC 15444-1, I.5.3.3 (colr).
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tiler.sources.input_file import opened

HEAD_BYTES = 2**24
"""Largest box of metadata that is read."""
SRGB, GREY, SRGB_LUMA = 16, 17, 18
"""Colours of JPEG 2000 that a number stands for; the last are luma and chroma, which its reader converts."""


class BoxError(Exception):
    """The boxes of a file are damaged; the message says how."""


def read_coded_colours(path: Path) -> tuple[int, int] | None:
    """Return primaries and curve of the picture; None where its file does not say them so.

    Raises:
        BoxError: its boxes are damaged, or it says two things.
    """
    try:
        boxes = dict(_walk(_read_box(path, b"meta")[4:]))
        properties = dict(_walk(boxes[b"iprp"]))
        wanted = _read_properties(properties[b"ipma"], _read_number(boxes[b"pitm"]))
        each = list(_walk(properties[b"ipco"]))
        said = {
            struct.unpack(">HH", each[number - 1][1][4:8])
            for number in wanted
            if each[number - 1][0] == b"colr" and each[number - 1][1][:4] == b"nclx"
        }
    except (struct.error, KeyError, IndexError) as error:
        raise BoxError("its boxes are damaged") from error
    if len(said) > 1:
        raise BoxError("it has two colr boxes")
    return said.pop() if said else None


def is_premultiplied(path: Path) -> bool:
    """Say whether the colours of an AVIF are multiplied by their transparency.

    Raises:
        BoxError: its boxes are damaged.
    """
    references = dict(_walk(_read_box(path, b"meta")[4:])).get(b"iref", b"")
    return any(kind == b"prem" for kind, _ in _walk(references[4:]))


def count_frames_of_avif(path: Path) -> int:
    """Return how many frames an AVIF has beside its picture, 0 where it is no sequence.

    Raises:
        BoxError: its boxes are damaged.
    """
    n_frames = 0
    try:
        for kind, track in _walk(_read_box(path, b"moov")):
            media = dict(_walk(dict(_walk(track))[b"mdia"])) if kind == b"trak" else {}
            if media.get(b"hdlr", b"")[8:12] == b"pict":
                table = dict(_walk(dict(_walk(media[b"minf"]))[b"stbl"]))
                n_frames = max(n_frames, *struct.unpack_from(">I", table[b"stsz"], 8))
    except (struct.error, KeyError) as error:
        raise BoxError("its boxes are damaged") from error
    return n_frames


def read_profile_of_jpeg2000(path: Path) -> bytes | None:
    """Return the ICC profile in a JPEG 2000; None where its colours are grey or sRGB, or it is a stream without boxes.

    Raises:
        BoxError: its boxes are damaged, or its colours are others.
    """
    with opened(path) as descriptor:
        if os.pread(descriptor, 4, 0) == b"\xff\x4f\xff\x51":
            return None
    # Of several, the first that is understood.
    for kind, content in _walk(_read_box(path, b"jp2h")):
        if kind == b"colr" and content[:1] == b"\1":
            number = int.from_bytes(content[3:7])
            if number not in (SRGB, GREY, SRGB_LUMA):
                raise BoxError(f"its colours have the number {number}")
            return None
        if kind == b"colr" and content[:1] in (b"\2", b"\3"):
            return content[3:]
    raise BoxError("its colr box is missing")


def _read_box(path: Path, wanted: bytes) -> bytes:
    with opened(path) as descriptor:
        position = 0
        while True:
            head = os.pread(descriptor, 16, position)
            if len(head) < 8:
                raise BoxError(f"it has no box {wanted.decode()}")
            size, start = _read_size(head)
            if head[4:8] == wanted and size <= HEAD_BYTES:
                return os.pread(descriptor, size - start, position + start)
            if size < start or size > 2**62:
                raise BoxError("its boxes are damaged")
            position += size


def _read_size(head: bytes) -> tuple[int, int]:
    size, start = int.from_bytes(head[:4]), 8
    if size == 1:
        size, start = int.from_bytes(head[8:16]), 16
    # 0 is: to the end of the file.
    return size or 2**62, start


def _walk(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(content):
        head = content[position : position + 16]
        size, start = _read_size(head)
        if len(head) < 8 or size < start:
            raise BoxError("its boxes are damaged")
        yield head[4:8], content[position + start : position + size]
        position += size


def _read_number(item: bytes) -> int:
    kind = ">H" if item[0] == 0 else ">I"
    return int(struct.unpack_from(kind, item, 4)[0])


def _read_properties(table: bytes, wanted: int) -> list[int]:
    version, wide = table[0], table[3] & 1
    (n_items,) = struct.unpack_from(">I", table, 4)
    position, found = 8, []
    for _ in range(n_items):
        (item,) = struct.unpack_from(">I" if version else ">H", table, position)
        position += 4 if version else 2
        n_properties = table[position]
        position += 1
        for _ in range(n_properties):
            # The highest bit says that the property must be understood.
            (number,) = struct.unpack_from(">H" if wide else ">B", table, position)
            position += 2 if wide else 1
            number &= 0x7FFF if wide else 0x7F
            if item == wanted and number:
                found.append(number)
    return found
