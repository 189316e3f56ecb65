"""The model of one stage at one size: the values of ``stage.py``, to rounding, for about half the multiplications.

Every convolution has zeros beyond all four sides of its map here, so maps keep their size, and one program serves
every piece wherever it lies. On a side that is a border of the image that is right. On any other the outermost rows
come out wrong, one more with each convolution; a piece has that much margin, and it is cropped. A piece smaller than
the program is continued with zeros, and what comes out there is set to zero again behind every convolution, as beyond
a border.

A fixed size lets the compiler turn all that happens between two convolutions into loops over the values, and that
makes forms pay whose sums would cost more than the multiplications that they save: Winograd's for the blocks, and an
upsampling of three products per pixel instead of four.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from taesd_core.bounds import Looks
from taesd_core.compile import fuse
from taesd_core.layers import KERNEL, Block, Convolution
from taesd_core.pieces import is_narrow
from taesd_core.receptive_field import Stage
from taesd_core.stage import (
    FOLD,
    Borders,
    NarrowConvolution,
    Output,
    Watch,
    WindowConvolution,
    add_taps,
    convert_output,
    pad,
)
from taesd_core.tensors import ConvolutionTensors, Float32, Tensors
from taesd_core.winograd import combine_products, transform_kernel, transform_rows

Tensor = Any
ALL_BORDERS = Borders((True, True), (True, True))


class FixedStageModel(keras.layers.Layer):
    """The steps of one stage, for float32 maps whose size is known when it is traced.

    Args:
        stage: the steps: convolutions, upsamplings and blocks.
        tensors: of its convolutions.
        looks: at the input only; see ``bounds.py``.
        output: as for ``StageModel``.
    """

    def __init__(self, stage: Stage, tensors: Tensors, looks: Looks, *, output: Output | None = None) -> None:
        assert not looks.maps
        super().__init__(dtype="float32")
        self.looks = looks
        self.output_kind = output
        self.steps: list[FixedStep] = []
        rest = iter(tensors)
        for step in stage:
            if isinstance(step, tuple):
                self.steps.append(FixedUpsampleConvolution(next(rest)))
            elif isinstance(step, Block):
                self.steps.append(WinogradBlockModel([next(rest) for _ in step.convolutions]))
            else:
                assert isinstance(step, Convolution), step
                kind = FixedNarrowConvolution if is_narrow(step) else FixedConvolution
                self.steps.append(kind(next(rest), stride=step.stride))

    def call(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's output, as large as that of the whole map, and whether its input is within the bound.

        Args:
            x: (1, height, width, channels); in the blocks, heights are multiples of four.
            lengths: (2,) int32: how many of its rows and columns are the piece; beyond them it is zero.
        """
        watch = Watch(self.looks)
        watch.look(x)
        for step in self.steps:
            height = x.shape[1]
            x = step(x, lengths)
            lengths = lengths * x.shape[1] // height
        return x if self.output_kind is None else convert_output(x, self.output_kind), watch.within


class FixedConvolution(WindowConvolution):
    """A convolution that reads zeros beyond the map."""

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the convolved map, zero beyond the piece."""
        return _fused_blank(super().call(x, ALL_BORDERS), lengths // self.stride)


class FixedNarrowConvolution(NarrowConvolution):
    """A convolution to few channels."""

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the convolved map, zero beyond the piece."""
        return _fused_taps(ops.conv(x, self.kernel, padding="valid"), _value(self.bias), lengths)


class FixedUpsampleConvolution(WindowConvolution):
    """Nearest ×2 and the 3×3 convolution behind it: folded along the columns only, as ``fold_columns`` says."""

    def __init__(self, tensors: ConvolutionTensors) -> None:
        super().__init__(ConvolutionTensors(fold_columns(tensors.kernel), tensors.bias))
        self.channels_out = tensors.kernel.shape[3]

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the map of twice the size, zero beyond the piece."""
        taps = ops.conv(pad(x, Borders((False, False), (True, True))), self.kernel, padding="valid")
        return _fused_upsampling(taps, _value(self.bias), lengths * 2)


class WinogradBlockModel(WindowConvolution):
    """A residual block by Winograd's convolutions."""

    def __init__(self, tensors: list[ConvolutionTensors]) -> None:
        keras.layers.Layer.__init__(self, dtype="float32")
        self.kernels = [
            [self._constant(f"kernel_{number}_{product}", kernel) for product, kernel in enumerate(kernels)]
            for number, kernels in enumerate(transform_kernel(each.kernel) for each in tensors)
        ]
        self.biases = [
            None if each.bias is None else self._constant(f"bias_{number}", each.bias)
            for number, each in enumerate(tensors)
        ]

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the block's output, zero beyond the piece."""
        rows = _fused_rows(x)
        for kernels, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            rows = _fused_between(_convolve_rows(rows, kernels), _value(bias), lengths)
        return _fused_end(_convolve_rows(rows, self.kernels[-1]), _value(self.biases[-1]), lengths, x)


FixedStep = FixedConvolution | FixedNarrowConvolution | FixedUpsampleConvolution | WinogradBlockModel


def fold_columns(kernel: Float32) -> Float32:
    """Return the (1, 2, n_in, 6 × n_out) kernel that gives the products of an upsampling and ``kernel``.

    Along the columns it is folded as ``fold_upsample`` does. Along the rows its three taps stay apart: output row 2i is
    the sum of the first tap of row i - 1 and the others of row i, and row 2i + 1 that of the first two of row i and the
    last of row i + 1. So three products a row serve two output rows, where folded rows need four; the output channels
    are ordered (row tap, column phase, channel).
    """
    folded = np.einsum("qbx,yxio->biyqo", FOLD, kernel.astype(np.float64))
    return folded.reshape(1, 2, kernel.shape[2], -1).astype(np.float32)


def _convolve_rows(rows: list[Tensor], kernels: list[Tensor]) -> list[Tensor]:
    return [ops.conv(each, kernel, padding="same") for each, kernel in zip(rows, kernels, strict=True)]


def _blank(x: Tensor, lengths: Tensor) -> Tensor:
    """Set to zero what lies beyond the piece."""
    rows, columns = (ops.arange(x.shape[axis + 1], dtype="int32") < lengths[axis] for axis in (0, 1))
    return ops.where(ops.expand_dims(rows[:, None] & columns, -1), x, ops.zeros((), x.dtype))


def _add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _value(weight: Any) -> Any:
    # What a function of the backend takes as an argument.
    return None if weight is None else weight.value


def _upsample(taps: Tensor, bias: Tensor | None, lengths: Tensor) -> Tensor:
    _, height, width, channels = taps.shape
    channels //= 2 * KERNEL
    # Position i of the folded columns gives 2i - 1 and 2i.
    above, same, below = (
        ops.reshape(each, (1, height, 2 * width, channels))[:, :, 1:-1] for each in ops.split(taps, KERNEL, axis=3)
    )
    zeros = ops.zeros_like(same[:, :1])
    even = ops.concatenate([zeros, above[:, :-1]], axis=1) + same + below
    odd = above + same + ops.concatenate([below[:, 1:], zeros], axis=1)
    x = ops.reshape(ops.stack([even, odd], axis=2), (1, 2 * height, 2 * width - 2, channels))
    return _blank(_add_bias(x, bias), lengths)


def _activate(products: list[Tensor], bias: Tensor | None, lengths: Tensor, residual: Tensor | None = None) -> Tensor:
    x = _add_bias(combine_products(products), bias)
    return _blank(ops.relu(x if residual is None else x + residual), lengths)


# One of each for all blocks of a size: what is compiled once need not be compiled again.
_fused_blank = fuse(_blank)
_fused_taps = fuse(lambda taps, bias, lengths: _blank(_add_bias(add_taps(pad(taps, ALL_BORDERS)), bias), lengths))
_fused_upsampling = fuse(_upsample)
_fused_rows = fuse(transform_rows)
_fused_between = fuse(lambda products, bias, lengths: transform_rows(_activate(products, bias, lengths)))
_fused_end = fuse(_activate)
