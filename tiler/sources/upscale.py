"""Latents upscaled as they are read, so that the large ones never exist.

An output position ``i`` lies at ``(i + 0.5) / scale - 0.5`` of the source, between the second and the third
of four taps::

    source   base-1      base   ·   base+1      base+2        base = i // scale + (0 or -1)
                         |-t->i                              t depends on i % scale, the phase, alone

so there are ``scale`` sets of four weights, and all positions of one phase are computed together as a sum of
four slices. Every output is the same four products added in the same order, whatever the window: the bits do
not depend on the tiling.
"""

import operator
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from tiler.errors import OptionError
from tiler.sources.positions import Wrap, read_clamped
from tiler.sources.source import DerivedSource, Readable, Source
from tiler.window import Span, Window

SHARPNESS = -0.75
"""The free parameter of the cubic. Source: ``torch.nn.functional.interpolate(mode="bicubic")``."""
REACH = 2
"""How many source px beyond its own, on each side, an upscaled px depends on at most."""


class Upscaled(DerivedSource):
    """A source upscaled bicubically by a whole factor, window by window.

    The whole is what ``torch.nn.functional.interpolate`` gives with ``scale_factor=scale, mode="bicubic",
    align_corners=False``, up to rounding: diffusion tools call that latent upscaling.

    Args:
        source: any source.
        scale: output px per source px; 1 changes nothing.

    Raises:
        OptionError: ``scale`` is not a whole number, or less than 1.
    """

    def __init__(self, source: Readable, scale: int) -> None:
        super().__init__(source)
        self._scale = check_scale(scale)

    @property
    def unscaled(self) -> Source:
        """What is enlarged."""
        return self.source

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.source.shape
        return height * self._scale, width * self._scale, channels

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        if self._scale == 1:
            # The weights would be 0, 1, 0, 0: the same, but that 0 times an infinite neighbour is NaN.
            return self.source.read(window)
        values = read_clamped(self.source, find_taps(window.rows, self._scale), find_taps(window.columns, self._scale))
        # What becomes infinite here is for the engine to find.
        with np.errstate(over="ignore", invalid="ignore"):
            values = upscale_axis(values, 0, window.rows, self._scale)
            return upscale_axis(values, 1, window.columns, self._scale)


def check_scale(scale: int) -> int:
    """Return a factor to upscale by.

    Raises:
        OptionError: it is not a whole number, or less than 1.
    """
    try:
        whole = operator.index(scale)
    except TypeError:
        whole = 0
    if whole < 1:
        raise OptionError(f"Not a factor to upscale by: scale={scale}. Use a whole number, 1 or more.")
    return whole


def find_margins(wrap: Wrap | None, halo: int, upscale: int = 1) -> tuple[int, int]:
    """Return the margins, for rows and columns, with which a source that is upscaled shows no seam: source px.

    Args:
        wrap: which ends join, if any.
        halo: context that a pixel of the image needs, px after upscaling.
        upscale: by how much the source is upscaled, margins included.

    Raises:
        OptionError: no such ends, or no such factor.
    """
    if wrap is None:
        return 0, 0
    if wrap not in get_args(Wrap):
        raise OptionError(f"No such ends to join: wrap={wrap}. Use x (left and right), y (top and bottom) or both.")
    # The halo reaches so many source px beyond the image, and interpolation sees two more: further than the halo alone.
    margin = -(-halo // check_scale(upscale)) + REACH
    return margin if wrap in ("y", "both") else 0, margin if wrap in ("x", "both") else 0


def find_base(position: int, scale: int) -> int:
    """Return the source position just before that of the output position, or at it; -1 before the first."""
    whole, phase = divmod(position, scale)
    return whole - 1 if 2 * phase + 1 < scale else whole


def find_taps(span: Span, scale: int) -> tuple[int, int]:
    """Return the source positions ``[start, stop)`` that an output span needs, perhaps over the border."""
    return find_base(span.start, scale) - 1, find_base(span.stop - 1, scale) + 3


def weigh_taps(phase: int, scale: int) -> list[np.float32]:
    """Return the weights of the four taps of a phase.

    Source: R. Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981.
    """
    after = ((phase + 0.5) / scale - 0.5) % 1
    return [np.float32(weigh_distance(distance)) for distance in (1 + after, after, 1 - after, 2 - after)]


def weigh_distance(distance: float) -> float:
    """Return the cubic at a distance of 0 to 2 source px."""
    if distance <= 1:
        return ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
    return (((distance - 5) * distance + 8) * distance - 4) * SHARPNESS


def upscale_axis(values: NDArray[np.float32], axis: int, span: Span, scale: int) -> NDArray[np.float32]:
    """Return the output positions ``span`` of one axis.

    Args:
        values: (height, width, channels) float32, along ``axis`` just the positions of ``find_taps``.
        axis: 0 or 1.
        span: output positions along ``axis``.
        scale: output px per source px.
    """
    before = (slice(None),) * axis
    shape = list(values.shape)
    shape[axis] = len(span)
    upscaled = np.empty(shape, np.float32)
    start, _ = find_taps(span, scale)
    for position in range(span.start, min(span.start + scale, span.stop)):
        n_outputs = len(range(position, span.stop, scale))
        tap = find_base(position, scale) - 1 - start
        taps = [values[(*before, slice(first, first + n_outputs))] for first in range(tap, tap + 4)]
        phase = (*before, slice(position - span.start, None, scale))
        upscaled[phase] = sum_taps(taps, weigh_taps(position % scale, scale))
    return upscaled


def sum_taps(taps: list[NDArray[np.float32]], weights: list[np.float32]) -> NDArray[np.float32]:
    """Return the weighted sum, added up in order."""
    total = taps[0] * weights[0]
    product = np.empty_like(total)
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        np.multiply(tap, weight, out=product)
        np.add(total, product, out=total)
    return total
