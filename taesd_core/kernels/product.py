"""Matrix products of many rows and few columns, in blocks that stay in the registers."""

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels.cache import compiled
from taesd_core.kernels.vectors import lanes, make_product

BLOCKS = {16: ((6, 4), (12, 2), (24, 1)), 8: ((6, 2),), 4: ((6, 4),)}[lanes()]
"""(rows, vectors) of the products in registers, by the lanes of a vector, from the widest on. Their sums, a row of b
and a number of a fill the 32 registers of AVX-512 and of ARM, and the 16 of AVX2."""
WIDTHS = tuple(n_vectors * lanes() for _, n_vectors in BLOCKS)
_ROWS_0, _ROWS_1, _ROWS_2 = ([rows for rows, _ in BLOCKS] * 3)[:3]
_WIDTH_0, _WIDTH_1, _WIDTH_2 = (WIDTHS * 3)[:3]
_ONE_BLOCK = len(BLOCKS) == 1
_product_0, _product_1, _product_2 = ([make_product(*block) for block in BLOCKS] * 3)[:3]


def pack(kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return kernels (n, depth, n_out) as flat panels, (n, n_out / width, depth, width)."""
    n, depth, n_out = kernels.shape
    width = next(width for width in WIDTHS if n_out % width == 0)
    return np.ascontiguousarray(kernels.reshape(n, depth, n_out // width, width).swapaxes(1, 2)).reshape(-1)


@compiled("multiply")
def multiply(a, at_a, stride, depth, b, at_b, c, at_c, n_rows, n_out, add):
    """Make ``c`` (n_rows, n_out) the product of ``a`` (n_rows, depth) and packed panels; with ``add``, add it to ``c``.

    Some rows more than ``n_rows`` are read and written, to a multiple of the rows of a block.
    """
    if _ONE_BLOCK or n_out % _WIDTH_0 == 0:
        for panel in range(0, n_out, _WIDTH_0):
            for row in range(0, n_rows, _ROWS_0):
                _product_0(
                    a,
                    at_a + row * stride,
                    b,
                    at_b + panel * depth,
                    c,
                    at_c + row * n_out + panel,
                    stride,
                    depth,
                    _WIDTH_0,
                    n_out,
                    add,
                )
    elif n_out % _WIDTH_1 == 0:
        for panel in range(0, n_out, _WIDTH_1):
            for row in range(0, n_rows, _ROWS_1):
                _product_1(
                    a,
                    at_a + row * stride,
                    b,
                    at_b + panel * depth,
                    c,
                    at_c + row * n_out + panel,
                    stride,
                    depth,
                    _WIDTH_1,
                    n_out,
                    add,
                )
    else:
        for panel in range(0, n_out, _WIDTH_2):
            for row in range(0, n_rows, _ROWS_2):
                _product_2(
                    a,
                    at_a + row * stride,
                    b,
                    at_b + panel * depth,
                    c,
                    at_c + row * n_out + panel,
                    stride,
                    depth,
                    _WIDTH_2,
                    n_out,
                    add,
                )
