"""How the numbers of a picture stand for light, and what the numbers of sRGB for the same light are.

::

    numbers ──curves──► light in the picture's primaries ──matrix──► light in those of sRGB ──curve──► numbers of sRGB

Light that sRGB cannot show is clipped, channel by channel, as Little CMS does. Its own way from 16 bits to 16 bits goes
through a table of a few dozen colours an axis and is off by up to 14 of 255 near the edges of sRGB, so what has curves
and a matrix is computed here, in float32, to 0.05 of 255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiler.colorimetry import Matrix, linear_to_srgb
from tiler.sources.libvips import load_vips

if TYPE_CHECKING:
    import pyvips

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From numbers to light, both in [0, 1]."""

STEPS = 65535
"""A table has one more entry."""

SAME = 1 / 255
"""What differs by less is the same colour: the oldest profile of sRGB differs by half as much."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the numbers of a picture mean."""

    name: str
    """What people call it."""
    curves: tuple[Curve, ...]
    """One for all channels, or one each."""
    matrix: Matrix | None = None
    """From light in its primaries to light in those of sRGB; None where it is the same light, or grey."""

    @property
    def is_srgb(self) -> bool:
        """Whether all colours are those of sRGB, but for less than can be seen."""
        axis = np.linspace(0, 1, 18)
        cube = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
        greys = np.linspace(0, 1, 256).repeat(3).reshape(-1, 3)
        colours = np.concatenate([cube, greys]) if len(self.curves) == 3 or self.matrix is not None else greys
        return bool(np.abs(self.convert(colours) - colours).max() < SAME)

    def convert(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (…, 3) numbers in [0, 1] as those of sRGB."""
        curves = self.curves * (3 // len(self.curves))
        light = np.stack([curve(values[..., n]) for n, curve in enumerate(curves)], axis=-1)
        return linear_to_srgb(np.clip(light if self.matrix is None else light @ self.matrix.T, 0, 1))

    def apply(self, image: "pyvips.Image") -> "pyvips.Image":
        """Return a picture of libvips as sRGB, lazily: of floats as floats, else as ushort.

        Args:
            image: one band, or three; uchar, ushort or float.
        """
        return through_integers(image, self._look_up)

    def _look_up(self, image: "pyvips.Image") -> "pyvips.Image":
        axis = np.arange(256) / 255 if image.format == "uchar" else np.arange(STEPS + 1) / STEPS
        light = np.stack([curve(axis) for curve in self.curves], axis=-1)
        if self.matrix is None:
            return image.maplut(_make_table(_round(linear_to_srgb(np.clip(light, 0, 1)))))
        shown = image.maplut(_make_table(light.astype(np.float32))).recomb(self.matrix.tolist())
        encode = _round(linear_to_srgb(np.arange(STEPS + 1)[:, None] / STEPS))
        # A step of light is 0.05 of 255 where the curve is steepest, in the dark.
        return _to_ushort(shown).maplut(_make_table(encode))


def through_integers(image: "pyvips.Image", convert: "Callable[[pyvips.Image], pyvips.Image]") -> "pyvips.Image":
    """Return a picture converted by what takes integers alone and gives ushort, lazily.

    What floats are beyond [0, 1], they stay beyond as much.
    """
    if image.format != "float":
        return convert(image)
    inside = _clip(image)
    return convert(_to_ushort(inside)).cast("float") / STEPS + (image - inside)


def _round(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.rint(values * STEPS).astype(np.uint16)


def _make_table(values: NDArray[np.float32] | NDArray[np.uint16]) -> "pyvips.Image":
    n_entries, n_bands = values.shape
    kind = "ushort" if values.dtype == np.uint16 else "float"
    return load_vips().Image.new_from_memory(np.ascontiguousarray(values).tobytes(), n_entries, 1, n_bands, kind)


def _to_ushort(image: "pyvips.Image") -> "pyvips.Image":
    # The cast clips, and cuts off what is behind the point.
    return image.linear(STEPS, 0.5).cast("ushort")


def _clip(image: "pyvips.Image") -> "pyvips.Image":
    below = (image < 0).ifthenelse(0, image)
    return (below > 1).ifthenelse(1, below).cast("float")
