"""A part of the image, as people name it."""

import operator

from tiler.errors import OptionError
from tiler.window import Span, Window

Region = tuple[int, int, int, int]
"""(x, y, width, height) of a part of the image, px, from its top left corner."""


def find_window(region: Region | None) -> Window | None:
    """Return the window that a region is, px.

    Raises:
        OptionError: it is not four whole numbers, begins before the image, or is empty.
    """
    if region is None:
        return None
    try:
        x, y, width, height = map(operator.index, region)
        return Window(Span(y, y + height), Span(x, x + width))
    except (TypeError, ValueError):
        raise OptionError(
            f"Not a region: region={str(region)[:80]}. Use X, Y, WIDTH and HEIGHT in px of the image: whole numbers, "
            "X and Y from 0, WIDTH and HEIGHT from 1."
        ) from None
