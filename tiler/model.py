"""What the engine asks of a model. ``taesd_core`` satisfies it without knowing; so does a stand-in in a test."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Crop = tuple[slice, slice]
"""Rows and columns of a map."""
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

    @property
    def passes(self) -> "Sequence[Network]":
        """What must run over the whole input first, one after another, to gather statistics; mostly nothing."""

    def macs(self, rows: Iterable[Axis], columns: Iterable[Axis]) -> int:
        """Return the multiply-accumulates of all windows of the product ``rows`` × ``columns``."""

    def macs_of_whole(self, height: int, width: int) -> int:
        """Return the multiply-accumulates of the plain whole-image model for ``height`` × ``width`` latent px."""

    def peak_bytes(self, rows: Axis, columns: Axis, engine: str) -> int:
        """Return about how many bytes a process takes that runs a window on an engine, input and output apart."""


class Moments(Protocol):
    """Statistics of a part of the input, which can be added to those of another part."""

    def __add__(self, other: Self, /) -> Self:
        """Return the statistics of both parts."""


class Model(Protocol):
    """A decoder or an encoder of windows."""

    def __call__(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: Crop, origin: tuple[int, int]
    ) -> NDArray[Any]:
        """Return exactly the pixels that ``window`` determines: it less the halo on each side that is no border.

        Of these, only what ``crop`` takes. ``origin`` is where the window begins in the image, latent px: sums may
        depend on that, pixels by no more than roundings.

        Raises:
            DeviceMemoryError: this window does not fit the device; a smaller one may.
            OverflowError: a value on the way is NaN or Inf, in whatever the model computes with, even where nothing in
                the pixels shows it: a ReLU makes 0 of -Inf. The message says what to do.
        """


@runtime_checkable
class GatheringModel(Model, Protocol):
    """A model that must know statistics of the whole input, pass by pass, before it runs on a window."""

    def gather(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: Crop, origin: tuple[int, int]
    ) -> Moments:
        """Return what the part ``crop`` of what ``window`` determines adds to the statistics of the next pass.

        Raises:
            DeviceMemoryError: as for a call.
            OverflowError: as for a call.
        """

    def with_statistics(self, statistics: Sequence[Any]) -> Self:
        """Return the model with the statistics of the first passes known, each summed over the whole input."""
