"""The levels of an image pyramid: their shapes, and how one level becomes the next."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.window import Span, Window


def level_shapes(height: int, width: int, smallest: int) -> list[tuple[int, int]]:
    """Return (height, width) of every level, level 0 first, down to one that fits ``smallest`` × ``smallest``.

    Each level halves the one before it, rounding up.
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > smallest:
        shapes.append(halve_shape(*shapes[-1]))
    return shapes


def halve_shape(height: int, width: int) -> tuple[int, int]:
    """Return the shape of the next level."""
    return (height + 1) // 2, (width + 1) // 2


def halve(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the 2×2 means, of whole numbers rounded half up.

    An odd last row or column counts twice, so the borders of an image keep their brightness. A window that
    starts on even positions gives the same pixels as the whole level, which is why tiles can be halved one by one.

    Args:
        pixels: (height, width, channels) uint8, uint16 or float32.

    Returns:
        (⌈height / 2⌉, ⌈width / 2⌉, channels) of the same type.
    """
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    dtype = pixels.dtype
    if dtype.kind == "f":
        sums = pixels[0::2] + pixels[1::2]
        return (sums[:, 0::2] + sums[:, 1::2]) * dtype.type(0.25)
    rows = pixels[0::2].astype(np.uint16 if dtype.itemsize == 1 else np.uint32) + pixels[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(dtype)


Task = tuple[int, int, int]
"""(level, row, column) of a tile in the grid of its level; tiles of all levels have the same size in px."""


def level_window(levels: list[tuple[int, int]], tile_px: int, task: Task) -> Window:
    """Return the window of its level that a task writes."""
    level, row, column = task
    height, width = levels[level]
    rows = Span(row * tile_px, min((row + 1) * tile_px, height))
    return Window(rows, Span(column * tile_px, min((column + 1) * tile_px, width)))


def find_parent(task: Task) -> Task:
    """Return the task above."""
    level, row, column = task
    return level + 1, row // 2, column // 2


def find_children(task: Task) -> list[Task]:
    """Return the four tasks below; at the edge some do not exist."""
    level, row, column = task
    return [(level - 1, 2 * row + down, 2 * column + right) for down in (0, 1) for right in (0, 1)]
