"""Winograd's F(4×4, 3×3): a tile of 4 × 4 outputs of a 3×3 convolution from 36 products a channel instead of 144.

Along one axis, four outputs of three taps are six products: of sums of the six inputs (``_spread``) and sums of the
taps (``FACTORS``), and the outputs are sums of them (``_collect``). Where the input is first made twice as large by
repeating each pixel, the six inputs are four pixels ``a b b c c d``; one of the sums is then zero and two are the same
but for a factor. That leaves five products of four sums: 25 instead of 36, and the large map is never made.

Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016; the points are 0, ±1, ±2, ∞.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels.vectors import Code, Value, write

SIDE = 4
"""Of the tile of outputs, px."""
_PLAIN = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
     [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)  # fmt: skip
_DOUBLED = np.array([_PLAIN[0], 2 * _PLAIN[1], 3 * _PLAIN[3] - _PLAIN[4], 3 * _PLAIN[3] + _PLAIN[4], _PLAIN[5]])
FACTORS = {False: _PLAIN, True: _DOUBLED}
"""(products, taps): what the taps of an axis are multiplied by; True where the input is doubled."""
SUMS = {False: (0, 1, 2, 3, 4, 5), True: (0, 1, 2, 2, 3)}
"""Which sum of the inputs each product of an axis takes."""


def n_products(doubled: bool) -> int:
    """Return the products of a tile and channel."""
    return len(FACTORS[doubled]) ** 2


def n_sums(doubled: bool) -> int:
    """Return the sums of a tile's inputs that they are of."""
    return (max(SUMS[doubled]) + 1) ** 2


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


def make_spread(doubled: bool) -> Any:
    """Return ``spread(x, at, sums, at, row, column, step)``: the sums of a tile's inputs, of as many channels as lanes.

    ``x`` is read from the pixel above and left of the tile on (of the small map, where it is doubled); ``row`` and
    ``column`` are the distances of its pixels, ``step`` that of the sums.
    """
    side = 4 if doubled else 6

    def emit(code: Code, x: Value, sums: Value, row: Value, column: Value, step: Value) -> None:
        def place(i: int, j: int) -> Value:
            return code.add_index(code.times_index(row, code.index(i)), code.times_index(column, code.index(j)))

        columns = [_spread(code, [code.load(x, place(i, j)) for i in range(side)]) for j in range(side)]
        number = 0
        for line in zip(*columns, strict=True):
            for value in _spread(code, line):
                code.store(value, sums, code.times_index(step, code.index(number)))
                number += 1

    return write(2, 3, emit)


def make_collect(doubled: bool, *, skip: bool, relu: bool) -> Any:
    """Return what makes a tile's outputs: ``collect(products, at, bias, at, skip, at, out, at, flags, at, …)``.

    Behind these come ``step``, ``skip_row``, ``skip_column``, ``row`` and ``column``. The outputs are those of a tile
    from its products, with bias, with ``skip`` what is added, with ``relu`` without what is below zero. Into ``flags``
    comes NaN where a value is NaN or infinite, before the ReLU could hide it.
    """
    n = len(FACTORS[doubled])

    def emit(
        code: Code, products: Value, bias: Value, added: Value, out: Value, flags: Value, step: Value,
        skip_row: Value, skip_column: Value, row: Value, column: Value,
    ) -> None:  # fmt: skip
        zero = code.index(0)
        lines = [
            _collect(code, [code.load(products, code.times_index(step, code.index(n * i + j))) for j in range(n)])
            for i in range(n)
        ]
        offset, flag = code.load(bias, zero), code.load(flags, zero)
        for j, line in enumerate(zip(*lines, strict=True)):
            for i, value in enumerate(_collect(code, line)):
                value = code.plus(value, offset)
                if skip:
                    at = code.add_index(
                        code.times_index(skip_row, code.index(i)), code.times_index(skip_column, code.index(j))
                    )
                    value = code.plus(value, code.load(added, at))
                flag = code.fma(0.0, value, flag)
                at = code.add_index(code.times_index(row, code.index(i)), code.times_index(column, code.index(j)))
                code.store(code.positive(value) if relu else value, out, at)
        code.store(flag, flags, zero)

    return write(5, 5, emit)


spread, spread_doubled = make_spread(False), make_spread(True)
collect = make_collect(False, skip=False, relu=False)
collect_relu = make_collect(False, skip=False, relu=True)
collect_skip = make_collect(False, skip=True, relu=True)
collect_doubled = make_collect(True, skip=False, relu=False)
