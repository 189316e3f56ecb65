"""Winograd's F(4×4, 3×3): a tile of 4 × 4 outputs of a 3×3 convolution from 36 products a channel instead of 144.

Along one axis, four outputs of three taps are six products: of sums of the six inputs (``spread``) and sums of the
taps (``FACTORS``), and the outputs are sums of them (``collect``). Where the input is first made twice as large by
repeating each pixel, the six inputs are four pixels ``a b b c c d``; one of the sums is then zero and two are the same
but for a factor. That leaves five products of four sums: 25 instead of 36, and the large map is never made.

Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016; the points are 0, ±1, ±2, ∞.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels.code import Code, Index, Place, Value

_PLAIN = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
     [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)  # fmt: skip
_DOUBLED = np.array([_PLAIN[0], 2 * _PLAIN[1], 3 * _PLAIN[3] - _PLAIN[4], 3 * _PLAIN[3] + _PLAIN[4], _PLAIN[5]])
FACTORS = {False: _PLAIN, True: _DOUBLED}
"""(products, taps): what the taps of an axis are multiplied by; True where the input is doubled."""
SUMS = {False: (0, 1, 2, 3, 4, 5), True: (0, 1, 2, 2, 3)}
"""Which sum of the inputs each product of an axis takes."""


def find_sum(doubled: bool) -> NDArray[np.int64]:
    """Return for each product of a tile the number of its sum."""
    sums = np.array(SUMS[doubled])
    return (sums[:, None] * (sums.max() + 1) + sums).reshape(-1)


def transform_kernel(kernel: NDArray[np.float32], doubled: bool) -> NDArray[np.float32]:
    """Return (products, n_in, n_out) of a kernel (3, 3, n_in, n_out); computed in float64, rounded once."""
    factors = FACTORS[doubled]
    # In the order of the taps, not as a library thinks best: the same bits everywhere.
    wide = kernel.astype(np.float64)
    rows = [sum(row[i] * wide[i] for i in range(3)) for row in factors]
    every = [sum(row[j] * each[j] for j in range(3)) for each in rows for row in factors]
    return np.stack(every).astype(np.float32)


def _spread(code: Code, x: Sequence[Value]) -> list[Value]:
    if len(x) == 4:
        a, b, c, d = x
        return [
            code.fma(4.0, a, code.fma(-5.0, b, c)),
            code.fma(-4.0, b, c),
            code.minus(c, b),
            code.fma(4.0, b, code.fma(-5.0, c, d)),
        ]
    p, q, r, s, t, u = x
    far, near = code.minus(t, r), code.minus(s, q)
    return [
        code.fma(4.0, p, code.fma(-5.0, r, t)),
        code.fma(-4.0, code.plus(r, q), code.plus(t, s)),
        code.fma(-4.0, code.minus(r, q), code.minus(t, s)),
        code.fma(2.0, near, far),
        code.fma(-2.0, near, far),
        code.fma(4.0, q, code.fma(-5.0, s, u)),
    ]


def _collect(code: Code, m: Sequence[Value]) -> list[Value]:
    if len(m) == 5:
        first, both, a, b, last = m
        p = q = both
    else:
        first, m1, m2, m3, m4, last = m
        p, q, a, b = code.plus(m1, m2), code.minus(m1, m2), code.plus(m3, m4), code.minus(m3, m4)
    return [
        code.plus(code.plus(first, p), a),
        code.fma(2.0, b, q),
        code.fma(4.0, a, p),
        code.plus(code.fma(8.0, b, q), last),
    ]


def spread(code: Code, rows: Sequence[Place], column: Index, sums: Place, step: Index, *, doubled: bool) -> None:
    """Make the sums of a tile's inputs, of as many channels as lanes.

    Args:
        code: where it is put down.
        rows: of the inputs, from the pixel above and left of the tile on; of the small map, where it is doubled.
        column: from a pixel to the next one.
        sums: where they go.
        step: from one to the next.
        doubled: whether each pixel counts twice in both directions.
    """
    columns = [_spread(code, [code.load(row + column * j) for row in rows]) for j in range(4 if doubled else 6)]
    number = 0
    for line in zip(*columns, strict=True):
        for value in _spread(code, line):
            code.store(value, sums + step * number)
            number += 1


def collect(
    code: Code, products: Place, step: Index, bias: Place, added: Sequence[Place], rows: Sequence[Place],
    column: Index, flags: Place, *, doubled: bool, relu: bool,
) -> None:  # fmt: skip
    """Make a tile's outputs from its products, of as many channels as lanes.

    Args:
        code: where it is put down.
        products: the first.
        step: from one to the next.
        bias: is added.
        added: rows of what is added besides, or none.
        rows: of the outputs.
        column: from a pixel to the next one.
        flags: NaN comes there where a value is NaN or infinite, before a ReLU could hide it.
        doubled: of which kind the products are.
        relu: what is below zero becomes zero.
    """
    n = len(FACTORS[doubled])
    lines = [_collect(code, [code.load(products + step * (n * i + j)) for j in range(n)]) for i in range(n)]
    offset, flag = code.load(bias), code.load(flags)
    for j, line in enumerate(zip(*lines, strict=True)):
        for i, value in enumerate(_collect(code, line)):
            value = code.plus(value, offset)
            if added:
                value = code.plus(value, code.load(added[i] + column * j))
            flag = code.fma(0.0, value, flag)
            code.store(code.positive(value) if relu else value, rows[i] + column * j)
    code.store(flag, flags)
