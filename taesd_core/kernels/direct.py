"""Convolutions that Winograd's tiles do not suit: of few channels, of stride 2, of 1×1; and the pool of FLUX.2.

The neighbours in a row of a 3×3 kernel lie beside each other in the map, so each row of the kernel is one matrix
product whose depth is three times the channels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels.cache import compiled
from taesd_core.kernels.product import multiply, pack
from taesd_core.kernels.vectors import Code, Value, lanes, write

PIXELS = 24
"""In a chunk: a multiple of the rows of every product."""
WIDTH = lanes()


def pack_direct(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a kernel (rows, columns, n_in, n_out) as ``convolve`` takes it."""
    rows, columns, n_in, n_out = kernel.shape
    return pack(kernel.reshape(rows, columns * n_in, n_out))


def _make_finish(*, skip: bool, relu: bool) -> Any:
    """Return ``finish(sums, at, bias, at, skip, at, out, at, flags, at)``: a vector with bias, skip and ReLU."""

    def emit(code: Code, sums: Value, bias: Value, added: Value, out: Value, flags: Value) -> None:
        zero = code.index(0)
        value = code.plus(code.load(sums, zero), code.load(bias, zero))
        if skip:
            value = code.plus(value, code.load(added, zero))
        code.store(code.fma(0.0, value, code.load(flags, zero)), flags, zero)
        code.store(code.positive(value) if relu else value, out, zero)

    return write(5, 0, emit)


_finish, _finish_relu = _make_finish(skip=False, relu=False), _make_finish(skip=False, relu=True)
_finish_skip = _make_finish(skip=True, relu=False)


def _make_convolve(name: str, *, relu: bool) -> Callable[..., None]:
    """Return one kind of convolution.

    ``convolve(x, x_at, x_row, stride, n_in, kernel_rows, depth, kernels, bias, out, out_at, out_row, n_out, n_columns,
    first, last, scratch, flags)`` makes the rows ``first`` to ``last``. ``x_at``: where the kernel of the first output
    begins; ``depth``: the kernel's columns × ``n_in``.
    """

    @compiled(name)
    def convolve(
        x,
        x_at,
        x_row,
        stride,
        n_in,
        kernel_rows,
        depth,
        kernels,
        bias,
        out,
        out_at,
        out_row,
        n_out,
        n_columns,
        first,
        last,
        scratch,
        flags,
    ):
        zero = np.int64(0)
        for row in range(first, last):
            for start in range(0, n_columns, PIXELS):
                n = min(PIXELS, n_columns - start)
                at = x_at + row * stride * x_row + start * stride * n_in
                for i in range(kernel_rows):
                    multiply(
                        x, at + i * x_row, stride * n_in, depth, kernels, i * depth * n_out, scratch, zero, n, n_out, i
                    )
                at_out = out_at + row * out_row + start * n_out
                for c in range(0, n * n_out, WIDTH):
                    if relu:
                        _finish_relu(scratch, c, bias, c % n_out, scratch, 0, out, at_out + c, flags, 0)
                    else:
                        _finish(scratch, c, bias, c % n_out, scratch, 0, out, at_out + c, flags, 0)

    return convolve


convolve = _make_convolve("direct", relu=False)
convolve_relu = _make_convolve("direct_relu", relu=True)


@compiled("pool")
def pool(
    x,
    x_at,
    x_row,
    n,
    n_hidden,
    before,
    offset,
    behind,
    zeros,
    out,
    out_at,
    out_row,
    n_columns,
    first,
    last,
    scratch,
    flags,
):
    """Make rows of ``out`` ``x + relu(x @ before + offset) @ behind``, pixel by pixel."""
    sums_at, zero = PIXELS * n_hidden, np.int64(0)
    for row in range(first, last):
        for start in range(0, n_columns, PIXELS):
            m = min(PIXELS, n_columns - start)
            at, at_out = x_at + row * x_row + start * n, out_at + row * out_row + start * n
            multiply(x, at, n, n, before, zero, scratch, zero, m, n_hidden, zero)
            for c in range(0, m * n_hidden, WIDTH):
                _finish_relu(scratch, c, offset, c % n_hidden, scratch, 0, scratch, c, flags, 0)
            multiply(scratch, zero, n_hidden, n_hidden, behind, zero, scratch, sums_at, m, n, zero)
            for c in range(0, m * n, WIDTH):
                _finish_skip(scratch, sums_at + c, zeros, 0, x, at + c, out, at_out + c, flags, 0)


def scratch_size(n_out: int, n_hidden: int = 0) -> int:
    """Return how many numbers ``convolve``, or with ``n_hidden`` ``pool``, wants for itself."""
    return PIXELS * (n_out + n_hidden)


@compiled("sum_channels")
def sum_channels(x, at, row, channels, n_rows, n_columns, pilot, sums, squares):
    """Add up ``value - pilot`` and its square for each channel, in float64 and row by row."""
    for y in range(n_rows):
        for place in range(at + y * row, at + y * row + n_columns * channels, channels):
            for c in range(channels):
                step = np.float64(x[place + c]) - pilot[c]
                sums[c] += step
                squares[c] += step * step
