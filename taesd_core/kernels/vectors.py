"""Vectors of the processor in compiled code: what is loaded, multiplied and stored as one, operation by operation.

Numba compiles what stands here as it stands: no sum is put in another order, and a multiplication and an addition are
one operation (``fma``, rounded once) exactly where that is written. So results have the same bits with vectors of any
length, on any processor.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from taesd_core.kernels.cache import features

INDEX, NUMBER = ir.IntType(64), ir.FloatType()
Value = Any
"""A value in the code that is being made."""


@cache
def lanes() -> int:
    """Return how many float32 a vector of this processor holds."""
    there = features()
    if "avx512f" in there:
        return 16
    return 8 if {"avx2", "fma"} <= there else 4


class Code:
    """Where operations on vectors are put down, one after another."""

    def __init__(self, context: Any, builder: Any, n_lanes: int) -> None:
        self._context, self._builder = context, builder
        self.vector = ir.VectorType(NUMBER, n_lanes)
        self._n_lanes = n_lanes

    def pointer(self, kind: Any, array: Value, at: Value) -> Value:
        """Return where element ``at`` of a flat array lies."""
        return self._builder.gep(self._context.make_array(kind)(self._context, self._builder, array).data, [at])

    def index(self, number: int) -> Value:
        """Return a whole number."""
        return ir.Constant(INDEX, number)

    def add_index(self, a: Value, b: Value) -> Value:
        """Return the sum of two places."""
        return self._builder.add(a, b)

    def times_index(self, a: Value, b: Value) -> Value:
        """Return the product of two places."""
        return self._builder.mul(a, b)

    def load(self, pointer: Value, offset: Value) -> Value:
        """Return the vector that begins ``offset`` elements behind a pointer."""
        at = self._builder.bitcast(self._builder.gep(pointer, [offset]), self.vector.as_pointer())
        return self._builder.load(at, align=4)

    def store(self, value: Value, pointer: Value, offset: Value) -> None:
        """Write a vector ``offset`` elements behind a pointer."""
        at = self._builder.bitcast(self._builder.gep(pointer, [offset]), self.vector.as_pointer())
        self._builder.store(value, at, align=4)

    def spread(self, pointer: Value, offset: Value) -> Value:
        """Return a vector of one number many times."""
        one = self._builder.load(self._builder.gep(pointer, [offset]), align=4)
        undefined, place = ir.Constant(self.vector, ir.Undefined), ir.VectorType(ir.IntType(32), self._n_lanes)
        one = self._builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
        return self._builder.shuffle_vector(one, undefined, ir.Constant(place, [0] * self._n_lanes))

    def constant(self, number: float) -> Value:
        """Return a vector of one known number many times."""
        return ir.Constant(self.vector, [number] * self._n_lanes)

    def fma(self, a: Value | float, b: Value, c: Value) -> Value:
        """Return a × b + c, rounded once."""
        a = self.constant(a) if isinstance(a, float) else a
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.fma.v{self._n_lanes}f32")
        return self._builder.call(function, [a, b, c])

    def plus(self, a: Value, b: Value) -> Value:
        """Return a + b."""
        return self._builder.fadd(a, b)

    def minus(self, a: Value, b: Value) -> Value:
        """Return a - b."""
        return self._builder.fsub(a, b)

    def positive(self, a: Value) -> Value:
        """Return max(a, 0); NaN stays NaN."""
        below = self._builder.fcmp_ordered("<", a, self.constant(0.0))
        return self._builder.select(below, self.constant(0.0), a)


def write(n_arrays: int, n_numbers: int, emit: Callable[..., None]) -> Any:
    """Return a function for compiled code: ``f(array, at, array, at, …, number, number, …)``.

    Args:
        n_arrays: flat arrays of float32, each with the element at which it is used.
        n_numbers: whole numbers behind them.
        emit: puts down its operations, given ``Code``, the pointers and the numbers.
    """

    @intrinsic
    def function(typing: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            code = Code(context, builder, lanes())
            values = cgutils.unpack_tuple(builder, values[0])
            pointers = [code.pointer(kinds[n], values[n], values[n + 1]) for n in range(0, 2 * n_arrays, 2)]
            emit(code, *pointers, *values[2 * n_arrays : 2 * n_arrays + n_numbers])
            return context.get_dummy_value()

        return types.void(types.StarArgTuple(kinds)), generate

    return function


def make_product(n_rows: int, n_vectors: int) -> Any:
    """Return ``product(a, at, b, at, c, at, stride_a, depth, stride_b, stride_c, add)``.

    c[n_rows, n_vectors × lanes] = a[n_rows, depth] @ b[depth, n_vectors × lanes] (+ c, where ``add`` is not 0), all
    sums in registers, each in the order of the depth.

    Source: K. Goto and R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.
    """

    def emit(
        code: Code,
        a: Value,
        b: Value,
        c: Value,
        stride_a: Value,
        depth: Value,
        stride_b: Value,
        stride_c: Value,
        add: Value,
    ) -> None:
        builder, width = code._builder, code.vector.count
        rows_a = [builder.mul(stride_a, code.index(row)) for row in range(n_rows)]
        rows_c = [builder.mul(stride_c, code.index(row)) for row in range(n_rows)]
        begin = builder.append_basic_block()
        loop, after = builder.append_basic_block(), builder.append_basic_block()
        before = builder.block
        fresh = builder.icmp_signed("==", add, code.index(0))
        builder.cbranch(fresh, loop, begin)
        builder.position_at_end(begin)
        held = [[code.load(c, builder.add(row, code.index(n * width))) for n in range(n_vectors)] for row in rows_c]
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(INDEX)
        k.add_incoming(code.index(0), before)
        k.add_incoming(code.index(0), begin)
        sums = [[builder.phi(code.vector) for _ in range(n_vectors)] for _ in range(n_rows)]
        row_b = builder.mul(k, stride_b)
        vectors = [code.load(b, builder.add(row_b, code.index(n * width))) for n in range(n_vectors)]
        added = []
        for row_a, totals in zip(rows_a, sums, strict=True):
            one = code.spread(a, builder.add(k, row_a))
            added.append([code.fma(one, vector, total) for vector, total in zip(vectors, totals, strict=True)])
        following = builder.add(k, code.index(1))
        k.add_incoming(following, loop)
        for phis, olds, news in zip(sums, held, added, strict=True):
            for phi, old, new in zip(phis, olds, news, strict=True):
                phi.add_incoming(code.constant(0.0), before)
                phi.add_incoming(old, begin)
                phi.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
        builder.position_at_end(after)
        for place, news in zip(rows_c, added, strict=True):
            for n, new in enumerate(news):
                code.store(new, c, builder.add(place, code.index(n * width)))

    return write(3, 5, emit)
