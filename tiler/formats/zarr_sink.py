"""An OME-Zarr as a sink: a folder with an array a level, whose shards may come in any order.

::

    NAME.part/zarr.json             the image, as OME-Zarr 0.5 describes it
    NAME.part/0/zarr.json           level 0: an array with axes c, y, x
    NAME.part/0/c/0/3/5             its shard in row 3, column 5: a tile, written by the task that made it
    NAME.part/.unfinished-5f0c…/    a folder of each process that writes, for shards that are not whole yet

A shard gets its name when all of it is on the disk, before ``write`` returns, and takes the place of one that was there
in the same moment; its name is on the disk when ``sync`` returns. What has not been written reads as 0.

A task that nobody waits for any more, of a job that was stopped, may come when another job has begun in its place. It
then finds its folder of the unfinished gone, with the part that this was in, and fails.
"""

import os
import zlib
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler import files
from tiler.errors import InputError, TileError
from tiler.formats.ome_zarr import write_array, write_group
from tiler.formats.sink import Piece, Sink, Written, check_output, check_rgb, check_whole, cut, find_old, find_squares
from tiler.formats.zarr_shard import ShardCodec, ZarrCompression
from tiler.pyramid import level_shapes
from tiler.window import Window

_UNFINISHED = ".unfinished-"


class ZarrSink(Sink):
    """An OME-Zarr 0.5 (Zarr 3) of RGB pixels under construction.

    Args:
        path: the final name, a folder.
        shape: (height, width, 3) of level 0.
        shard_px: side of a shard; windows are whole shards.
        dtype: of the pixels: uint8, uint16 or float32.
        compression: of the chunks, all without loss: "deflate" (gzip), "zstd" or "none".
        file_tile_px: side of a chunk.
        pyramid: whether there are reduced levels, down to one that fits a single chunk.
        overwrite: whether an existing OME-Zarr may be replaced (when the new one is complete).
        pixel_size_um: side of a pixel in micrometres, if somebody says it.
        description: a JSON object, stored with the image.
        reopen: write on what an earlier run left; all else must be as it was then.

    Raises:
        OptionError: an option is out of its range.
        InputError: what is to be reopened is another image than it was.
    """

    reads_back = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int, int],
        *,
        shard_px: int,
        dtype: DTypeLike = np.uint8,
        compression: ZarrCompression = "deflate",
        file_tile_px: int = 512,
        pyramid: bool = True,
        overwrite: bool = False,
        pixel_size_um: float | None = None,
        description: str | None = None,
        reopen: bool = False,
    ) -> None:
        check_rgb(shape)
        self._codec = ShardCodec(compression, shard_px, file_tile_px, shape[2], dtype)
        if not reopen:
            _restore_old(Path(path))
        super().__init__(path, overwrite=overwrite)
        self.file_tile_px, self.dtype = file_tile_px, self._codec.dtype
        self.levels = level_shapes(*shape[:2], file_tile_px) if pyramid else [shape[:2]]
        self._lock, self._syncing = Lock(), Lock()
        self._closed = False
        self._folders: set[Path] = set()
        self._unsynced: set[Path] = set()
        self._unfinished = self.part_path / f"{_UNFINISHED}{uuid4().hex}"
        if reopen:
            self._check_part()
            self._make_folders()
            files.make_folder(self._unfinished)
            return
        try:
            self._make_part(description, pixel_size_um)
            files.make_folder(self._unfinished)
        except BaseException:
            with suppress(OSError):
                self.discard()
            raise

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, 3) at ``window`` of ``level``.

        Returns:
            The CRC-32 of its shards, one after the other, and their length in bytes.

        Raises:
            InputError: no such level, a window that leaves it, or pixels of another shape or type.
            OptionError: the window does not fill whole shards.
        """
        if self._closed:
            raise ValueError("The sink is closed.")
        check_whole(self, level, window, pixels, "shard", self._codec.shard_px)
        check = n_bytes = 0
        for row, column, part in cut(window, pixels, self._codec.shard_px):
            check, more = self._write_shard(self._find_shard(level, row, column), part, check)
            n_bytes += more
        return check, n_bytes

    def check(self, written: Sequence[Written]) -> list[bool]:
        """Read what was written in an earlier run, and say of each whether it is still there, byte by byte."""
        return [self._check(*each) for each in written]

    def _check(self, level: int, window: Window, piece: Piece) -> bool:
        check = n_bytes = 0
        for row, column in find_squares(window, self._codec.shard_px):
            try:
                content = self._find_shard(level, row, column).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return False
            check, n_bytes = zlib.crc32(content, check), n_bytes + len(content)
        return (check, n_bytes) == piece

    def _write_shard(self, path: Path, pixels: NDArray[Any], check: int) -> tuple[int, int]:
        unfinished = self._unfinished / uuid4().hex
        try:
            with closing(files.open_file(unfinished, new=True)) as file:
                written = self._codec.write(file, pixels, check)
                files.sync(file)
            self._make_folder(path.parent)
            files.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                files.remove(unfinished)
            raise
        self._note_name(path.parent)
        return written

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return what was written at ``window``, whole shards of ``level``.

        Raises:
            TileError: a shard is absent or damaged.
        """
        pixels = np.empty((*window.shape, 3), self.dtype)
        for row, column, part in cut(window, pixels, self._codec.shard_px):
            path = self._find_shard(level, row, column)
            try:
                part[:] = self._codec.read(path.read_bytes())[: part.shape[0], : part.shape[1]]
            except (FileNotFoundError, ValueError) as error:
                raise TileError(
                    f"The half-done output was damaged while it was in use: path={path} ({error}). "
                    "A run that goes on makes that shard again."
                ) from error
        return pixels

    def sync(self) -> None:
        """Wait until the names of all that was written are on the disk, as the shards themselves are."""
        # One at a time: what another thread has taken to sync may not be on the disk yet.
        with self._syncing:
            with self._lock:
                folders, self._unsynced = self._unsynced, set()
            for folder in sorted(folders):
                files.sync_folder(folder)

    def close(self) -> None:
        """Write no more; ``NAME.part`` stays."""
        self._closed = True

    def commit(self) -> None:
        """Give the folder its final name; what had it is put aside first, and removed last.

        Raises:
            OutputExistsError: something of this name has appeared meanwhile; ``NAME.part`` stays.
        """
        self.sync()
        self.close()
        for folder in self.part_path.glob(f"{_UNFINISHED}*"):
            files.remove(folder)
        check_output(self.path, overwrite=self._overwrite)
        # A folder takes no other's place in one step. A kill between the two leaves all there is; see _restore_old.
        old = find_old(self.path)
        if self.path.exists():
            files.remove(old)
            files.replace(self.path, old)
        try:
            files.replace(self.part_path, self.path)
        except OSError:
            with suppress(OSError):
                files.replace(old, self.path)
            raise
        files.sync_folder(self.path.parent)
        files.remove(old)

    def discard(self) -> None:
        """Remove what was written."""
        self.close()
        files.remove(self.part_path)
        _restore_old(self.path)

    def _make_part(self, description: str | None, pixel_size_um: float | None) -> None:
        group = write_group(len(self.levels), self.dtype, description, pixel_size_um=pixel_size_um)
        self.skeleton = {"zarr.json": group}
        for level, shape in enumerate(self.levels):
            self.skeleton[f"{level}/zarr.json"] = write_array(shape, self._codec)
        self._make_folders()
        for name, document in self.skeleton.items():
            path = self.part_path / name
            with closing(files.open_file(path, new=True)) as file:
                files.write_at(file, document, 0)
                files.sync(file)
            self._note_name(path.parent)

    def _make_folders(self) -> None:
        self._make_folder(self.part_path)
        for level in range(len(self.levels)):
            for folder in (str(level), f"{level}/c", f"{level}/c/0"):
                self._make_folder(self.part_path / folder)

    def _check_part(self) -> None:
        for level, shape in enumerate(self.levels):
            path = self.part_path / str(level) / "zarr.json"
            if not path.is_file() or path.read_bytes() != write_array(shape, self._codec):
                raise InputError(
                    f"The half-done output has changed: path={path}. Start over with --overwrite and without --resume."
                )

    def _find_shard(self, level: int, row: int, column: int) -> Path:
        """Return the file of the shard that starts there; all channels are in one."""
        size = self._codec.shard_px
        return self.part_path / str(level) / "c" / "0" / str(row // size) / str(column // size)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder where there is none; its name is to be synced, also where another process made it."""
        with self._lock:
            if folder not in self._folders:
                files.make_folder(folder)
                self._folders.add(folder)
                self._unsynced.add(folder.parent)

    def _note_name(self, folder: Path) -> None:
        """Have names in a folder synced: called when they are there, for a sync before that would not do."""
        with self._lock:
            self._unsynced.add(folder)


def count_most_bytes(shape: tuple[int, int, int], codec: ShardCodec, *, pyramid: bool) -> int:
    """Return how large the folder can get, at most."""
    levels = level_shapes(*shape[:2], codec.chunk_px) if pyramid else [shape[:2]]
    n_shards = sum(-(-height // codec.shard_px) * -(-width // codec.shard_px) for height, width in levels)
    # A file is rounded up to what a disk gives at a time, 4 kB as a rule, and so is a folder.
    return n_shards * (codec.most_bytes() + 8192) + len(levels) * 20_000 + 20_000


def _restore_old(path: Path) -> None:
    """Give what a kill has left put aside its name again."""
    old = find_old(path)
    if old.exists() and not path.exists():
        files.replace(old, path)
