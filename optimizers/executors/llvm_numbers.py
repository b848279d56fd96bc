"""Numbers whose arithmetic writes LLVM instructions, for functions that Numba need not read.

A function of such numbers is compiled where it is called by being called, in a hundredth of the time that Numba takes
for a dozen small functions, and stands in the midst of its caller, so that loops around it become vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

_BITS = {"float": ir.IntType(32), "double": ir.IntType(64)}
_FLOATS = {32: ir.FloatType(), 64: ir.DoubleType()}
_TRUTH = ir.IntType(1)
#: whole powers up to this are products
_MOST_FACTORS = 64


class Number:
    """A float, whole number or truth in a function that is being written; other operands are constants of its type.

    A truth has the type of the numbers that were compared, as which it counts 0 or 1 in arithmetic.
    """

    FLAGS: tuple[str, ...] = ("contract",)  #: as in `numba_dialect`
    __array_ufunc__ = None  # numpy's scalars leave operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, builder: ir.IRBuilder, value: ir.Value, type: ir.Type | None = None) -> None:
        self.builder, self.value, self.type = builder, value, type or value.type

    def __bool__(self) -> bool:
        raise TypeError("what depends on numbers is chosen by `where`, not by `if`, `and` or `or`")

    @property
    def floats(self) -> bool:
        return str(self.value.type) in _BITS

    @property
    def number(self) -> Number:
        """A truth as 0 or 1; anything else as it is."""
        if self.value.type == self.type:
            return self
        return self._new(self.builder.uitofp(self.value, self.type))

    @property
    def truth(self) -> Number:
        """Whether it is not 0, if it is no truth already."""
        return self if self.value.type == _TRUTH else self != 0

    def constant(self, value: Any) -> Number:
        """A number of the type of this one, if it is none yet."""
        return value.number if isinstance(value, Number) else self._new(ir.Constant(self.type, value))

    def of(self, other: Any) -> ir.Value:
        """Another operand as a value."""
        return other.value if isinstance(other, Number) else ir.Constant(self.value.type, other)

    def _new(self, value: ir.Value) -> Number:
        return type(self)(self.builder, value)

    def _with(self, operation: str, other: Any, turned: bool = False) -> Number:
        operands = [self.number.value, self.constant(other).value]
        if turned:
            operands.reverse()
        if self.number.floats:
            return self._new(getattr(self.builder, f"f{operation}")(*operands, flags=self.FLAGS))
        return self._new(getattr(self.builder, operation)(*operands))

    def _compared(self, how: str, other: Any) -> Number:
        x, y = self.number, self.constant(other)
        if not x.floats:
            compare = self.builder.icmp_unsigned
        else:
            compare = self.builder.fcmp_unordered if how == "!=" else self.builder.fcmp_ordered
        return type(self)(self.builder, compare(how, x.value, y.value), self.type)

    def __add__(self, other: Any) -> Number:
        return self._with("add", other)

    def __sub__(self, other: Any) -> Number:
        return self._with("sub", other)

    def __rsub__(self, other: Any) -> Number:
        return self._with("sub", other, turned=True)

    def __mul__(self, other: Any) -> Number:
        return self._with("mul", other)

    def __truediv__(self, other: Any) -> Number:
        return self._with("div", other)

    def __rtruediv__(self, other: Any) -> Number:
        return self._with("div", other, turned=True)

    __radd__, __rmul__ = __add__, __mul__

    def __pow__(self, other: Any) -> Number:
        if isinstance(other, Number) or other != int(other) or abs(other) > _MOST_FACTORS:
            return self._called("llvm.pow", self.constant(other))
        power, square, rest = self.constant(1), self.number, abs(int(other))
        while rest:
            power, square, rest = power * square if rest & 1 else power, square * square, rest >> 1
        return power if other >= 0 else 1 / power

    def __rpow__(self, other: Any) -> Number:
        return self.constant(other) ** self

    def __neg__(self) -> Number:
        return self._new(self.builder.fneg(self.number.value))

    def __abs__(self) -> Number:
        return self._called("llvm.fabs")

    def sqrt(self) -> Number:
        """nan for negative numbers."""
        return self._called("llvm.sqrt")

    def _called(self, name: str, *others: Number) -> Number:
        """A function of LLVM's own."""
        function = self.builder.module.declare_intrinsic(name, [self.type])
        return self._new(self.builder.call(function, [self.number.value, *(other.value for other in others)]))

    def __lshift__(self, other: int) -> Number:
        return self._new(self.builder.shl(self.value, self.of(other)))

    def __rshift__(self, other: int) -> Number:
        return self._new(self.builder.lshr(self.value, self.of(other)))

    def __and__(self, other: Any) -> Number:
        return type(self)(self.builder, self.builder.and_(self.value, self.of(other)), self.type)

    def __or__(self, other: Any) -> Number:
        return type(self)(self.builder, self.builder.or_(self.value, self.of(other)), self.type)

    def __xor__(self, other: Any) -> Number:
        return self._new(self.builder.xor(self.value, self.of(other)))

    def __eq__(self, other: Any) -> Number:  # type: ignore[override]
        return self._compared("==", other)

    def __ne__(self, other: Any) -> Number:  # type: ignore[override]
        return self._compared("!=", other)

    def __lt__(self, other: Any) -> Number:
        return self._compared("<", other)

    def __le__(self, other: Any) -> Number:
        return self._compared("<=", other)

    def __gt__(self, other: Any) -> Number:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> Number:
        return self._compared(">=", other)

    def bits(self) -> Number:
        """A float's bits as a whole number."""
        return self._new(self.builder.bitcast(self.value, _BITS[str(self.value.type)]))

    def of_bits(self) -> Number:
        """The float that has these bits."""
        return self._new(self.builder.bitcast(self.value, _FLOATS[self.value.type.width]))

    def whole(self) -> Number:
        """A float towards 0, as a whole number with a sign."""
        return self._new(self.builder.fptosi(self.value, _BITS[str(self.value.type)]))

    def of_whole(self) -> Number:
        """A whole number with a sign as a float."""
        return self._new(self.builder.sitofp(self.value, _FLOATS[self.value.type.width]))

    def low_word(self) -> Number:
        """The last 32 bits of a whole number of 64."""
        return self._new(self.builder.trunc(self.value, ir.IntType(32)))

    def single(self) -> Number:
        """A float rounded to float32."""
        single = self.number.type == ir.FloatType()
        return self.number if single else self._new(self.builder.fptrunc(self.number.value, ir.FloatType()))

    def double(self) -> Number:
        """A float as float64."""
        double = self.number.type == ir.DoubleType()
        return self.number if double else self._new(self.builder.fpext(self.number.value, ir.DoubleType()))


class Exact(Number):
    """A number whose products and sums are rounded one after the other."""

    FLAGS = ()


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, otherwise `y`; any of them may be a constant."""
    if not isinstance(condition, Number):
        return x if condition else y
    like = next((one for one in (x, y) if isinstance(one, Number)), condition)
    x, y = like.constant(x), like.constant(y)
    return type(like)(x.builder, x.builder.select(condition.truth.value, x.value, y.value))


def polynomial(x: Number, coefficients: Any) -> Number:
    """From the constant term up, by Horner's rule."""
    value = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = c + x * value
    return value


def _unchanged(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return value


class Cell(NamedTuple):
    """A type in memory, the type of the numbers in it, and what makes a number of it, and it of a number."""

    type: ir.Type
    number: ir.Type
    read: Callable[[ir.IRBuilder, ir.Value], ir.Value] = _unchanged
    write: Callable[[ir.IRBuilder, ir.Value], ir.Value] = _unchanged

    def load(self, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
        """The element `index` after a raw address."""
        return self.read(builder, builder.load(self._place(builder, address, index)))

    def store(self, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, value: ir.Value) -> None:
        value = self.write(builder, value)
        builder.store(value, self._place(builder, address, index))

    def _place(self, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
        return builder.gep(builder.inttoptr(address, self.type.as_pointer()), [index], inbounds=True)


def _of_half(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return builder.fpext(value, ir.FloatType())


def _to_half(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The nearest half, ties to even."""
    return builder.fptrunc(value, ir.HalfType())


def _of_bfloat16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return (Number(builder, builder.zext(value, ir.IntType(32))) << 16).of_bits().value


def _to_bfloat16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The nearest one, ties to even; a nan keeps its quiet bit instead of rounding into infinity."""
    x = Number(builder, value)
    rounded = (x.bits() + 0x7FFF + ((x.bits() >> 16) & 1)) >> 16
    return builder.trunc(where(x == x, rounded, 0x7FC0).value, ir.IntType(16))


SINGLE, DOUBLE = ir.FloatType(), ir.DoubleType()
FLOAT32, FLOAT64 = Cell(SINGLE, SINGLE), Cell(DOUBLE, DOUBLE)
FLOAT16 = Cell(ir.HalfType(), SINGLE, _of_half, _to_half)
BFLOAT16 = Cell(ir.IntType(16), SINGLE, _of_bfloat16, _to_bfloat16)
