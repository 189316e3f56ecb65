"""A decoder of whole numbers: every pixel depends on all that its halo holds, and no rounding hides a mistake."""

from dataclasses import dataclass

import numpy as np

from tiler.sources.source import Source
from tiler.window import Window


class HeldSource:
    """A (height, width, channels) array, in this order whatever its shape."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def read(self, window):
        """Return a window, inside the array only."""
        assert window.rows.stop <= self.shape[0]
        assert window.columns.stop <= self.shape[1]
        return self.values[window.slices]


@dataclass(frozen=True)
class IntegerDecoder:
    """A network and its model in one, small enough for a thousand random cases."""

    halo: int = 3
    scale_out: int = 4
    scale_in: int = 1
    channels_in: int = 2
    channels_out: int = 2

    def __call__(self, window, borders, crop=..., origin=None):
        """Return what the window determines: zeros lie beyond a border, and nothing is known beyond other sides."""
        values = np.rint(window * 1000).astype(np.int64)
        values = np.pad(values, [tuple(end * self.halo for end in ends) for ends in (*borders, (0, 0))])
        for axis in (0, 1):
            n_outputs = values.shape[axis] - 2 * self.halo
            # No two neighbours have the same weight, nor do two axes.
            values = sum(
                values.take(range(offset, offset + n_outputs), axis) * (5 * offset + 3 + axis)
                for offset in range(2 * self.halo + 1)
            )
        # Pixels of one latent differ, so that a shift by one shows.
        pixels = values.repeat(self.scale_out, 0).repeat(self.scale_out, 1)
        phases = np.arange(self.scale_out)
        rows, columns = (np.tile(phases, size // self.scale_out) for size in pixels.shape[:2])
        return (pixels + (7 * rows[:, None] + columns)[..., None])[crop]

    def decode_whole(self, source: Source):
        """Return the whole image, decoded at once."""
        both = True, True
        return self(source.read(Window.whole(*source.shape[:2])), (both, both))
