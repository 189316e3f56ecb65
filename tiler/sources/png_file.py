"""A PNG file, gone through before Pillow decodes it.

Pillow ignores the checksums of the pixels, and what a complete stream of pixels lacks it leaves black: a flipped
bit or a wrong height would become another picture and no error. So the stream is inflated here once, a part at a
time, and thrown away.
Source: the format's specification, https://www.w3.org/TR/png-3.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

PART_BYTES = 2**20
"""What is held of a stream at a time."""

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel, by colour type."""

BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a sample may have, by colour type."""

PALETTE = 3
"""The colour type of indices into a palette."""

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""The passes of an interlaced image: first row and column, steps of rows and columns."""


class PngError(ValueError):
    """A PNG file is damaged."""


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What the first chunk says, and of the palette how large it is.

    Raises:
        PngError: no such image exists.
    """

    width: int
    """px."""
    height: int
    """px."""
    bits: int
    """Of a sample."""
    colour: int
    """Colour type."""
    compression: int
    """0."""
    filtering: int
    """0."""
    interlace: int
    """0, or 1 for Adam7."""
    n_colours: int = 0
    """In the palette."""

    def __post_init__(self) -> None:
        if self.bits not in BITS.get(self.colour, ()):
            raise PngError(f"no such colours: type={self.colour}, bits={self.bits}")
        if self.compression or self.filtering or self.interlace > 1 or not self.width or not self.height:
            raise PngError(f"no such image: {self}")

    @property
    def size_bytes(self) -> int:
        """Of the pixels, inflated: rows of whole bytes, each behind a byte for its filter."""
        passes = ADAM7 if self.interlace else ((0, 0, 1, 1),)
        sizes = [
            (-(-(self.height - row) // row_step), -(-(self.width - column) // column_step))
            for row, column, row_step, column_step in passes
        ]
        bits = self.bits * CHANNELS[self.colour]
        return sum(height * (1 + -(-width * bits // 8)) for height, width in sizes if height > 0 and width > 0)


def check_png(file: BinaryIO) -> PngHeader:
    """Go through a file, whose position is kept, and return its header.

    Raises:
        PngError: it is truncated, its pixels are not as many as the header says, or a checksum is wrong.
    """
    position = file.tell()
    try:
        file.seek(8)
        return _check_chunks(file)
    finally:
        file.seek(position)


def _check_chunks(file: BinaryIO) -> PngHeader:
    if _read_start(file) != (b"IHDR", 13):
        raise PngError("no header")
    parts: list[bytes] = []
    _read_content(file, b"IHDR", 13, parts.append)
    header = PngHeader(*struct.unpack(">IIBBBBB", parts[0]))
    pixels = _Pixels(header.size_bytes)
    before = b"IHDR"
    while before != b"IEND":
        kind, length = _read_start(file)
        if kind == b"IDAT":
            if pixels.begun and before != kind:
                raise PngError("the pixels are not in one place")
            pixels.begun = True
            _read_content(file, kind, length, pixels.take)
        elif kind == b"IHDR":
            raise PngError("two headers")
        else:
            _read_content(file, kind, length)
        if kind == b"PLTE":
            if header.n_colours or length % 3 or not 0 < length <= 768 or pixels.begun:
                raise PngError("a wrong palette")
            header = replace(header, n_colours=length // 3)
        before = kind
    if pixels.n_missing > 0:
        raise PngError(f"{pixels.n_missing} of {header.size_bytes} bytes of pixels are missing")
    if header.colour == PALETTE and not header.n_colours:
        raise PngError("no palette")
    return header


class _Pixels:
    """Counts the bytes that a stream of pixels inflates to; no more than are needed."""

    def __init__(self, size_bytes: int) -> None:
        self.n_missing = size_bytes
        """Negative where there is more than is needed."""
        self.begun = False
        self._inflate = zlib.decompressobj()

    def take(self, part: bytes) -> None:
        """Inflate a part of the stream."""
        try:
            # At 0 comes the stream's own checksum; what follows the last pixel instead is looked at by nobody.
            while part and self.n_missing >= 0 and not self._inflate.eof:
                self.n_missing -= len(self._inflate.decompress(part, min(self.n_missing, PART_BYTES) or 1))
                part = self._inflate.unconsumed_tail
        except zlib.error as error:
            raise PngError(f"the pixels cannot be inflated: {error}") from error


def _read_start(file: BinaryIO) -> tuple[bytes, int]:
    """Return what kind of chunk comes, and how long it is."""
    length, kind = struct.unpack(">I4s", _read(file, 8))
    if length >= 2**31:
        raise PngError(f"impossible chunk: length={length} bytes")
    return kind, length


def _read_content(file: BinaryIO, kind: bytes, length: int, take: Callable[[bytes], None] = lambda part: None) -> None:
    """Read the content of a chunk, give it to ``take`` part by part, and compare its checksum."""
    checksum = zlib.crc32(kind)
    while length:
        part = _read(file, min(length, PART_BYTES))
        length -= len(part)
        checksum = zlib.crc32(part, checksum)
        take(part)
    if _read(file, 4) != checksum.to_bytes(4):
        raise PngError(f"wrong checksum of chunk {kind!r}")


def _read(file: BinaryIO, n_bytes: int) -> bytes:
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise PngError("truncated")
    return content
