"""NaN and Inf in an input: an error that names the place, or read as 0 and counted."""

from threading import Lock
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tiler.errors import NonFiniteError, OptionError
from tiler.sources.fingerprint import fingerprint_source
from tiler.sources.source import Source
from tiler.window import Window

NonFinite = Literal["error", "zero"]
"""What is done about NaN and Inf."""
MOST_PLACES = 1_000_000
"""So many are told apart, of 8 bytes each; of more it is only known that there are more."""


class Replaced:
    """Which values of an input were replaced, each counted once, though windows share their margins."""

    def __init__(self) -> None:
        self._places: NDArray[np.int64] = np.empty(0, np.int64)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, places: NDArray[np.int64]) -> None:
        """Note some places, numbers of values in the order (row, column, channel). Called from many threads."""
        with self._lock:
            self._places = np.union1d(self._places, places)[:MOST_PLACES]


class Finite:
    """A source that gives 0 where another gives NaN or Inf.

    It belongs before whatever mixes neighbours: enlarged, one NaN would become many.

    Args:
        source: any source.
        replaced: is told what was replaced.
    """

    def __init__(self, source: Source, replaced: Replaced) -> None:
        self._source, self._replaced = source, replaced

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._source.shape

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return fingerprint_source(self._source)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        values = self._source.read(window)
        odd = ~np.isfinite(values)
        if not odd.any():
            return values
        rows, columns, channels = np.nonzero(odd)
        _, width, n_channels = self.shape
        self._replaced.add(
            ((rows + window.rows.start) * width + columns + window.columns.start) * n_channels + channels
        )
        return np.where(odd, np.float32(0), values)


class Checked:
    """A source that refuses NaN and Inf by their own place, before enlarging or joined ends move it.

    Args:
        source: any source.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._source.shape

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return fingerprint_source(self._source)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array.

        Raises:
            NonFiniteError: the window holds NaN or Inf.
        """
        values = self._source.read(window)
        check_finite(values, window)
        return values


def check_finite(values: NDArray[np.float32], window: Window, of: str = "") -> None:
    """Refuse NaN and Inf.

    Args:
        values: (height, width, channels).
        window: where they are in the input.
        of: what they are of, for the message.

    Raises:
        NonFiniteError: there are some; the first is named.
    """
    if np.isfinite(values).all():
        return
    row, column, channel = np.argwhere(~np.isfinite(values))[0].tolist()
    # What stands for none is not what a look at the file will find there.
    missing = " (masked, _FillValue and nodata are NaN)" if np.isnan(values[row, column, channel]) else ""
    raise NonFiniteError(
        f"The input holds NaN or Inf: value={values[row, column, channel]} at row {window.rows.start + row}, "
        f"column {window.columns.start + column}, channel {channel}{of}. "
        f"Mend the input{missing}, or use --nonfinite zero."
    )


def treat_nonfinite(source: Source, nonfinite: NonFinite, replaced: Replaced | None = None) -> Source:
    """Return the source as it is, where the engine finds NaN and Inf, or one without them.

    Raises:
        OptionError: ``nonfinite`` is neither "error" nor "zero".
    """
    if nonfinite not in get_args(NonFinite):
        raise OptionError(f"No such treatment of NaN: nonfinite={nonfinite}. Use {' or '.join(get_args(NonFinite))}.")
    return source if nonfinite == "error" else Finite(source, Replaced() if replaced is None else replaced)
