"""The pieces of stages whose programs have a fixed size; see ``fixed_stage.py`` for what these are, and pieces.py.

All pieces of a stage keep as many rows, but for the last one, and are read into a map of one length::

    map before   |------------- window ------------|
    piece 0      |----- length -----|                      what its convolutions see beyond the piece is wrong,
    piece 1                 |----- length -----|           but where the window ends at a border: zeros
    map behind     |-- step --|-- step --|                 the rows that this does not reach
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from taesd_core.layers import Block, Convolution, Layers
from taesd_core.pieces import Axis, macs_by_stage, walk_axis
from taesd_core.receptive_field import Extent, Stage, backward_through, scale_of
from taesd_core.winograd import N_ROWS

LEAST_SHARE = 0.2
"""Of the network's operations that a stage has, for its program to be worth compiling."""


@dataclass(frozen=True, slots=True)
class FixedPiece:
    """A part of a stage's run along one axis."""

    read: slice
    """What it takes of the map before the stage."""
    margin: int
    """Rows to put before that, which it does not need, for the others to lie where strides count from."""
    crop: slice
    """What is kept of the program's output."""


@dataclass(frozen=True)
class FixedAxis:
    """One axis of a stage's program."""

    stage: Stage
    """The steps."""
    step: int
    """Rows that a piece keeps of the output."""

    @cached_property
    def scale(self) -> tuple[int, int]:
        """(n_out, n_in): n_in rows of the map become n_out."""
        return scale_of(self.stage)

    @cached_property
    def length(self) -> int:
        """Rows of the program's map: as many as any piece needs, and whole tiles of Winograd's."""
        needed = max(self._read(Extent(start, start + self.step))[1] for start in (1 << 20, (1 << 20) + 1))
        unit = max(N_ROWS // self.scale[0], self.scale[1])
        return -(-needed // unit) * unit

    def _read(self, kept: Extent, extent: Extent | None = None) -> tuple[Extent, int, int]:
        """Return what is read for some rows of the output, its length with the margin before it, and that margin."""
        read = backward_through(self.stage, kept)
        if extent is not None:
            read = read.clip(extent)
        margin = read.start % self.scale[1]
        return read, margin + len(read), margin

    def pieces(self, extent: Extent, target: Extent) -> Iterator[FixedPiece]:
        """Yield the pieces that give the rows ``target`` of the output from a map ``extent``."""
        n_out, n_in = self.scale
        for start in range(target.start, target.stop, self.step):
            kept = Extent(start, min(start + self.step, target.stop))
            read, length, margin = self._read(kept, extent)
            assert length <= self.length
            first = (read.start - margin) * n_out // n_in
            yield FixedPiece(read.slice_in(extent), margin, slice(kept.start - first, kept.stop - first))

    def excess(self, target: Extent) -> float:
        """Return how many rows the pieces compute for each of ``target``."""
        n_out, n_in = self.scale
        return -(-len(target) // self.step) * self.length * n_out / n_in / len(target)


def choose_fixed_axes(layers: Layers, axis: Axis, longest: int) -> dict[int, FixedAxis]:
    """Return what suits windows like ``axis``, by the numbers of the stages that are worth a program.

    Args:
        layers: the network.
        axis: length in latent px and borders of the window.
        longest: the most rows that a piece keeps, counted at the higher resolution of its stage.
    """
    macs, found = macs_by_stage(layers), {}
    for number, (stage, _, target) in enumerate(walk_axis(layers, axis)):
        known = all(isinstance(step, Block | Convolution | tuple) for step in stage)
        if known and macs[number] >= LEAST_SHARE * sum(macs):
            n_pieces = -(-len(target) // (longest // scale_of(stage)[1]))
            found[number] = FixedAxis(stage, -(-len(target) // n_pieces))
    return found
