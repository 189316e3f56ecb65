"""What the engine asks of a model. ``taesd_core`` satisfies it without knowing; so does a stand-in in a test."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ends = tuple[bool, bool]
"""Whether the low and the high end of a span are ends of the image."""
Axis = tuple[int, bool, bool]
"""One axis of a window: its length in latent px, and its two ends."""


class Network(Protocol):
    """The geometry of a model, all in latent px; known without loading it."""

    @property
    def halo(self) -> int:
        """Context that an output pixel needs per side, latent px."""

    @property
    def scale_in(self) -> int:
        """Input px per latent px: 1 for a decoder."""

    @property
    def scale_out(self) -> int:
        """Output px per latent px: 1 for an encoder."""

    @property
    def channels_in(self) -> int:
        """Channels of the input."""

    @property
    def channels_out(self) -> int:
        """Channels of the output."""

    def macs(self, rows: Iterable[Axis], columns: Iterable[Axis]) -> int:
        """Return the multiply-accumulates of all windows of the product ``rows`` × ``columns``."""

    def macs_of_whole(self, height: int, width: int) -> int:
        """Return the multiply-accumulates of the plain whole-image model for ``height`` × ``width`` latent px."""

    def peak_bytes(self, rows: Axis, columns: Axis) -> int:
        """Return about how many bytes of maps are alive at most while one window is run."""


class Model(Protocol):
    """A decoder or an encoder of windows."""

    def __call__(self, window: NDArray[np.float32], borders: tuple[Ends, Ends]) -> NDArray[Any]:
        """Return exactly the pixels that ``window`` determines: it less the halo on each side that is no border."""
