"""What tells one input from another, so that a run goes on only with its own half-done output.

What is covered:

- a file up to 256 MiB, and every NumPy array: each byte;
- a larger file: its size, when it was last changed, and 256 pieces of 64 KiB from its start to its end;
- any other array or source: its shape, and an 8 × 8 grid of windows of 32 × 32 from corner to corner. A source can do
  better by an attribute ``fingerprint``, any text that is another one when its values are others.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.window import Span, Window

WHOLE_BYTES = 2**28
"""Largest file that is read whole: a second, and the latents of a gigapixel."""
N_PIECES, PIECE_BYTES = 256, 2**16
N_WINDOWS, WINDOW_PX = 8, 32


def fingerprint_windows(shape: tuple[int, int, int], read: Callable[[Window], NDArray[Any]]) -> str:
    """Return a text that is another one when ``read`` gives other values, as far as some windows tell."""
    height, width, _ = shape
    parts = (
        read(Window(rows, columns))
        for rows in spread(height, N_WINDOWS, WINDOW_PX)
        for columns in spread(width, N_WINDOWS, WINDOW_PX)
    )
    return f"{describe_shape(shape)}, sha256 of windows {digest(np.ascontiguousarray(part) for part in parts)}"


def fingerprint_file(descriptor: int) -> str:
    """Return a text that is another one when the content of a file is another."""
    status = os.fstat(descriptor)
    size = status.st_size
    if size <= WHOLE_BYTES:
        pieces = (os.pread(descriptor, PIECE_BYTES, start) for start in range(0, size, PIECE_BYTES))
        return f"{size} bytes, sha256 {digest(pieces)}"
    pieces = (os.pread(descriptor, len(span), span.start) for span in spread(size, N_PIECES, PIECE_BYTES))
    return f"{size} bytes, changed at {status.st_mtime_ns} ns, sha256 of pieces {digest(pieces)}"


def fingerprint_array(array: NDArray[Any]) -> str:
    """Return a text that is another one when an array holds something else."""
    # An array may be a memory map, or a view that repeats its elements: a little at a time, and no other shape, which
    # would copy it.
    height, width = array.shape[-2:]
    step = max(1, PIECE_BYTES * 16 // max(1, width * array.itemsize))
    pieces = (
        np.ascontiguousarray(array[index][start : start + step])
        for index in np.ndindex(array.shape[:-2])
        for start in range(0, height, step)
    )
    # Types that NumPy does not have itself, such as bfloat16, are all the same to it but for their name.
    name = array.dtype.name if array.dtype.kind == "V" else array.dtype.str
    return f"{describe_shape(array.shape)} {name}, sha256 {digest(pieces)}"


def describe_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as people write it."""
    return " × ".join(map(str, shape))


def digest(pieces: Iterator[Any]) -> str:
    """Return the sha256 of some bytes, piece by piece."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece.view(np.uint8).data if isinstance(piece, np.ndarray) else piece)
    return total.hexdigest()


def spread(size: int, n_spans: int, length: int) -> Iterator[Span]:
    """Yield spans from the first to the last position of an axis, evenly; all of it where it is short."""
    if size <= n_spans * length:
        for start in range(0, size, length):
            yield Span(start, min(start + length, size))
    else:
        for number in range(n_spans):
            start = number * (size - length) // (n_spans - 1)
            yield Span(start, start + length)
