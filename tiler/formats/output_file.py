"""What is said of a file that is to be made, and what a job wants to know of it: the base of every format."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tiler.dtypes import DType
from tiler.errors import Option, OptionError
from tiler.fields import Fields
from tiler.formats.places import check_output
from tiler.formats.sink import PathLike, Sink, Skeleton
from tiler.formats.written import WrittenImage
from tiler.metadata import Metadata
from tiler.options import check_fields
from tiler.plan import Plan
from tiler.pyramid import level_shapes

LARGE_PX = 800_000
"""From here on a file gets larger tiles: libvips refuses more than about 2.6 million in a level."""


@dataclass(frozen=True, slots=True)
class OutputFile(ABC):
    """A file of some format that is to be made: its name and options; none that cannot be is ever made.

    A format is a class below this one, in a module of its own with its sink and what reads it back, and a line in
    ``tiler.formats.register``.

    Raises:
        OptionError: an option is out of its range, or two do not go together.
    """

    path: PathLike
    """Its name."""
    kind: ClassVar[str]
    """What people call the format."""
    endings: ClassVar[tuple[str, ...]]
    """What names of such files end in."""
    dtype: ClassVar[DType] = "float32"
    """Of its values."""
    marker: ClassVar[str | None] = None
    """A file in each folder that is such an output; None where outputs are no folders."""

    def __post_init__(self) -> None:
        check_fields(self)
        self._check()

    def _check(self) -> None:  # noqa: B027
        """Refuse options that do not go together."""

    @property
    def caveat(self) -> str:
        """What to know of it."""
        return ""

    @property
    def promises_ome(self) -> bool:
        """Whether its name promises OME. Source: https://ome-model.readthedocs.io, OME-TIFF."""
        return Path(self.path).stem.lower().endswith(".ome")

    def check_place(self, *, overwrite: bool) -> None:
        """Refuse an output that could not be written; see ``check_output``."""
        check_output(Path(self.path), overwrite=overwrite, marker=self.marker)

    def check_verifiable(self) -> None:  # noqa: B027
        """Refuse what cannot be verified.

        Raises:
            OptionError: it loses something, nobody can tell how much; or a package is missing.
        """

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px."""
        return 512

    @abstractmethod
    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> "PlannedFile":
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: the format cannot hold it.
        """

    @classmethod
    def read_back(cls, path: Path) -> WrittenImage:
        """Open an output, to be compared, by other code than wrote it.

        Raises:
            DamagedImageError: it is not one, or it is damaged.
            InputError: it cannot be compared: it has lost something, and nothing says how much.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be made of a plan."""

    file: OutputFile
    """What is said of it; nothing is left to be chosen."""
    overwrite: bool
    """Whether an existing file of that name may be replaced."""
    make_sink: Callable[..., Sink]
    """``make_sink(overwrite=…, description=…, begun=…)``."""
    most_bytes: int
    """How large the file can get, at most."""
    fields: Fields
    """What it is, by names that people know."""
    n_levels: int = 1
    """Levels of its pyramid; 1 without one."""
    metadata: Metadata | None = None
    """What is to be added to its description."""
    commit_bytes: int = 0
    """Memory that it takes to complete it."""
    encoded_bytes: int = 0
    """Of ``most_bytes``, what is written only when all tiles are there."""

    @property
    def path(self) -> Path:
        """Its final name."""
        return Path(self.file.path)

    def check_place(self) -> None:
        """Refuse an output that could not be written; see ``check_output``."""
        self.file.check_place(overwrite=self.overwrite)

    def open_sink(self, *, begun: Skeleton | None, description: str) -> Sink:
        """Open its sink.

        Args:
            begun: the skeleton of what an earlier run has left, to go on with; None to begin.
            description: how it is made, a JSON object.
        """
        if self.metadata is not None and begun is None:
            description = self.metadata.add_to(description)
        return self.make_sink(overwrite=self.overwrite, description=description, begun=begun)


@dataclass(frozen=True, slots=True)
class TiledFile(OutputFile):
    """A format that consists of file tiles, with a pyramid."""

    _: KW_ONLY
    dtype: DType = "uint8"  # type: ignore[misc]
    """"uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what the model gives, not clipped."""
    file_tile_px: int | None = None
    """Side of the file's own tiles; by default the largest power of 2 up to 512 (1024 for huge images) that divides
    a tile of the plan."""
    pyramid: bool = True
    """Whether there are reduced levels for viewers."""
    pixel_size_um: float | None = None
    """Side of a pixel in micrometres, if somebody says it."""

    @property
    @abstractmethod
    def fields(self) -> Fields:
        """What it is, by names that people know."""

    @abstractmethod
    def count_most_bytes(self, levels: list[tuple[int, int]], tile_px: int) -> int:
        """Return how large a pyramid of these levels can get, at most, cut into tiles of work."""

    @abstractmethod
    def choose_sink(self, shape: tuple[int, int, int], tile_px: int) -> Callable[..., Sink]:
        """Return what makes the sink of an image, cut into tiles of work."""

    def find_levels(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return (height, width) of every level of an image, down to one that fits a file tile."""
        assert self.file_tile_px is not None
        return level_shapes(shape[0], shape[1], self.file_tile_px) if self.pyramid else [(shape[0], shape[1])]

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px: whole tiles of the file."""
        if self.file_tile_px is None:
            return 1024 if size_px > LARGE_PX else 512
        return -(-512 // self.file_tile_px) * self.file_tile_px

    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: its tiles do not fill the plan's.
        """
        file = replace(self, file_tile_px=choose_file_tile(plan, self.file_tile_px))
        levels = file.find_levels(plan.output_shape)
        said: dict[str, Any] = {} if metadata is None else metadata.fields
        return PlannedFile(
            file,
            overwrite,
            file.choose_sink(plan.output_shape, plan.tile_px),
            file.count_most_bytes(levels, plan.tile_px) + (0 if metadata is None else metadata.size_bytes),
            file.fields | said,
            len(levels),
            metadata,
        )


def choose_file_tile(plan: Plan, file_tile_px: int | None = None) -> int:
    """Return the side of a file's tiles, px: the one that is asked for, or one that suits the plan.

    Raises:
        OptionError: tiles of this size do not fill the plan's tiles.
    """
    if file_tile_px is None:
        most = 1024 if max(plan.output_shape) > LARGE_PX else 512
        file_tile_px = math.gcd(plan.tile_px, most)
    if plan.tile_px % file_tile_px or file_tile_px % 16:
        raise OptionError(
            f"Tiles do not consist of whole file tiles: tile={plan.tile_px} px, file tile={file_tile_px} px. The file "
            f"tile must be a multiple of 16 px and divide the tile. Change {Option('tile_size_px')} or "
            f"{Option('file_tile_px')}."
        )
    return file_tile_px


def check_lossless(compression: str, quality: int) -> None:
    """Refuse what cannot be verified.

    Raises:
        OptionError: it loses something, nobody can tell how much.
    """
    if quality < 100:
        raise OptionError(
            f"Not to be verified: compression={compression}, quality={quality}; nothing says how far its pixels may be "
            f"off. Use {Option('quality', 100)}, which loses nothing, another compression, or leave {Option('verify')} "
            f"out."
        )
