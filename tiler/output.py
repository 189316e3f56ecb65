"""Files to be made: what they are to be like, and, with a plan, how large they get and what tells them from others."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tiler.compression import Compression
from tiler.errors import OptionError
from tiler.fingerprint import Fields
from tiler.npy_sink import NpySink
from tiler.plan import Plan
from tiler.pyramid import level_shapes
from tiler.sink import Sink
from tiler.strided_sink import count_bytes
from tiler.tiff_sink import TiffSink, count_most_bytes
from tiler.tile_codec import TileCodec

PathLike = str | os.PathLike[str]

LARGE_PX = 800_000
"""From here on a TIFF gets larger tiles: libvips refuses more than about 2.6 million in a level."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be made of a plan."""

    path: Path
    """Its final name."""
    overwrite: bool
    """Whether an existing file of that name may be replaced."""
    open_sink: Callable[[bool], Sink]
    """``open_sink(reopen)``: anew, or what an earlier run has left."""
    most_bytes: int
    """How large the file can get, at most."""
    n_levels: int
    """Levels of its pyramid; 1 without one."""
    fields: Fields
    """Its options, by names that people know."""


@dataclass(frozen=True, slots=True)
class Npy:
    """A ``.npy`` file, to be memory-mapped; see ``tiler.npy_sink``."""

    path: PathLike
    """Its name."""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px."""
        return 512

    def plan(self, plan: Plan, *, overwrite: bool) -> PlannedFile:
        """Return the file that holds the output of a plan."""
        path, shape = Path(self.path), plan.output_shape
        open_sink = partial(NpySink, path, shape, np.uint8, overwrite=overwrite)
        most_bytes = count_bytes(shape, np.uint8) + 1000
        return PlannedFile(path, overwrite, lambda reopen: open_sink(reopen=reopen), most_bytes, 1, {"kind": ".npy"})


@dataclass(frozen=True, slots=True)
class Tiff:
    """A tiled BigTIFF; see ``tiler.tiff_sink``.

    Example:
        >>> import tiler
        >>> small = tiler.Tiff("image.tif", compression="jpeg", quality=95)
    """

    path: PathLike
    """Its name."""
    _: KW_ONLY
    compression: Compression = "deflate"
    """"deflate" (lossless), "jpeg" or "none"."""
    quality: int = 90
    """Of JPEG tiles, 1 to 100."""
    file_tile_px: int | None = None
    """Side of the file's own tiles; by default the largest power of 2 up to 512 (1024 for huge images) that divides
    a tile of the plan."""
    pyramid: bool = True
    """Whether there are reduced levels for viewers."""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px: whole tiles of the file."""
        if self.file_tile_px is None or self.file_tile_px < 1:
            return 1024 if size_px > LARGE_PX else 512
        return -(-512 // self.file_tile_px) * self.file_tile_px

    def plan(self, plan: Plan, *, overwrite: bool) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range.
        """
        path, shape, file_tile_px = Path(self.path), plan.output_shape, choose_file_tile(plan, self.file_tile_px)
        codec = TileCodec(self.compression, self.quality, file_tile_px)
        fields: Fields = {"kind": "TIFF", "compression": self.compression}
        if not codec.lossless:
            fields["quality"] = self.quality
        open_sink = partial(
            TiffSink,
            path,
            shape,
            compression=self.compression,
            quality=self.quality,
            file_tile_px=file_tile_px,
            pyramid=self.pyramid,
            overwrite=overwrite,
        )
        return PlannedFile(
            path,
            overwrite,
            lambda reopen: open_sink(reopen=reopen),
            count_most_bytes(shape, codec, pyramid=self.pyramid),
            len(level_shapes(*shape[:2], file_tile_px)) if self.pyramid else 1,
            fields | {"TIFF tile": f"{file_tile_px} px", "pyramid": self.pyramid},
        )


OutputFile = Tiff | Npy
"""What ``decode`` writes."""

_KINDS: dict[str, type[OutputFile]] = {".tif": Tiff, ".tiff": Tiff, ".npy": Npy}


def describe_output(output: PathLike | OutputFile, options: Mapping[str, Any] | None = None) -> OutputFile:
    """Return the kind of file that a name's ending means, with options by their names.

    Raises:
        OptionError: there is no such kind, or it has no such option.
    """
    if isinstance(output, Tiff | Npy):
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


def choose_file_tile(plan: Plan, file_tile_px: int | None = None) -> int:
    """Return the side of a TIFF's tiles, px: the one that is asked for, or one that suits the plan.

    Raises:
        OptionError: tiles of this size do not fill the plan's tiles.
    """
    if file_tile_px is None:
        most = 1024 if max(plan.output_shape) > LARGE_PX else 512
        file_tile_px = math.gcd(plan.tile_px, most)
    if file_tile_px < 1 or plan.tile_px % file_tile_px or file_tile_px % 16:
        raise OptionError(
            f"Tiles do not consist of whole TIFF tiles: tile={plan.tile_px} px, TIFF tile={file_tile_px} px. The TIFF "
            "tile must be a multiple of 16 px and divide the tile. Change --tile-size or --file-tile."
        )
    return file_tile_px
