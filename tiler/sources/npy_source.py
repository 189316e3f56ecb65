"""``.npy`` files of any size, read by window.

Never ``np.load``, which may run a pickle. The header is parsed from a few kB, as a literal and nothing else, and what
it declares is compared with the size of the file before anything is allocated.
Source: the format's description, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import ast
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from tiler.errors import InputError
from tiler.sources.input_file import shorten
from tiler.sources.layout import Wanted
from tiler.sources.stored_numbers import LATENT_TYPES
from tiler.sources.strided_source import StoredArray, StridedSource

HEADER_LIMIT_BYTES = 10_000
"""Longest header that is parsed, as NumPy's own limit; a plain array needs about 100 bytes."""


class NpySource(StridedSource):
    """One map in a ``.npy`` file.

    Args:
        path: a file of a 3-D or 4-D array, in C or Fortran order and either byte order.
        channels: how many channels there must be.
        types: number types that are accepted.
        index: which map of a batch, from 0.
        axes: of the array, where somebody says them.

    Raises:
        InputError: the file is missing, is not a whole ``.npy`` file, or holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        channels: int,
        *,
        types: Sequence[str] = LATENT_TYPES,
        index: int | None = None,
        axes: str | None = None,
    ) -> None:
        super().__init__(path, find_array, Wanted(channels, index=index, axes=axes, types=types))


def find_array(descriptor: int, path: Path) -> StoredArray:
    """Return the array of a ``.npy`` file.

    Raises:
        InputError: this is not the header of one.
    """
    # Only so much is read: a header that claims a length of 4 GB is then simply incomplete.
    start = os.pread(descriptor, HEADER_LIMIT_BYTES + 12, 0)
    shape, fortran, dtype, values_start = read_header(start, path)
    return StoredArray(shape, dtype, values_start, os.fstat(descriptor).st_size - values_start, fortran)


def read_header(start: bytes, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether the order is Fortran's, dtype, and where the values start in bytes.

    Args:
        start: the first bytes of the file, as many as the longest header needs.
        path: the file, for the message.

    Raises:
        InputError: this is not the header of a ``.npy`` file.
    """
    try:
        # What Python's parser would warn of, it refuses or reads right.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text, values_start = cut_header(start)
            header = parse_header(text, version=start[6])
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
    # Version 3.0 differs from 2.0 in the names of fields alone, which may have any letters.
    length_bytes = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(version)
    if length_bytes is None:
        raise ValueError(f"it begins with {start[:8]!r}")
    text_start, letters = 8 + length_bytes, "utf-8" if version == b"\3\0" else "latin-1"
    length = int.from_bytes(start[8:text_start], "little")
    if not 0 < length <= min(HEADER_LIMIT_BYTES, len(start) - text_start):
        raise ValueError(f"a header of {length} bytes, limit={HEADER_LIMIT_BYTES}")
    return start[text_start : text_start + length].decode(letters), text_start + length


def parse_header(text: str, *, version: int) -> dict[str, Any]:
    """Return the header's dictionary.

    Not by NumPy: where Python cannot parse a header, NumPy looks for the numbers of Python 2, ``4L``, by a search
    that takes minutes for 10 kB of spaces.

    Raises:
        Exception: of many kinds, where it is no literal dictionary of what a header has.
    """
    try:
        header = ast.literal_eval(text)
    except SyntaxError:
        if version > 2:  # Python 2 has never written one.
            raise
        header = ast.literal_eval(re.sub(r"\b(\d+)L\b", r"\1", text))
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("no dictionary of descr, fortran_order and shape")
    return header
