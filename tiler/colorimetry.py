"""Colours as numbers: chromaticities, whites, matrices between them, and the curve of sRGB.

Source: IEC 61966-2-1 (primaries, white, curve); ICC.1:2022 (D50, Bradford matrix in Annex E).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Chromaticity = tuple[float, float]
"""(x, y)."""
Matrix = NDArray[np.float64]
"""(3, 3), for columns of three values."""

SRGB_PRIMARIES: tuple[Chromaticity, Chromaticity, Chromaticity] = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
"""Red, green and blue of sRGB."""

D65: Chromaticity = (0.3127, 0.3290)
"""The white of sRGB."""

D50 = (0.9642, 1.0, 0.8249)
"""(X, Y, Z) of the white that every profile refers to."""

BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
"""From XYZ to responses of the eye's cones, in which one white is turned into another."""

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""g, a, b, c, d of: linear = (a·v + b)^g where v ≥ d, else c·v."""


def linear_to_srgb(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return light as the numbers of sRGB; beyond [0, 1] both parts of the curve go on."""
    small = linear * 12.92
    return np.where(linear <= 0.0031308, small, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def srgb_to_linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers of sRGB, in [0, 1], as light."""
    gamma, a, b, c, d = SRGB_CURVE
    light: NDArray[np.float64] = np.where(values >= d, (a * values + b) ** gamma, c * values)
    return light


def to_xyz(chromaticity: Chromaticity) -> NDArray[np.float64]:
    """Return (X, Y, Z) of a chromaticity, Y being 1."""
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def rgb_to_xyz(primaries: Sequence[Chromaticity], white: Chromaticity) -> Matrix:
    """Return the matrix whose columns are the primaries, so scaled that they add up to white.

    Raises:
        numpy.linalg.LinAlgError: the primaries lie on a line.
    """
    columns = np.stack([to_xyz(primary) for primary in primaries], axis=1)
    scaled: Matrix = columns * np.linalg.solve(columns, to_xyz(white))
    return scaled


def adapt_to_d50(white: Chromaticity) -> Matrix:
    """Return the matrix from colours under a white to colours under D50."""
    bradford = np.array(BRADFORD)
    gains = (bradford @ np.array(D50)) / (bradford @ to_xyz(white))
    adaptation: Matrix = np.linalg.solve(bradford, gains[:, None] * bradford)
    return adaptation


def rgb_to_d50(primaries: Sequence[Chromaticity], white: Chromaticity) -> Matrix:
    """Return the matrix from light in these primaries to XYZ under D50, as profiles hold it."""
    matrix: Matrix = adapt_to_d50(white) @ rgb_to_xyz(primaries, white)
    return matrix


def d50_to_srgb() -> Matrix:
    """Return the matrix from XYZ under D50 to light in the primaries of sRGB."""
    return np.linalg.inv(rgb_to_d50(SRGB_PRIMARIES, D65)).astype(np.float64)
