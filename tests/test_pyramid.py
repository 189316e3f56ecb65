"""The means of 2 × 2 pixels, against whole numbers of any size and fractions."""

from fractions import Fraction

import numpy as np
import pytest

from tiler.pyramid import halve


def mean_of_four(pixels, row, column, channel):
    height, width, _ = pixels.shape
    rows, columns = (row, min(row + 1, height - 1)), (column, min(column + 1, width - 1))
    return sum(Fraction(float(pixels[y, x, channel])) for y in rows for x in columns) / 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (5, 4), (6, 7)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_level_holds_the_means_of_the_one_below(shape, dtype):
    random = np.random.default_rng(0)
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    # At the top of the range, where a sum would overflow.
    pixels = (most * random.choice([0, 1, 0.99, 0.5, 1 / 3], (*shape, 3))).astype(dtype)
    halved = halve(pixels)
    assert halved.dtype == dtype
    assert halved.shape == (-(-shape[0] // 2), -(-shape[1] // 2), 3)
    for place in np.ndindex(*halved.shape):
        row, column, channel = place
        mean = mean_of_four(pixels, 2 * row, 2 * column, channel)
        if dtype == "float32":
            assert abs(float(halved[place]) - mean) < 2e-7
        else:
            assert halved[place] == (mean + Fraction(1, 2)).__floor__()
