"""The formats: which kind of file a name means. A new one is a module, and a line here."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tiler.errors import InputError, OptionError
from tiler.formats.jpeg_webp import Jpeg, WebP
from tiler.formats.latents import LatentFile, NpyLatents, SafetensorsLatents
from tiler.formats.npy import Npy
from tiler.formats.output_file import OutputFile
from tiler.formats.png import Png
from tiler.formats.png_latents import PngLatents
from tiler.formats.sink import PathLike
from tiler.formats.tiff import Tiff
from tiler.formats.written import DamagedImageError, WrittenImage
from tiler.formats.zarr import Zarr
from tiler.sources.input_file import shorten

IMAGES: tuple[type[OutputFile], ...] = (Tiff, Npy, Zarr, Png, Jpeg, WebP)
"""What ``decode`` writes, and ``verify`` reads back."""
LATENTS: tuple[type[LatentFile], ...] = (NpyLatents, SafetensorsLatents, PngLatents)
"""What ``encode`` writes."""
OF_OME = (Tiff, Zarr)
"""What a name in ``.ome`` can mean."""
F = TypeVar("F", bound=OutputFile)


def describe_output(output: PathLike | OutputFile, options: Mapping[str, Any] | None = None) -> OutputFile:
    """Return the kind of file that a name's ending means, with options by their names.

    Raises:
        OptionError: there is no such kind, it has no such option, or the name promises another one.
    """
    if isinstance(output, OutputFile):
        _check_promise(Path(output.path), type(output))
        return output
    kind = find_format(Path(output))
    _check_promise(Path(output), kind)
    options = options or {}
    for name, value in options.items():
        if name not in {field.name for field in fields(kind)}:
            raise OptionError(f"Not an option of a {Path(output).suffix} file: {name}={value}. Leave it out.")
    return kind(output, **options)


def describe_latents(path: PathLike) -> LatentFile:
    """Return the kind of file of latents that a name's ending means.

    Raises:
        OptionError: there is no such kind.
    """
    return _find(Path(path), LATENTS)(path)


def find_format(path: Path) -> type[OutputFile]:
    """Return the format of images that a name's ending means.

    Raises:
        OptionError: there is no such kind.
    """
    return _find(path, IMAGES)


def open_written_image(path: Path) -> WrittenImage:
    """Open an image that this package has written.

    Raises:
        DamagedImageError: it is not one, or it is damaged.
        InputError: it cannot be compared: it has lost something, and nothing says how much.
    """
    try:
        return find_format(path).read_back(path)
    except (DamagedImageError, InputError):
        raise
    except Exception as error:  # tifffile and numpy raise a dozen kinds for a damaged file.
        raise DamagedImageError(f"the file cannot be read ({shorten(error)})") from error


def _find(path: Path, formats: tuple[type[F], ...]) -> type[F]:
    for each in formats:
        if path.suffix.lower() in each.endings:
            return each
    endings = ", ".join(ending for each in formats for ending in each.endings)
    raise OptionError(f"No such kind of output: path={path}. The name must end in {endings}.")


def _check_promise(path: Path, kind: type[OutputFile]) -> None:
    """Refuse a name that people, and programs, would take for another kind of file."""
    promised = next((each for each in IMAGES if path.suffix.lower() in each.endings), kind)
    if promised is not kind:
        raise OptionError(
            f"The name promises another kind of file: path={path}, kind={kind.__name__}. Name it otherwise, or use "
            f"{promised.__name__}."
        )
    if kind not in OF_OME and path.stem.lower().endswith(".ome"):
        raise OptionError(f"The name promises OME, which is a TIFF or a Zarr: path={path}. Name it otherwise.")
