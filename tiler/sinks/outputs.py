"""Files to be made: which kind a name means."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tiler.errors import OptionError
from tiler.sinks.npy_file import Npy
from tiler.sinks.picture_file import Jpeg, Png, WebP
from tiler.sinks.planned_file import PathLike
from tiler.sinks.tiff_file import Tiff
from tiler.sinks.zarr_file import Zarr

OutputFile = Tiff | Npy | Zarr | Png | Jpeg | WebP
"""What ``decode`` writes."""

_KINDS: dict[str, type[OutputFile]] = {
    ".tif": Tiff,
    ".tiff": Tiff,
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
        OptionError: there is no such kind, or it has no such option.
    """
    if isinstance(output, OutputFile):
        return output
    kind = _KINDS[check_kind(Path(output))]
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
