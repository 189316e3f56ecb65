"""Where an output may be: nothing else is there or lost by it, and it takes the place of none of its inputs."""

import os
from collections.abc import Mapping
from pathlib import Path

from tiler.errors import InputError, Option, OutputExistsError

BESIDE = (".part", ".part.journal", ".part.quarters", ".part.encoded", ".part.old")
"""What may follow the name of an output in the names of what lies beside it, until it is complete."""


def find_part(path: Path) -> Path:
    """Return where an output is written until it is complete."""
    return path.with_name(path.name + ".part")


def check_output(path: Path, *, overwrite: bool, marker: str | None = None) -> None:
    """Refuse an output that could not be written, before any work is done.

    Args:
        path: the final name.
        overwrite: whether what has it may be replaced.
        marker: a file in each folder that is such an output; None where outputs are no folders.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        InputError: it cannot be there, or what is there is no such output: another folder, a link, a device.
    """
    try:
        _check_place(path, marker)
    except OSError as error:  # a name that is too long, a folder above that may not be entered
        raise InputError(f"No place for the output: path={path} ({error.strerror}). Name another.") from error
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"The output exists: path={path}. Use {Option('overwrite', True)} to replace it, or another name."
        )


def _check_place(path: Path, marker: str | None) -> None:
    if not path.parent.is_dir():
        raise InputError(f"No such folder for the output: path={path}. Make it first, or name another.")
    if path.is_dir() and (marker is None or not (path / marker).is_file()):
        # Replacing it could take anything with it.
        raise InputError(f"The output is a folder: path={path}. Name a file in it.")
    if path.is_symlink():
        # The new file would take the place of the link, and not be where it points to.
        raise InputError(f"The output is a link: path={path}, target={os.readlink(path)}. Name the target itself.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"The output is a device or a pipe: path={path}. Name a file.")
    for extra in BESIDE:
        beside = path.with_name(path.name + extra)
        if beside.is_symlink() or (beside.is_dir() and marker is None):
            raise InputError(f"A folder or a link is in the way: path={beside}. Move it, or name another output.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"Nothing may be written to the folder: path={path}. Name another, or mend its permissions.")


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
