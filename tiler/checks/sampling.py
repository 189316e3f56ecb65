"""Which windows of an image to look at, if not at all: spread out, and where mistakes like to be."""

from itertools import product

import numpy as np

from tiler.window import Span, Window

ALIGNMENT = 16
"""Windows begin at multiples of so many px: what a JPEG compresses together."""
KINDS = ("corner", "inside", "seam", "border")
"""Where windows go, in turn. When all corners are taken, the next window goes inside."""
CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Whether each is at the bottom, and at the right; opposite ones follow each other."""


def cover(height: int, width: int, side: int) -> list[Window]:
    """Return the windows of ``side`` × ``side`` that cover the image once; those at the far edges may be smaller."""
    rows, columns = ([Span(at, min(at + side, size)) for at in range(0, size, side)] for size in (height, width))
    return [Window(*spans) for spans in product(rows, columns)]


def choose_windows(height: int, width: int, side: int, n_windows: int, *, seam: int, seed: int) -> list[Window]:
    """Return windows in turn in a corner, anywhere, across a crossing of seams, and at a border.

    As in a Latin square, each of ``n_windows`` strips of rows has one of them, and so has each strip of columns;
    only then corners, seams and borders attract theirs.

    Args:
        height: of the image, px.
        width: of the image, px.
        side: of a window, px, a multiple of 32; one that ends with the image may be a little larger.
        n_windows: how many; fewer come back where several fall on the same place.
        seam: distance of the seams between tiles, px.
        seed: other windows for other seeds.
    """
    random = np.random.default_rng(seed)
    rows, columns = (
        ((random.permutation(n_windows) + random.random(n_windows)) / max(n_windows, 1)).tolist() for _ in range(2)
    )
    turn = int(random.integers(4))
    windows = []
    for number, (row, column) in enumerate(zip(rows, columns, strict=True)):
        round_, kind = divmod(number, len(KINDS))
        starts = int(row * height) - side // 2, int(column * width) - side // 2
        if KINDS[kind] == "corner" and round_ < len(CORNERS):
            bottom, right = CORNERS[(round_ + turn) % len(CORNERS)]
            starts = bottom * height, right * width
        elif KINDS[kind] == "seam":
            starts = _nearest_seam(row, height, seam) - side // 2, _nearest_seam(column, width, seam) - side // 2
        elif KINDS[kind] == "border":
            far, along_columns = divmod((round_ + turn) % 4, 2)
            # Not in a corner, where there is room.
            along = tuple(max(min(at, size - 2 * side), side) for at, size in zip(starts, (height, width), strict=True))
            starts = (along[0], far * width) if along_columns else (far * height, along[1])
        windows.append(Window(_span(starts[0], height, side), _span(starts[1], width, side)))
    return list(dict.fromkeys(windows))


def _nearest_seam(place: float, size: int, seam: int) -> int:
    n_seams = (size - 1) // seam
    return min(max(round(place * size / seam), 1), n_seams) * seam if n_seams else int(place * size)


def _span(start: int, size: int, side: int) -> Span:
    start = min(max(start, 0), max(size - side, 0)) // ALIGNMENT * ALIGNMENT
    return Span(start, size if size - start < side + ALIGNMENT else start + side)
