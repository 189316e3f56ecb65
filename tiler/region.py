"""A part of the image, as people name it."""

import operator
from collections.abc import Mapping, Set
from typing import SupportsIndex

from tiler.errors import OptionError
from tiler.window import Span, Window

Region = tuple[int, int, int, int]
"""(x, y, width, height) of a part of the image, px, from its top left corner."""


def find_window(region: Region | None, kept: tuple[int, int] | None = None) -> Window | None:
    """Return the window that a region is, px.

    Args:
        region: as people name it; None for all of the image.
        kept: (height, width) of the image, where it is smaller than what its latents decode to.

    Raises:
        OptionError: it is not four whole numbers, begins before the image, is empty, or leaves the image.
    """
    if region is None:
        return None if kept is None else Window.whole(*kept)
    try:
        if isinstance(region, Set | Mapping | bytes | bytearray):
            raise TypeError("in no order, or no numbers")
        x, y, width, height = map(_read_size, region)
        window = Window(Span(y, y + height), Span(x, x + width))
    except (TypeError, ValueError):
        shown = " ".join(str(region).split())[:80]
        raise OptionError(
            f"Not a region: region={shown}. Use X, Y, WIDTH and HEIGHT in px of the image: whole numbers, "
            "X and Y from 0, WIDTH and HEIGHT from 1."
        ) from None
    if kept is not None:
        check_inside(window, *kept)
    return window


def _read_size(value: SupportsIndex) -> int:
    size = operator.index(value)
    # A boolean is no number here, and Python's own indices end at 2^63.
    if isinstance(value, bool) or not 0 <= size < 2**62:
        raise ValueError(f"no size: {value}")
    return size


def check_inside(window: Window, height: int, width: int) -> None:
    """Refuse a part of an image that leaves it.

    Raises:
        OptionError: it does.
    """
    if window.rows.stop > height or window.columns.stop > width:
        raise OptionError(
            f"The region leaves the image: x={window.columns.start}, y={window.rows.start}, "
            f"width={len(window.columns)}, height={len(window.rows)} px, image={width} × {height} px. Make it smaller."
        )
