"""Convolutions that Winograd's tiles do not suit: of few channels, of stride 2, of 1×1.

The neighbours in a row of a 3×3 kernel lie beside each other in the map, so each row of the kernel is one matrix
product whose depth is three times the channels.
"""

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from taesd_core.kernels.code import DOUBLE, Place, define
from taesd_core.kernels.geometry import PIXELS
from taesd_core.kernels.product import pack


def pack_direct(kernel: NDArray[np.float32], n_lanes: int) -> NDArray[np.float32]:
    """Return a kernel (rows, columns, n_in, n_out) as the function takes it."""
    rows, columns, n_in, n_out = kernel.shape
    return pack(kernel.reshape(rows, columns * n_in, n_out), n_lanes)


def define_direct(module: ir.Module, multiply: ir.Function, n_lanes: int, *, skip: bool, relu: bool) -> str:
    """Define one kind of convolution, and return its name.

    It takes where these lie: ``x``, ``added`` and ``out`` in the first slot of their rings, the column where the kernel
    of the first output begins, and of the first output; kernels, bias, scratch and flags. Then whole numbers, see
    below; ``*_first``: the row of the map where that kernel begins, and of the first output; ``depth``: the kernel's
    columns × ``n_in``.
    """
    name = "_".join(["direct", *["skip"] * skip, *["relu"] * relu])
    code, arguments, _ = define(module, name, 7, 17, n_lanes, exported=True)
    x, kernels, bias, added, out, scratch, flags, *numbers = arguments
    n_rows, n_columns, n_in, n_out, x_row, x_slots, x_length, x_first, *rest = numbers
    added_row, added_slots, added_first, out_row, out_slots, out_first, stride, kernel_rows, depth = rest
    n_chunks = (n_columns + (PIXELS - 1)) // PIXELS
    with code.take(n_rows * n_chunks) as part:
        row, start = part // n_chunks, part % n_chunks * PIXELS
        n = code.smaller(n_columns - start, PIXELS)
        first = x_first + row * stride
        with code.loop(0, kernel_rows) as i:
            a = x + code.slot(first + i, x_length, x_slots) * x_row + start * stride * n_in
            code.call(multiply, [a, kernels + i * depth * n_out, scratch, stride * n_in, depth, n, n_out, i])
        to = out + (out_first + row) % out_slots * out_row + start * n_out
        with code.loop(0, n) as t, code.loop(0, n_out, n_lanes) as c:
            at = t * n_out + c
            value = code.plus(code.load(scratch + at), code.load(bias + c))
            if skip:
                on = added + (added_first + row) % added_slots * added_row + start * n_out
                value = code.plus(value, code.load(on + at))
            code.store(code.fma(0.0, value, code.load(flags)), flags)
            code.store(code.positive(value) if relu else value, to + at)
    code.builder.ret_void()
    return name


def define_sum_channels(module: ir.Module, n_lanes: int) -> str:
    """Define what adds up ``value - pilot`` and its square for each channel, in float64 and row by row.

    It takes ``x`` and, in float64, ``pilot``, ``sums`` and ``squares``; then whole numbers, see below.
    """
    code, arguments, function = define(module, "sum_channels", 4, 4, n_lanes, exported=True)
    x, *totals, n_rows, n_columns, channels, x_row = arguments
    builder, wide = code.builder, ir.VectorType(DOUBLE, n_lanes)
    pilot, sums, squares = (Place(builder, builder.bitcast(each.pointer, DOUBLE.as_pointer())) for each in totals)
    with code.loop(0, n_rows) as row, code.loop(0, n_columns) as column, code.loop(0, channels, n_lanes) as c:
        value = builder.fpext(code.load(x + row * x_row + column * channels + c), wide)
        step = code.minus(value, code.load(pilot + c, wide))
        code.store(code.plus(code.load(sums + c, wide), step), sums + c)
        code.store(code.plus(code.load(squares + c, wide), builder.fmul(step, step)), squares + c)
    builder.ret_void()
    return function.name
