"""The exact model: a window and its borders go in, the pixels that the window determines come out."""

from threading import Lock
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from taesd_core.compile import compile_stage
from taesd_core.network import Network
from taesd_core.pieces import axis_pieces
from taesd_core.stage import Borders, Ends, Output, StageModel
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
        self._one_at_a_time = Lock()

    def __call__(self, window: NDArray[np.float32], borders: tuple[Ends, Ends]) -> NDArray[Any]:
        """Return exactly the pixels that ``window`` determines.

        Args:
            window: (height, width, channels) float32: latents, about [-3, 3], or pixels in [0, 1].
            borders: which of its sides are borders of the image.

        Returns:
            The pixels of the window less the network's halo on every side that is no border,
            (height', width', channels') uint8 or float32.
        """
        network = self.network
        rows, columns = (
            axis_pieces(network.layers, (length // network.scale_in, *ends), network.longest_piece)
            for length, ends in zip(window.shape, borders, strict=False)
        )
        with self._one_at_a_time:
            x = ops.convert_to_tensor(window[None], self.dtype)
            for program, row_pieces, column_pieces in zip(self._programs, rows, columns, strict=True):
                x = _join(
                    [
                        program(x[:, r.read, c.read], Borders(r.borders, c.borders))[:, r.crop, c.crop]
                        for c in column_pieces
                    ]
                    for r in row_pieces
                )
            return ops.convert_to_numpy(x)[0]


def _join(grid: Any) -> Any:
    strips = [_concatenate(row, axis=2) for row in grid]
    return _concatenate(strips, axis=1)


def _concatenate(parts: list[Any], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=axis)
