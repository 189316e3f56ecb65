"""Mean and variance of the values of each group of channels, gathered a tile at a time.

Tiles are added up as (count, mean, squared deviations), not as sums of squares: nothing cancels, however far the mean
is from zero.

Source: T. F. Chan, G. H. Golub, R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances, 1979.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taesd_core.layers import EPSILON
from taesd_core.tensors import Float32

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What is known of the values of each group of channels."""

    count: int
    """Values of a group."""
    mean: Float64
    """(groups,), their mean."""
    squares: Float64
    """(groups,), the sum of their squared deviations from it."""

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of the values of both. The last bits depend on the order in which many are added."""
        count = self.count + other.count
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * (other.count / count),
            self.squares + other.squares + step**2 * (self.count * (other.count / count)),
        )

    @property
    def finite(self) -> bool:
        """Whether nothing in them is NaN or Inf."""
        return bool(np.isfinite([self.mean, self.squares]).all())

    @property
    def variance(self) -> Float64:
        """(groups,), the mean squared deviation, as a group norm takes it."""
        return self.squares / self.count

    @property
    def norm(self) -> Float32:
        """(2, groups): what a group norm subtracts, and what it divides by."""
        return np.stack([self.mean, np.sqrt(self.variance + EPSILON)]).astype(np.float32)


def moments_of_sums(count: int, pilot: Float64, sums: Float64, squares: Float64, groups: int) -> Moments:
    """Return the moments of groups of channels.

    Args:
        count: values of a channel.
        pilot: (channels,), any value near the mean of each channel.
        sums: (channels,), the sum of ``value - pilot``.
        squares: (channels,), the sum of ``(value - pilot)**2``.
        groups: groups of neighbouring channels of equal size.
    """
    means = pilot + sums / count
    deviations = squares - sums**2 / count
    mean = means.reshape(groups, -1).mean(axis=1)
    between = count * (means.reshape(groups, -1) - mean[:, None]) ** 2
    within = deviations.reshape(groups, -1)
    return Moments(count * within.shape[1], mean, (within + between).sum(axis=1))
