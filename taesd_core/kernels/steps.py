"""A network as steps of compiled code: each makes some strips of its output map from its input map."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels import direct, winograd
from taesd_core.kernels.maps import Map, Reach, new_memory
from taesd_core.kernels.pixels import TO_PIXELS
from taesd_core.kernels.transforms import SIDE
from taesd_core.layers import Block, Clamp, Convolution, Layers, Relu, Upsample
from taesd_core.tensors import ConvolutionTensors, Float32

WIDTH = 16
"""Channels come in multiples of it: what some processor's vector holds."""


_WINOGRAD = {
    (False, False, False): winograd.convolve,
    (False, False, True): winograd.convolve_relu,
    (False, True, True): winograd.convolve_skip,
    (True, False, False): winograd.convolve_doubled,
}
"""By doubled, skip and ReLU: what networks have of these."""


class Work(NamedTuple):
    """What a thread works with."""

    scratch: Float32
    flags: Float32
    """Becomes NaN where a value is NaN or infinite."""


class Step(ABC):
    """One step. Its ``ratio`` is (output px, input px) of an axis."""

    ratio = (1, 1)
    margin = 1
    """Neighbours that it sees on each side, input px."""
    in_tiles = True
    """Whether it makes whole tiles of 4 × 4; else just what is needed, and it may read no further."""
    skip = 0
    """How many steps before it made what it adds to its output, counted from its input; 0: it adds nothing."""
    n_out: int
    scratch_size: int

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Return the span of the input that a span of the output needs."""
        n_out, n_in = self.ratio
        if n_out == 2:
            return (start - 1) // 2, stop // 2 + 1
        return start * n_in - self.margin, (stop - 1) * n_in + 1 + self.margin

    @abstractmethod
    def run(self, x: Map, out: Map, added: Map, first: int, last: int, work: Work) -> None:
        """Make the rows from ``first`` to ``last``, multiples of four, of ``out``."""


class Winograd(Step):
    """A convolution 3×3, of stride 1; ``doubled``: of the map with each pixel repeated twice in both directions."""

    def __init__(
        self, tensors: ConvolutionTensors, *, doubled: bool = False, skip: int = 0, relu: bool = False
    ) -> None:
        kernel, bias = _widen(tensors)
        self.n_in, self.n_out = kernel.shape[2:]
        self.ratio, self.skip = (2 if doubled else 1, 1), skip
        self._kernels, self._bias = _align(winograd.pack_winograd(kernel, doubled)), bias
        self._convolve = _WINOGRAD[doubled, skip > 0, relu]
        self.scratch_size = winograd.scratch_size(doubled, self.n_in, self.n_out)

    def run(self, x: Map, out: Map, added: Map, first: int, last: int, work: Work) -> None:
        """See ``Step``."""
        row, column = self.needs(first, last)[0], self.needs(out.columns.start, out.columns.stop)[0]
        self._convolve(
            x.data, x.at(row, column), x.row, self.n_in, self._kernels, self._bias,
            added.data, added.at(first, out.columns.start), added.row,
            out.data, out.at(first, out.columns.start), out.row, self.n_out, len(out.columns) // SIDE,
            0, (last - first) // SIDE, *work,
        )  # fmt: skip


class Direct(Step):
    """A convolution of few channels, of stride 2, or 1×1."""

    in_tiles = False

    def __init__(self, tensors: ConvolutionTensors, *, stride: int = 1, relu: bool = False) -> None:
        size, _, self.n_in, self.n_out = tensors.kernel.shape
        self.ratio, self.margin = (1, stride), size // 2
        bias = np.zeros(self.n_out, np.float32) if tensors.bias is None else tensors.bias
        self._kernels, self._bias = _align(direct.pack_direct(tensors.kernel)), _align(bias)
        self._shape = size, size * self.n_in
        self._convolve = direct.convolve_relu if relu else direct.convolve
        self.scratch_size = direct.scratch_size(self.n_out)

    def run(self, x: Map, out: Map, added: Map, first: int, last: int, work: Work) -> None:
        """See ``Step``."""
        first, last = max(first, out.rows.begin), min(last, out.rows.end)
        begin, end = out.columns.begin, out.columns.end
        row, column = self.needs(first, last)[0], self.needs(begin, end)[0]
        self._convolve(
            x.data, x.at(row, column), x.row, self.ratio[1], self.n_in, *self._shape, self._kernels, self._bias,
            out.data, out.at(first, begin), out.row, self.n_out, end - begin, 0, last - first, *work,
        )  # fmt: skip


class Pooling(Step):
    """A pool with the statistics of its norm given: the norm is then a factor and an offset for each channel."""

    margin, in_tiles = 0, False

    def __init__(self, tensors: Sequence[ConvolutionTensors], norm: Float32) -> None:
        before, behind = tensors
        assert before.norm is not None
        _, _, self.n_out, self._n_hidden = before.kernel.shape
        mean, deviation = np.repeat(norm.astype(np.float64), self._n_hidden // norm.shape[1], axis=1)
        scale = before.norm.scale / deviation
        self._before = _align(direct.pack_direct((before.kernel * scale).astype(np.float32)))
        self._offset = _align((before.norm.offset - mean * scale).astype(np.float32))
        self._behind, self._zeros = _align(direct.pack_direct(behind.kernel)), _align(np.zeros(self.n_out, np.float32))
        self.scratch_size = direct.scratch_size(self.n_out, self._n_hidden)

    def run(self, x: Map, out: Map, added: Map, first: int, last: int, work: Work) -> None:
        """See ``Step``."""
        first, last = max(first, out.rows.begin), min(last, out.rows.end)
        begin, end = out.columns.begin, out.columns.end
        direct.pool(
            x.data, x.at(first, begin), x.row, self.n_out, self._n_hidden, self._before, self._offset, self._behind,
            self._zeros, out.data, out.at(first, begin), out.row, end - begin, 0, last - first, *work,
        )  # fmt: skip


class ToPixels(Step):
    """The last convolution; what it makes is the image."""

    def __init__(self, tensors: ConvolutionTensors, kind: str) -> None:
        self.channels, self.kind = tensors.kernel.shape[3], kind
        kernel, self._bias = _widen(tensors)
        self.n_in, self.n_out = kernel.shape[2:]
        self._kernels = _align(winograd.pack_winograd(kernel, False))
        self._to_pixels = TO_PIXELS[kind]
        self.scratch_size = winograd.scratch_size(False, self.n_in, self.n_out)

    def run_to(
        self, x: Map, columns: Reach, image: NDArray[Any], crop: tuple[int, int], first: int, last: int, work: Work
    ) -> None:
        """Make the rows from ``first`` to ``last`` of an image that begins at ``crop``."""
        line = new_memory(SIDE * len(columns) * self.n_out)
        self._to_pixels(
            x.data, x.at(first - 1, columns.start - 1), x.row, self.n_in, self._kernels, self._bias, self.n_out,
            len(columns) // SIDE, image, crop[0] - first, crop[1] - columns.start, 0, (last - first) // SIDE,
            work.scratch, line, work.flags,
        )  # fmt: skip

    def run(self, x: Map, out: Map, added: Map, first: int, last: int, work: Work) -> None:
        """See ``Step``."""
        raise AssertionError("It makes no map.")


def make_steps(
    layers: Layers, tensors: Iterator[ConvolutionTensors], norms: Iterator[Float32], kind: str | None
) -> tuple[bool, list[Step]]:
    """Return whether the input is clamped first, and the steps.

    Args:
        layers: the network.
        tensors: of its convolutions, in order of execution.
        norms: of its pools, the statistics that are known: what is subtracted, and what is divided by.
        kind: of the pixels that it ends with; None where it ends with a map.
    """
    clamped, doubled = False, False
    steps: list[Step] = []
    for number, layer in enumerate(layers):
        relu = layers[number + 1 : number + 2] == (Relu(),)
        last = number == len(layers) - 1
        if isinstance(layer, Clamp):
            assert not steps
            clamped = True
        elif isinstance(layer, Upsample):
            doubled = True
        elif isinstance(layer, Convolution):
            each = next(tensors)
            if last and kind is not None:
                steps.append(ToPixels(each, kind))
            elif layer.stride > 1 or layer.kernel == 1 or layer.n_in % WIDTH:
                steps.append(Direct(each, stride=layer.stride, relu=relu))
            else:
                steps.append(Winograd(each, doubled=doubled, relu=relu))
            doubled = False
        elif isinstance(layer, Block):
            if layer.pool is not None:
                steps.append(Pooling([next(tensors) for _ in layer.pool.convolutions], next(norms)))
            first, second, third = (next(tensors) for _ in layer.convolutions)
            steps += [Winograd(first, relu=True), Winograd(second, relu=True), Winograd(third, skip=2, relu=True)]
        else:
            assert isinstance(layer, Relu), f"No kernels for this layer: {layer}."
    return clamped, steps


def _widen(tensors: ConvolutionTensors) -> tuple[Float32, Float32]:
    """Return kernel and bias with as many outputs as fill vectors."""
    n_out = tensors.kernel.shape[3]
    wide = -(-n_out // WIDTH) * WIDTH
    kernel = np.zeros((*tensors.kernel.shape[:3], wide), np.float32)
    bias = new_memory(wide)
    kernel[..., :n_out] = tensors.kernel
    bias[:] = 0
    if tensors.bias is not None:
        bias[:n_out] = tensors.bias
    return kernel, bias


def _align(values: Float32) -> Float32:
    aligned = new_memory(values.size)
    aligned[:] = values.reshape(-1)
    return aligned
