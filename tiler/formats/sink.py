"""Where windows go: the contract of every sink, and what they all do alike.

The life of a sink:

1. It is opened: an existing output is refused unless it may be replaced, and ``NAME.part`` is made beside it. Or it
   is reopened: ``NAME.part`` is there from an earlier run and is written on; what it holds besides pixels, its
   skeleton, is put back where it is not as it was.
2. ``write`` puts windows where they belong, in any order, from many threads; no two windows share a file tile. From
   many processes too, each with a reopened sink of its own, once it has been told so by ``share``.
   ``sync`` waits until all that was written so far is on the disk; a journal notes windows only then, with what
   ``write`` has returned of each.
   Reopened, a sink is told once by ``keep`` what of that is still as it was, which ``check`` tells.
3. ``commit`` syncs and renames ``NAME.part`` to ``NAME``: the final name never exists half-written.
   Or ``close`` leaves ``NAME.part`` for a later run, or ``discard`` removes it.
"""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.errors import START_OVER, InputError
from tiler.formats.places import check_output, find_part
from tiler.window import Window

PathLike = str | os.PathLike[str]
Piece = tuple[int, ...]
"""What a write leaves on the disk: the CRC-32 of its bytes, then where they are, if the window does not say that."""
Written = tuple[int, Window, Piece]
"""Level and window of a write, and what it has left."""
Skeleton = Mapping[str, bytes]
"""What a part holds besides pixels, by names that the sink knows: how its files begin."""


class Sink(ABC):
    """A file under construction.

    Args:
        path: the final name.
        overwrite: whether an existing file of that name may be replaced (when the new one is complete).
        marker: a file in each folder that is such an output; None where outputs are no folders.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        InputError: there is no such folder, or ``path`` is one.
    """

    levels: list[tuple[int, int]]
    """(height, width) of every level, level 0 first; one only where there is no pyramid."""

    dtype: np.dtype[Any]
    """Of the pixels of every level."""

    skeleton: Skeleton
    """What a new part holds besides pixels; a sink that is reopened is given that of the earlier run."""

    reads_back = False
    """Whether ``read`` gives exactly what was written: not where compression loses something."""

    _file: io.FileIO
    _shared = False

    def __init__(self, path: PathLike, *, overwrite: bool = False, marker: str | None = None) -> None:
        self.path = Path(path)
        self.part_path = find_part(self.path)
        self._overwrite, self._marker = overwrite, marker
        self._check_place()

    @abstractmethod
    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, channels) at ``window`` of pyramid level ``level`` (0 = full size)."""

    @abstractmethod
    def check(self, written: Sequence[Written]) -> list[bool]:
        """Read what was written in an earlier run, and say of each whether it is still there, byte by byte."""

    def place(self, written: Written) -> tuple[int, ...]:
        """Return where a write lies: sorted by this, ``check`` reads from start to end."""
        level, window, _ = written
        return level, window.rows.start, window.columns.start

    def keep(self, written: Sequence[Written]) -> None:  # noqa: B027
        """Hold on to these writes of an earlier run, and to no others."""

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return what was written at ``window``, which may have been in an earlier run; see ``reads_back``."""
        raise NotImplementedError

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of what was written."""
        return ()

    def share(self) -> None:
        """Take turns from now on with other processes that write the same file."""
        self._shared = True

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        files.sync(self._file)

    def close(self) -> None:
        """Release the file; ``NAME.part`` stays."""
        self._file.close()

    def complete(self) -> tuple[int, ...]:
        """Make what can be made only when all windows are there.

        Returns:
            The number by which the file system knows what ``commit`` will give the final name. If that is not the part
            as it is, its CRC-32 and size in bytes as well.
        """
        return (files.find_number(self.part_path),)

    def commit(self) -> None:
        """Sync to disk and give the file its final name.

        Raises:
            OutputExistsError: a file of this name has appeared meanwhile; ``NAME.part`` stays.
        """
        self.sync()
        self.close()
        self._check_place()
        files.replace(self.part_path, self.path)
        files.sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written."""
        self.close()
        files.remove(self.part_path)

    def _check_place(self) -> None:
        check_output(self.path, overwrite=self._overwrite, marker=self._marker)

    def _refuse_part(self, where: str = "", *, what: str = "has changed") -> InputError:
        return InputError(f"The half-done output {what}: path={self.part_path}{where}. {START_OVER}")


def restore_start(path: Path, content: bytes, *, whole: bool = False) -> None:
    """Write again how a file begins, or a whole file, where it is not there any more, or other than it was."""
    with closing(files.open_or_create(path)[0]) as file, files.locked(file):
        if whole and files.read_at(file, len(content) + 1, 0) != content:
            files.truncate(file, 0)
        if files.read_at(file, len(content), 0) != content:
            files.write_at(file, content, 0)
            files.sync(file)


def check_window(window: Window, shape: tuple[int, int, int], dtype: np.dtype[Any], pixels: NDArray[Any]) -> None:
    """Refuse pixels that do not belong at ``window`` of an array of ``shape`` and ``dtype``.

    Raises:
        InputError: the window leaves the array, or the pixels have another shape or type.
    """
    height, width, channels = shape
    if window.rows.stop > height or window.columns.stop > width:
        raise InputError(f"Window leaves the image: window=({window}), image={(height, width)} px.")
    if pixels.shape != (*window.shape, channels) or pixels.dtype != dtype:
        raise InputError(
            f"Pixels do not fit their window: pixels={pixels.shape} {pixels.dtype}, "
            f"window={(*window.shape, channels)} {dtype}."
        )
