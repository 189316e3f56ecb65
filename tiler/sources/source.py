"""Where windows come from: the contract of every source."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.window import Window


class Source(Protocol):
    """Something that gives windows of a (height, width, channels) array.

    ``read`` is called from many threads at once and reads no more than the window.

    It may have an attribute ``fingerprint``, a text that is another one when the values are others: a half-done job
    is gone on with only when it is the same. Without it a few windows are compared.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
