"""No map of a network may overflow: proved where that is possible, looked at where it is not.

A ReLU makes 0 of -Inf, some kernels make 0 of NaN, and clipping and rounding to bytes hide the rest: a decoder that
overflows gives a picture that is finite and wrong. So every map must be known to be finite before that.

What a convolution gives lies between sums of its kernel's positive and negative values times what its input lies
between. Such ranges, one convolution after another, prove of a whole stage in float32 that nothing in it overflows if
its input is within a bound: one look, at the smallest of its maps. In float16 they prove two or three convolutions;
the next map is looked at, and the ranges begin anew with the bound. Where a look finds more than the bound nothing is
known, and the window is run again with a look at every map.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taesd_core.layers import Block, Clamp, Pool, Relu
from taesd_core.receptive_field import Stage
from taesd_core.tensors import ConvolutionTensors, Tensors

LARGEST = {"float32": (2 - 2.0**-23) * 2.0**127, "bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": 65504.0}
"""The largest finite value of each type of maps."""
USE_OTHERS = "Bring the input into its range, or use other weights."
"""What to do where no type holds them."""
_LIMIT = {"float32": 2.0**108, "bfloat16": 2.0**108, "float16": 2.0**15}
"""How large a map may be proved to get. Sums inside Winograd's convolutions get 190 times as large as what comes out,
and ranges leave out that sums are rounded: there is room for a million, and for 2 in float16, which has no
Winograd's."""
_BOUND = {"float32": 2.0**20, "bfloat16": 2.0**20, "float16": 2.0**5}
"""What is asked of maps that are looked at: more than those of any decoder that is known."""
_CLAMPED = 3.0


@dataclass(frozen=True, slots=True)
class Looks:
    """Which maps of a stage are looked at when it is run."""

    bound: float
    """What no absolute value in them may exceed."""
    maps: frozenset[int]
    """Which: the numbers of the stage's convolutions, whose sums, bias and skip included, are looked at. The stage's
    input always is, unless it is clamped first."""


class Range(NamedTuple):
    """What the values of each channel lie between."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, channels: int, bound: float) -> "Range":
        """Return the range of values whose absolute values are within a bound."""
        return cls(np.full(channels, -bound), np.full(channels, bound))

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return float(np.max(np.maximum(-self.low, self.high)))

    def relu(self) -> "Range":
        """Return what a ReLU makes of it."""
        return Range(np.maximum(self.low, 0), np.maximum(self.high, 0))

    def convolve(self, kernel: NDArray[np.float32]) -> "Range":
        """Return what a convolution makes of it, zeros beyond borders included; no part of a sum lies outside."""
        low, high = np.minimum(self.low, 0), np.maximum(self.high, 0)
        values = kernel.astype(np.float64)
        up, down = np.maximum(values, 0).sum(axis=(0, 1)), np.minimum(values, 0).sum(axis=(0, 1))
        return Range(low @ up + high @ down, high @ up + low @ down)


def choose_looks(stage: Stage, tensors: Tensors, dtype: str) -> Looks:
    """Return the few looks that prove of a stage that none of its maps overflows.

    Args:
        stage: the steps.
        tensors: of its convolutions.
        dtype: of weights and maps.
    """
    bound, limit = _BOUND[dtype], _LIMIT[dtype]
    maps: set[int] = set()
    rest = iter(enumerate(tensors))
    x = Range.of(tensors[0].kernel.shape[2], bound)

    def convolve(x: Range, number: int, each: ConvolutionTensors, skip: Range | None = None) -> Range:
        n_out = each.kernel.shape[3]
        bias = np.zeros(n_out) if each.bias is None else each.bias.astype(np.float64)
        low, high = x.convolve(each.kernel)
        skip = skip or Range.of(n_out, 0)
        # Not largest(sum): what is summed may cancel, and must not overflow on the way.
        if Range(low, high).largest + np.abs(bias).max() + skip.largest <= limit:
            return Range(low + bias + skip.low, high + bias + skip.high)
        maps.add(number)
        return Range.of(n_out, bound)

    for step in stage:
        if isinstance(step, Clamp):
            x = Range.of(len(x.low), _CLAMPED)
        elif isinstance(step, Relu):
            x = x.relu()
        elif isinstance(step, Pool):
            # What its norm divides by is not known yet. It is at the resolution of latents, where looks cost nothing.
            numbers = [next(rest)[0] for _ in step.convolutions]
            maps.update(numbers)
            x = Range.of(len(x.low), bound)
        elif isinstance(step, Block):
            skip = x
            for _ in step.convolutions[:-1]:
                x = convolve(x, *next(rest)).relu()
            x = convolve(x, *next(rest), skip).relu()
        else:
            x = convolve(x, *next(rest))
    return Looks(bound, frozenset(maps))


def look_everywhere(n_convolutions: int, dtype: str) -> Looks:
    """Return the looks that find whatever is not finite, in a stage with so many convolutions."""
    return Looks(LARGEST[dtype], frozenset(range(n_convolutions)))
