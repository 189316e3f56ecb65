"""The plan: which windows are read, decoded and written. Pure integers; no array, no file, no model.

Rows and columns do not depend on each other, so one axis is solved and a tile is the product of two::

    latents     0        read.start                                   read.stop     size
                |------------|-- halo --|======= core =======|-- halo --|------------|
    decoded                             |==== decoded px ====|           less the halo where it is no border
    near an end |=== core ===|-- halo --|                                read is clipped there: a border

Cores are disjoint, cover the image once, in row-major order, and all have the same size but those of the last row
and column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tiler.errors import InputError, OptionError
from tiler.model import Axis, Ends, Network
from tiler.summary import summarise_plan
from tiler.window import Span, Window

RUNTIME_BYTES = 700_000_000
"""What TensorFlow takes before it decodes anything, measured."""
IN_FLIGHT = 8
"""Tiles held at most besides the one that is decoded."""


@dataclass(frozen=True, slots=True)
class AxisTile:
    """One axis of a tile, in latent px."""

    core: Span
    """What is kept."""
    read: Span
    """What is decoded: the core and its margins."""
    borders: Ends
    """Whether the ends of ``read`` are ends of the image."""
    crop: Span
    """The core's place in what the decoder returns."""

    @property
    def axis(self) -> Axis:
        """What the model needs to know of it."""
        return len(self.read), *self.borders


@dataclass(frozen=True, slots=True)
class Tile:
    """A unit of work: one decode. The windows are in px of the input and the output."""

    row: int
    """Its row in the grid of tiles, from 0."""
    column: int
    """Its column in the grid of tiles, from 0."""
    read: Window
    """What is read of the source, input px."""
    borders: tuple[Ends, Ends]
    """Which ends of ``read`` are ends of the image, for rows and columns."""
    crop: Window
    """What is kept of the decoder's output, output px."""
    write: Window
    """Where that goes, output px."""


@dataclass(frozen=True)
class Plan:
    """How an image is cut into tiles.

    Raises:
        OptionError: the tile size is not a positive multiple of the scale.
        InputError: the image has no pixels.
    """

    network: Network
    """The geometry of the model."""
    height: int
    """Of the latent, latent px."""
    width: int
    """Of the latent, latent px."""
    core: int
    """Side of a tile's core, latent px."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise InputError(f"The image has no pixels: height={self.height}, width={self.width} latent px.")
        if self.core < 1:
            raise OptionError(f"A tile has no pixels: core={self.core} latent px. Use a larger --tile-size.")

    @cached_property
    def rows(self) -> tuple[AxisTile, ...]:
        """The tiles of the rows' axis."""
        return tuple(plan_axis(self.height, self.core, self.network.halo))

    @cached_property
    def columns(self) -> tuple[AxisTile, ...]:
        """The tiles of the columns' axis."""
        return tuple(plan_axis(self.width, self.core, self.network.halo))

    @property
    def n_tiles(self) -> int:
        """Tiles in all."""
        return len(self.rows) * len(self.columns)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the output, output px."""
        scale = self.network.scale_out
        return self.height * scale, self.width * scale, self.network.channels_out

    @property
    def tile_px(self) -> int:
        """Side of a tile in the output, output px."""
        return self.core * self.network.scale_out

    @property
    def n_image_px(self) -> int:
        """Pixels of the image, on whichever side of the model it is."""
        return self.height * self.width * max(self.network.scale_in, self.network.scale_out) ** 2

    def tile(self, row: int, column: int) -> Tile:
        """Return the tile at a place in the grid."""
        rows, columns = self.rows[row], self.columns[column]
        scale_in, scale_out = self.network.scale_in, self.network.scale_out
        return Tile(
            row,
            column,
            read=Window(rows.read, columns.read) * scale_in,
            borders=(rows.borders, columns.borders),
            crop=Window(rows.crop, columns.crop) * scale_out,
            write=Window(rows.core, columns.core) * scale_out,
        )

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile in row-major order."""
        for row in range(len(self.rows)):
            for column in range(len(self.columns)):
                yield self.tile(row, column)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of all tiles."""
        return self.network.macs([each.axis for each in self.rows], [each.axis for each in self.columns])

    @cached_property
    def compute_overhead(self) -> float:
        """Multiply-accumulates of all tiles, relative to decoding the whole image at once in the plain way."""
        return self.macs / self.network.macs_of_whole(self.height, self.width)

    @cached_property
    def peak_bytes(self) -> int:
        """Predicted peak memory of the process, bytes."""
        rows, columns = (max(axis, key=lambda each: len(each.read)) for axis in (self.rows, self.columns))
        network = self.network
        read_bytes = len(rows.read) * len(columns.read) * network.scale_in**2 * network.channels_in * 4
        write_bytes = len(rows.core) * len(columns.core) * network.scale_out**2 * network.channels_out * 4
        held = IN_FLIGHT * (read_bytes + write_bytes)
        return RUNTIME_BYTES + network.peak_bytes(rows.axis, columns.axis) + held

    def summary(self) -> str:
        """Return the plan in words: sizes, tiles, compute, memory."""
        return summarise_plan(self)


def plan_axis(size: int, core: int, halo: int) -> Iterator[AxisTile]:
    """Yield the tiles of one axis of ``size`` latent px."""
    for start in range(0, size, core):
        kept = Span(start, min(start + core, size))
        read = kept.grow(halo, size)
        borders = read.start == 0, read.stop == size
        # The decoder returns read less the halo, but all of it up to a border.
        yield AxisTile(kept, read, borders, crop=kept - (read.start if borders[0] else read.start + halo))
