"""A tiled, pyramidal BigTIFF as a sink whose tiles may come in any order.

The skeleton is written first: the header and one page a level, with every tag, but all tiles absent. Tiles
are appended as they come, and the two tables of their page patched, number by number::

    ┌──────────────────────────────┬─────────┬─────────┬────────┐
    │ pages with their tables      │ tile 17 │ tile 4  │ tile 5 │ ◄ 1 to 3 under a lock, between processes too
    │ TileOffsets, TileByteCounts  │         │         │        │
    └───────▲──────────────▲───────┴─────────┴─────────┴────────┘
        2 where          3 how many bytes             1 the tile itself

A byte count is patched last: a tile is there when its count is not 0. So the file can be opened at any time,
and what has not been written reads as 0.

The tables are for those who read the file. A run that goes on makes them again, of what the journal says and is so.
"""

import io
import itertools
import os
import threading
import zlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler import files
from tiler.errors import InputError, OptionError, TileError
from tiler.formats.ome_xml import write_ome_xml
from tiler.formats.resolution import Resolution
from tiler.formats.sink import Piece, Sink, Written, check_rgb, check_whole, cut, find_squares
from tiler.formats.srgb_profile import srgb_profile
from tiler.formats.tiff_tables import Tables, list_pages, list_places, round_up
from tiler.formats.tile_codec import Compression, TileCodec
from tiler.pyramid import level_shapes
from tiler.window import Window

Layout = Literal["pages", "ome"]


class TiffSink(Sink):
    """A BigTIFF of sRGB pixels under construction.

    Args:
        path: the final name.
        shape: (height, width, 3) of level 0.
        dtype: of the pixels: uint8, uint16 or float32.
        layout: where the levels are: "pages" of their own, marked as reduced, which most readers know as a pyramid; or
            "ome", pages below the first one (SubIFDs) and OME-XML, for Bio-Formats, QuPath and Fiji.
        compression: of the tiles; see ``TileCodec``.
        quality: of "jpeg", "webp" and "jxl", 1 to 100.
        file_tile_px: side of a file tile, a multiple of 16. libvips refuses more than about 2.6 million tiles
            in a level: from about 800,000 px a side use 1024.
        pyramid: whether there are reduced levels, down to one that fits a single file tile.
        overwrite: whether an existing file may be replaced (when the new one is complete).
        resolution: how large a pixel is, for readers that ask.
        description: text to be stored with level 0; of the layout "ome", a JSON object.
        reopen: write on what an earlier run left; all else must be as it was then.

    Raises:
        OptionError: an option is out of its range.
        InputError: what is to be reopened is another file than it was.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int, int],
        *,
        dtype: DTypeLike = np.uint8,
        layout: Layout = "pages",
        compression: Compression = "deflate",
        quality: int = 90,
        file_tile_px: int = 512,
        pyramid: bool = True,
        overwrite: bool = False,
        resolution: Resolution | None = None,
        description: str | None = None,
        reopen: bool = False,
    ) -> None:
        check_rgb(shape)
        check_layout(layout)
        self._codec = TileCodec(compression, quality, file_tile_px, dtype)
        super().__init__(path, overwrite=overwrite)
        self.file_tile_px, self.layout, self.dtype = file_tile_px, layout, self._codec.dtype
        self.resolution = resolution or Resolution()
        self.levels = level_shapes(*shape[:2], file_tile_px) if pyramid else [shape[:2]]
        self.reads_back = self._codec.lossless
        self._lock = threading.Lock()
        if reopen:
            self._reopen()
            return
        skeleton, self._tables = self._make_skeleton(description)
        self.skeleton = {"": skeleton}
        self._file = files.open_file(self.part_path, new=True)
        try:
            files.write_at(self._file, skeleton, 0)
        except BaseException:
            self.discard()
            raise

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, 3) at ``window`` of ``level``.

        Returns:
            The CRC-32 of its file tiles, one after the other; of each, how far it begins behind the one before, or
            the start of the file, and its length in bytes.

        Raises:
            InputError: no such level, a window that leaves it, or pixels of another shape or type.
            OptionError: the window does not fill whole file tiles.
        """
        check_whole(self, level, window, pixels, "TIFF tile", self.file_tile_px)
        check, end = 0, 0
        places: list[int] = []
        for row, column, part in cut(window, pixels, self.file_tile_px):
            content = self._codec.encode(part)
            offset = self._put(self._tables[level], self._find_index(level, row, column), content)
            check = zlib.crc32(content, check)
            places += offset - end, len(content)
            end = round_up(offset + len(content))
        return check, *places

    def check(self, written: Sequence[Written]) -> list[bool]:
        """Read what was written in an earlier run, and say of each whether it is still there, byte by byte."""
        return [self._check(piece) for _, _, piece in written]

    def _check(self, piece: Piece) -> bool:
        check = 0
        for offset, n_bytes in list_places(piece):
            content = files.read_at(self._file, n_bytes, offset)
            if len(content) != n_bytes:
                return False
            check = zlib.crc32(content, check)
        return check == piece[0]

    def place(self, written: Written) -> tuple[int, ...]:
        """Return where a write lies: sorted by this, ``check`` reads from start to end."""
        return written[2][1:2]

    def keep(self, written: Sequence[Written]) -> None:
        """Make the tables of these writes of an earlier run, and cut off what lies behind the last of them."""
        sizes = [-(-height // self.file_tile_px) * -(-width // self.file_tile_px) for height, width in self.levels]
        tables = [(np.zeros(n_tiles, np.uint64), np.zeros(n_tiles, np.uint64)) for n_tiles in sizes]
        end = 0
        for level, window, piece in written:
            offsets, byte_counts = tables[level]
            for (row, column), (offset, n_bytes) in zip(
                find_squares(window, self.file_tile_px), list_places(piece), strict=True
            ):
                index = self._find_index(level, row, column)
                offsets[index], byte_counts[index] = offset, n_bytes
                end = max(end, offset + n_bytes)
        with self._lock, files.locked(self._file):
            if end:
                files.truncate(self._file, end)
            for (offsets, byte_counts), places in zip(tables, self._tables, strict=True):
                places.offsets.fill(self._file, offsets)
                places.byte_counts.fill(self._file, byte_counts)

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return what was written at ``window``, whole file tiles of ``level``; only where ``reads_back``.

        Raises:
            TileError: a file tile is absent or damaged.
        """
        pixels = np.empty((*window.shape, 3), self.dtype)
        for row, column, part in cut(window, pixels, self.file_tile_px):
            stored = self._get(self._tables[level], self._find_index(level, row, column))
            part[:] = stored[: part.shape[0], : part.shape[1]]
        return pixels

    def _find_index(self, level: int, row: int, column: int) -> int:
        """Return the place in the tables of the file tile that starts there."""
        n_across = -(-self.levels[level][1] // self.file_tile_px)
        return row // self.file_tile_px * n_across + column // self.file_tile_px

    def _put(self, tables: "Tables", index: int, content: bytes) -> int:
        # All of it under the lock: another process may put the same tile at the same time, when it was thought dead,
        # and on a network's file system only a lock brings what others wrote, and them what we write.
        with self._lock, files.locked(self._file):
            offset = round_up(os.fstat(self._file.fileno()).st_size)
            files.write_at(self._file, content, offset)
            tables.offsets.patch(self._file, index, offset)
            tables.byte_counts.patch(self._file, index, len(content))
        return offset

    def _get(self, tables: "Tables", index: int) -> NDArray[Any]:
        with self._lock, files.locked(self._file):  # as in _put: another process may have put it there
            n_bytes, offset = tables.byte_counts.look_up(self._file, index), tables.offsets.look_up(self._file, index)
            content = files.read_at(self._file, n_bytes, offset)
        try:
            return self._codec.decode(content)
        except ValueError as error:
            raise TileError(
                f"The half-done output was damaged while it was in use: path={self.part_path}, TIFF tile={index} "
                f"({error}). A run that goes on makes that tile again."
            ) from error

    def _make_skeleton(self, description: str | None) -> "tuple[bytes, list[Tables]]":
        """Return the file without tiles, and where the tables of its pages are."""
        import tifffile

        size, codec = self.file_tile_px, self._codec
        is_raw, is_jpeg = codec.compression == "none", codec.compression == "jpeg"
        n_below = len(self.levels) - 1
        if self.layout == "ome":
            description = write_ome_xml(
                (*self.levels[0], 3), self.dtype, description, pixel_size_um=self.resolution.pixel_size_um
            )
        file = io.BytesIO()
        with tifffile.TiffWriter(file, bigtiff=True, byteorder="<") as tiff:
            for level, (height, width) in enumerate(self.levels):
                resolution, unit = self.resolution.find_tags(level)
                n_tiles = -(-height // size) * -(-width // size)
                # tifffile takes no iterator for a page that is a single, uncompressed tile without a border.
                contiguous = is_raw and height == width == size
                tiff.write(
                    None if contiguous else itertools.repeat(b"", n_tiles),
                    shape=(height, width, 3),
                    dtype=self.dtype,
                    tile=(size, size),
                    planarconfig="contig",
                    photometric="ycbcr" if is_jpeg else "rgb",
                    # Of others tifffile wants what they make of a tile; the tag is put right below.
                    compression=None if is_raw else "zlib",
                    predictor=codec.differences or None,
                    subfiletype=1 if level else 0,
                    subifds=n_below if self.layout == "ome" and level == 0 else None,
                    resolution=resolution,
                    resolutionunit=unit,
                    iccprofile=srgb_profile(),
                    software="taesd-tiler",
                    description=description.encode() if description and level == 0 else None,
                    metadata=None,
                )
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            pages = list_pages(tiff)
            for page in pages:
                page.tags["Compression"].overwrite(codec.tag)
                if is_jpeg:
                    page.tags["YCbCrSubSampling"].overwrite((2, 2))
            last = pages[-1]
            end = last.dataoffsets[0]
            if end:
                # A page of one tile was given a place for it, and is the last: the tile becomes absent too.
                last.tags["TileOffsets"].overwrite(0)
                last.tags["TileByteCounts"].overwrite(0)
            tables = [Tables.of(page) for page in pages]
        return file.getvalue()[: end or None], tables

    def _reopen(self) -> None:
        import tifffile

        try:
            with tifffile.TiffFile(self.part_path) as tiff:
                pages = list_pages(tiff)
                found = [(page.imagelength, page.imagewidth) for page in pages]
                tables = [Tables.of(page) for page in pages]
        except (tifffile.TiffFileError, KeyError, ValueError):
            found, tables = [], []
        if found != self.levels:
            raise InputError(
                f"The half-done output has changed: path={self.part_path}, levels={found}. "
                "Start over with --overwrite and without --resume."
            )
        self._tables = tables
        self._file = files.open_file(self.part_path)


def check_layout(layout: str) -> None:
    """Refuse an unknown layout.

    Raises:
        OptionError: it is one.
    """
    if layout not in get_args(Layout):
        raise OptionError(f"No such layout: layout={layout}. Use {' or '.join(get_args(Layout))}.")


def count_most_bytes(shape: tuple[int, int, int], codec: TileCodec, *, pyramid: bool) -> int:
    """Return how large a file can get, at most."""
    levels = level_shapes(*shape[:2], codec.size_px) if pyramid else [shape[:2]]
    n_tiles = sum(-(-height // codec.size_px) * -(-width // codec.size_px) for height, width in levels)
    # An even number for each tile, two numbers in the tables, the other tags of each page, and the description.
    return n_tiles * (codec.most_bytes() + 1 + 2 * 8) + len(levels) * 2000 + 10_000
