"""Matrix products of many rows and few columns, in blocks that stay in the registers."""

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from taesd_core.kernels.code import INDEX, Code, Index, Place, Value, define

_BLOCKS = {16: ((6, 4), (12, 2), (24, 1)), 8: ((6, 2),), 4: ((6, 4),)}
"""(rows, vectors) of the products in registers, by the lanes of a vector, from the widest on. Their sums, a row of b
and a number of a fill the 32 registers of AVX-512 and of ARM, and the 16 of AVX2."""


def pack(kernels: NDArray[np.float32], n_lanes: int) -> NDArray[np.float32]:
    """Return kernels (n, depth, n_out) as flat panels, (n, n_out / width, depth, width)."""
    n, depth, n_out = kernels.shape
    width = next(width for _, n_vectors in _BLOCKS[n_lanes] if n_out % (width := n_vectors * n_lanes) == 0)
    return np.ascontiguousarray(kernels.reshape(n, depth, n_out // width, width).swapaxes(1, 2)).reshape(-1)


def define_multiply(module: ir.Module, n_lanes: int) -> ir.Function:
    """Return ``multiply(a, b, c, stride, depth, n_rows, n_out, add)``.

    It makes ``c`` (n_rows, n_out) the product of ``a`` (n_rows, depth) and packed panels; where ``add`` is not 0, it
    adds it to ``c``. Some rows more than ``n_rows`` are read and written, to a multiple of the rows of a block.
    """
    code, (a, b, c, stride, depth, n_rows, n_out, add), function = define(
        module, "multiply", 3, 5, n_lanes, exported=False
    )
    for rows, n_vectors in _BLOCKS[n_lanes]:
        width = n_vectors * n_lanes
        product = _define_product(module, rows, n_vectors, n_lanes)
        with code.builder.if_then((n_out % width).compare("==", 0)):
            with code.loop(0, n_out, width) as panel, code.loop(0, n_rows, rows) as row:
                code.call(
                    product,
                    [a + row * stride, b + panel * depth, c + row * n_out + panel, stride, depth, n_out, add],
                )
            code.builder.ret_void()
    code.builder.ret_void()
    return function


def _define_product(module: ir.Module, n_rows: int, n_vectors: int, n_lanes: int) -> ir.Function:
    """Return ``product(a, b, c, stride, depth, stride_c, add)``.

    c[n_rows, n_vectors × lanes] = a[n_rows, depth] @ b[depth, n_vectors × lanes] (+ c, where ``add`` is not 0), all
    sums in registers, each in the order of the depth.

    Source: K. Goto and R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.
    """
    name = f"product_{n_rows}_{n_vectors}"
    code, (a, b, c, stride, depth, stride_c, add), function = define(module, name, 3, 4, n_lanes, exported=False)
    builder = code.builder
    rows_a, rows_c = ([each * row for row in range(n_rows)] for each in (stride, stride_c))
    vectors = range(0, n_vectors * n_lanes, n_lanes)
    begin, loop, after = (builder.append_basic_block() for _ in range(3))
    before = builder.block
    builder.cbranch(add.compare("==", 0), loop, begin)
    builder.position_at_end(begin)
    held = [[code.load(c + row + n) for n in vectors] for row in rows_c]
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(INDEX)
    sums = [[builder.phi(code.vector) for _ in vectors] for _ in rows_a]
    added = _multiply_step(code, [a + Index(builder, k) + row for row in rows_a], b, Index(builder, k), sums)
    following = Index(builder, k) + 1
    for number, source in ((ir.Constant(INDEX, 0), before), (ir.Constant(INDEX, 0), begin), (following.value, loop)):
        k.add_incoming(number, source)
    for phis, olds, news in zip(sums, held, added, strict=True):
        for phi, old, new in zip(phis, olds, news, strict=True):
            phi.add_incoming(code.constant(0.0), before)
            phi.add_incoming(old, begin)
            phi.add_incoming(new, loop)
    builder.cbranch(following.compare("<", depth), loop, after)
    builder.position_at_end(after)
    for row, news in zip(rows_c, added, strict=True):
        for n, new in zip(vectors, news, strict=True):
            code.store(new, c + row + n)
    builder.ret_void()
    return function


def _multiply_step(code: Code, rows: list[Place], b: Place, k: Index, sums: list[list[Value]]) -> list[list[Value]]:
    """Return the sums with the products of one number of each row and a row of b."""
    width = code.n_lanes
    vectors = [code.load(b + k * (width * len(sums[0])) + n * width) for n in range(len(sums[0]))]
    added = []
    for row, totals in zip(rows, sums, strict=True):
        one = code.spread(row)
        added.append([code.fma(one, vector, total) for vector, total in zip(vectors, totals, strict=True)])
    return added
