"""Numbers whose arithmetic writes LLVM instructions, for functions that Numba need not read.

A function of such numbers is compiled where it is called by being called, in a hundredth of the time that Numba takes
for a dozen small functions, and stands in the midst of its caller, so that loops around it become vector instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

#: as in `numba_dialect`
FLAGS = ("contract",)
_BITS = {"float": ir.IntType(32), "double": ir.IntType(64)}
_FLOATS = {32: ir.FloatType(), 64: ir.DoubleType()}


class Number:
    """A float, whole number or truth in a function that is being written; other operands are constants of its type."""

    __array_ufunc__ = None  # numpy's scalars leave operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    @property
    def floats(self) -> bool:
        return str(self.value.type) in _BITS

    def of(self, other: Any) -> ir.Value:
        """Another operand as a value."""
        return other.value if isinstance(other, Number) else ir.Constant(self.value.type, other)

    def _new(self, value: ir.Value) -> Number:
        return Number(self.builder, value)

    def _with(self, operation: str, other: Any, turned: bool = False) -> Number:
        operands = [self.value, self.of(other)]
        if turned:
            operands.reverse()
        if self.floats:
            return self._new(getattr(self.builder, f"f{operation}")(*operands, flags=FLAGS))
        return self._new(getattr(self.builder, operation)(*operands))

    def _compared(self, how: str, other: Any) -> Number:
        if not self.floats:
            return self._new(self.builder.icmp_unsigned(how, self.value, self.of(other)))
        compare = self.builder.fcmp_unordered if how == "!=" else self.builder.fcmp_ordered
        return self._new(compare(how, self.value, self.of(other)))

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

    def __neg__(self) -> Number:
        return self._new(self.builder.fneg(self.value))

    def __abs__(self) -> Number:
        absolute = self.builder.module.declare_intrinsic("llvm.fabs", [self.value.type])
        return self._new(self.builder.call(absolute, [self.value]))

    def __lshift__(self, other: int) -> Number:
        return self._new(self.builder.shl(self.value, self.of(other)))

    def __rshift__(self, other: int) -> Number:
        return self._new(self.builder.lshr(self.value, self.of(other)))

    def __and__(self, other: Any) -> Number:
        return self._new(self.builder.and_(self.value, self.of(other)))

    def __or__(self, other: Any) -> Number:
        return self._new(self.builder.or_(self.value, self.of(other)))

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
        """A float64 rounded to float32."""
        return self._new(self.builder.fptrunc(self.value, ir.FloatType()))

    def double(self) -> Number:
        """A float32 as float64."""
        return self._new(self.builder.fpext(self.value, ir.DoubleType()))


def where(condition: Number, x: Any, y: Any) -> Number:
    """`x` where the condition holds, otherwise `y`; one of them may be a constant."""
    number = x if isinstance(x, Number) else y
    return Number(number.builder, number.builder.select(condition.value, number.of(x), number.of(y)))


def polynomial(x: Number, coefficients: Any) -> Number:
    """From the constant term up, by Horner's rule."""
    value = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = c + x * value
    return value
