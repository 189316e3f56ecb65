"""Where windows come from: the contract of every source, and sources around others.

A new kind of input is a class with ``shape`` and ``read``: all else has a default. A source around another one says
what that one says, but for what it changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.fingerprint import fingerprint_windows
from tiler.window import Window

LatentSpace = Literal["diffusion", "vae"]


class Readable(Protocol):
    """The least that somebody must hand over as a source; what else a ``Source`` has, it may have."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""


class Source(ABC):
    """Something that gives windows of a (height, width, channels) array.

    ``read`` is called from many threads at once and reads no more than the window.
    """

    axes: str | None = None
    """A letter for each axis of the array that it reads, where it reads one; see ``tiler.sources.readings``."""
    space: LatentSpace | None = None
    """Which space latents are in, where that is known."""
    stored_type: np.dtype[Any] | None = None
    """What the numbers of an array are before they become float32."""
    held_bytes: int = 0
    """What it takes of memory, beside the windows that are read."""
    spool_bytes: int = 0
    """What it takes of a disk while it is read."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""

    @abstractmethod
    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the values are others: only with the same is a half-done job resumed.

        Where nothing better is known, a few windows are read.
        """
        return fingerprint_windows(self.shape, self.read)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of what was read so far."""
        return ()

    @property
    def unscaled(self) -> "Source":
        """The source before it is enlarged: what is asked of the values as such is asked there."""
        return self


class DerivedSource(Source):
    """A source around another one, of which it says the same; a class below says what it changes.

    Args:
        source: any source.
    """

    def __init__(self, source: Readable) -> None:
        self.source = source = adopt(source)
        self.axes, self.space, self.stored_type = source.axes, source.space, source.stored_type
        self.held_bytes, self.spool_bytes = source.held_bytes, source.spool_bytes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.source.shape

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return self.source.fingerprint

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.notes


class GivenSource(Source):
    """What somebody hands over as a source, with the defaults for what it does not say."""

    def __init__(self, given: Readable) -> None:
        self._given = given
        for name in ("axes", "space", "stored_type", "held_bytes", "spool_bytes"):
            setattr(self, name, getattr(given, name, getattr(Source, name)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._given.shape

    @property
    def fingerprint(self) -> str:
        """What it says itself, if that is a text; else a few windows are read."""
        known = getattr(self._given, "fingerprint", None)
        return known if isinstance(known, str) else super().fingerprint

    @property
    def notes(self) -> tuple[str, ...]:
        """What it says itself."""
        return tuple(getattr(self._given, "notes", ()))

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        return self._given.read(window)


def adopt(source: Readable) -> Source:
    """Return a source of our own as it is, and another one with the defaults for what it does not say."""
    return source if isinstance(source, Source) else GivenSource(source)


def fingerprint_source(source: Readable) -> str:
    """Return a text that is another one when the values of a source are others."""
    return adopt(source).fingerprint


class TravellingSource(Source):
    """A source that may be sent to another process, which opens it anew: an open file cannot travel.

    It is opened at once, and in any other process when it is first read there.

    Args:
        open_source: opens it; where it names files, by paths that mean the same ones in all processes.
        shape: (height, width, channels) of what was opened in another process.
    """

    def __init__(self, open_source: Callable[[], Source], shape: tuple[int, int, int] | None = None) -> None:
        self._open_source = open_source
        self._source: Source | None = None
        if shape is None:
            self._source = open_source()
            shape = self._source.shape
        self._shape, self._lock = shape, Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return TravellingSource, (self._open_source, self.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._shape

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array.

        Raises:
            InputError: what is opened has another shape.
        """
        with self._lock:
            if self._source is None:
                source = self._open_source()
                if source.shape != self.shape:
                    raise InputError(f"The input is another one: shape={source.shape}, expected={self.shape}.")
                self._source = source
        return self._source.read(window)
