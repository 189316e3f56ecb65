"""How the numbers of a picture stand for light, and what the numbers of sRGB for the same light are.

::

    numbers ──curves──► light in the picture's primaries ──matrix──► light in those of sRGB ──curve──► numbers of sRGB

Light that sRGB cannot show is clipped, channel by channel, as Little CMS does. Its own way from 16 bits to 16 bits goes
through a table of a few dozen colours an axis and is off by up to 14 of 255 near the edges of sRGB, so what has curves
and a matrix is computed here, in float32, to 0.05 of 255.

Colours said by a few numbers are primaries, white and curve: of ITU-T H.273, of PNG's gAMA and cHRM, of Adobe RGB.
Source: ITU-T H.273 (07/2021), tables 2 and 3; PNG (third edition), 11.3.2; Adobe RGB (1998), 4.3.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiler.colorimetry import (
    D65,
    SRGB_PRIMARIES,
    Chromaticity,
    Matrix,
    d50_to_srgb,
    linear_to_srgb,
    rgb_to_d50,
    srgb_to_linear,
)
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


C: Chromaticity = (0.310, 0.316)
DCI: Chromaticity = (0.314, 0.351)
PRIMARIES: dict[int, tuple[str, Sequence[Chromaticity], Chromaticity]] = {
    1: ("BT.709", SRGB_PRIMARIES, D65),
    4: ("BT.470 M", ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08)), C),
    5: ("BT.470 BG", ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)), D65),
    6: ("BT.601", ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), D65),
    7: ("SMPTE 240M", ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), D65),
    8: ("film", ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049)), C),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), D65),
    11: ("DCI P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), DCI),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65),
    22: ("EBU Tech 3213", ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)), D65),
}
"""Name, red, green and blue, and white of what ``ColourPrimaries`` stands for."""
HDR = {16: "PQ", 18: "HLG"}
"""Curves of pictures brighter than white."""


def power(gamma: float) -> Curve:
    """Return the curve ``values ** gamma``."""
    return lambda values: values**gamma


def _video(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return light of the numbers of BT.709, and of BT.601 and BT.2020, which share its curve."""
    return np.where(
        values < 4.5 * 0.018053968510807, values / 4.5, ((values + 0.099296826809442) / 1.099296826809442) ** (1 / 0.45)
    )


def _video_240(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values < 4 * 0.0228, values / 4, ((values + 0.1115) / 1.1115) ** (1 / 0.45))


TRANSFERS: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 14, 15), _video),
    4: power(2.2),
    5: power(2.8),
    7: _video_240,
    8: power(1),
    13: srgb_to_linear,
}
"""What ``TransferCharacteristics`` stands for, from numbers to light."""


def find_coded(primaries: int, transfer: int) -> Encoding | str:
    """Return what two numbers of H.273 mean, or why it is not read."""
    if transfer in HDR:
        return f"{HDR[transfer]}, which is brighter than white can be in sRGB"
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        return f"primaries {primaries} with the curve {transfer} of H.273"
    name, colours, white = PRIMARIES[primaries]
    return Encoding(f"{name}, curve {transfer} of H.273", (TRANSFERS[transfer],), to_srgb_light(colours, white))


def find_measured(primaries: Sequence[Chromaticity], white: Chromaticity, curve: Curve, name: str) -> Encoding | None:
    """Return what primaries, a white and a curve mean; None where there are no such primaries."""
    if min(y for _, y in (*primaries, white)) <= 0 or _area(primaries) < 1e-4:
        return None
    return Encoding(name, (curve,), to_srgb_light(primaries, white))


def to_srgb_light(primaries: Sequence[Chromaticity], white: Chromaticity) -> Matrix:
    """Return the matrix from light in these primaries to light in those of sRGB, white becoming white (Bradford)."""
    matrix: Matrix = d50_to_srgb() @ rgb_to_d50(primaries, white)
    return matrix


def _area(primaries: Sequence[Chromaticity]) -> float:
    (x0, y0), (x1, y1), (x2, y2) = primaries
    return abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0))


ADOBE_RGB = Encoding(
    "Adobe RGB (1998)", (power(563 / 256),), to_srgb_light(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65)
)
"""What a camera means by "R03"."""
