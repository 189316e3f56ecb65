"""A level of a written pyramid, compared with the level below it: every pixel is the mean of four.

All tiles are read, so a pixel of the full image that was changed later is found wherever it is. Without loss the means
are exact. Of a JPEG, the brightness of 8 × 8 px is compared closely, for that is what it keeps at any quality, and
their colour loosely, for that is what it smears. Where smeared colours were too saturated for a pixel and were clipped,
brightness is lost as well, and more is allowed. ``tiler.checks.detail_check`` tells means from single pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.checks.detail_check import CELL_PX, LUMA, DetailComparison, find_clipped
from tiler.checks.sampling import cover
from tiler.dtypes import UNITS
from tiler.formats.written import DamagedImageError, WrittenImage
from tiler.window import Span, Window

COLOUR_FACTOR = 5
"""How much farther a colour may be off than the brightness."""


@dataclass(frozen=True, slots=True)
class LevelCheck:
    """What comparing a level with the 2×2 means of the level below has shown."""

    level: int
    """Its number; 1 is the first reduced one."""
    shape: tuple[int, int]
    """(height, width), px of the level."""
    n_tiles: int
    """File tiles compared: all."""
    n_tiles_off: int
    """Those that do not fit the level below, or cannot be read."""
    max_difference: float
    """Largest |Δ| from the means, of 255 whatever the numbers; of a JPEG, of the brightness of 8 × 8 px."""
    problem: str = ""
    """The first that is wrong, if anything is."""

    @property
    def ok(self) -> bool:
        """Whether rounding, and compression, explain the differences."""
        return not self.problem

    def __str__(self) -> str:
        text = f"level {self.level}, {self.shape[0]:,} × {self.shape[1]:,}: max |Δ| {self.max_difference:.3g}"
        return text if self.ok else f"{text}, {self.n_tiles_off:,} of {self.n_tiles:,} tiles off, {self.problem}"


def list_tiles(image: WrittenImage, level: int) -> list[Window]:
    """Return the file tiles of a level, less their filling, px of the level."""
    height, width, _ = image.levels[level]
    return cover(height, width, image.file_tile_px or max(height, width))


def check_level(image: WrittenImage, level: int, tell: Callable[[Window], None] = lambda window: None) -> LevelCheck:
    """Compare a reduced level with the level below, tile by tile.

    Args:
        image: the file.
        level: 1 or more.
        tell: called with each tile when it is done.
    """
    tiles = list_tiles(image, level)
    comparison = JpegComparison(image.quantization[0][0]) if image.quantization else ExactComparison(image.dtype)
    n_off, problem = 0, ""
    for tile in tiles:
        try:
            if not comparison.fits(image.read(level, tile), image.read(level - 1, find_below(image, level, tile))):
                n_off, problem = n_off + 1, problem or f"the first at {tile}"
        except DamagedImageError as error:
            n_off, problem = n_off + 1, problem or f"at {tile}: {error}"
        tell(tile)
    shape = image.levels[level][0], image.levels[level][1]
    return LevelCheck(level, shape, len(tiles), n_off, comparison.largest, problem or comparison.find_problem())


class ExactComparison:
    """Tiles without loss: a pixel is the mean of four, of whole numbers rounded half up."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._unit = UNITS[dtype.name]
        # Of four times a pixel, -2 to +1 were gone before; of a float, what sums of float32 lose.
        self._least, self._most = (-1.0, 2.0) if dtype.kind == "u" else (-4e-6, 4e-6)
        self.largest = 0.0

    def fits(self, pixels: NDArray[Any], below: NDArray[Any]) -> bool:
        """Whether a tile is made of the pixels below it."""
        sums = add_four(below)
        off = 4 * pixels.astype(sums.dtype) - sums
        self.largest = max(self.largest, float(np.abs(off).max()) / 4 * self._unit)
        return bool(off.max() <= self._most and off.min() >= self._least)

    def find_problem(self) -> str:
        """Return what all tiles together show."""
        return ""


class JpegComparison:
    """Tiles of JPEG: cells have the brightness of those below, as far as compression lets them.

    Both levels round the brightness of a block, eight times its mean, to ``step``. The limits are half as much again
    as the worst that was measured at qualities 10 to 100, on photographs and on thousands of patterns of the most
    saturated colours.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._detail = DetailComparison(step)
        self._brightness = self._clipped = 0.0
        self._n_cells = 0
        self.largest = 0.0

    def fits(self, pixels: NDArray[Any], below: NDArray[Any]) -> bool:
        """Whether a tile is made of the pixels below it."""
        cells = mean_cells(pixels - add_four(below) / np.float32(4))
        brightness, colour = np.abs(cells @ LUMA), np.abs(cells).max(axis=2)
        self._detail.add(pixels, below)
        clipped = mean_cells(find_clipped(pixels) + add_four(find_clipped(below)) / np.float32(4))[..., 0]
        self.largest = max(self.largest, float(brightness.max()))
        self._brightness += float(brightness.sum())
        self._clipped += float(clipped.sum())
        self._n_cells += brightness.size
        limit = 4.5 + self._step / 4 + 9 * clipped
        return bool((brightness <= limit).all() and (colour <= COLOUR_FACTOR * limit).all())

    def find_problem(self) -> str:
        """Return what all tiles together show: an average may be off less than a cell."""
        n_cells = max(self._n_cells, 1)
        average = self._brightness / n_cells
        limit = 1 + self._step / 16 + 3.3 * self._clipped / n_cells + (4.5 + self._step / 4) / math.sqrt(n_cells)
        if average > limit:
            return f"the average |Δ| of brightness is {average:.2g}"
        return self._detail.find_problem()


def find_below(image: WrittenImage, level: int, tile: Window) -> Window:
    """Return the pixels of the level below that ``tile`` is made of."""
    height, width, _ = image.levels[level - 1]
    rows, columns = tile.rows * 2, tile.columns * 2
    return Window(Span(rows.start, min(rows.stop, height)), Span(columns.start, min(columns.stop, width)))


def add_four(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the sums of 2 × 2 pixels, in a type that holds them; an odd last row or column counts twice."""
    rows, columns = (np.minimum(np.arange(size + size % 2), size - 1) for size in pixels.shape[:2])
    wide = {"uint8": np.int16, "uint16": np.int32, "float32": np.float64}[pixels.dtype.name]
    even = pixels[np.ix_(rows, columns)].astype(wide)
    return even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]


def mean_cells(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the means of whole cells; a side shorter than one is a cell."""
    sides = [min(CELL_PX, size) for size in values.shape[:2]]
    n_rows, n_columns = (size // side for size, side in zip(values.shape[:2], sides, strict=True))
    whole = values[: n_rows * sides[0], : n_columns * sides[1]]
    cells: NDArray[np.floating[Any]] = whole.reshape(n_rows, sides[0], n_columns, sides[1], -1).mean(axis=(1, 3))
    return cells
