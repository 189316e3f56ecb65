"""Do values have the range that the model takes? Others give garbage, without an error.

NaN and Inf are an error that names the place, or are read as 0 and counted.

Images are to lie in [0, 1]; each value that is read is looked at.

What a sampler gives, and TAESD takes, has a root mean square of about 1; pictures of one colour, black and white
included, come to 2. Latents as the VAE encodes them, not yet multiplied by the model's scaling factor, have 5 (SD 1
and 2), 8 (SDXL) or 3 (FLUX.1), and the decoder clamps at 3. Those of SD3 differ too little to be told apart, and small
values may be a picture with little in it, so nothing is said of them.
"""

import math
import warnings
from threading import Lock
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, InputWarning, NonFiniteError, Option, OptionError
from tiler.sources.fingerprint import spread
from tiler.sources.source import DerivedSource, Readable, Source
from tiler.window import Window

NonFinite = Literal["error", "zero"]
"""What is done about NaN and Inf."""
MOST_PLACES = 1_000_000
"""So many are told apart, of 8 bytes each; of more it is only known that there are more."""
N_WINDOWS, WINDOW_PX = 4, 32
"""Windows are looked at along each axis, from corner to corner, so large."""
LARGEST = 2.5
"""Largest root mean square that is not strange: between the 2 of pictures and the 3 of FLUX.1's VAE."""
FARTHEST = 5.5
"""Values of the VAE go far beyond this. 8-bit latents end at 3, and at 5 when enlarged, where they jump from end to
end."""
BEYOND = 0.5
"""Values of an image in [0, 1] may go beyond by as much, where it was resampled, or decoded and not clipped."""
FEWER_BITS = 2**14
"""Where 16 bits never go as far, numbers of 10, 12 or 14 bits may lie in them: as a microscope's camera has them."""


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


class Finite(DerivedSource):
    """A source that gives 0 where another gives NaN or Inf.

    It belongs before whatever mixes neighbours: enlarged, one NaN would become many.

    Args:
        source: any source.
        replaced: is told what was replaced.
    """

    def __init__(self, source: Readable, replaced: Replaced) -> None:
        super().__init__(source)
        self._replaced = replaced

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        values = self.source.read(window)
        odd = ~np.isfinite(values)
        if not odd.any():
            return values
        rows, columns, channels = np.nonzero(odd)
        _, width, n_channels = self.shape
        self._replaced.add(
            ((rows + window.rows.start) * width + columns + window.columns.start) * n_channels + channels
        )
        return np.where(odd, np.float32(0), values)


class Checked(DerivedSource):
    """A source that refuses NaN and Inf by their own place, before enlarging or joined ends move it.

    Args:
        source: any source.
    """

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array.

        Raises:
            NonFiniteError: the window holds NaN or Inf.
        """
        values = self.source.read(window)
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
        f"The input holds NaN or Inf: value={values[row, column, channel]} at row {window.rows.start + row}, column "
        f"{window.columns.start + column}, channel {channel}{of}. Mend the input{missing}, or use "
        f"{Option('nonfinite', 'zero')}."
    )


def treat_nonfinite(source: Source, nonfinite: NonFinite, replaced: Replaced | None = None) -> Source:
    """Return the source as it is, where the engine finds NaN and Inf, or one without them.

    Raises:
        OptionError: ``nonfinite`` is neither "error" nor "zero".
    """
    if nonfinite not in get_args(NonFinite):
        raise OptionError(f"No such treatment of NaN: nonfinite={nonfinite}. Use {' or '.join(get_args(NonFinite))}.")
    return source if nonfinite == "error" else Finite(source, Replaced() if replaced is None else replaced)


def tell_fewer_bits(largest: int) -> tuple[str, ...]:
    """Return what is to be said of 16 bits whose largest value is ``largest``, 0 where none was read."""
    if not 0 < largest < FEWER_BITS:
        return ()
    return (f"no value goes beyond {largest} of 65535; numbers of fewer bits are to be scaled up first",)


class WithinRange(DerivedSource):
    """A source of an image that refuses values far beyond [0, 1], and keeps which lie a little beyond.

    All that is read is looked at. What is in [0, 1] is taken as that: a picture in [-1, 1] of which no value is below
    0 cannot be told from another.

    Args:
        source: any source.
    """

    def __init__(self, source: Readable) -> None:
        super().__init__(source)
        self._lock = Lock()
        self._low, self._high, self._place = 0.0, 1.0, ""
        # Sources of pictures say it themselves.
        self._wide, self._largest = self.stored_type == np.uint16, 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the source, and what is to be said of values a little beyond, or of 16 bits that are hardly used."""
        if not self._place:
            return (*super().notes, *tell_fewer_bits(round(self._largest * 65535)))
        return (
            *super().notes,
            f"values beyond [0, 1], from {self._low:.3g} to {self._high:.3g}, were taken as they are, for instance "
            f"at {self._place}; of what is in [-1, 1], take x / 2 + 0.5",
        )

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array.

        Raises:
            InputError: some are far beyond [0, 1].
        """
        values = self.source.read(window)
        low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
        if self._wide:
            with self._lock:
                self._largest = max(self._largest, high)
        if low < 0 or high > 1:
            self._note(values, window)
        return values

    def _note(self, values: NDArray[np.float32], window: Window) -> None:
        finite = np.isfinite(values)  # The others are somebody else's to name.
        far = finite & ((values < -BEYOND) | (values > 1 + BEYOND))
        if far.any():
            row, column, channel = np.argwhere(far)[0].tolist()
            value, place = values[row, column, channel], _name(window, row, column)
            raise InputError(
                f"The image is not in [0, 1]: value={value:.3g} at {place}, channel {channel}. Divide floats up to 255 "
                "by 255; of what is in [-1, 1], take x / 2 + 0.5; clip the few that are brighter than white."
            )
        beyond = np.argwhere(finite & ((values < 0) | (values > 1)))
        if len(beyond):
            known = values[finite]
            with self._lock:
                self._low, self._high = min(self._low, float(known.min())), max(self._high, float(known.max()))
                self._place = self._place or _name(window, *beyond[0, :2].tolist())


def _name(window: Window, row: int, column: int) -> str:
    return f"row {window.rows.start + row}, column {window.columns.start + column}"


def check_range(source: Source) -> None:
    """Warn of latents that look like those of another space; a few windows are read.

    Warns:
        InputWarning: they do.
    """
    height, width, _ = source.shape
    n_values, squares, largest = 0, 0.0, 0.0
    for rows in spread(height, N_WINDOWS, WINDOW_PX):
        for columns in spread(width, N_WINDOWS, WINDOW_PX):
            try:
                values = source.read(Window(rows, columns)).astype(np.float64)
            except NonFiniteError:
                continue  # Perhaps in no tile of the job; where it is in one, that will say so.
            values = values[np.isfinite(values)]
            n_values, squares = n_values + values.size, squares + float(values @ values)
            largest = max(largest, float(np.abs(values).max(initial=0)))
    mean = math.sqrt(squares / max(n_values, 1))
    if mean > LARGEST and largest > FARTHEST:
        warnings.warn(
            f"The latents look like VAE space: root mean square={mean:.3g}, expected about 1. The decoder takes what "
            f"the sampler gives: use {Option('space', 'vae')}, or multiply them by the model's scaling factor, "
            f"0.18215 for SD 1 and 2, 0.13025 for SDXL.",
            InputWarning,
            stacklevel=3,
        )
