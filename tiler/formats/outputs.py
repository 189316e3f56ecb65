"""Files to be made: which kind a name means."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tiler.errors import OptionError
from tiler.formats.npy_file import Npy
from tiler.formats.picture_file import Jpeg, Png, WebP
from tiler.formats.planned_file import PathLike
from tiler.formats.tiff_file import TIFF_ENDINGS, Tiff
from tiler.formats.zarr_file import Zarr

OutputFile = Tiff | Npy | Zarr | Png | Jpeg | WebP
"""What ``decode`` writes."""

_KINDS: dict[str, type[OutputFile]] = {
    **dict.fromkeys(TIFF_ENDINGS, Tiff),
    ".npy": Npy,
    ".zarr": Zarr,
    ".png": Png,
    ".jpg": Jpeg,
    ".jpeg": Jpeg,
    ".webp": WebP,
}


def describe_output(output: PathLike | OutputFile, options: Mapping[str, Any] | None = None) -> OutputFile:
    """Return the kind of file that a name's ending means, with options by their names.

    Raises:
        OptionError: there is no such kind, it has no such option, or the name promises another one.
    """
    if isinstance(output, OutputFile):
        _check_promise(Path(output.path), type(output))
        return output
    kind = _KINDS[check_kind(Path(output))]
    _check_promise(Path(output), kind)
    options = options or {}
    for name, value in options.items():
        if name not in {field.name for field in fields(kind)}:
            raise OptionError(f"Not an option of a {Path(output).suffix} file: {name}={value}. Leave it out.")
    return kind(output, **options)


def check_kind(path: Path, kinds: tuple[str, ...] = tuple(_KINDS)) -> str:
    """Return the ending of an output's name.

    Raises:
        OptionError: it is none of ``kinds``.
    """
    kind = path.suffix.lower()
    if kind not in kinds:
        raise OptionError(f"No such kind of output: path={path}. The name must end in {', '.join(kinds)}.")
    return kind


def _check_promise(path: Path, kind: type[OutputFile]) -> None:
    """Refuse a name that people, and programs, would take for another kind of file."""
    promised = _KINDS.get(path.suffix.lower(), kind)
    if promised is not kind:
        raise OptionError(
            f"The name promises another kind of file: path={path}, kind={kind.__name__}. Name it otherwise, or use "
            f"{promised.__name__}."
        )
    if kind not in (Tiff, Zarr) and path.stem.lower().endswith(".ome"):
        raise OptionError(f"The name promises OME, which is a TIFF or a Zarr: path={path}. Name it otherwise.")
