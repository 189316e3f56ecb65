"""Pictures for the encoder, of every format: as sRGB in [0, 1], the right way up, window by window.

::

    the file's bytes ──► which format, which page ──► libvips ──► sRGB ──► by window, or spooled ──► turned

A tiled TIFF is read by window where it lies. What can only be decoded from top to bottom is decoded when the first
window is asked for, once, into a spool.
"""

import math
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.colour import Colour, to_srgb
from tiler.sources.encoding import Encoding
from tiler.sources.fingerprint import fingerprint_file
from tiler.sources.input_file import open_regular_file
from tiler.sources.libvips import decode_strips, fetch, find_type, load_vips
from tiler.sources.ranges import tell_fewer_bits
from tiler.sources.source import Source
from tiler.sources.spool import Spool, count_spooled
from tiler.sources.stored_numbers import VALUES
from tiler.sources.transparency import Background
from tiler.window import Window

if TYPE_CHECKING:
    import pyvips

SPOOLING_BYTES = 100_000_000
"""What libvips and the strips take while a picture is spooled; measured, of 269 megapixels in PNG and in TIFF."""


@dataclass(frozen=True, slots=True)
class OpenedPicture:
    """A picture in a file, of which nothing but the header is read."""

    path: Path
    """The file."""
    format: str
    """Of the file, for messages and for the colours."""
    open: "Callable[[], pyvips.Image]"
    """Opens it anew; from an image that is read from top to bottom, pixels can be had once."""
    by_window: bool = False
    """Whether windows can be read in any order, and often."""
    read: "Callable[[Window], pyvips.Image] | None" = None
    """Gives windows that are read without libvips; the image that is opened then has no pixels."""
    orientation: int = 1
    """How it is to be turned, 1 to 8."""
    name: str = ""
    """Which part of the file it is, where there are several."""
    extra: tuple[int, ...] | None = None
    """A TIFF's ExtraSamples; None of other formats."""
    tagged: Encoding | str | None = None
    """What a TIFF's tags say of its colours beside a profile, or why that is not read."""
    held_bytes: int = 0
    """What is held in memory while it is decoded."""
    notes: tuple[str, ...] = ()
    """What is to be said of it."""


class PictureSource(Source):
    """A picture as (height, width, 3) float32, [0, 1] where its numbers are integers.

    Args:
        picture: where it is.
        colour: what its numbers are, whatever the file says.
        background: what shows through where it is transparent.
        spool_folder: where a large one that can only be read from top to bottom is kept meanwhile.

    Raises:
        InputError: its colours cannot be told.
    """

    def __init__(
        self,
        picture: OpenedPicture,
        *,
        colour: Colour | None = None,
        background: str = "white",
        spool_folder: Path | None = None,
    ) -> None:
        self._picture, self._colour, self._folder = picture, colour, spool_folder
        self._background = Background(background)
        self._descriptor = open_regular_file(picture.path)
        weakref.finalize(self, os.close, self._descriptor)
        self._state, self._begun = _find_state(picture.path), False
        stored = picture.open()
        self._largest = 0 if stored.format == "ushort" else None
        image, self._notes = self._convert(stored)
        self._image = image if picture.by_window and picture.read is None else None
        self._shape, self._dtype = (image.height, image.width, 3), find_type(image)
        self.spool_bytes = 0 if picture.by_window else count_spooled(self._shape, self._dtype)
        kept = 0 if picture.by_window or self.spool_bytes else math.prod(self._shape) * self._dtype.itemsize
        self.held_bytes = kept + picture.held_bytes + SPOOLING_BYTES * bool(self.spool_bytes)
        self._spool: Spool | None = None
        self._turn = threading.Lock()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3)."""
        return self._shape

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the file holds something else, or another part of it is meant."""
        return ", ".join([fingerprint_file(self._descriptor), *filter(None, [self._picture.name])])

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of how its pixels became what they are, as far as they were read."""
        return (
            *self._picture.notes,
            *self._notes,
            *([self._background.note] if self._background.shown else []),
            *tell_fewer_bits(self._largest or 0),
        )

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, 3) float32 values of ``window``, which lies inside the array.

        Raises:
            DamagedError: the file is damaged.
        """
        if self._picture.by_window and not self._begun:
            # What happens from here on, the run finds when it ends.
            self._check_unchanged()
            self._begun = True
        pixels = self._read(window) if self._picture.by_window else self._fill_spool().read(window)
        if self._largest is not None:
            self._largest = max(self._largest, int(pixels.max()))
        values = VALUES.get(pixels.dtype)
        return values.take(pixels) if values is not None else pixels.astype(np.float32)

    def _fill_spool(self) -> Spool:
        with self._turn:
            if self._spool is None:
                self._check_unchanged()
                image, _ = self._open()
                spool = Spool(self.shape, self._dtype, self._folder)
                spool.fill(map(self._lay, decode_strips(image, self._picture.path, self._picture.format)))
                self._check_unchanged()
                self._spool = spool
            return self._spool

    def _check_unchanged(self) -> None:
        if _find_state(self._picture.path) != self._state:
            raise InputError(f"The file changed while it was in use: path={self._picture.path}. Run again.")

    def _open(self) -> "tuple[pyvips.Image, list[str]]":
        return self._convert(self._picture.open())

    def _convert(self, image: "pyvips.Image") -> "tuple[pyvips.Image, list[str]]":
        picture = self._picture
        return to_srgb(
            image,
            path=picture.path,
            format=picture.format,
            colour=self._colour,
            extra=picture.extra,
            tagged=picture.tagged,
        )

    def _read(self, window: Window) -> NDArray[Any]:
        image = self._image
        if image is None:
            assert self._picture.read is not None
            image, _ = self._convert(self._picture.read(window))
            window = Window.whole(*window.shape)
        region = load_vips().Region.new(image)
        return self._lay(fetch(region, window, self._dtype, self._picture.path, self._picture.format))

    def _lay(self, pixels: NDArray[Any]) -> NDArray[Any]:
        return pixels if pixels.shape[2] == 3 else self._background.lay_under(pixels)


def _find_state(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
