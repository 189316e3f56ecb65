"""A PNG written strip by strip, 8 or 16 bits a sample, in the memory of a strip; Pillow needs the whole image.

Each row is stored as differences to what is left of it, above it, or both (Paeth), whichever are smallest.
Source: the format's specification, https://www.w3.org/TR/png-3.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.dtypes import DType
from tiler.errors import Option, OptionError
from tiler.formats.encoded_sink import Appended
from tiler.formats.picture import Picture, PictureSink
from tiler.formats.resolution import Resolution
from tiler.formats.srgb_profile import srgb_profile
from tiler.formats.written import WrittenArray, find_axes
from tiler.metadata import DESCRIPTIONS, Metadata
from tiler.sources.input_file import printable
from tiler.sources.libvips import open_by_libvips, read_strips

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SUB, UP, PAETH = 1, 2, 4
LEVEL = 1
"""Of zlib; the next ones take twice as long and save a few percent."""


@dataclass(frozen=True, slots=True)
class Png(Picture):
    """A PNG, at most a million px a side."""

    kind, endings, signature = "PNG", (".png",), SIGNATURE
    side_px = 1_000_000  # Source: libpng's PNG_USER_WIDTH_MAX.
    _: KW_ONLY
    dtype: DType = "uint8"  # type: ignore[misc]
    """"uint8" or "uint16"."""

    def _check(self) -> None:
        Resolution(self.dpi)
        if self.dpi is not None and self.dpi < 1:
            raise OptionError(
                f"No such resolution in a PNG, which has whole pixels a metre: dpi={self.dpi}. Use 1 or more."
            )
        if self.dtype == "float32":
            raise OptionError(
                f"No such numbers in a PNG: dtype={self.dtype}, which holds uint8, uint16. Write a TIFF, as "
                f"{self.as_tiff}."
            )

    def check_metadata(self, metadata: Metadata) -> None:
        """Refuse texts that are none of a PNG."""
        check_texts(metadata.texts)

    def encode(self, sink: PictureSink, output: Appended) -> None:
        """Write the file."""
        _, width, channels = sink.shape
        pixel_bytes = channels * sink.dtype.itemsize
        output.write(SIGNATURE)
        for name, content in self._list_chunks(sink):
            output.write(_chunk(name, content))
        compressor = zlib.compressobj(LEVEL)
        for rows in _filter(sink.read_pixels(), width * pixel_bytes, pixel_bytes):
            if content := compressor.compress(rows):
                output.write(_chunk(b"IDAT", content))
        output.write(_chunk(b"IDAT", compressor.flush()))
        output.write(_chunk(b"IEND", b""))

    def _list_chunks(self, sink: PictureSink) -> Iterator[tuple[bytes, bytes]]:
        """Yield name and content of what comes before the pixels."""
        height, width, _ = sink.shape
        yield b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * sink.dtype.itemsize, 2, 0, 0, 0)
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(srgb_profile())
        if self.dpi is not None:
            pixels_a_metre = round(self.dpi / 0.0254)
            yield b"pHYs", struct.pack(">IIB", pixels_a_metre, pixels_a_metre, 1)
        if sink.description:
            name = next((each for each in DESCRIPTIONS if each not in sink.metadata.texts), DESCRIPTIONS[0])
            # Not compressed, of no language.
            yield b"iTXt", name.encode() + b"\0\0\0\0\0" + sink.description.encode()
        for name, text in sink.metadata.texts.items():
            key = name.encode("latin-1") + b"\0"
            try:
                # What most programs look for.
                yield b"tEXt", key + text.encode("latin-1")
            except UnicodeEncodeError:
                yield b"iTXt", key + b"\0\0\0\0" + text.encode()
        if sink.metadata.exif:
            yield b"eXIf", sink.metadata.exif

    @classmethod
    def read_back(cls, path: Path) -> WrittenArray:
        """Read one by libvips: Pillow does not look at the checksums of pixels, and leaves black what is missing."""
        image = open_by_libvips(path, cls.kind, "sequential")
        said = [image.get(name) for name in image.get_fields() if re.fullmatch("png-comment-.*|xmp-data", name)]
        axes = find_axes("".join(each if isinstance(each, str) else each.decode() for each in said))
        return WrittenArray(read_strips(image, path, cls.kind), axes=axes)


def check_texts(texts: Mapping[str, str]) -> None:
    """Refuse texts that are none of a PNG.

    Raises:
        OptionError: they are not.
    """
    for name, text in texts.items():
        if not _is_keyword(name) or "\0" in text:
            raise OptionError(
                f"No text of a PNG: name={printable(name)}. Names have 1 to 79 characters of Latin-1. Leave "
                f"{Option('keep_metadata')} out, or write a TIFF."
            )


def _is_keyword(name: str) -> bool:
    """Tell whether a text can have this name."""
    try:
        return 1 <= len(name.encode("latin-1")) < 80 and "\0" not in name
    except UnicodeEncodeError:
        return False


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
