"""A picture of our own for trials: a mountainous coast from the air, computed window by window at any size.

Run: ``python examples/landscape.py OUTPUT [--megapixels M]``, to encode it with this project's own weights. The demo's
latents are ``python examples/landscape.py tiler/command/landscape.png``.

::

    hills      a few octaves of smooth noise, lowlands pressed flat            sea, coast, mountains
    + rough    further octaves, down to a few pixels                           ragged coasts, bumps
    + gullies  octaves of stripes that run down the slope of all before them   ridges and valleys that branch
    → light    differences between neighbouring heights                        sunny and shaded sides
    → colour   layers over each other by height, steepness and valley          sand, forest, rock, snow, water

The picture has a size in pixels, not a resolution: more pixels mean more octaves, so more detail and no blur.
Each value is a function of its position alone, by elementwise operations that round the same for every shape
of array (no ``exp``, no matrix product), so windows agree bit for bit however the picture is cut.
Lengths and heights are in picture widths, slopes therefore without unit.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiler
from tiler.sources.source import Source
from tiler.window import Span, Window

Map = NDArray[np.floating[Any]]  # float32; the stubs of numpy lose that in arithmetic with Python numbers
Spline = Callable[[NDArray[np.float64]], Map]

_SEED = 3100  # chosen by eye
_BLOCK_PX = (64, 1024)  # what fits the cache with a dozen maps of it
_FINEST_PX = 4.5  # an autoencoder smears what is finer
_SUN = (-0.50, -0.55, 0.67)  # rows, columns, up: from the upper left, as the eye expects of relief


class Landscape(Source):
    """A source of (height, width, 3) float32 RGB in [0, 1]; 3:2 is how it was composed, any shape works.

    Args:
        height: rows, px.
        width: columns, px.

    Raises:
        ValueError: a side is shorter than one pixel.
    """

    def __init__(self, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"No pixels in the picture: height={height}, width={width} px. Both must be 1 or more.")
        self._shape = (height, width, 3)
        self._unit_px = math.sqrt(1.5 * height * width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3)."""
        return self._shape

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, 3) float32 values of ``window``, in [0, 1]."""
        pixels = np.empty((*window.shape, 3), np.float32)
        for rows in _cut(window.rows, _BLOCK_PX[0]):
            for columns in _cut(window.columns, _BLOCK_PX[1]):
                block = Window(rows - window.rows.start, columns - window.columns.start)
                pixels[block.slices] = _draw(Window(rows, columns), self._unit_px)
        return pixels


def _cut(span: Span, size: int) -> Iterator[Span]:
    for start in range(span.start, span.stop, size):
        yield Span(start, min(start + size, span.stop))


def _draw(window: Window, unit_px: float) -> Map:
    # One pixel more on each side for the differences; the world begins one pixel before the picture.
    grown = Window(*(Span(span.start, span.stop + 2) for span in (window.rows, window.columns)))
    ground, gullies, rough, fine = _terrain(grown, unit_px)
    height = ground + gullies
    down = (height[2:, 1:-1] - height[:-2, 1:-1]) * (unit_px / 2)
    right = (height[1:-1, 2:] - height[1:-1, :-2]) * (unit_px / 2)
    inner = np.s_[1:-1, 1:-1]
    return _colour(ground[inner], gullies[inner], rough[inner], fine[inner], down, right)


# ---------------------------------------------------------------------------------------------------- terrain


def _terrain(window: Window, unit_px: float) -> tuple[Map, Map, Map, Map]:
    """Return the ground without gullies (the sea is below 0), gullies to add to it, bumps, and fine bumps."""
    hills = np.full(window.shape, 0.02, np.float32)
    down, right, rough, fine = (np.zeros(window.shape, np.float32) for _ in range(4))

    spacing, amplitude = 0.30, 1.0
    for octave in range(4):
        place = (window, spacing * unit_px, _SEED + octave)
        hills += _noise(*place) * amplitude
        down += _noise(*place, down=_spline_slope) * (amplitude / spacing)
        right += _noise(*place, right=_spline_slope) * (amplitude / spacing)
        spacing, amplitude = spacing / 2, amplitude * 0.48

    weight, octave = 1.0, 30
    while spacing * unit_px > _FINEST_PX:
        bumps = _noise(window, spacing * unit_px, _SEED + octave)
        rough += bumps * weight
        fine *= 0.5
        fine += bumps
        spacing, weight, octave = spacing / 2, weight * 0.55, octave + 1
    hills += rough * 0.03

    # A parabola above the sea: wide lowlands, steep mountains.
    above = np.maximum(hills, 0.0)
    ground = hills * (0.035 + 0.15 * above)
    steepness = 0.035 + 0.30 * above
    down *= steepness
    right *= steepness

    inland = _step(ground, 0.0, 0.02)
    gullies = rough * inland * 0.0010
    wobble = rough * 0.1
    spacing, octave = 0.085, 50
    while spacing * unit_px > 2 * _FINEST_PX:  # finer ones look combed
        squared = down * down + right * right
        per_cell = 1.0 / np.sqrt(squared + 0.003)
        turn_down, turn_right = right * per_cell, -down * per_cell  # across the slope, so stripes run down it
        strength = inland * np.sqrt(squared / (squared + 0.05)) * 0.1
        wave, climb = _stripes(window, spacing * unit_px, _SEED + octave, turn_down, turn_right, wobble)
        gullies += wave * strength * spacing
        climb *= strength
        down += climb * turn_down
        right += climb * turn_right
        spacing, octave = spacing / 2, octave + 1
    return ground, gullies, rough, fine


def _cells(span: Span, spacing_px: float) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the lattice cells under ``span``, which of them each pixel is in, and how far into it."""
    position = (np.arange(span.start, span.stop) + 0.5) / spacing_px
    cell = np.floor(position).astype(np.intp)
    return np.arange(cell[0], cell[-1] + 1), cell - cell[0], position - cell


def _random(rows: NDArray[np.intp], columns: NDArray[np.intp], seed: int) -> Map:
    """Return a number in [-1, 1) for each lattice point, by mixing the bits of its indices and the seed."""
    bits = rows.astype(np.uint32)[:, None] * np.uint32(0x9E3779B1)
    bits = bits ^ (columns.astype(np.uint32) * np.uint32(0x85EBCA77) + np.uint32(seed * 0xC2B2AE3D % 2**32))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-23) - np.float32(1)


def _spline(t: NDArray[np.float64]) -> Map:
    """Return the weights of the four lattice points around ``t`` in [0, 1): uniform cubic B-splines."""
    u = 1 - t
    weights = (u * u * u, 4 - 3 * t * t * (2 - t), 4 - 3 * u * u * (2 - u), t * t * t)
    return (np.stack(weights) / 6).astype(np.float32)


def _spline_slope(t: NDArray[np.float64]) -> Map:
    """Return the derivatives of ``_spline``."""
    u = 1 - t
    return (np.stack((-u * u, t * (3 * t - 4), u * (4 - 3 * u), t * t)) / 2).astype(np.float32)


def _noise(window: Window, spacing_px: float, seed: int, *, down: Spline = _spline, right: Spline = _spline) -> Map:
    """Return smooth noise, about [-1, 1]: splines over random heights on a lattice; or a slope of it."""
    rows, row_cells, row_position = _cells(window.rows, spacing_px)
    columns, column_cells, column_position = _cells(window.columns, spacing_px)
    lattice = _random(np.arange(rows[0], rows[-1] + 4), np.arange(columns[0], columns[-1] + 4), seed)
    lattice *= 2
    wide = _combine(np.ascontiguousarray(lattice.T), column_cells, right(column_position))
    return _combine(np.ascontiguousarray(wide.T), row_cells, down(row_position))


def _combine(lattice: Map, cells: NDArray[np.intp], weights: Map) -> Map:
    """Return the sum of four lattice rows for each position, starting with row ``cells``, weighted."""
    total: Map = lattice[cells] * weights[0][:, None]
    term = np.empty_like(total)
    for k in range(1, 4):
        np.take(lattice, cells + k, axis=0, out=term, mode="clip")  # other modes copy once more
        term *= weights[k][:, None]
        total += term
    return total


def _stripes(
    window: Window, spacing_px: float, seed: int, turn_down: Map, turn_right: Map, wobble: Map
) -> tuple[Map, Map]:
    """Return stripes of any direction and their derivative by phase.

    Around each lattice point there is a plane wave of a random phase; its phase grows by ``turn_down`` and
    ``turn_right`` turns per ``spacing_px``. The waves of four points are faded into each other.
    """
    rows, row_cells, row_position = _cells(window.rows, spacing_px)
    columns, column_cells, column_position = _cells(window.columns, spacing_px)
    phases = _random(np.arange(rows[0], rows[-1] + 2), np.arange(columns[0], columns[-1] + 2), seed)
    turns = row_position.astype(np.float32)[:, None] * turn_down
    turns += column_position.astype(np.float32) * turn_right
    turns += wobble
    wave, climb, phase = np.zeros_like(turns), np.zeros_like(turns), np.empty_like(turns)
    for down, row_weight in enumerate(_fade(row_position)):
        for right, column_weight in enumerate(_fade(column_position)):
            np.take(phases[:, column_cells + right], row_cells + down, axis=0, out=phase, mode="clip")
            phase += turns
            if down:
                phase -= turn_down
            if right:
                phase -= turn_right
            phase -= np.floor(phase + 0.5)
            # 1 - 16 p² + 32 p⁴ is close to cos 2πp for p in [-1/2, 1/2], and as smooth where it repeats.
            weight = row_weight[:, None] * column_weight
            squared = phase * phase
            phase *= (squared * 4 - 1) * weight
            climb += phase
            squared *= squared * 32 - 16
            wave += (squared + 1) * weight
    climb *= 32
    return wave, climb


def _fade(t: NDArray[np.float64]) -> tuple[Map, Map]:
    """Return the weights of the two lattice points around ``t`` in [0, 1)."""
    second = t * t * t * (t * (t * 6 - 15) + 10)
    return (1 - second).astype(np.float32), second.astype(np.float32)


# --------------------------------------------------------------------------------------------------- painting


def _step(values: Map, low: float, high: float) -> Map:
    """Return 0 below ``low``, 1 above ``high``, and a smooth passage between them."""
    t: Map = np.clip((values - low) * (1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def _colour(ground: Map, gullies: Map, rough: Map, fine: Map, down: Map, right: Map) -> Map:
    """Return (height, width, 3) RGB."""
    down, right = down * 0.6, right * 0.6
    up = 1 / np.sqrt(down * down + right * right + 1)  # of the unit vector that stands on the ground
    steep = 1 - up
    height = ground + gullies
    climate = height + rough * 0.012
    shore = ground + rough * 0.0012

    channels = [np.full(ground.shape, sand, np.float32) for sand in (0.87, 0.80, 0.64)]

    def lay(cover: Map, *colour: float | Map) -> None:
        for channel, value in zip(channels, colour, strict=True):
            channel += (value - channel) * cover

    lay(_step(shore, 0.0004, 0.0018), 0.47, 0.49, 0.25)  # dry grass
    lay(_step(shore + gullies * 0.2, 0.002, 0.007), 0.19, 0.31, 0.13)  # forest
    lay(_step(rough, 0.3, 1.1) * _step(ground, 0.003, 0.01) * 0.85, 0.37, 0.43, 0.19)  # glades
    lay(_step(climate, 0.06, 0.12), 0.44, 0.43, 0.24)  # alpine meadow
    lay(_step(climate, 0.10, 0.15), 0.50, 0.45, 0.40)  # scree
    lay(_step(steep, 0.17, 0.30) * _step(climate, 0.02, 0.06), 0.42, 0.37, 0.33)  # bare rock
    lay(_step(height + gullies + rough * 0.004 - steep * 0.1, 0.13, 0.165), 0.97, 0.98, 1.0)  # snow

    sun = np.maximum(up * (_SUN[2] - _SUN[0] * down - _SUN[1] * right), 0)
    sky = np.clip(0.95 + gullies * 16, 0.45, 1.3)  # a valley sees less of it
    sun *= 1 + fine * 0.16  # trees and stones
    for channel, warm, blue in zip(channels, (1.02, 0.96, 0.86), (0.26, 0.30, 0.39), strict=True):
        channel *= sun * warm + sky * blue

    clear = 1 / (1 + np.maximum(-height, 0) * 90)  # the light that comes back from the sea floor
    clear *= clear
    clear += fine * 0.03  # waves
    water = _step(height, 0.0002, -0.0003)
    lay(water, *(0.02 + 0.34 * clear * clear, 0.13 + 0.57 * clear, 0.27 + 0.37 * clear))
    picture = np.clip(np.stack(channels, axis=-1), 0, 1)
    return picture * (1.4 - 0.4 * picture)  # lift the shadows


def choose_shape(megapixels: float) -> tuple[int, int]:
    """Return (height, width) of a 3:2 picture of about so many million pixels, multiples of 8 px."""
    height = math.sqrt(megapixels * 1e6 / 1.5)
    return max(round(height / 8), 1) * 8, max(round(height * 1.5 / 8), 1) * 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", help="the file of latents to write: .npy, .safetensors or .png")
    parser.add_argument("--megapixels", type=float, default=8.0, help="about how large (default: 8)")
    arguments = parser.parse_args()
    picture = Landscape(*choose_shape(arguments.megapixels))
    report = tiler.encode(picture, arguments.output, weights="photo", overwrite=True)
    print(f"{report.path}: the latents of {picture.shape[1]} × {picture.shape[0]} px, {report.size_bytes:,} bytes")


if __name__ == "__main__":
    main()
