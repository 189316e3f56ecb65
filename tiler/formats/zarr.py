"""An OME-Zarr: a folder with an array a level, whose shards may come in any order.

::

    NAME.part/zarr.json             the image, as OME-Zarr 0.5 describes it
    NAME.part/0/zarr.json           level 0: an array with axes c, y, x
    NAME.part/0/c/0/3/5             its shard in row 3, column 5: a tile, written by the task that made it

What has not been written reads as 0. ``tiler.formats.folder_sink`` has the life of the folder.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiler.codecs import CODECS, Codec
from tiler.errors import Option, OptionError, TileError
from tiler.fields import Fields
from tiler.formats.folder_sink import FolderSink, restore_old
from tiler.formats.ome_zarr import write_array, write_group
from tiler.formats.output_file import TiledFile
from tiler.formats.resolution import Resolution
from tiler.formats.sink import Piece, Skeleton
from tiler.formats.tiled_sink import TiledSink, count_squares, find_squares
from tiler.formats.written import DamagedImageError, WrittenImage, find_axes
from tiler.formats.zarr_shard import ShardCodec
from tiler.options import check_choice
from tiler.sources.input_file import shorten
from tiler.window import Window

Compression = Literal["deflate", "zstd", "none"]


@dataclass(frozen=True, slots=True)
class Zarr(TiledFile):
    """An OME-Zarr 0.5 (Zarr 3) of RGB pixels, a folder; ``file_tile_px`` is a chunk, a tile of the plan a shard."""

    kind = "OME-Zarr"
    endings = (".zarr",)
    marker = "zarr.json"
    _: KW_ONLY
    compression: Compression = "deflate"
    """Of the chunks: "deflate" (gzip), "zstd" or "none", which lose nothing."""

    def _check(self) -> None:
        check_choice("compression", self.compression, Compression, of="an OME-Zarr")
        Resolution(pixel_size_um=self.pixel_size_um)

    @property
    def codec(self) -> Codec:
        """What compresses its chunks."""
        return CODECS["gzip" if self.compression == "deflate" else self.compression]

    @property
    def fields(self) -> Fields:
        """What it is, by names that people know."""
        said: Fields = {"kind": self.kind, "dtype": self.dtype, "compression": self.compression}
        said |= Resolution(pixel_size_um=self.pixel_size_um).fields
        return said | {"chunk": f"{self.file_tile_px} px", "pyramid": self.pyramid}

    def find_shards(self, tile_px: int) -> ShardCodec:
        """Return how a tile of work becomes a shard."""
        assert self.file_tile_px is not None
        return ShardCodec(self.codec, tile_px, self.file_tile_px, np.dtype(self.dtype))

    def count_most_bytes(self, levels: list[tuple[int, int]], tile_px: int) -> int:
        """Return how large the folder can get, at most."""
        # A file is rounded up to what a disk gives at a time, 4 kB as a rule, and so is a folder.
        shard_bytes = self.find_shards(tile_px).most_bytes() + 8192
        return count_squares(levels, tile_px) * shard_bytes + len(levels) * 20_000 + 20_000

    def choose_sink(self, shape: tuple[int, int, int], tile_px: int) -> "Callable[..., ZarrSink]":
        """Return what makes the sink of an image."""
        return partial(ZarrSink, self, shape, shard_px=tile_px)

    def check_verifiable(self) -> None:
        """Refuse to verify without the library that does."""
        if find_spec("zarr") is None:
            raise OptionError(
                f"A package is missing: {Option('verify')} of an OME-Zarr needs zarr. Install 'taesd-tiler[zarr]'."
            )

    @classmethod
    def read_back(cls, path: Path) -> "WrittenZarr":
        """Open one to be compared."""
        return WrittenZarr(path)


class ZarrSink(FolderSink, TiledSink):
    """An OME-Zarr under construction.

    Args:
        file: what is said of it, with the side of a chunk.
        shape: (height, width, 3) of level 0.
        shard_px: side of a shard; windows are whole shards.
        overwrite: whether an existing OME-Zarr may be replaced (when the new one is complete).
        description: a JSON object, stored with the image.
        begun: write on what an earlier run left, whose skeleton this is; all else must be as it was then.

    Raises:
        OptionError: no such image.
        InputError: what is to be reopened is another image than it was.
    """

    square = "shard"
    reads_back = True

    def __init__(
        self,
        file: Zarr,
        shape: tuple[int, int, int],
        *,
        shard_px: int,
        overwrite: bool = False,
        description: str = "",
        begun: Skeleton | None = None,
    ) -> None:
        if begun is None:
            restore_old(Path(file.path))
        super().__init__(file, shape, square_px=shard_px, overwrite=overwrite)
        self._codec = file.find_shards(shard_px)
        group = write_group(len(self.levels), self.dtype, description, pixel_size_um=file.pixel_size_um)
        arrays = {f"{level}/zarr.json": write_array(size, self._codec) for level, size in enumerate(self.levels)}
        folders = [f"{level}/c{below}" for level in range(len(self.levels)) for below in ("", "/0")]
        self._open_folder({"zarr.json": group, **arrays}, folders, begun)

    def _check_skeleton(self, skeleton: Skeleton) -> None:
        for name, content in skeleton.items():
            path = self.part_path / name
            # How it was made was said when it was begun.
            if name != "zarr.json" and (not path.is_file() or path.read_bytes() != content):
                raise self._refuse_part(f"/{name}")

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, 3) at ``window`` of ``level``.

        Returns:
            The CRC-32 of its shards, one after the other, and their length in bytes.

        Raises:
            InputError: no such level, a window that leaves it, or pixels of another shape or type.
            OptionError: the window does not fill whole shards.
        """
        check = n_bytes = 0
        for row, column, part in self._split(level, window, pixels):
            write = partial(self._codec.write, pixels=part, check=check)
            check, more = self._write_file(self._find_shard(level, row, column), write)
            n_bytes += more
        return check, n_bytes

    def _check(self, level: int, window: Window, piece: Piece) -> bool:
        check = n_bytes = 0
        for row, column in find_squares(window, self.square_px):
            try:
                content = self._find_shard(level, row, column).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return False
            check, n_bytes = zlib.crc32(content, check), n_bytes + len(content)
        return (check, n_bytes) == piece

    def _get(self, level: int, row: int, column: int) -> NDArray[Any]:
        path = self._find_shard(level, row, column)
        try:
            return self._codec.read(path.read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise TileError(
                f"The half-done output was damaged while it was in use: path={path} ({error}). "
                "A run that goes on makes that shard again."
            ) from error

    def _find_shard(self, level: int, row: int, column: int) -> Path:
        """Return the file of the shard that starts there; all channels are in one."""
        return self.part_path / str(level) / "c" / "0" / str(row // self.square_px) / str(column // self.square_px)


class WrittenZarr(WrittenImage):
    """An OME-Zarr that has been written, read back by the zarr library: the arrays that it names as its levels."""

    def __init__(self, path: Path) -> None:
        import zarr

        group = zarr.open_group(path, mode="r")
        attributes: Any = group.attrs.asdict()
        [multiscale] = attributes["ome"]["multiscales"]
        self.axes = find_axes(json.dumps(attributes.get("taesd-tiler")))
        names = [each["path"] for each in multiscale["datasets"]]
        self._arrays: list[Any] = [group[name] for name in names]
        for name, array in zip(names, self._arrays, strict=True):
            # What has no chunk is read as 0, without an error.
            n_shards = int(np.prod([-(-size // shard) for size, shard in zip(array.shape, array.shards, strict=True)]))
            n_found = sum(each.is_file() for each in (path / name / "c").rglob("*"))
            if n_found != n_shards:
                raise DamagedImageError(f"level {name} has {n_found} of {n_shards} shards")
        self.levels = [(*each.shape[1:], each.shape[0]) for each in self._arrays]
        self.dtype, self.file_tile_px = self._arrays[0].dtype, self._arrays[0].chunks[2]

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return a window."""
        try:
            return np.moveaxis(self._arrays[level][:, *window.slices], 0, 2)
        except MemoryError:
            raise
        except Exception as error:  # The library, and its codecs, raise a dozen kinds.
            raise DamagedImageError(f"chunks cannot be read ({shorten(error)})") from error
