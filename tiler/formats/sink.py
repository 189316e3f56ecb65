"""Where windows go: the contract of every sink, and what they all do alike.

The life of a sink:

1. It is opened: an existing output is refused unless it may be replaced, and ``NAME.part`` is made beside it. Or it
   is reopened: ``NAME.part`` is there from an earlier run and is written on.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.errors import InputError, Option, OptionError, OutputExistsError
from tiler.formats.skeleton import Skeleton
from tiler.window import Window

BESIDE = (".part", ".part.journal", ".part.quarters", ".part.encoded", ".part.old")
"""What follows the name of an output in the names of the files beside it, until it is complete."""

Piece = tuple[int, ...]
"""What a write leaves on the disk: the CRC-32 of its bytes, then where they are, if the window does not say that."""
Written = tuple[int, Window, Piece]
"""Level and window of a write, and what it has left."""


class Sink(ABC):
    """A file under construction.

    Args:
        path: the final name.
        overwrite: whether an existing file of that name may be replaced (when the new one is complete).

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        InputError: there is no such folder, or ``path`` is one.
    """

    levels: list[tuple[int, int]]
    """(height, width) of every level, level 0 first; one only where there is no pyramid."""

    dtype: np.dtype[Any]
    """Of the pixels of every level."""

    skeleton: Skeleton
    """What a new part holds besides pixels."""

    reads_back = False
    """Whether ``read`` gives exactly what was written: not where compression loses something."""

    _file: io.FileIO
    _shared = False

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.part_path = find_part(self.path)
        self._overwrite = overwrite
        check_output(self.path, overwrite=overwrite)

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
        check_output(self.path, overwrite=self._overwrite)
        files.replace(self.part_path, self.path)
        files.sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written."""
        self.close()
        files.remove(self.part_path)


def find_part(path: Path) -> Path:
    """Return where an output is written until it is complete."""
    return path.with_name(path.name + ".part")


def find_old(path: Path) -> Path:
    """Return where a folder that is replaced waits until the new one has its name."""
    return path.with_name(path.name + ".part.old")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that could not be written, before any work is done.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        InputError: it cannot be there, or what is there is no file: a folder but a Zarr, a link, a device.
    """
    try:
        _check_place(path)
    except OSError as error:  # a name that is too long, a folder above that may not be entered
        raise InputError(f"No place for the output: path={path} ({error.strerror}). Name another.") from error
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"The output exists: path={path}. Use ", Option("overwrite", True), " to replace it, or another name."
        )


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"No such folder for the output: path={path}. Make it first, or name another.")
    if path.is_dir() and not (path / "zarr.json").is_file():
        # Replacing it could take anything with it.
        raise InputError(f"The output is a folder: path={path}. Name a file in it.")
    if path.is_symlink():
        # The new file would take the place of the link, and not be where it points to.
        raise InputError(f"The output is a link: path={path}, target={os.readlink(path)}. Name the target itself.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"The output is a device or a pipe: path={path}. Name a file.")
    for extra in BESIDE:
        beside = path.with_name(path.name + extra)
        if beside.is_symlink() or (beside.is_dir() and not _is_ours(beside, path)):
            raise InputError(f"A folder or a link is in the way: path={beside}. Move it, or name another output.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"Nothing may be written to the folder: path={path}. Name another, or mend its permissions.")


def _is_ours(folder: Path, path: Path) -> bool:
    """Tell whether a folder beside an output is one that a run has left: a Zarr, or the beginnings of one."""
    return path.suffix.lower() == ".zarr" or (folder / "zarr.json").is_file()


def check_apart(output: Path, inputs: Mapping[str, object]) -> None:
    """Refuse an output that would take the place of what it is made of.

    Args:
        output: the final name.
        inputs: by names that people know; what is no path is passed over.

    Raises:
        InputError: one of them is the same file as the output, or as what lies beside it until it is complete; or it
            lies in a folder that is, or is one that the output would lie in.
    """
    for name, path in inputs.items():
        if not isinstance(path, str | os.PathLike):
            continue
        if any(_is_same(each, Path(path)) for each in _find_above(output)[1:]):
            # An array in a folder is another one when there is something else in it.
            raise InputError(
                f"The output would lie in its input: output={output}, {name}={os.fspath(path)}. Name it elsewhere."
            )
        for extra in ("", *BESIDE):
            place = output.with_name(output.name + extra)
            if any(_is_same(place, each) for each in _find_above(Path(path))):
                raise InputError(
                    f"The output would take the place of its input: output={output}, {name}={os.fspath(path)}. "
                    "Name another output."
                )


def _find_above(path: Path) -> list[Path]:
    """Return a path and the folders that it lies in."""
    try:
        return [path, *path.resolve().parents]
    except (OSError, ValueError):  # no name that there can be
        return []


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # not there, or no name that there can be
        return False


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


def check_rgb(shape: tuple[int, int, int]) -> None:
    """Refuse what is no RGB image.

    Raises:
        OptionError: it is not (height, width, 3).
    """
    if min(shape) < 1 or shape[2] != 3:
        raise OptionError(f"Not an RGB image: shape={shape}. The shape must be (height, width, 3).")


def check_whole(sink: Sink, level: int, window: Window, pixels: NDArray[Any], unit: str, size_px: int) -> None:
    """Refuse pixels that do not belong at ``window`` of a level, or do not fill the squares that a file consists of.

    Args:
        sink: of RGB pixels.
        level: of the pyramid.
        window: where they are to be.
        pixels: what is to be written.
        unit: what people call a square.
        size_px: its side; at the right and lower edge of the image they may be smaller.

    Raises:
        InputError: no such level, a window that leaves it, or pixels of another shape or type.
        OptionError: the window does not fill whole squares.
    """
    if not 0 <= level < len(sink.levels):
        raise InputError(f"No such level: level={level}. Use 0 to {len(sink.levels) - 1}.")
    check_window(window, (*sink.levels[level], 3), sink.dtype, pixels)
    for span, edge in zip((window.rows, window.columns), sink.levels[level], strict=True):
        if span.start % size_px or (span.stop % size_px and span.stop != edge):
            raise OptionError(
                f"Window does not fill whole {unit}s: level={level}, window=({window}), {unit}={size_px} px. "
                "Use a tile size that is a multiple of it."
            )


def cut(window: Window, pixels: NDArray[Any], size_px: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield row and column of each square of ``window`` in its level, and its part of ``pixels``, a view."""
    for row, column in find_squares(window, size_px):
        top, left = row - window.rows.start, column - window.columns.start
        yield row, column, pixels[top : top + size_px, left : left + size_px]


def find_squares(window: Window, size_px: int) -> Iterator[tuple[int, int]]:
    """Yield row and column of each square of ``window`` in its level, in the order in which they are written."""
    for row in range(window.rows.start, window.rows.stop, size_px):
        for column in range(window.columns.start, window.columns.stop, size_px):
            yield row, column
