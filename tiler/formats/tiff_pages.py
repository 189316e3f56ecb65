"""The pages of a TIFF without tiles, and where each of them keeps the places of its tiles."""

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.codecs import JPEG, NONE
from tiler.formats.ome_xml import write_ome_xml
from tiler.formats.sink import Piece
from tiler.formats.srgb_profile import srgb_profile
from tiler.formats.tiff_options import TiffOptions
from tiler.formats.written_tiff import list_pages


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

    size_px: int
    """Side of a tile."""
    n_across: int
    """Tiles side by side."""
    offsets: Table
    """Where each tile begins, in bytes from the start of the file; 0 where it is absent."""
    byte_counts: Table
    """How long it is."""

    @classmethod
    def of(cls, page: Any) -> "Tables":
        """Return those of a page that tifffile has read."""
        tables = (Table.of(page.tags[name]) for name in ("TileOffsets", "TileByteCounts"))
        return cls(page.tilewidth, -(-page.imagewidth // page.tilewidth), *tables)

    def find(self, row: int, column: int) -> int:
        """Return the place in the tables of the tile that starts there."""
        return row // self.size_px * self.n_across + column // self.size_px

    def note(self, file: io.FileIO, index: int, offset: int, n_bytes: int) -> None:
        """Write where a tile is; its length last."""
        self.offsets.patch(file, index, offset)
        self.byte_counts.patch(file, index, n_bytes)

    def look_up(self, file: io.FileIO, index: int) -> tuple[int, int]:
        """Return where a tile begins, and how long it is."""
        n_bytes = self.byte_counts.look_up(file, index)
        return self.offsets.look_up(file, index), n_bytes


def make_pages(file: TiffOptions, levels: list[tuple[int, int]], description: str) -> tuple[bytes, list[Tables]]:
    """Return a BigTIFF whose tiles are all absent, and where the tables of its pages are.

    Args:
        file: what is said of it.
        levels: (height, width) of each page.
        description: text to be stored with level 0; of the layout "ome" a JSON object.
    """
    import tifffile

    size, tag, ome = file.file_tile_px, file.codec.tag, file.chosen_layout == "ome"
    assert size is not None
    is_raw, is_jpeg = tag == NONE, tag == JPEG
    if ome:
        shape, dtype = (*levels[0], 3), np.dtype(file.dtype)
        description = write_ome_xml(shape, dtype, description, pixel_size_um=file.pixel_size_um)
    made = io.BytesIO()
    with tifffile.TiffWriter(made, bigtiff=True, byteorder="<") as tiff:
        for level, (height, width) in enumerate(levels):
            side, unit = file.resolution.find_tags(level)
            n_tiles = -(-height // size) * -(-width // size)
            # tifffile takes no iterator for a page that is a single, uncompressed tile without a border.
            contiguous = is_raw and height == width == size
            tiff.write(
                None if contiguous else itertools.repeat(b"", n_tiles),
                shape=(height, width, 3),
                dtype=file.dtype,
                tile=(size, size),
                planarconfig="contig",
                photometric="ycbcr" if is_jpeg else "rgb",
                # Of some others tifffile wants to know how they are made; the number is put right below.
                compression=None if is_raw else "zlib",
                predictor=file.differences or None,
                subfiletype=1 if level else 0,
                subifds=len(levels) - 1 if ome and level == 0 else None,
                resolution=side,
                resolutionunit=unit,
                iccprofile=srgb_profile(),
                software="taesd-tiler",
                description=description.encode() if description and level == 0 else None,
                metadata=None,
            )
    made.seek(0)
    with tifffile.TiffFile(made) as tiff:
        pages = list_pages(tiff)
        for page in pages:
            page.tags["Compression"].overwrite(tag)
            if is_jpeg:
                page.tags["YCbCrSubSampling"].overwrite((2, 2))
        last = pages[-1]
        end = last.dataoffsets[0]
        if end:
            # A page of one tile was given a place for it, and is the last: the tile becomes absent too.
            last.tags["TileOffsets"].overwrite(0)
            last.tags["TileByteCounts"].overwrite(0)
        tables = [Tables.of(page) for page in pages]
    return made.getvalue()[: end or None], tables


def find_pages(path: Path) -> tuple[list[tuple[int, int]], list[Tables]]:
    """Return (height, width) of each page of a file, and where its tables are; nothing of what is no such TIFF."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            pages = list_pages(tiff)
            return [(page.imagelength, page.imagewidth) for page in pages], [Tables.of(page) for page in pages]
    except (tifffile.TiffFileError, KeyError, ValueError):
        return [], []


def list_places(piece: Piece) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each file tile of a write; see ``TiffSink.write``."""
    end = 0
    for gap, n_bytes in zip(piece[1::2], piece[2::2], strict=True):
        yield end + gap, n_bytes
        end = round_up(end + gap + n_bytes)


def round_up(position: int) -> int:
    """Return the next even byte, at which TIFF wants everything to begin."""
    return position + position % 2
