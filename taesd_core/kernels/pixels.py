"""The two ends of a network: latents kept in (-3, 3), and values that become pixels."""

from math import factorial

import numpy as np
from llvmlite import ir

from taesd_core.kernels.code import DOUBLE, INDEX, Place, Value, define

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts, the first with zeros at its end: its product with a small whole number is exact."""
_TERMS = 14
_EXPONENT, _BIAS = 52, 1023
"""Where a float64 has its exponent, and what that is of 1.0."""
KINDS = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}
_LARGEST = {"uint8": 255.0, "uint16": 65535.0}


def define_clamp(module: ir.Module, n_lanes: int) -> str:
    """Define ``clamp(x, n)``: each value becomes ``tanh(x / 3) * 3``; a vector more is read and written.

    Of additions, products and divisions of float64 alone: libraries have a tanh that differs from processor to
    processor, these operations are the same on all.
    """
    code, (x, n), function = define(module, "clamp", 1, 1, n_lanes, exported=True)
    builder, wide, whole = code.builder, ir.VectorType(DOUBLE, n_lanes), ir.VectorType(INDEX, n_lanes)
    floor = ir.Function(module, ir.FunctionType(wide, [wide]), f"llvm.floor.v{n_lanes}f64")

    def number(value: float) -> Value:
        return ir.Constant(wide, [value] * n_lanes)

    def times(a: Value, b: float) -> Value:
        return builder.fmul(a, number(b))

    with code.loop(0, n, n_lanes) as at:
        value = builder.fpext(code.load(x + at), wide)
        negative = builder.fcmp_ordered("<", value, number(0.0))
        value = builder.select(negative, builder.fneg(value), value)
        y = times(builder.fdiv(value, number(3.0)), 2.0)
        y = builder.select(builder.fcmp_ordered("<", y, number(40.0)), y, number(40.0))
        # exp(y) = 2^k exp(r), |r| at most ln 2 / 2.
        k = builder.call(floor, [builder.fadd(times(y, _LOG2_E), number(0.5))])
        r = builder.fsub(builder.fsub(y, times(k, _LN2_HIGH)), times(k, _LN2_LOW))
        power = number(1.0 / factorial(_TERMS - 1))
        for i in range(_TERMS - 2, -1, -1):
            power = builder.fadd(builder.fmul(power, r), number(1.0 / factorial(i)))
        exponent = builder.add(builder.fptosi(k, whole), ir.Constant(whole, [_BIAS] * n_lanes))
        two_to_k = builder.bitcast(builder.shl(exponent, ir.Constant(whole, [_EXPONENT] * n_lanes)), wide)
        below = builder.fadd(builder.fmul(power, two_to_k), number(1.0))
        clamped = builder.fsub(number(3.0), builder.fdiv(number(6.0), below))
        clamped = builder.select(negative, builder.fneg(clamped), clamped)
        # What is no number stays none.
        clamped = builder.select(builder.fcmp_unordered("uno", value, value), value, clamped)
        code.store(builder.fptrunc(clamped, code.vector), x + at)
    builder.ret_void()
    return function.name


def define_to_pixels(module: ir.Module, kind: str, n_lanes: int) -> str:
    """Define what makes pixels of values, some rows at a time, and return its name.

    It takes where the values begin in the first slot of their ring, and the image; then whole numbers, see below. A
    thread takes a row.

    Args:
        module: where it is defined.
        kind: "uint8" or "uint16": 1.0 becomes the largest number, what is beyond 0 to 1 is clipped; "float32".
        n_lanes: of a vector.
    """
    code, arguments, function = define(module, f"to_{kind}", 2, 8, n_lanes, exported=True)
    x, image, n_rows, n_columns, channels, x_row, x_slots, x_first, x_column, image_row = arguments
    builder, largest = code.builder, _LARGEST.get(kind)
    real = ir.FloatType()
    number = ir.IntType(8 * np.dtype(KINDS[kind]).itemsize) if largest else real
    pixels = Place(builder, builder.bitcast(image.pointer, number.as_pointer()))
    if largest:
        zero, one = ir.Constant(real, 0.0), ir.Constant(real, 1.0)
        rint = module.globals.get("llvm.rint.f32")
        if rint is None:
            rint = ir.Function(module, ir.FunctionType(real, [real]), "llvm.rint.f32")
    with code.take(n_rows) as row, code.loop(0, n_columns) as column, code.loop(0, channels) as c:
        value = builder.load((x + (x_first + row) % x_slots * x_row + column * x_column + c).pointer, align=4)
        if largest:
            value = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)
            value = builder.select(builder.fcmp_ordered("<", value, one), value, one)
            value = builder.fptoui(builder.call(rint, [builder.fmul(value, ir.Constant(real, largest))]), number)
        to = pixels + row * image_row + column * channels + c
        builder.store(value, to.pointer, align=number.width // 8 if largest else 4)
    builder.ret_void()
    return function.name
