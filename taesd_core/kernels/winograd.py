"""3×3 convolutions of many channels: strips of four rows, chunks of tiles that stay in the second-level cache.

As in BLIS, the fast part is one small kernel of registers and the rest is loops with names::

    strip     four output rows
     chunk    24 tiles of 4 × 4: sums of the inputs, products, outputs with bias, skip and ReLU; what a thread takes
      product registers: rows × vectors sums, a loop over the channels
"""

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from taesd_core.kernels.code import define
from taesd_core.kernels.geometry import TILES
from taesd_core.kernels.product import pack
from taesd_core.kernels.transforms import collect, find_sum, spread, transform_kernel


def pack_winograd(kernel: NDArray[np.float32], doubled: bool, n_lanes: int) -> NDArray[np.float32]:
    """Return a kernel (3, 3, n_in, n_out) as the function takes it."""
    return pack(transform_kernel(kernel, doubled), n_lanes)


def define_winograd(
    module: ir.Module, multiply: ir.Function, n_lanes: int, *, doubled: bool, skip: bool, relu: bool
) -> str:
    """Define one kind of convolution, and return its name; as flags of one function they would cost a fifth.

    It takes where these lie: ``x``, ``added`` and ``out`` in the first slot of their rings, the column of the pixel
    left of the first output, and of the first output; kernels, bias, scratch and flags. Then whole numbers, see below;
    ``*_first``: the row of the map above the first output, and of the first output.
    """
    name = "_".join(["winograd", *["doubled"] * doubled, *["skip"] * skip, *["relu"] * relu])
    code, arguments, _ = define(module, name, 7, 14, n_lanes, exported=True)
    x, kernels, bias, added, out, scratch, flags, *numbers = arguments
    n_strips, n_tiles, n_in, n_out, x_row, x_slots, x_length, x_first, *rest = numbers
    added_row, added_slots, added_first, out_row, out_slots, out_first = rest
    step = 2 if doubled else 4
    of_products = [int(number) for number in find_sum(doubled)]
    sums, products = scratch, scratch + n_in * (TILES * (max(of_products) + 1))
    n_chunks = (n_tiles + (TILES - 1)) // TILES
    with code.take(n_strips * n_chunks) as part:
        strip, start = part // n_chunks, part % n_chunks * TILES
        above = x_first + strip * step
        places = [x + code.slot(above + n, x_length, x_slots) * x_row for n in (0, 1, step + 1)]
        x_rows = [places[0], *(places[1] + x_row * n for n in range(step)), places[2]]
        out_strip = out + (out_first + strip * 4) % out_slots * out_row
        out_rows = [out_strip + out_row * n for n in range(4)]
        added_strip = added + (added_first + strip * 4) % added_slots * added_row if skip else added
        added_rows = [added_strip + added_row * n for n in range(4)] if skip else []
        n = code.smaller(n_tiles - start, TILES)
        with code.loop(0, n) as t, code.loop(0, n_in, n_lanes) as c:
            at = (start + t) * step * n_in + c
            spread(code, [row + at for row in x_rows], n_in, sums + t * n_in + c, n_in * TILES, doubled=doubled)
        for p, number in enumerate(of_products):
            a, b, to = sums + n_in * (TILES * number), kernels + n_in * n_out * p, products + n_out * TILES * p
            code.call(multiply, [a, b, to, n_in, n_in, n, n_out, code.index(0)])
        with code.loop(0, n) as t, code.loop(0, n_out, n_lanes) as c:
            at = (start + t) * 4 * n_out + c
            collect(
                code, products + t * n_out + c, n_out * TILES, bias + c, [row + at for row in added_rows],
                [row + at for row in out_rows], n_out, flags, doubled=doubled, relu=relu,
            )  # fmt: skip
    code.builder.ret_void()
    return name
