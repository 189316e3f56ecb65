"""The exact model of one stage: what a window determines, with zeros only where the image ends.

Every convolution is "valid" on the sides of the window that lie inside the image, so the map shrinks by what is not
determined, and has one row of zeros on the sides that are borders of the image, layer by layer, as the whole image
has. (Zeros around the latent would not do: behind the first bias and ReLU they are no longer zeros.)
"""

from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from taesd_core.bounds import Looks
from taesd_core.costs import is_narrow
from taesd_core.layers import KERNEL, Block, Clamp, Convolution, Pool, Relu
from taesd_core.moments import Moments, moments_of_sums
from taesd_core.receptive_field import Stage
from taesd_core.tensors import ConvolutionTensors, Float32, Tensors

Tensor = Any
Ends = tuple[bool, bool]
Output = Literal["uint8", "uint16", "float32"]
LARGEST = {"uint8": 255.0, "uint16": 65535.0}
"""What 1.0 becomes."""
FOLD = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float64)
"""Which of a kernel's three taps are added up when it is folded with nearest ×2: [phase, tap of two, tap of three].

Sums are of float64, rounded once.
"""


class Borders(NamedTuple):
    """Which sides of a window are borders of the image: (low, high) ends of its rows and of its columns."""

    rows: Ends
    columns: Ends


class Watch:
    """Looks at the maps of one run of a stage.

    Args:
        looks: at which.
    """

    def __init__(self, looks: Looks) -> None:
        self._looks, self._n_seen = looks, 0
        self._within: list[Tensor] = []

    def look(self, x: Tensor) -> None:
        """Look at a map."""
        self._within.append(ops.all(ops.abs(x) <= self._looks.bound))

    def __call__(self, x: Tensor) -> Tensor:
        """Look at the next convolution's map, if it is one of those; return it."""
        if self._n_seen in self._looks.maps:
            self.look(x)
        self._n_seen += 1
        return x

    @property
    def within(self) -> Tensor:
        """Whether all that was looked at is within the bound. NaN is not."""
        return ops.all(ops.stack(self._within)) if self._within else ops.ones((), "bool")


class StageModel(keras.layers.Layer):
    """The steps of one stage, as a Keras layer whose ``call`` takes the borders as a constant.

    Args:
        stage: the steps.
        tensors: the tensors of its convolutions.
        looks: which maps are looked at.
        output: what leaves the last stage: "uint8" clips to [0, 1], scales to 255 and rounds, so that a device sends
            back bytes, and "uint16" scales to 65535; "float32" gives the values as they are. None between stages.
        dtype: of weights and maps.
    """

    def __init__(
        self,
        stage: Stage,
        tensors: Tensors,
        looks: Looks,
        *,
        output: Output | None = None,
        dtype: str = "float32",
    ) -> None:
        # Statistics stay float32 in any precision.
        super().__init__(dtype=dtype, autocast=False)
        # Layers make their variables when they are made. Keras would run those that it takes for unbuilt once more, and
        # would have their maps looked at twice.
        self.built = True
        self.output_kind = output
        self.looks = looks
        self.looks_at_input = not isinstance(stage[0], Clamp)
        self.norm_shapes = [(2, step.groups) for step in stage if isinstance(step, Pool)]
        """Of the statistics that ``call`` wants."""
        self.steps: list[keras.layers.Layer] = []
        rest = iter(tensors)
        for step in stage:
            if isinstance(step, tuple):
                self.steps.append(UpsampleConvolution(next(rest), dtype=dtype))
            elif isinstance(step, Pool):
                self.steps.append(PoolModel([next(rest) for _ in step.convolutions], step.groups, dtype=dtype))
            elif isinstance(step, Block):
                self.steps.append(BlockModel([next(rest) for _ in step.convolutions], dtype=dtype))
            elif isinstance(step, Convolution):
                kind = NarrowConvolution if is_narrow(step) else WindowConvolution
                self.steps.append(kind(next(rest), stride=step.stride, dtype=dtype))
            elif isinstance(step, Relu):
                self.steps.append(Elementwise(ops.relu, dtype=dtype))
            elif isinstance(step, Clamp):
                self.steps.append(Elementwise(clamp, dtype=dtype))

    @property
    def channels_out(self) -> int:
        """Channels of the stage's output."""
        return next(step.channels_out for step in reversed(self.steps) if not isinstance(step, Elementwise))

    def call(self, x: Tensor, norms: tuple[Tensor, ...] = (), *, borders: Borders) -> tuple[Tensor, Tensor]:
        """Return the pixels that the window ``x`` (1, height, width, channels) determines, and whether to trust them.

        Args:
            x: the window.
            norms: for each pool its statistics over the whole map, (2, groups): what is subtracted, and what is
                divided by.
            borders: which sides of the window are borders of the image.

        Returns:
            The pixels, and whether all that was looked at is within the bound.
        """
        statistics, watch = iter(norms), Watch(self.looks)
        if self.looks_at_input:
            watch.look(x)
        for step in self.steps:
            if isinstance(step, PoolModel):
                x = step(x, next(statistics), watch=watch)
            elif isinstance(step, BlockModel):
                x = step(x, borders=borders, watch=watch)
            elif isinstance(step, Elementwise):
                x = step(x, borders=borders)
            else:
                x = watch(step(x, borders=borders))
        return x if self.output_kind is None else convert_output(x, self.output_kind), watch.within


class Elementwise(keras.layers.Layer):
    """A function of each value, which no border changes."""

    def __init__(self, function: Any, *, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.built = True
        self.function = function

    def call(self, x: Tensor, borders: Borders) -> Tensor:
        """Return the function of each value."""
        return self.function(x)


class WindowConvolution(keras.layers.Layer):
    """A convolution that reads zeros beyond the borders of the image and nothing beyond the other sides."""

    def __init__(self, tensors: ConvolutionTensors, *, stride: int = 1, dtype: str = "float32") -> None:
        super().__init__(dtype=dtype)
        self.built = True
        self.stride = stride
        self.sees_neighbours = tensors.kernel.shape[0] > 1
        self.channels_out = tensors.kernel.shape[3]
        self.kernel = self._constant("kernel", tensors.kernel)
        self.bias = None if tensors.bias is None else self._constant("bias", tensors.bias)

    def _constant(self, name: str, values: Float32) -> Any:
        return self.add_weight(
            shape=values.shape, initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype), name=name
        )

    def call(self, x: Tensor, borders: Borders) -> Tensor:
        """Return what the window determines: a row less on each side that is no border."""
        if self.sees_neighbours:
            x = pad(x, borders)
        x = ops.conv(x, self.kernel, strides=self.stride, padding="valid")
        return x if self.bias is None else x + self.bias


class NarrowConvolution(WindowConvolution):
    """A convolution to few channels: one 1×1 convolution to all nine taps, then nine shifted sums.

    A 3×3 kernel with 3 output channels leaves most lanes of a processor idle; 27 channels fill them.
    """

    def __init__(self, tensors: ConvolutionTensors, *, stride: int = 1, dtype: str = "float32") -> None:
        n_in, n_out = tensors.kernel.shape[2:]
        taps = tensors.kernel.transpose(2, 0, 1, 3).reshape(1, 1, n_in, -1)
        super().__init__(ConvolutionTensors(taps, tensors.bias), stride=stride, dtype=dtype)
        self.channels_out = n_out

    def call(self, x: Tensor, borders: Borders) -> Tensor:
        """Return what the window determines: a row less on each side that is no border."""
        # Zeros may be put around the products as well as around x: there is no bias in between.
        total = add_taps(pad(ops.conv(x, self.kernel, padding="valid"), borders))
        return total if self.bias is None else total + self.bias


class UpsampleConvolution(WindowConvolution):
    """Nearest ×2 and the 3×3 convolution behind it, folded into one 2×2 convolution with four phases.

    Of the three rows that output row 2i sees, two are copies of row i: it needs rows (i - 1, i) with the kernel rows
    [w0, w1 + w2], and row 2i + 1 needs (i, i + 1) with [w0 + w1, w2]. 16 products instead of 36. Position i of the
    2×2 convolution lies between rows i and i + 1 and gives output rows 2i + 1 and 2i + 2.
    """

    def __init__(self, tensors: ConvolutionTensors, *, dtype: str = "float32") -> None:
        super().__init__(ConvolutionTensors(fold_upsample(tensors.kernel), tensors.bias), dtype=dtype)
        self.channels_out = tensors.kernel.shape[3]

    def call(self, x: Tensor, borders: Borders) -> Tensor:
        """Return what the window determines: twice its rows, a row less on each side that is no border."""
        x = ops.depth_to_space(super().call(x, borders), 2)
        if not any(borders.rows + borders.columns):
            return x
        # A row of zeros at a border lets the first position give row -1 too, and the last one row 2n.
        (top, bottom), (left, right) = borders
        return x[:, top : -1 if bottom else None, left : -1 if right else None]


class BlockModel(keras.layers.Layer):
    """A residual block; what is added is cropped to what the convolutions determine."""

    def __init__(self, tensors: list[ConvolutionTensors], *, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.built = True
        self.convolutions = [WindowConvolution(each, dtype=dtype) for each in tensors]
        self.channels_out = self.convolutions[-1].channels_out

    def call(self, x: Tensor, borders: Borders, watch: Watch) -> Tensor:
        """Return what the window determines: three rows less on each side that is no border."""
        margin = len(self.convolutions)
        rows, columns = (slice(None if low else margin, None if high else -margin) for low, high in borders)
        residual = x[:, rows, columns]
        for convolution in self.convolutions[:-1]:
            x = ops.relu(watch(convolution(x, borders=borders)))
        return ops.relu(watch(self.convolutions[-1](x, borders=borders) + residual))


class PoolModel(WindowConvolution):
    """A pool with the statistics of its norm given: the norm is then a factor and an offset for each channel.

    The factor goes into the kernel in front of it, so that no map is larger than it must be.
    """

    def __init__(self, tensors: list[ConvolutionTensors], groups: int, *, dtype: str) -> None:
        before, behind = tensors
        assert before.norm is not None
        super().__init__(before, dtype=dtype)
        self.autocast = False
        self.channels_in_group = self.channels_out // groups
        self.scale, self.offset = before.norm
        self.kernel_behind = self._constant("kernel_behind", behind.kernel)
        self.channels_out = behind.kernel.shape[3]

    def call(self, x: Tensor, norm: Tensor, watch: Watch) -> Tensor:  # type: ignore[override]
        """Return ``x`` and what the pool adds to it: no row less on any side.

        Args:
            x: (1, height, width, channels).
            norm: (2, groups) float32: what is subtracted, and what is divided by.
            watch: looks at maps.
        """
        mean, deviation = ops.unstack(ops.repeat(norm, self.channels_in_group, axis=1), axis=0)
        scale = self.scale / deviation
        kernel = ops.cast(self.kernel, "float32") * scale
        offset = ops.cast(self.offset - mean * scale, x.dtype)
        wide = ops.relu(watch(ops.conv(x, ops.cast(kernel, x.dtype), padding="valid") + offset))
        return watch(x + ops.conv(wide, self.kernel_behind, padding="valid"))


def add_taps(taps: Tensor) -> Tensor:
    """Return the sum of the nine taps of a 3×3 kernel, each (1, height, width, channels), shifted: a row less per side.

    They are one behind another in the last axis, row by row.
    """
    height, width, channels = ops.shape(taps)[1] - 2, ops.shape(taps)[2] - 2, taps.shape[3] // KERNEL**2
    total = None
    for number in range(KERNEL**2):
        row, column = divmod(number, KERNEL)
        first = number * channels
        tap = taps[:, row : row + height, column : column + width, first : first + channels]
        total = tap if total is None else total + tap
    return total


def convert_output(x: Tensor, output: Output) -> Tensor:
    """Return values as ``output`` has them; see ``StageModel``."""
    # In float32 whatever the precision before: bfloat16 cannot count to 255.
    x = ops.cast(x, "float32")
    if output == "float32":
        return x
    return ops.cast(ops.round(ops.clip(x, 0.0, 1.0) * LARGEST[output]), output)


def moments_of_map(x: Tensor, groups: int) -> Moments:
    """Return the moments of the groups of channels of a map (1, height, width, channels).

    Sums of float32 run along one row only; the rows are added up in float64.
    """
    x = ops.cast(x, "float32")
    pilot = ops.mean(x, axis=(0, 1, 2))
    deviations = x - pilot
    sums, squares = (
        ops.convert_to_numpy(ops.sum(each, axis=(0, 2))).sum(axis=0, dtype=np.float64)
        for each in (deviations, ops.square(deviations))
    )
    pilot = ops.convert_to_numpy(pilot).astype(np.float64)
    return moments_of_sums(x.shape[1] * x.shape[2], pilot, sums, squares, groups)


def pad(x: Tensor, borders: Borders) -> Tensor:
    """Put one row or column of zeros on the sides that are borders."""
    if not any(borders.rows + borders.columns):
        return x
    return ops.pad(x, ((0, 0), *(tuple(map(int, side)) for side in borders), (0, 0)))


def fold_upsample(kernel: Float32) -> Float32:
    """Return the (2, 2, n_in, 4 × n_out) kernel that equals nearest ×2 and then ``kernel`` (3, 3, n_in, n_out).

    The output channels are ordered (row phase, column phase, channel), as ``depth_to_space`` wants them. The first
    phase is output row 2i + 1, the second 2i + 2.
    """
    folded = np.einsum("pay,qbx,yxio->abipqo", FOLD, FOLD, kernel.astype(np.float64))
    return folded.reshape(2, 2, kernel.shape[2], -1).astype(np.float32)


def clamp(x: Tensor) -> Tensor:
    """Return what a ``Clamp`` layer does."""
    return ops.tanh(x / 3.0) * 3.0
