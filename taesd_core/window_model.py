"""The exact model: a window and its borders go in, the pixels that the window determines come out."""

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from taesd_core.compile import CompiledStage, choose_execution, compile_stage, is_out_of_memory
from taesd_core.network import Network
from taesd_core.pieces import Piece, axis_pieces
from taesd_core.stage import Borders, Ends, Output, StageModel, Tensor
from taesd_core.tensors import Tensors


class WindowModel:
    """A decoder or an encoder for windows of an image, exact to the last pixel that a window determines.

    Args:
        network: the layers.
        tensors: its weights, in order of execution.
        output: "uint8" for the pixels of a decoder, "float32" for values as they are.
        dtype: of weights and maps: "float32", "float16" or "bfloat16".
    """

    def __init__(
        self, network: Network, tensors: Tensors, *, output: Output = "float32", dtype: str = "float32"
    ) -> None:
        self.network = network
        self.dtype = dtype
        self._programs = []
        rest, channels = iter(tensors), network.channels_in
        for stage in network.stages:
            last = stage is network.stages[-1]
            model = StageModel(stage, rest, output=output if last else None, dtype=dtype)
            self._programs.append(compile_stage(model, channels, dtype))
            channels = model.channels_out
        # A device has one memory, and all cores work on a window.
        self._one_at_a_time = Lock()
        execution = choose_execution()
        self._streams = ThreadPoolExecutor(execution.streams, thread_name_prefix="piece")
        self._longest_piece = network.longest_piece if execution.in_pieces else sys.maxsize

    def __call__(self, window: NDArray[np.float32], borders: tuple[Ends, Ends]) -> NDArray[Any]:
        """Return exactly the pixels that ``window`` determines.

        Args:
            window: (height, width, channels) float32: latents, about [-3, 3], or pixels in [0, 1].
            borders: which of its sides are borders of the image.

        Raises:
            MemoryError: the device's memory does not suffice.

        Returns:
            The pixels of the window less the network's halo on every side that is no border,
            (height', width', channels') uint8 or float32.
        """
        network = self.network
        rows, columns = (
            axis_pieces(network.layers, (length // network.scale_in, *ends), self._longest_piece)
            for length, ends in zip(window.shape, borders, strict=False)
        )
        try:
            with self._one_at_a_time:
                x = ops.convert_to_tensor(window[None], self.dtype)
                for program, row_pieces, column_pieces in zip(self._programs, rows, columns, strict=True):
                    x = self._run_stage(program, x, row_pieces, column_pieces)
                return ops.convert_to_numpy(x)[0]
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(f"The device cannot hold this tile: {window.shape[:2]} px.") from error
            raise

    def _run_stage(
        self, program: CompiledStage, x: Tensor, rows: tuple[Piece, ...], columns: tuple[Piece, ...]
    ) -> Tensor:
        def run(piece: tuple[Piece, Piece]) -> Tensor:
            row, column = piece
            out = program(x[:, row.read, column.read], Borders(row.borders, column.borders))
            return out[:, row.crop, column.crop]

        outs = iter(list(self._streams.map(run, product(rows, columns))))
        return _concatenate([_concatenate([next(outs) for _ in columns], axis=2) for _ in rows], axis=1)


def _concatenate(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=axis)
