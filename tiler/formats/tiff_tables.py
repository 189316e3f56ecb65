"""Where a TIFF keeps the places of its tiles, and how the journal notes them."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.formats.sink import Piece


@dataclass(frozen=True, slots=True)
class Table:
    """Where a page keeps one number a tile."""

    position: int
    """Of the first number, in bytes from the start of the file."""

    number: struct.Struct
    """How a number is stored."""

    @classmethod
    def of(cls, tag: Any) -> "Table":
        """Return that of a tag."""
        # SHORT, LONG or LONG8: tifffile takes the narrowest type that holds any tile of this size.
        return cls(tag.valueoffset, struct.Struct({3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]))

    def patch(self, file: io.FileIO, index: int, value: int) -> None:
        """Write the number of a tile."""
        files.write_at(file, self.number.pack(value), self.position + index * self.number.size)

    def fill(self, file: io.FileIO, values: NDArray[np.uint64]) -> None:
        """Write the numbers of all tiles."""
        files.write_at(file, values.astype(f"<u{self.number.size}").tobytes(), self.position)

    def look_up(self, file: io.FileIO, index: int) -> int:
        """Read the number of a tile."""
        content = files.read_at(file, self.number.size, self.position + index * self.number.size)
        return int(self.number.unpack(content)[0])


@dataclass(frozen=True, slots=True)
class Tables:
    """The two tables of a page."""

    offsets: Table
    """Where each tile begins, in bytes from the start of the file; 0 where it is absent."""

    byte_counts: Table
    """How long it is."""

    @classmethod
    def of(cls, page: Any) -> "Tables":
        """Return those of a page that tifffile has read."""
        return cls(Table.of(page.tags["TileOffsets"]), Table.of(page.tags["TileByteCounts"]))


def list_places(piece: Piece) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each file tile of a write; see ``TiffSink.write``."""
    end = 0
    for gap, n_bytes in zip(piece[1::2], piece[2::2], strict=True):
        yield end + gap, n_bytes
        end = round_up(end + gap + n_bytes)


def round_up(position: int) -> int:
    """Return the next even byte, at which TIFF wants everything to begin."""
    return position + position % 2


def list_pages(tiff: Any) -> list[Any]:
    """Return the page of every level of an open file, level 0 first: top-level ones, or those below the first."""
    return [*tiff.pages, *(tiff.pages[0].pages or ())]
