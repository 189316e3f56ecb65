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
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from tiler.errors import InputError, OptionError
from tiler.model import Axis, Ends, Network
from tiler.summary import summarise_plan
from tiler.window import Span, Window

RUNTIME_BYTES = 850_000_000
"""What Python and TensorFlow take with all programs traced, measured over long runs."""
AXIS_LIMIT = 2**17
"""Most tiles along one side: 134 million px at the usual size."""
TILE_LIMIT = 2**22
"""Most tiles in all: 4.4 terapixels at the usual size. A task each, they take memory before the first is decoded."""


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
    axes: tuple[AxisTile, AxisTile]
    """Its rows and columns, latent px."""
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
    def crop(self) -> Window:
        """What is kept of the decoder's output, output px."""
        return Window(*(axis.crop for axis in self.axes)) * self.scale_out

    @property
    def write(self) -> Window:
        """Where that goes, output px."""
        return Window(*(axis.core for axis in self.axes)) * self.scale_out

    def quarters(self) -> "list[Tile]":
        """Return the tile as up to four smaller ones, for a device that cannot hold it; itself if it is one latent."""
        rows, columns = (split_axis(axis, self.halo) for axis in self.axes)
        return [replace(self, axes=axes) for axes in product(rows, columns)]


@dataclass(frozen=True)
class Plan:
    """How an image is cut into tiles.

    Raises:
        OptionError: the tile size is not a positive multiple of the scale.
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

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise InputError(f"The image has no pixels: height={self.height}, width={self.width} latent px.")
        if self.core < 1:
            raise OptionError(f"A tile has no pixels: core={self.core} latent px. Use a larger --tile-size.")
        n_rows, n_columns = -(-self.height // self.core), -(-self.width // self.core)
        if max(n_rows, n_columns) > AXIS_LIMIT or n_rows * n_columns > TILE_LIMIT:
            raise InputError(
                f"Too many tiles: {n_rows} × {n_columns} for {self.height} × {self.width} latent px. At most "
                f"{AXIS_LIMIT} a side and {TILE_LIMIT} in all. Use a larger --tile-size, or cut the input into parts."
            )

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
        held = self.workers * (read_bytes + write_bytes)
        return RUNTIME_BYTES + network.peak_bytes(rows.axis, columns.axis) + held

    def summary(self) -> str:
        """Return the plan in words: sizes, tiles, compute, memory."""
        return summarise_plan(self)


def plan_axis(size: int, core: int, halo: int) -> Iterator[AxisTile]:
    """Yield the tiles of one axis of ``size`` latent px."""
    for start in range(0, size, core):
        kept = Span(start, min(start + core, size))
        read = kept.grow(halo, size)
        yield _make_axis_tile(kept, read, (read.start == 0, read.stop == size), halo)


def split_axis(axis: AxisTile, halo: int) -> list[AxisTile]:
    """Return an axis as two halves with the same borders, or as it is where it cannot be halved."""
    core, whole = axis.core, axis.read
    if len(core) < 2:
        return [axis]
    middle = (core.start + core.stop) // 2
    halves = []
    for kept in (Span(core.start, middle), Span(middle, core.stop)):
        read = Span(max(kept.start - halo, whole.start), min(kept.stop + halo, whole.stop))
        ends = axis.borders[0] and read.start == whole.start, axis.borders[1] and read.stop == whole.stop
        halves.append(_make_axis_tile(kept, read, ends, halo))
    return halves


def _make_axis_tile(core: Span, read: Span, borders: Ends, halo: int) -> AxisTile:
    # The decoder returns read less the halo, but all of it up to a border.
    return AxisTile(core, read, borders, crop=core - (read.start if borders[0] else read.start + halo))
