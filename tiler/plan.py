"""The plan: which windows are read, decoded and written. Pure integers; no array, no file, no model.

Rows and columns do not depend on each other, so one axis is solved and a tile is the product of two::

    latents     0        read.start                                   read.stop     size
                |------------|-- halo --|==== cover of core ====|-- halo --|---------|
    decoded                             |==== decoded px =======|        less the halo where it is no border
    output px                             |====== core =======|          what is kept of them: crop
    near an end |=== core ===|-- halo --|                                read is clipped there: a border

Cores are disjoint, cover the image once, in row-major order, and all have the same size but those of the last row
and column. Where only a region of the image is made, they cover that, from its corner on: no need for it to begin or
end with a latent. A source that wraps has a margin on each side in which it goes on from its other end: the image
then is a region of what the source would give, and has no border there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from taesd_core.engines import Engine
from tiler.errors import InputError, Option, OptionError
from tiler.model import Axis, Ends, Network
from tiler.region import check_inside
from tiler.summary import summarise_plan
from tiler.window import Span, Window

PASS_CORE = 128
"""Side of the tiles of a pass that gathers statistics, latent px: margins cost little, and any plan gets the same."""
AXIS_LIMIT = 2**17
"""Most tiles along one side: 134 million px at the usual size."""
TILE_LIMIT = 2**22
"""Most tiles in all: 4.4 terapixels at the usual size. The journal holds each in memory, and a cluster's scheduler all
of their tasks before the first is decoded."""


@dataclass(frozen=True, slots=True)
class AxisTile:
    """One axis of a tile."""

    core: Span
    """What is kept, output px of all that the source gives."""
    origin: int
    """Where the output begins, in the same px."""
    read: Span
    """What is decoded, latent px: what the core needs."""
    borders: Ends
    """Whether the ends of ``read`` are ends of the image."""
    crop: Span
    """The core's place in what the decoder returns, output px."""

    @property
    def write(self) -> Span:
        """The core's place in the output, output px."""
        return self.core - self.origin

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
    axes: tuple[AxisTile, AxisTile]
    """Its rows and columns."""
    scale_in: int
    """Input px per latent px."""
    scale_out: int
    """Output px per latent px."""
    halo: int
    """Context that an output pixel needs per side, latent px."""

    @property
    def read(self) -> Window:
        """What is read of the source, input px."""
        return Window(*(axis.read for axis in self.axes)) * self.scale_in

    @property
    def borders(self) -> tuple[Ends, Ends]:
        """Which ends of ``read`` are ends of the image, for rows and columns."""
        rows, columns = self.axes
        return rows.borders, columns.borders

    @property
    def origin(self) -> tuple[int, int]:
        """Where what is read begins in what the source gives, latent px."""
        rows, columns = self.axes
        return rows.read.start, columns.read.start

    @property
    def crop(self) -> Window:
        """What is kept of the decoder's output, output px."""
        return Window(*(axis.crop for axis in self.axes))

    @property
    def write(self) -> Window:
        """Where that goes, output px."""
        return Window(*(axis.write for axis in self.axes))

    def quarters(self) -> "list[Tile]":
        """Return the tile as up to four smaller ones, for a device that cannot hold it; itself if it is one latent."""
        rows, columns = (split_axis(axis, self.halo, self.scale_out) for axis in self.axes)
        return [replace(self, axes=axes) for axes in product(rows, columns)]


@dataclass(frozen=True)
class Plan:
    """How an image is cut into tiles.

    Raises:
        OptionError: the tile size is not a positive multiple of the scale, or the region leaves the image.
        InputError: the image has no pixels, or is too large for tiles of this size.
    """

    network: Network
    """The geometry of the model."""
    height: int
    """Of the latent, latent px."""
    width: int
    """Of the latent, latent px."""
    core: int
    """Side of a tile's core, latent px."""
    workers: int = 2
    """Threads, and so the most tiles that are held at a time."""
    region: Window | None = None
    """The part of the image that is made, output px; None for all of it."""
    margins: tuple[int, int] = (0, 0)
    """How far the source goes on beyond each end of its rows and of its columns, latent px; see ``positions.py``."""
    held_bytes: int = 0
    """What the source keeps in memory beside the windows that are read."""
    spool_bytes: int = 0
    """What the source takes of the disk while it is read."""
    notes: tuple[str, ...] = ()
    """What is to be said of the source before its values are read."""
    engine: Engine = "kernels"
    """What runs the tiles; no pixel's place depends on it, the memory does."""
    usual_px: int | None = None
    """Side of the tiles that there would be with more memory, px of the image; None where these are they."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise InputError(f"The image has no pixels: height={self.height}, width={self.width} latent px.")
        if self.core < 1:
            raise OptionError(
                f"A tile has no pixels: core={self.core} latent px. Use a larger {Option('tile_size_px')}."
            )
        check_inside(self.made, self.height * self.network.scale_out, self.width * self.network.scale_out)
        n_rows, n_columns = (-(-size // self.tile_px) for size in self.made.shape)
        if max(n_rows, n_columns) > AXIS_LIMIT or n_rows * n_columns > TILE_LIMIT:
            raise InputError(
                f"Too many tiles: {n_rows} × {n_columns} for {self.height} × {self.width} latent px. At most "
                f"{AXIS_LIMIT} a side and {TILE_LIMIT} in all. Use a larger {Option('tile_size_px')}, or cut the "
                f"input into parts."
            )

    def with_tile(self, tile_px: int) -> "Plan":
        """Return the plan with tiles of another size, px of the image."""
        return replace(self, core=tile_px // max(self.network.scale_in, self.network.scale_out))

    @cached_property
    def rows(self) -> tuple[AxisTile, ...]:
        """The tiles of the rows' axis."""
        return self._plan_axis(self.height, self.margins[0], self.place.rows)

    @cached_property
    def columns(self) -> tuple[AxisTile, ...]:
        """The tiles of the columns' axis."""
        return self._plan_axis(self.width, self.margins[1], self.place.columns)

    def _plan_axis(self, size: int, margin: int, made: Span) -> tuple[AxisTile, ...]:
        return tuple(plan_axis(margin + size + margin, self.core, self.network.halo, self.network.scale_out, made))

    @property
    def made(self) -> Window:
        """What is made of the image, output px: the region, or all of it."""
        return self.region or Window.whole(self.height, self.width) * self.network.scale_out

    @cached_property
    def passes(self) -> "tuple[Plan, ...]":
        """How the statistics are gathered that the model needs of the whole input; none for most models."""
        return tuple(
            Plan(each, self.height, self.width, PASS_CORE, self.workers, margins=self.margins, engine=self.engine)
            for each in self.network.passes
        )

    @property
    def place(self) -> Window:
        """Where that lies in what the whole source would give, its margins included, output px."""
        rows, columns = (margin * self.network.scale_out for margin in self.margins)
        return Window(self.made.rows + rows, self.made.columns + columns)

    @property
    def n_tiles(self) -> int:
        """Tiles in all."""
        return len(self.rows) * len(self.columns)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the output, output px."""
        return *self.made.shape, self.network.channels_out

    @property
    def tile_px(self) -> int:
        """Side of a tile in the output, output px."""
        return self.core * self.network.scale_out

    @property
    def n_image_px(self) -> int:
        """Pixels of the image, or of its region, on whichever side of the model it is."""
        height, width, _ = self.output_shape
        return height * width * self.network.scale_in**2

    @property
    def doing(self) -> str:
        """What is done, in a word."""
        return "Decoding" if self.network.scale_in == 1 else "Encoding"

    def tile(self, row: int, column: int) -> Tile:
        """Return the tile at a place in the grid."""
        axes = self.rows[row], self.columns[column]
        network = self.network
        return Tile(row, column, axes, network.scale_in, network.scale_out, network.halo)

    def tiles(self) -> Iterator[Tile]:
        """Yield every tile in row-major order."""
        for row in range(len(self.rows)):
            for column in range(len(self.columns)):
                yield self.tile(row, column)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of all tiles, and of the passes before them."""
        return self._tile_macs + self.pass_macs

    @cached_property
    def pass_macs(self) -> int:
        """Multiply-accumulates of gathering statistics."""
        return sum(each._tile_macs for each in self.passes)

    @cached_property
    def compute_overhead(self) -> float:
        """Multiply-accumulates of it all, relative to decoding the whole image at once in the plain way."""
        return self.macs / self._whole_macs

    @cached_property
    def pass_overhead(self) -> float:
        """Multiply-accumulates of gathering statistics, relative to the same."""
        return self.pass_macs / self._whole_macs

    @cached_property
    def peak_bytes(self) -> int:
        """Predicted peak memory of the process, bytes."""
        return max(each._tile_peak_bytes for each in (self, *self.passes)) + self.held_bytes

    @cached_property
    def _tile_macs(self) -> int:
        return self.network.macs([each.axis for each in self.rows], [each.axis for each in self.columns])

    @cached_property
    def _whole_macs(self) -> int:
        return self.network.macs_of_whole(self.height, self.width)

    @cached_property
    def _tile_peak_bytes(self) -> int:
        rows, columns = (max(axis, key=lambda each: len(each.read)) for axis in (self.rows, self.columns))
        network = self.network
        read_bytes = len(rows.read) * len(columns.read) * network.scale_in**2 * network.channels_in * 4
        write_bytes = len(rows.core) * len(columns.core) * network.channels_out * 4
        held = self.workers * (read_bytes + write_bytes)
        return network.peak_bytes(rows.axis, columns.axis, self.engine) + held

    def summary(self) -> str:
        """Return the plan in words: sizes, tiles, compute, memory."""
        return summarise_plan(self)


def plan_axis(size: int, core: int, halo: int, scale: int = 1, made: Span | None = None) -> Iterator[AxisTile]:
    """Yield the tiles of one axis.

    Args:
        size: of the axis, latent px.
        core: length of a tile's core, latent px.
        halo: context that an output pixel needs, latent px.
        scale: output px per latent px.
        made: what is made of the axis, output px; by default all.
    """
    made = made or Span(0, size * scale)
    for start in range(made.start, made.stop, core * scale):
        kept = Span(start, min(start + core * scale, made.stop))
        read = kept.cover(scale).grow(halo, size)
        yield _make_axis_tile(kept, made.start, read, (read.start == 0, read.stop == size), halo, scale)


def split_axis(axis: AxisTile, halo: int, scale: int) -> list[AxisTile]:
    """Return an axis as two halves with the same borders, or as it is where it cannot be halved."""
    core, latents, whole = axis.core, axis.core.cover(scale), axis.read
    if len(latents) < 2:
        return [axis]
    middle = (latents.start + latents.stop) // 2 * scale
    halves = []
    for kept in (Span(core.start, middle), Span(middle, core.stop)):
        needed = kept.cover(scale)
        read = Span(max(needed.start - halo, whole.start), min(needed.stop + halo, whole.stop))
        ends = axis.borders[0] and read.start == whole.start, axis.borders[1] and read.stop == whole.stop
        halves.append(_make_axis_tile(kept, axis.origin, read, ends, halo, scale))
    return halves


def _make_axis_tile(core: Span, origin: int, read: Span, borders: Ends, halo: int, scale: int) -> AxisTile:
    # The decoder returns read less the halo, but all of it up to a border.
    decoded = read.start if borders[0] else read.start + halo
    return AxisTile(core, origin, read, borders, crop=core - decoded * scale)
