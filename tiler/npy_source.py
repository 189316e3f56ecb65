"""``.npy`` files of any size, read by window.

Never ``np.load``, which may run a pickle, and never a memory map: a file that shrinks while mapped kills
the process by SIGBUS. The header is parsed from a few kB, as a literal and nothing else, and what it declares is
compared with the size of the file before anything is allocated.
Source: the format's description, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import ast
import math
import os
import re
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.fingerprint import fingerprint_file
from tiler.input_file import open_regular_file, shorten
from tiler.layout import LATENT_TYPES, check_type, find_layout
from tiler.window import Span, Window

HEADER_LIMIT_BYTES = 10_000
"""Longest header that is parsed, as NumPy's own limit; a plain array needs about 100 bytes."""


class NpySource:
    """One map in a ``.npy`` file, read with ``pread``: no position is shared, so threads may read at will.

    The file stays open as long as the source lives.

    Args:
        path: a file of a 3-D or 4-D array, in C or Fortran order and either byte order.
        channels: how many channels there must be.
        types: number types that are accepted.

    Raises:
        InputError: the file is missing, is not a whole ``.npy`` file, or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str], channels: int, *, types: Sequence[str] = LATENT_TYPES) -> None:
        self.path = Path(path)
        self._descriptor = open_regular_file(self.path)
        weakref.finalize(self, os.close, self._descriptor)
        stored, self._fortran, self._dtype, self._start_bytes = read_header(self._descriptor, self.path)
        check_type(self._dtype, types, name=f"path={self.path}")
        self._layout = find_layout(stored, channels, name=f"path={self.path}")
        self._check_size()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._layout.shape

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the file holds something else."""
        return fingerprint_file(self._descriptor)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        spans = self._layout.find_spans(window)
        # Fortran order is C order with the axes reversed.
        if self._fortran:
            values = self._read_spans(spans[::-1], self._layout.stored[::-1]).T
        else:
            values = self._read_spans(spans, self._layout.stored)
        return self._layout.to_map(values)

    def _check_size(self) -> None:
        declared = self._start_bytes + math.prod(self._layout.stored) * self._dtype.itemsize
        size = os.fstat(self._descriptor).st_size
        if size != declared:
            what = "The file is truncated" if size < declared else "Something follows the array"
            raise InputError(
                f"{what}: path={self.path}, size={size} bytes, declared={declared} bytes by its header "
                f"(shape={self._layout.stored}, dtype={self._dtype.name}). They must be equal. "
                "Save or copy it again."
            )

    def _read_spans(self, spans: list[Span], stored: tuple[int, ...]) -> NDArray[Any]:
        """Return a part of the array as it lies in the file: ``spans`` and ``stored`` slowest axis first."""
        values = np.empty([len(span) for span in spans], self._dtype)
        # One read takes the last axis, and each axis before it for as long as the one behind is read whole.
        first = len(spans) - 1
        while first > 0 and len(spans[first]) == stored[first]:
            first -= 1
        offsets = [self._start_bytes]
        for axis, span in enumerate(spans[: first + 1]):
            step = math.prod(stored[axis + 1 :]) * self._dtype.itemsize
            starts = range(span.start, span.stop if axis < first else span.start + 1)
            offsets = [offset + position * step for offset in offsets for position in starts]
        buffer = values.reshape(-1).view(np.uint8).data
        run_bytes = len(buffer) // len(offsets)
        for run, offset in enumerate(offsets):
            self._fill(buffer[run * run_bytes : (run + 1) * run_bytes], offset)
        return values

    def _fill(self, buffer: memoryview, offset: int) -> None:
        # The system reads at most 2 GiB a call, and less when it likes.
        while buffer:
            part = os.pread(self._descriptor, len(buffer), offset)
            if not part:
                raise InputError(
                    f"The file shrank while it was read: path={self.path}, missing from byte {offset}. "
                    "It must not change during a run. Restore it and run again."
                )
            buffer[: len(part)] = part
            buffer, offset = buffer[len(part) :], offset + len(part)


def read_header(descriptor: int, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether the order is Fortran's, dtype, and where the values start in bytes.

    Raises:
        InputError: this is not the header of a ``.npy`` file.
    """
    # Only so much is read: a header that claims a length of 4 GB is then simply incomplete.
    start = os.pread(descriptor, HEADER_LIMIT_BYTES + 12, 0)
    try:
        # What Python's parser would warn of, it refuses or reads right.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text, values_start = cut_header(start)
            header = parse_header(text)
            shape, fortran, dtype = header["shape"], header["fortran_order"], npy_format.descr_to_dtype(header["descr"])
        if type(fortran) is not bool or type(shape) is not tuple:
            raise ValueError("no boolean fortran_order or no tuple shape")
    except Exception as error:  # A hostile header raises anything from SyntaxError to RecursionError.
        raise InputError(
            f"Not a .npy file of numbers: path={path} ({shorten(error)}). Save the array with numpy.save."
        ) from error
    if not all(type(size) is int and 0 <= size < 2**63 for size in shape):  # True is an int too
        raise InputError(
            f"Impossible shape in the header: path={path}. Sizes are whole numbers, 0 to 2^63 - 1. Save it again."
        )
    return shape, fortran, dtype, values_start


def cut_header(start: bytes) -> tuple[str, int]:
    """Return the text of a header, and where the values start in bytes.

    Args:
        start: the first bytes of the file, as many as the longest header needs.

    Raises:
        ValueError: it does not begin as a ``.npy`` file, or the header is too long.
    """
    version = start[:8].removeprefix(b"\x93NUMPY")
    # Version 3.0 differs from 2.0 in the names of fields alone, and an array of numbers has none.
    length_bytes = {b"\1\0": 2, b"\2\0": 4}.get(version)
    if length_bytes is None:
        raise ValueError(f"it begins with {start[:8]!r}")
    text_start = 8 + length_bytes
    length = int.from_bytes(start[8:text_start], "little")
    if not 0 < length <= min(HEADER_LIMIT_BYTES, len(start) - text_start):
        raise ValueError(f"a header of {length} bytes, limit={HEADER_LIMIT_BYTES}")
    return start[text_start : text_start + length].decode("latin-1"), text_start + length


def parse_header(text: str) -> dict[str, Any]:
    """Return the header's dictionary.

    Not by NumPy: where Python cannot parse a header, NumPy looks for the numbers of Python 2, ``4L``, by a search
    that takes minutes for 10 kB of spaces.

    Raises:
        Exception: of many kinds, where it is no literal dictionary of what a header has.
    """
    try:
        header = ast.literal_eval(text)
    except SyntaxError:
        header = ast.literal_eval(re.sub(r"\b(\d+)L\b", r"\1", text))
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("no dictionary of descr, fortran_order and shape")
    return header
