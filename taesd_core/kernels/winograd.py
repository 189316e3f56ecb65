"""3×3 convolutions of many channels: strips of four rows, chunks of tiles that stay in the second-level cache.

As in BLIS, the fast part is one small kernel of registers and the rest is loops with names::

    strip     four output rows; the unit that threads take
     chunk    24 tiles of 4 × 4: sums of the inputs, products, outputs with bias, skip and ReLU
      product registers: rows × vectors sums, a loop over the channels

All arrays are flat; a map is ``(rows + 2, columns + 2, channels)`` with a ring of zeros, see ``maps.py``.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from taesd_core.kernels import transforms
from taesd_core.kernels.cache import compiled
from taesd_core.kernels.product import multiply, pack
from taesd_core.kernels.transforms import find_sum, n_products, n_sums, transform_kernel
from taesd_core.kernels.vectors import lanes

TILES = 24
"""In a chunk. Their sums and products of 64 channels, 440 kB, and the kernels, 590 kB, about fill the second-level
cache of 1 MB that processors have at least; a multiple of the rows of every product."""
WIDTH = lanes()
# Compiled functions may see other compiled ones and intrinsics as globals only, or the cache would not know them again.
_spread, _spread_doubled = transforms.spread, transforms.spread_doubled
_collect, _collect_relu = transforms.collect, transforms.collect_relu
_collect_skip, _collect_doubled = transforms.collect_skip, transforms.collect_doubled


def pack_winograd(kernel: NDArray[np.float32], doubled: bool) -> NDArray[np.float32]:
    """Return a kernel (3, 3, n_in, n_out) as ``convolve`` takes it."""
    return pack(transform_kernel(kernel, doubled))


def scratch_size(doubled: bool, n_in: int, n_out: int) -> int:
    """Return how many numbers ``convolve`` wants for itself."""
    return TILES * (n_sums(doubled) * n_in + n_products(doubled) * n_out)


def _make_convolve(name: str, *, doubled: bool = False, skip: bool = False, relu: bool = False) -> Callable[..., None]:
    """Return one kind of convolution; as flags of one function they would cost a fifth of the speed.

    ``convolve(x, x_at, x_row, n_in, kernels, bias, added, added_at, added_row, out, out_at, out_row, n_out, n_tiles,
    first, last, scratch, flags)`` makes the strips ``first`` to ``last`` of ``n_tiles`` tiles each. ``x_at``: of the
    pixel above and left of the first output; ``added_at`` and ``out_at``: of the first output; ``*_row``: from row to
    row.
    """
    places = tuple(int(place) for place in find_sum(doubled))
    n_p, n_s = n_products(doubled), n_sums(doubled)
    step = 2 if doubled else 4

    @compiled(name)
    def convolve(
        x,
        x_at,
        x_row,
        n_in,
        kernels,
        bias,
        added,
        added_at,
        added_row,
        out,
        out_at,
        out_row,
        n_out,
        n_tiles,
        first,
        last,
        scratch,
        flags,
    ):
        products_at = n_s * TILES * n_in
        for strip in range(first, last):
            for start in range(0, n_tiles, TILES):
                n = min(TILES, n_tiles - start)
                for t in range(n):
                    at = x_at + strip * step * x_row + (start + t) * step * n_in
                    for c in range(0, n_in, WIDTH):
                        if doubled:
                            _spread_doubled(x, at + c, scratch, t * n_in + c, x_row, n_in, TILES * n_in)
                        else:
                            _spread(x, at + c, scratch, t * n_in + c, x_row, n_in, TILES * n_in)
                for p in range(n_p):
                    multiply(
                        scratch,
                        places[p] * TILES * n_in,
                        n_in,
                        n_in,
                        kernels,
                        p * n_in * n_out,
                        scratch,
                        products_at + p * TILES * n_out,
                        n,
                        n_out,
                        np.int64(0),
                    )
                for t in range(n):
                    column = 4 * (start + t) * n_out
                    at = out_at + strip * 4 * out_row + column
                    at_added = added_at + strip * 4 * added_row + column
                    for c in range(0, n_out, WIDTH):
                        m = products_at + t * n_out + c
                        if skip:
                            _collect_skip(
                                scratch,
                                m,
                                bias,
                                c,
                                added,
                                at_added + c,
                                out,
                                at + c,
                                flags,
                                0,
                                TILES * n_out,
                                added_row,
                                n_out,
                                out_row,
                                n_out,
                            )
                        elif relu:
                            _collect_relu(
                                scratch,
                                m,
                                bias,
                                c,
                                added,
                                at_added + c,
                                out,
                                at + c,
                                flags,
                                0,
                                TILES * n_out,
                                added_row,
                                n_out,
                                out_row,
                                n_out,
                            )
                        elif doubled:
                            _collect_doubled(
                                scratch,
                                m,
                                bias,
                                c,
                                added,
                                at_added + c,
                                out,
                                at + c,
                                flags,
                                0,
                                TILES * n_out,
                                added_row,
                                n_out,
                                out_row,
                                n_out,
                            )
                        else:
                            _collect(
                                scratch,
                                m,
                                bias,
                                c,
                                added,
                                at_added + c,
                                out,
                                at + c,
                                flags,
                                0,
                                TILES * n_out,
                                added_row,
                                n_out,
                                out_row,
                                n_out,
                            )

    return convolve


convolve = _make_convolve("convolve")
convolve_relu = _make_convolve("convolve_relu", relu=True)
convolve_skip = _make_convolve("convolve_skip", skip=True, relu=True)
convolve_doubled = _make_convolve("convolve_doubled", doubled=True)
