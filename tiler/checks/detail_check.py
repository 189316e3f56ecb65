"""Whether a level of a JPEG pyramid is made of the means of four pixels, or of one of each four.

In brightness, cell by cell, the two are alike, and compression blurs what little they differ by. But where a level is
made of single pixels, it differs from the means by detail of the level below::

    ┌────┬────┐    the pixel at the top left = mean + across + down + the two together
    │    │    │        across: the left half less the right half, by half; down: the upper half less the lower
    ├────┼────┤
    │    │    │    so from the means it is off by 1 × across: a slope of 1, or -1 if a pixel on the right was taken
    └────┴────┘    what compression has changed knows nothing of across and down: a slope of 0

Measured on 24 photographs at qualities 10 to 100: slopes of 0.06 at most for means, and for single pixels 0.5 to 1 (at
quality 10: 0.2 to 0.8).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELL_PX = 8
"""Side of a block of JPEG, px of the level."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Brightness of R, G and B. Source: JFIF 1.02."""
STEEPEST = 0.3
"""Largest slope that may be chance."""
EVIDENCE = 10.0
"""How many different blocks, each explained by the slope alone, are more than chance. The errors of blocks that are
alike are alike too, so a thousand of them tell no more than one: on stripes of two colours it was 6.4 at most."""
N_KINDS = 4096
"""Blocks are told apart by a number below this."""
_MIX = np.random.default_rng(0).integers(1, 2**31, (2 * CELL_PX, 2 * CELL_PX))


@dataclass(slots=True)
class _Slope:
    """How far what a level is off by follows one kind of detail, from all its tiles."""

    product: float = 0.0
    """Of the two, summed."""
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_KINDS))
    """Of the detail, summed by kind of block."""


class DetailComparison:
    """All tiles of a level, and the pixels below them.

    Args:
        step: by which JPEG rounds the brightness of a block, eight times its mean.
    """

    def __init__(self, step: int) -> None:
        # What rounding alone may pass off as detail, squared.
        self._least = (0.3 + step / 12) ** 2
        self._slopes = {"columns": _Slope(), "rows": _Slope()}
        self._off = 0.0
        self._n_px = 0

    def add(self, pixels: NDArray[np.uint8], below: NDArray[np.uint8]) -> None:
        """Take a tile into account, as far as it consists of whole blocks of pixels that were not clipped."""
        height, width = (
            size // CELL_PX * CELL_PX for size in np.minimum(pixels.shape[:2], np.array(below.shape[:2]) // 2)
        )
        if not height or not width:
            return
        pixels, below = pixels[:height, :width], below[: 2 * height, : 2 * width]
        brightness = below @ LUMA
        left, right = brightness[:, 0::2], brightness[:, 1::2]
        (upper_left, lower_left), (upper_right, lower_right) = ((each[0::2], each[1::2]) for each in (left, right))
        clipped = find_clipped(below)[..., 0].reshape(height, 2, width, 2).any(axis=(1, 3))
        good = ~(clipped | find_clipped(pixels)[..., 0].view(np.bool_))
        off = (pixels @ LUMA - (upper_left + upper_right + lower_left + lower_right) / 4) * good
        kinds = (cut_blocks(np.rint(brightness).astype(np.int64), 2 * CELL_PX) * _MIX).sum(axis=(2, 3)) % N_KINDS
        self._off += float((off * off).sum())
        self._n_px += int(np.count_nonzero(good))
        for name, detail in (
            ("columns", (upper_left + lower_left - upper_right - lower_right) / 4 * good),
            ("rows", (upper_left + upper_right - lower_left - lower_right) / 4 * good),
        ):
            slope = self._slopes[name]
            slope.product += float((off * detail).sum())
            squares = cut_blocks(detail * detail, CELL_PX).sum(axis=(2, 3))
            slope.squares += np.bincount(kinds.ravel(), squares.ravel(), minlength=N_KINDS)

    def find_problem(self) -> str:
        """Return what all tiles together show."""
        for name, each in self._slopes.items():
            total = float(each.squares.sum())
            if not total:
                continue
            slope = each.product / total
            explained = slope * slope * total / self._n_px
            n_different = total * total / float((each.squares**2).sum())
            share = explained * self._n_px / self._off
            if abs(slope) > STEEPEST and explained > self._least and n_different * share > EVIDENCE:
                return f"it follows single pixels and not their means (slope {slope:.2f} along {name})"
        return ""


def cut_blocks(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return whole blocks of ``side`` × ``side``: (rows of blocks, columns of blocks, side, side)."""
    height, width = values.shape
    return values.reshape(height // side, side, width // side, side).swapaxes(1, 2)


def find_clipped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 for each pixel whose colour is as saturated as can be, else 0: (height, width, 1)."""
    least, most = pixels.min(axis=2, keepdims=True), pixels.max(axis=2, keepdims=True)
    return ((least != most) & ((least == 0) | (most == 255))).view(np.uint8)
