"""The two ends of a network: latents kept in (-3, 3), and values that become pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from taesd_core.kernels.cache import compiled
from taesd_core.kernels.winograd import convolve

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts, the first with zeros at its end: its product with a small whole number is exact."""
_INVERSE_FACTORIALS = tuple(1.0 / np.prod(np.arange(1.0, n + 1)) for n in range(14))


@compiled("clamp")
def clamp(x):
    """Replace each value by ``tanh(x / 3) * 3``, from additions, products and divisions of float64 alone.

    Libraries have a tanh that differs from processor to processor; these operations are the same on all.
    """
    for n in range(x.size):
        y = min(abs(np.float64(x[n])) / 3.0, 20.0) * 2.0
        # exp(y) = 2^k exp(r), |r| at most ln 2 / 2.
        k = np.floor(y * _LOG2_E + 0.5)
        r = (y - k * _LN2_HIGH) - k * _LN2_LOW
        power = _INVERSE_FACTORIALS[13]
        for i in range(12, -1, -1):
            power = power * r + _INVERSE_FACTORIALS[i]
        for _ in range(int(k)):
            power *= 2.0
        value = 3.0 - 6.0 / (power + 1.0)
        x[n] = np.float32(value if x[n] > 0 else -value)


def _make_to_pixels(kind: str) -> Callable[..., None]:
    """Return the last convolution of a network, which writes pixels.

    ``to_pixels(x, x_at, x_row, n_in, kernels, bias, n_out, n_tiles, image, top, left, first, last, scratch, line,
    flags)`` makes the strips ``first`` to ``last`` of ``image`` (rows, columns, channels), which begins ``top`` rows
    and ``left`` columns after the first output.

    Args:
        kind: "uint8" or "uint16": 1.0 becomes the largest number, what is beyond 0 to 1 is clipped; "float32".
    """
    largest = np.float32({"uint8": 255, "uint16": 65535, "float32": 0}[kind])
    number: Any = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}[kind]
    whole = kind != "float32"
    zero, one = np.float32(0), np.float32(1)

    @compiled(f"to_{kind}")
    def to_pixels(
        x, x_at, x_row, n_in, kernels, bias, n_out, n_tiles, image, top, left, first, last, scratch, line, flags
    ):
        height, width, channels = image.shape
        row = 4 * n_tiles * n_out
        for strip in range(first, last):
            convolve(
                x,
                x_at,
                x_row,
                n_in,
                kernels,
                bias,
                line,
                0,
                0,
                line,
                -4 * strip * row,
                row,
                n_out,
                n_tiles,
                strip,
                strip + 1,
                scratch,
                flags,
            )
            for y in range(max(4 * strip, top), min(4 * strip + 4, top + height)):
                for column in range(width):
                    at = (y - 4 * strip) * row + (column + left) * n_out
                    for c in range(channels):
                        value = line[at + c]
                        if whole:
                            value = np.rint(min(max(value, zero), one) * largest)
                        image[y - top, column, c] = number(value)

    return to_pixels


TO_PIXELS = {kind: _make_to_pixels(kind) for kind in ("uint8", "uint16", "float32")}
"""The last convolution, by what it writes."""
