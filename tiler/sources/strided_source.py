"""An array that lies in a file as it is, uncompressed and in one piece, read by window.

With ``pread`` and never a memory map: a file that shrinks while mapped kills the process by SIGBUS.
"""

import math
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.fingerprint import fingerprint_file
from tiler.sources.input_file import open_regular_file
from tiler.sources.layout import Wanted, find_layout
from tiler.sources.readings import ChannelsFirst
from tiler.sources.source import Source
from tiler.sources.stored_numbers import check_type, clear_missing
from tiler.window import Span, Window


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file, as whatever describes it there declares."""

    shape: tuple[int, ...]
    """Size along each axis."""
    dtype: np.dtype[Any]
    """Number type, with its byte order."""
    start_bytes: int
    """Where its values begin in the file."""
    room_bytes: int
    """How many bytes there are for them."""
    fortran: bool = False
    """Whether the first axis is the one whose values are adjacent, and not the last."""
    bfloat16: bool = False
    """Whether its uint16 are the upper halves of float32: NumPy has no such type."""
    name: str = ""
    """What to call it in a message, where a file has several."""
    named: str | None = None
    """The axes that the file names; see ``tiler.sources.readings``."""
    first: ChannelsFirst | None = None
    """Whether such files have the channels first."""
    missing: tuple[float, ...] = ()
    """Values that stand for none."""


class StridedSource(Source):
    """One map of an array in a file; no position is shared, so threads may read at will.

    The file stays open as long as the source lives.

    Args:
        path: the file.
        find_array: ``find_array(descriptor, path)`` tells where the array lies; it raises InputError.
        wanted: which map is meant.

    Raises:
        InputError: the file is missing, is not whole, or holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        find_array: Callable[[int, Path], StoredArray],
        wanted: Wanted,
    ) -> None:
        self.path = Path(path)
        self._descriptor = open_regular_file(self.path)
        weakref.finalize(self, os.close, self._descriptor)
        self._array = array = find_array(self._descriptor, self.path)
        name = f"path={self.path}" + (f", {array.name}" if array.name else "")
        if not array.bfloat16:
            check_type(array.dtype, wanted.types, name=name)
        self._layout = find_layout(array.shape, wanted, name=name, named=array.named, first=array.first)
        check_room(array, name)
        self.stored_type, self.axes = array.dtype, self._layout.axes

    def __reduce__(self) -> NoReturn:
        # The number of a descriptor means another file elsewhere, or none.
        raise TypeError(f"An open file cannot be sent to another process: path={self.path}. Open it there.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._layout.shape

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the file holds something else, or another map of it is meant."""
        chosen = [f"{self._array.name}"] * bool(self._array.name)
        chosen += [f"index {self._layout.index}"] * (self._layout.index is not None)
        return ", ".join([fingerprint_file(self._descriptor), *chosen])

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        spans = self._layout.find_spans(window)
        # Fortran order is C order with the axes reversed.
        if self._array.fortran:
            values = self._read_spans(spans[::-1], self._array.shape[::-1]).T
        else:
            values = self._read_spans(spans, self._array.shape)
        if self._array.bfloat16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return clear_missing(self._layout.to_map(values), self._array.missing)

    def _read_spans(self, spans: list[Span], stored: tuple[int, ...]) -> NDArray[Any]:
        """Return a part of the array as it lies in the file: ``spans`` and ``stored`` slowest axis first."""
        dtype = self._array.dtype
        values = np.empty([len(span) for span in spans], dtype)
        # One read takes the last axis, and each axis before it for as long as the one behind is read whole.
        first = len(spans) - 1
        while first > 0 and len(spans[first]) == stored[first]:
            first -= 1
        offsets = [self._array.start_bytes]
        for axis, span in enumerate(spans[: first + 1]):
            step = math.prod(stored[axis + 1 :]) * dtype.itemsize
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


def check_room(array: StoredArray, name: str) -> None:
    """Refuse an array for which a file has more or fewer bytes than it declares.

    Raises:
        InputError: it has.
    """
    declared = math.prod(array.shape) * array.dtype.itemsize
    if array.room_bytes != declared:
        what = "The file is truncated" if array.room_bytes < declared else "Something follows the array"
        raise InputError(
            f"{what}: {name}, size={array.start_bytes + array.room_bytes} bytes, "
            f"declared={array.start_bytes + declared} bytes by its header "
            f"(shape={array.shape}, dtype={array.dtype.name}). They must be equal. Save or copy it again."
        )
