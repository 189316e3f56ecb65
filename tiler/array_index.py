"""An index of three axes, as NumPy reads it, in terms of one window and what is taken of that."""

import operator
from typing import Any

import numpy as np

from tiler.window import Span, Window


def read_index(index: Any, shape: tuple[int, int, int]) -> tuple[Window | None, tuple[Any, ...]]:
    """Return the window that an index touches, None if it is empty, and the index into that window.

    Args:
        index: whole numbers, slices and an ellipsis, as many as there are axes or less.
        shape: (height, width, channels).

    Raises:
        IndexError: it is out of bounds, or something else, such as an array or None.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    if parts.count(Ellipsis) > 1 or len(parts) - parts.count(Ellipsis) > len(shape):
        raise IndexError(f"Too many indices: {index!r} of {len(shape)} axes.")
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + (Ellipsis in parts))
    spans, inner = [], []
    for part, size in zip(parts[:2], shape, strict=False):
        span, kept = _read_part(part, size)
        spans.append(span)
        inner.append(kept)
    # Checked here as well, so that nothing is decoded for an index that is wrong.
    _read_part(parts[2], shape[2])
    window = None if None in spans else Window(*spans)  # type: ignore[arg-type]
    return window, (*inner, parts[2])


def _read_part(part: Any, size: int) -> tuple[Span | None, Any]:
    if isinstance(part, slice):
        positions = range(size)[part]
        if not positions:
            return None, slice(0)
        first = min(positions[0], positions[-1])
        stop = positions.stop - first
        return Span(first, max(positions[0], positions[-1]) + 1), slice(
            positions.start - first, stop if stop >= 0 else None, positions.step
        )
    if isinstance(part, bool) or np.ndim(part):
        raise IndexError(f"Not an index of an image: {part!r}. Use whole numbers, slices and an ellipsis.")
    try:
        position = operator.index(part)
    except TypeError:
        raise IndexError(f"Not an index of an image: {part!r}. Use whole numbers, slices and an ellipsis.") from None
    if not -size <= position < size:
        raise IndexError(f"Out of bounds: index={position}, size={size}.")
    return Span(position % size, position % size + 1), 0
