"""Sources that may be sent to another process, which opens them anew: an open file cannot travel."""

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.source import Source
from tiler.window import Window


class TravellingSource:
    """A source that is opened at once, and in any other process when it is first read there.

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
        self.shape = shape
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return TravellingSource, (self._open_source, self.shape)

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
