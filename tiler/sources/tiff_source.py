"""TIFF files of any size, read by window: latents, and pictures that are not left to libvips.

A strip or tile is decoded once for all the windows that follow each other, as long as they fit a cache: a row of
tiles of work reads the same strips again and again.
"""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import DamagedError
from tiler.sources.fingerprint import fingerprint_file
from tiler.sources.input_file import open_regular_file, shorten
from tiler.sources.source import Source
from tiler.sources.stored_numbers import clear_missing
from tiler.sources.tiff_segments import Segments
from tiler.window import Window, split_window

CACHE_BYTES = 2**28
"""What is kept of decoded strips and tiles: those of a row of tiles of 1,024 px, up to 70,000 px wide."""


class TiffSource(Source):
    """The samples of one page, or of several that are a channel each.

    Args:
        path: the file, which stays open as long as the source lives.
        pages: its pages, alike but for where they lie.
        cache_bytes: what is kept of decoded segments.
        axes: what it is, where it holds latents, as an array.
        index: which map of a batch the pages are, where there are others.
        missing: values that stand for none.

    Raises:
        InputError: the file is missing.
    """

    def __init__(
        self,
        path: Path,
        pages: Sequence[Segments],
        *,
        cache_bytes: int = CACHE_BYTES,
        axes: str | None = None,
        index: int | None = None,
        missing: Sequence[float] = (),
    ) -> None:
        self.path, self._pages, self.axes, self._index = path, pages, axes, index
        self._missing = missing
        self._descriptor = open_regular_file(path)
        weakref.finalize(self, os.close, self._descriptor)
        self._cache_bytes, self._held_bytes = cache_bytes, 0
        self._cache: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._turn = threading.Lock()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, samples = self._pages[0].shape
        return height, width, samples * len(self._pages)

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the file holds something else, or another map of it is meant."""
        return fingerprint_file(self._descriptor) + ("" if self._index is None else f", index {self._index}")

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        # A signalling NaN is invalid to convert; the engine finds it as well.
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.read_samples(window).astype(np.float32)
        return clear_missing(values, self._missing)

    def read_samples(self, window: Window) -> NDArray[Any]:
        """Return the samples of ``window`` as they are stored."""
        first = self._pages[0]
        values = np.empty((*window.shape, self.shape[2]), first.dtype.newbyteorder("="))
        for number, page in enumerate(self._pages):
            for plane in range(page.n_planes):
                start = number * page.shape[2] + plane
                channels = values[:, :, start : start + page.n_samples]
                for row, column, part in split_window(window, page.segment):
                    index = (plane * page.n_down + row) * page.n_across + column
                    samples = self._get(number, index, row)
                    corner = Window(part.rows - row * page.segment[0], part.columns - column * page.segment[1])
                    samples = samples[corner.slices]
                    if samples.shape != (*part.shape, page.n_samples):
                        raise DamagedError(f"The TIFF is damaged: path={self.path} (segment {index} is too small).")
                    channels[(part - window).slices] = samples
        return values

    def _get(self, number: int, index: int, row: int) -> NDArray[Any]:
        """Return a decoded segment; one is decoded at a time, so that none is decoded twice."""
        with self._turn:
            samples = self._cache.get((number, index))
            if samples is None:
                samples = self._decode(number, index, row)
                self._cache[number, index] = samples
                self._held_bytes += samples.nbytes
            self._cache.move_to_end((number, index))
            while self._held_bytes > self._cache_bytes and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._held_bytes -= oldest.nbytes
            return samples

    def _decode(self, number: int, index: int, row: int) -> NDArray[Any]:
        page = self._pages[number]
        size, content = int(page.sizes[index]), b""
        while len(content) < size:
            part = os.pread(self._descriptor, size - len(content), int(page.offsets[index]) + len(content))
            if not part:
                raise DamagedError(
                    f"The file shrank while it was read: path={self.path}. It must not change during a run. "
                    "Restore it and run again."
                )
            content += part
        try:
            return page.decode(content, row)
        except MemoryError:
            raise
        except Exception as error:  # Each codec raises its own.
            raise DamagedError(
                f"The TIFF is damaged: path={self.path} (segment {index}: {shorten(error)}). Copy or save it again."
            ) from error
