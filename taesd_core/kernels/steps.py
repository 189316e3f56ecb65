"""A network as steps of compiled code: each makes some rows and columns of its output map from its input map."""

from collections.abc import Callable, Iterator, Sequence
from ctypes import c_int64
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels import direct, winograd
from taesd_core.kernels.geometry import SIDE, Shape, list_shapes
from taesd_core.kernels.library import lanes, load_functions
from taesd_core.kernels.maps import Map, new_memory
from taesd_core.layers import Block, Convolution, Layers
from taesd_core.tensors import ConvolutionTensors, Float32


class Work(NamedTuple):
    """Addresses of what a thread works with."""

    scratch: int
    flags: int
    """Becomes NaN where a value is NaN or infinite."""


Job = Callable[[Work], None]
"""What any number of threads call at the same time, each with its own: they share the work among them."""


class Step:
    """A convolution with what is behind it.

    Args:
        shape: what it makes of its input.
        kernel: (rows, columns, n_in, n_out).
        bias: (n_out,), or none.
    """

    def __init__(self, shape: Shape, kernel: Float32, bias: Float32 | None) -> None:
        self.shape = shape
        wide = np.zeros((*kernel.shape[:3], shape.n_out), np.float32)
        wide[..., : kernel.shape[3]] = kernel
        if shape.in_tiles:
            packed = winograd.pack_winograd(wide, shape.doubled, lanes())
            kind = "winograd" + "_doubled" * shape.doubled
        else:
            packed, kind = direct.pack_direct(wide, lanes()), "direct"
        self._size = kernel.shape[0]
        self._kernels, self._bias = new_memory(packed.size), new_memory(shape.n_out)
        self._kernels[:], self._bias[:] = packed, 0
        if bias is not None:
            self._bias[: bias.size] = bias
        self._function = load_functions()[kind + "_skip" * bool(shape.skip) + "_relu" * shape.relu]
        self._addresses = self._kernels.ctypes.data, self._bias.ctypes.data

    def make_job(self, x: Map, out: Map, added: Map, first: int, last: int) -> Job:
        """Return what makes rows of ``out``.

        Args:
            x: the input.
            out: the output.
            added: what is added, where the shape has a skip.
            first: of the rows, a multiple of four.
            last: likewise.
        """
        shape, columns = self.shape, out.columns
        if shape.in_tiles:
            left = columns.start
            counts = (last - first) // SIDE, columns.length // SIDE
            rest: tuple[int, ...] = ()
        else:
            first, last, left = max(first, out.rows.begin), min(last, out.rows.end), columns.begin
            counts = last - first, columns.end - left
            rest = shape.ratio[1], self._size, self._size * shape.n_in
        x_first, x_left = shape.needs(first, last)[0], shape.needs(left, columns.end)[0]
        numbers = (
            0, *counts, shape.n_in, shape.n_out, x.row, x.slots, x.rows.length, x_first - x.rows.start,
            added.row, added.slots, first - added.rows.start, out.row, out.slots, first - out.rows.start, *rest,
        )  # fmt: skip
        array = (c_int64 * len(numbers))(*numbers)
        addresses = x.at(x_left), *self._addresses, added.at(left), out.at(left)
        return lambda work: self._function(*addresses, *work, array)


def make_steps(
    layers: Layers, tensors: Iterator[ConvolutionTensors], norms: Iterator[NDArray[np.float32]]
) -> list[Step]:
    """Return the steps of a network.

    Args:
        layers: the network.
        tensors: of its convolutions, in order of execution.
        norms: of its pools, the statistics that are known: what is subtracted, and what is divided by.
    """
    weights: list[tuple[Float32, Float32 | None]] = []
    for layer in layers:
        if isinstance(layer, Block):
            if layer.pool is not None:
                weights += _fold_norm([next(tensors) for _ in layer.pool.convolutions], next(norms))
            weights += [(each.kernel, each.bias) for each in (next(tensors) for _ in layer.convolutions)]
        elif isinstance(layer, Convolution):
            each = next(tensors)
            weights.append((each.kernel, each.bias))
    return [Step(shape, *each) for shape, each in zip(list_shapes(layers), weights, strict=True)]


def _fold_norm(tensors: Sequence[ConvolutionTensors], norm: Float32) -> list[tuple[Float32, Float32 | None]]:
    """Return a pool's convolutions; its norm, with statistics given, is a factor and an offset for each channel."""
    before, behind = tensors
    assert before.norm is not None
    n_hidden = before.kernel.shape[3]
    mean, deviation = np.repeat(norm.astype(np.float64), n_hidden // norm.shape[1], axis=1)
    scale = before.norm.scale / deviation
    # What is too large is found in the maps.
    with np.errstate(over="ignore"):
        kernel = (before.kernel * scale).astype(np.float32)
        offset = (before.norm.offset - mean * scale).astype(np.float32)
    return [(kernel, offset), (behind.kernel, behind.bias)]
