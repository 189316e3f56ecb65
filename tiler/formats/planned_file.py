"""A file to be made of a plan: how it is opened, how large it gets, what tells it from others."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tiler.errors import OptionError
from tiler.fields import Fields
from tiler.formats.sink import Sink
from tiler.metadata import Metadata
from tiler.plan import Plan

PathLike = str | os.PathLike[str]

LARGE_PX = 800_000
"""From here on a file gets larger tiles: libvips refuses more than about 2.6 million in a level."""


class OpenSink(Protocol):
    """Opens the sink of a file."""

    def __call__(self, *, reopen: bool, description: str) -> Sink:
        """Return it anew, or on what an earlier run has left; the description is JSON."""


@dataclass(frozen=True, slots=True)
class Described:
    """Opens a sink whose description holds metadata as well."""

    open_sink: OpenSink
    """Opens it."""
    metadata: Metadata
    """What is to be taken along."""

    def __call__(self, *, reopen: bool, description: str) -> Sink:
        """Return it anew, or on what an earlier run has left."""
        return self.open_sink(reopen=reopen, description=self.metadata.add_to(description))


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be made of a plan."""

    path: Path
    """Its final name."""
    overwrite: bool
    """Whether an existing file of that name may be replaced."""
    open_sink: OpenSink
    """Opens its sink."""
    most_bytes: int
    """How large the file can get, at most."""
    n_levels: int
    """Levels of its pyramid; 1 without one."""
    fields: Fields
    """Its options, by names that people know."""
    commit_bytes: int = 0
    """Memory that it takes to complete it."""
    encoded_bytes: int = 0
    """Of ``most_bytes``, what is written only when all tiles are there."""

    def with_metadata(self, metadata: Metadata | None) -> "PlannedFile":
        """Return the file with metadata in its description, if there are any."""
        if metadata is None:
            return self
        return replace(
            self,
            open_sink=Described(self.open_sink, metadata),
            most_bytes=self.most_bytes + metadata.size_bytes,
            fields=self.fields | metadata.fields,
        )


def choose_step(size_px: int, file_tile_px: int | None) -> int:
    """Return what tiles must be multiples of by default, px: whole tiles of the file."""
    if file_tile_px is None or file_tile_px < 1:
        return 1024 if size_px > LARGE_PX else 512
    return -(-512 // file_tile_px) * file_tile_px


def choose_file_tile(plan: Plan, file_tile_px: int | None = None) -> int:
    """Return the side of a file's tiles, px: the one that is asked for, or one that suits the plan.

    Raises:
        OptionError: tiles of this size do not fill the plan's tiles.
    """
    if file_tile_px is None:
        most = 1024 if max(plan.output_shape) > LARGE_PX else 512
        file_tile_px = math.gcd(plan.tile_px, most)
    if file_tile_px < 1 or plan.tile_px % file_tile_px or file_tile_px % 16:
        raise OptionError(
            f"Tiles do not consist of whole file tiles: tile={plan.tile_px} px, file tile={file_tile_px} px. The file "
            "tile must be a multiple of 16 px and divide the tile. Change --tile-size or --file-tile."
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
            "off. Use --quality 100, which loses nothing, another compression, or leave --verify out."
        )
