"""Compiled code, operation by operation: vectors of the processor, whole numbers, loops.

What stands here is compiled as it stands: no sum is put in another order, and a multiplication and an addition are one
operation (``fma``, rounded once) exactly where that is written. So results have the same bits with vectors of any
length, on any processor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

INDEX, NUMBER, DOUBLE = ir.IntType(64), ir.FloatType(), ir.DoubleType()
Value = Any
"""A value in the code that is being made."""


class Index:
    """A whole number in the code that is being made."""

    def __init__(self, builder: ir.IRBuilder, value: Value) -> None:
        self.builder, self.value = builder, value

    def _of(self, other: "Index | int") -> Value:
        return other.value if isinstance(other, Index) else ir.Constant(INDEX, other)

    def __add__(self, other: "Index | int") -> "Index":
        """Return the sum."""
        return Index(self.builder, self.builder.add(self.value, self._of(other)))

    def __sub__(self, other: "Index | int") -> "Index":
        """Return the difference."""
        return Index(self.builder, self.builder.sub(self.value, self._of(other)))

    def __mul__(self, other: "Index | int") -> "Index":
        """Return the product."""
        return Index(self.builder, self.builder.mul(self.value, self._of(other)))

    def __floordiv__(self, other: "Index | int") -> "Index":
        """Return the whole quotient, of numbers that are not negative."""
        return Index(self.builder, self.builder.sdiv(self.value, self._of(other)))

    def __mod__(self, other: "Index | int") -> "Index":
        """Return the rest, of numbers that are not negative."""
        return Index(self.builder, self.builder.srem(self.value, self._of(other)))

    def compare(self, how: str, other: "Index | int") -> Value:
        """Return whether it is less, equal, …: ``how`` is an operator."""
        return self.builder.icmp_signed(how, self.value, self._of(other))


class Place:
    """Where numbers lie in memory, in the code that is being made."""

    def __init__(self, builder: ir.IRBuilder, pointer: Value) -> None:
        self.builder, self.pointer = builder, pointer

    def __add__(self, offset: Index | int) -> "Place":
        """Return the place so many numbers on."""
        at = offset.value if isinstance(offset, Index) else ir.Constant(INDEX, offset)
        return Place(self.builder, self.builder.gep(self.pointer, [at]))


class Code:
    """Where operations are put down, one after another.

    Args:
        function: that they are the body of.
        n_lanes: of a vector.
    """

    def __init__(self, function: ir.Function, n_lanes: int) -> None:
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.vector = ir.VectorType(NUMBER, n_lanes)
        self.n_lanes = n_lanes
        self.taken: Value = None
        """Where the number lies of the parts of the work that threads have taken."""
        self._module = function.module

    def index(self, number: int) -> Index:
        """Return a known whole number."""
        return Index(self.builder, ir.Constant(INDEX, number))

    def smaller(self, a: Index, b: Index | int) -> Index:
        """Return the smaller one."""
        b = self.index(b) if isinstance(b, int) else b
        return Index(self.builder, self.builder.select(a.compare("<", b), a.value, b.value))

    @contextmanager
    def loop(self, start: Index | int, stop: Index | int, step: int = 1) -> Iterator[Index]:
        """Go through the numbers from ``start`` up to ``stop``."""
        builder = self.builder
        start, stop = (self.index(each) if isinstance(each, int) else each for each in (start, stop))
        before = builder.block
        head, body, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        number = builder.phi(INDEX)
        number.add_incoming(start.value, before)
        counted = Index(builder, number)
        builder.cbranch(counted.compare("<", stop), body, after)
        builder.position_at_end(body)
        yield counted
        number.add_incoming((counted + step).value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    @contextmanager
    def take(self, number: Index) -> Iterator[Index]:
        """Go through the numbers from 0 that no other thread has taken of the function's first whole number."""
        builder = self.builder
        head, body, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        taken = Index(builder, builder.atomic_rmw("add", self.taken, ir.Constant(INDEX, 1), "monotonic"))
        builder.cbranch(taken.compare("<", number), body, after)
        builder.position_at_end(body)
        yield taken
        builder.branch(head)
        builder.position_at_end(after)

    def load(self, place: Place, kind: Value = None) -> Value:
        """Return the vector that begins at a place."""
        at = self.builder.bitcast(place.pointer, (kind or self.vector).as_pointer())
        return self.builder.load(at, align=4)

    def store(self, value: Value, place: Place) -> None:
        """Write a vector."""
        self.builder.store(value, self.builder.bitcast(place.pointer, value.type.as_pointer()), align=4)

    def spread(self, place: Place) -> Value:
        """Return a vector of the one number at a place, many times."""
        return self.repeat(self.builder.load(place.pointer, align=4), self.vector)

    def repeat(self, one: Value, kind: Value) -> Value:
        """Return a vector of one number many times."""
        undefined, place = ir.Constant(kind, ir.Undefined), ir.VectorType(ir.IntType(32), kind.count)
        one = self.builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(place, [0] * kind.count))

    def constant(self, number: float) -> Value:
        """Return a vector of one known number many times."""
        return ir.Constant(self.vector, [number] * self.n_lanes)

    def fma(self, a: Value | float, b: Value, c: Value) -> Value:
        """Return a × b + c, rounded once."""
        a = self.constant(a) if isinstance(a, float) else a
        name = f"llvm.fma.v{self.n_lanes}f32"
        function = self._module.globals.get(name)
        if function is None:
            function = ir.Function(self._module, ir.FunctionType(self.vector, [self.vector] * 3), name)
        return self.builder.call(function, [a, b, c])

    def plus(self, a: Value, b: Value) -> Value:
        """Return a + b."""
        return self.builder.fadd(a, b)

    def minus(self, a: Value, b: Value) -> Value:
        """Return a - b."""
        return self.builder.fsub(a, b)

    def positive(self, a: Value) -> Value:
        """Return max(a, 0); NaN stays NaN."""
        below = self.builder.fcmp_ordered("<", a, self.constant(0.0))
        return self.builder.select(below, self.constant(0.0), a)

    def call(self, function: ir.Function, values: Sequence[Place | Index]) -> None:
        """Call another function of the module."""
        self.builder.call(function, [each.pointer if isinstance(each, Place) else each.value for each in values])

    def slot(self, row: Index, length: Index, slots: Index) -> Index:
        """Return where a row of a map lies: see ``maps.py``."""
        inside = self.builder.and_(row.compare(">=", 0), row.compare("<", length))
        return Index(self.builder, self.builder.select(inside, (row % slots).value, slots.value))


def define(
    module: ir.Module, name: str, n_places: int, n_numbers: int, n_lanes: int, *, exported: bool
) -> tuple[Code, list[Any], ir.Function]:
    """Begin a function, and return what its body is put down in, its arguments and itself.

    One that is exported takes its whole numbers as an array of 64 bits behind the places, others one by one. The first
    of the array is 0 in the beginning, and counts the parts of the work that threads have taken.
    """
    kinds = [NUMBER.as_pointer()] * n_places + ([INDEX.as_pointer()] if exported else [INDEX] * n_numbers)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    code = Code(function, n_lanes)
    arguments: list[Any] = [Place(code.builder, each) for each in function.args[:n_places]]
    if exported:
        array = code.taken = function.args[n_places]
        for number in range(1, 1 + n_numbers):
            at = code.builder.gep(array, [ir.Constant(INDEX, number)])
            arguments.append(Index(code.builder, code.builder.load(at, align=8)))
    else:
        function.linkage = "internal"
        function.attributes.add("noinline")
        arguments += [Index(code.builder, each) for each in function.args[n_places:]]
    return code, arguments, function
