"""Do values have the range that the model takes? Others give garbage, without an error.

Images are to lie in [0, 1]; each value that is read is looked at.

What a sampler gives, and TAESD takes, has a root mean square of about 1; pictures of one colour, black and white
included, come to 2. Latents as the VAE encodes them, not yet multiplied by the model's scaling factor, have 5 (SD 1
and 2), 8 (SDXL) or 3 (FLUX.1), and the decoder clamps at 3. Those of SD3 differ too little to be told apart, and small
values may be a picture with little in it, so nothing is said of them.
"""

import math
import warnings
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, InputWarning, NonFiniteError
from tiler.sources.fingerprint import fingerprint_source, spread
from tiler.sources.source import Source
from tiler.window import Window

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


def tell_fewer_bits(largest: int) -> tuple[str, ...]:
    """Return what is to be said of 16 bits whose largest value is ``largest``, 0 where none was read."""
    if not 0 < largest < FEWER_BITS:
        return ()
    return (f"no value goes beyond {largest} of 65535; numbers of fewer bits are to be scaled up first",)


class WithinRange:
    """A source of an image that refuses values far beyond [0, 1], and keeps which lie a little beyond.

    All that is read is looked at. What is in [0, 1] is taken as that: a picture in [-1, 1] of which no value is below
    0 cannot be told from another.

    Args:
        source: any source.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = Lock()
        self._low, self._high, self._place = 0.0, 1.0, ""
        # Sources of pictures say it themselves.
        self._wide, self._largest = getattr(source, "stored_type", None) == np.uint16, 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._source.shape

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return fingerprint_source(self._source)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of values a little beyond, if there were any, and of 16 bits that are hardly used."""
        if not self._place:
            return tell_fewer_bits(round(self._largest * 65535))
        return (
            f"values beyond [0, 1], from {self._low:.3g} to {self._high:.3g}, were taken as they are, for instance "
            f"at {self._place}; of what is in [-1, 1], take x / 2 + 0.5",
        )

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array.

        Raises:
            InputError: some are far beyond [0, 1].
        """
        values = self._source.read(window)
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
            "the sampler gives: use --latent-space vae, or multiply them by the model's scaling factor, 0.18215 for "
            "SD 1 and 2, 0.13025 for SDXL.",
            InputWarning,
            stacklevel=3,
        )
