"""Winograd's minimal filtering F(4, 3): six products for four rows of a 3×3 convolution, instead of twelve.

Along the rows, four outputs of a filter of three taps are a product of polynomials, so six multiplications determine
them: of the six inputs that the four outputs see, six sums are formed; each is convolved along the columns with a
kernel row of its own; sums of these six products are the four output rows::

    products = (G kernel) * (B rows)       outputs = A products

Half the multiplications of the direct form, for sums of neighbouring rows that a compiler can fuse. Any six points
determine the polynomials; 0, ±1, ±2 and infinity give small whole numbers. The rounding errors of float32 are as large
as those of the direct form (see examples/benchmarks/README.md).

Source: S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, 2016.
"""

from typing import Any

import numpy as np
from keras import ops

from taesd_core.tensors import Float32

Tensor = Any
N_ROWS = 4
"""Output rows of a tile; the height of a map is a multiple of it."""

_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
"""G."""


def transform_kernel(kernel: Float32) -> list[Float32]:
    """Return the six (1, 3, n_in, n_out) kernels of the products of a (3, 3, n_in, n_out) kernel."""
    return list(np.einsum("py,yxio->pxio", _KERNEL, kernel.astype(np.float64)).astype(np.float32)[:, None])


def transform_rows(x: Tensor) -> list[Tensor]:
    """Return the six sums of rows, each (1, height / 4, width, channels), of a map (1, height, width, channels).

    Beyond the first and the last row there are zeros.
    """
    _, height, width, channels = x.shape
    tiles = ops.reshape(x, (1, height // N_ROWS, N_ROWS, width, channels))
    b, c, d, e = (tiles[:, :, row] for row in range(N_ROWS))
    zeros = ops.zeros((1, 1, width, channels), x.dtype)
    a = ops.concatenate([zeros, e[:, :-1]], axis=1)
    f = ops.concatenate([b[:, 1:], zeros], axis=1)
    return [
        4 * a - 5 * c + e,
        e + d - 4 * (c + b),
        e - d - 4 * (c - b),
        e - c + 2 * (d - b),
        e - c - 2 * (d - b),
        4 * b - 5 * d + f,
    ]


def combine_products(products: list[Tensor]) -> Tensor:
    """Return the map (1, height, width, channels) of its six products, each (1, height / 4, width, channels)."""
    first, p, q, r, s, last = products
    _, n_tiles, width, channels = first.shape
    rows = [first + (p + q) + (r + s), (p - q) + 2 * (r - s), (p + q) + 4 * (r + s), (p - q) + 8 * (r - s) + last]
    return ops.reshape(ops.stack(rows, axis=2), (1, n_tiles * N_ROWS, width, channels))
