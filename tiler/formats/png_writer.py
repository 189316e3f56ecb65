"""A PNG written strip by strip, 8 or 16 bits a sample, in the memory of a strip; Pillow needs the whole image.

Each row is stored as differences to what is left of it, above it, or both (Paeth), whichever are smallest.
Source: the format's specification, https://www.w3.org/TR/png-3.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.metadata import DESCRIPTIONS, Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SUB, UP, PAETH = 1, 2, 4
LEVEL = 1
"""Of zlib; the next ones take twice as long and save a few percent."""


def write_png(
    write: Callable[[bytes], Any],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    strips: Iterable[NDArray[Any]],
    *,
    profile: bytes,
    description: str | None,
    dpi: float | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write an RGB image.

    Args:
        write: takes the file, a part at a time.
        shape: (height, width, 3).
        dtype: of the pixels, uint8 or uint16.
        strips: (rows, width, 3) pixels, from top to bottom.
        profile: an ICC profile.
        description: any text.
        dpi: pixels an inch, if somebody says them.
        metadata: more texts, and EXIF.
    """
    height, width, channels = shape
    write(SIGNATURE)
    write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, 2, 0, 0, 0)))
    write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if dpi is not None:
        pixels_a_metre = round(dpi / 0.0254)
        write(_chunk(b"pHYs", struct.pack(">IIB", pixels_a_metre, pixels_a_metre, 1)))
    if description:
        taken = () if metadata is None else metadata.texts
        name = next((each for each in DESCRIPTIONS if each not in taken), DESCRIPTIONS[0])
        # Not compressed, of no language.
        write(_chunk(b"iTXt", name.encode() + b"\0\0\0\0\0" + description.encode()))
    if metadata is not None:
        for name, text in metadata.texts.items():
            write(_make_text(name, text))
        if metadata.exif:
            write(_chunk(b"eXIf", metadata.exif))
    compressor = zlib.compressobj(LEVEL)
    for rows in _filter(strips, width * channels * dtype.itemsize, channels * dtype.itemsize):
        content = compressor.compress(rows)
        if content:
            write(_chunk(b"IDAT", content))
    write(_chunk(b"IDAT", compressor.flush()))
    write(_chunk(b"IEND", b""))


def is_keyword(name: str) -> bool:
    """Tell whether a text can have this name."""
    try:
        return 1 <= len(name.encode("latin-1")) < 80 and "\0" not in name
    except UnicodeEncodeError:
        return False


def _make_text(name: str, text: str) -> bytes:
    key = name.encode("latin-1") + b"\0"
    try:
        # What most programs look for.
        return _chunk(b"tEXt", key + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", key + b"\0\0\0\0" + text.encode())


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))


def _filter(strips: Iterable[NDArray[Any]], row_bytes: int, pixel_bytes: int) -> Iterator[bytes]:
    """Yield the rows of strips, each behind a byte that says what it is the difference to."""
    last = np.zeros((1, row_bytes), np.uint8)
    for strip in strips:
        big_endian = np.ascontiguousarray(strip, strip.dtype.newbyteorder(">"))
        rows = big_endian.view(np.uint8).reshape(len(strip), row_bytes)
        above = np.concatenate([last, rows[:-1]])
        last = rows[-1:]
        # Left of the first pixel there is 0.
        left, corner = (np.pad(each, ((0, 0), (pixel_bytes, 0)))[:, :row_bytes] for each in (rows, above))
        differences = np.stack([rows - left, rows - above, rows - _predict(left, above, corner)])
        sizes = np.abs(differences.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
        best = sizes.argmin(axis=0)
        filtered = np.empty((len(rows), 1 + row_bytes), np.uint8)
        filtered[:, 0] = np.array([SUB, UP, PAETH])[best]
        filtered[:, 1:] = np.take_along_axis(differences, best[None, :, None], axis=0)[0]
        yield filtered.tobytes()


def _predict(left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return whichever of three neighbours is nearest to left + above - corner: Paeth's predictor."""
    a, b, c = (each.astype(np.int16) for each in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(to_above <= to_corner, above, corner)
    predicted: NDArray[np.uint8] = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
    return predicted
