"""The programs of fixed size for windows of one size, and how a window runs through them in pieces."""

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
from keras import ops

from taesd_core.bounds import choose_looks
from taesd_core.compile import CompiledFixedStage, compile_fixed_stage
from taesd_core.fixed_pieces import FixedPiece, choose_fixed_axes
from taesd_core.fixed_stage import FixedStageModel
from taesd_core.network import FIXED_PIECE, Network
from taesd_core.pieces import Axis, walk_axis
from taesd_core.stage import Output, Tensor, join
from taesd_core.tensors import Tensors

MOST_EXCESS = 1.25
"""Pixels that pieces compute for each that is needed: with more, nothing of what they save is left."""

Run = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
"""The map behind a stage, of the map before it, and of each piece whether it was within the bound."""


class FixedPrograms:
    """Programs for the stages that take most of the time, of a size that suits windows of one size.

    Args:
        network: the layers.
        tensors: its weights, in order of execution.
        output: as for ``WindowModel``.
        rows: of such windows: length in latent px and borders.
        columns: the same.
    """

    def __init__(self, network: Network, tensors: Tensors, output: Output, rows: Axis, columns: Axis) -> None:
        self._layers = network.layers
        self._rows = choose_fixed_axes(network.layers, rows, FIXED_PIECE)
        self._columns = choose_fixed_axes(network.layers, columns, FIXED_PIECE)
        self._programs: dict[int, CompiledFixedStage] = {}
        for number, own in enumerate(network.tensors_of_stages(tensors)):
            looks = choose_looks(network.stages[number], own, "float32")
            if number in self._rows and not looks.maps:
                last = number == len(network.stages) - 1
                model = FixedStageModel(network.stages[number], own, looks, output=output if last else None)
                shape = self._rows[number].length, self._columns[number].length, own[0].kernel.shape[2]
                self._programs[number] = compile_fixed_stage(model, shape)

    def plan(self, rows: Axis, columns: Axis) -> dict[int, Run]:
        """Return how to run stages of a window, by their numbers, where their programs are of help."""
        runs: dict[int, Run] = {}
        walked = walk_axis(self._layers, rows), walk_axis(self._layers, columns)
        for number, program in self._programs.items():
            axes = self._rows[number], self._columns[number]
            extents = [each[number][1:] for each in walked]
            excess = [axis.excess(target) for axis, (_, target) in zip(axes, extents, strict=True)]
            if excess[0] * excess[1] <= MOST_EXCESS:
                pieces = [list(axis.pieces(*each)) for axis, each in zip(axes, extents, strict=True)]
                runs[number] = partial(_run, program, (axes[0].length, axes[1].length), *pieces)
        return runs


def _run(
    program: CompiledFixedStage, size: tuple[int, int], rows: list[FixedPiece], columns: list[FixedPiece], x: Tensor
) -> tuple[Tensor, list[Tensor]]:
    outs, within = [], []
    # One at a time: a program keeps all cores busy by itself.
    for pieces in product(rows, columns):
        row, column = pieces
        piece = x[:, row.read, column.read]
        ends = [each.margin + length for each, length in zip(pieces, piece.shape[1:3], strict=True)]
        around = [(each.margin, whole - end) for each, whole, end in zip(pieces, size, ends, strict=True)]
        if any(map(any, around)):
            piece = ops.pad(piece, ((0, 0), *around, (0, 0)))
        out, each = program(piece, ops.convert_to_tensor(np.array(ends, np.int32)))
        outs.append(out[:, row.crop, column.crop])
        within.append(each)
    return join(outs, len(columns)), within
