"""Outputs that are folders: a file in them gets its name when it is whole, and the folder when all of them are there.

::

    NAME.part/.unfinished-5f0c…/    a folder of each process that writes, for files that are not whole yet
    NAME.part.old                   what had the name, until the new one has it

A file gets its name when all of it is on the disk, and takes the place of one that was there in the same moment; its
name is on the disk when ``sync`` returns.

A task that nobody waits for any more, of a job that was stopped, may come when another job has begun in its place. It
then finds its folder of the unfinished gone, with the part that this was in, and fails.
"""

import io
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar
from uuid import uuid4

from tiler import files
from tiler.formats.sink import Sink, Skeleton, restore_start

_UNFINISHED = ".unfinished-"
T = TypeVar("T")


class FolderSink(Sink):
    """A folder under construction; the sink of a format calls ``_open_folder`` when it is opened."""

    def _open_folder(self, skeleton: Skeleton, folders: Iterable[str], begun: Skeleton | None) -> None:
        """Make the part, or put back what is not as it was.

        Args:
            skeleton: of a new part: names in it, and whole files.
            folders: others that it has.
            begun: the skeleton of what an earlier run has left, if that is to be gone on with.
        """
        self._lock, self._syncing = Lock(), Lock()
        self._closed = False
        self._folders: set[Path] = set()
        self._unsynced: set[Path] = set()
        self._unfinished = self.part_path / f"{_UNFINISHED}{uuid4().hex}"
        try:
            for name, content in (skeleton if begun is None else begun).items():
                path = self.part_path / name
                for above in reversed(path.relative_to(self.part_path).parents):
                    self._make_folder(self.part_path / above)
                restore_start(path, content, whole=True)
                self._note_name(path.parent)
            if begun is not None:
                self._check_skeleton(skeleton)
            for folder in folders:
                self._make_folder(self.part_path / folder)
            files.make_folder(self._unfinished)
        except BaseException:
            if begun is None:
                with suppress(OSError):
                    self.discard()
            raise
        self.skeleton = skeleton

    def _check_skeleton(self, skeleton: Skeleton) -> None:
        """Refuse a part that is another one.

        Raises:
            InputError: it is.
        """

    def _write_file(self, path: Path, write: Callable[[io.FileIO], T]) -> T:
        """Have a file written, and give it its name."""
        if self._closed:
            raise ValueError("The sink is closed.")
        unfinished = self._unfinished / uuid4().hex
        try:
            with closing(files.open_file(unfinished, new=True)) as file:
                written = write(file)
                files.sync(file)
            self._make_folder(path.parent)
            files.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                files.remove(unfinished)
            raise
        self._note_name(path.parent)
        return written

    def sync(self) -> None:
        """Wait until the names of all that was written are on the disk, as the files themselves are."""
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
        self._check_place()
        # A folder takes no other's place in one step. A kill between the two leaves all there is; see restore_old.
        old = _find_old(self.path)
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
        restore_old(self.path)

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


def restore_old(path: Path) -> None:
    """Give what a kill has left put aside its name again."""
    old = _find_old(path)
    if old.exists() and not path.exists():
        files.replace(old, path)


def _find_old(path: Path) -> Path:
    """Return where a folder that is replaced waits until the new one has its name."""
    return path.with_name(path.name + ".part.old")
