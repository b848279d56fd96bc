"""What a function's definition computes, in symbols: the definition is called with these coordinates and mathematics.

A sum over coordinates stays one term and a number of times it is repeated, so that the work of differentiating does not
grow with the dimension: writing out a function of 20 coordinates takes sympy minutes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy

from bench.problems.function import Function


class sign(sympy.Function):
    """-1, 0 or 1; its derivative is 0, at 0 too."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.S.Zero


class absolute(sympy.Function):
    """Without sympy's `Abs`, which takes itself apart, and whose derivative asks what is real."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sign(self.args[0])


class atan2(sympy.Function):
    """The angle of the point (x, y), given as (y, x)."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        y, x = self.args
        return (x if argindex == 1 else -y) / (x**2 + y**2)


MATHEMATICS = {
    **{function.__name__: function for function in (sympy.sin, sympy.cos, sympy.exp, sympy.log)},
    **{"sqrt": sympy.sqrt, "absolute": absolute, "atan2": atan2},
}


@functools.cache
def relative(table: str, offset: int) -> sympy.Symbol:
    """Element i + offset of a table, where i is the index of a loop; the coordinates are the table ``x``."""
    return sympy.Symbol(f"{table}_rel_{offset}" if offset >= 0 else f"{table}_rel_m{-offset}", real=True)


@functools.cache
def coordinate(k: int) -> sympy.Symbol:
    """Coordinate k."""
    return sympy.Symbol(f"x_{k}", real=True)


def parse(symbol: sympy.Symbol) -> tuple[str, int] | None:
    """The table and the offset of a relative element; None for any other symbol."""
    table, found, offset = symbol.name.partition("_rel_")
    return (table, int(offset.replace("m", "-"))) if found else None


def number(symbol: sympy.Symbol) -> int | None:
    """k of coordinate k; None for any other symbol."""
    name, _, k = symbol.name.partition("_")
    return int(k) if name == "x" and k.isdigit() else None


class Vector:
    """One expression per coordinate: `term`, for i = 0 … length - 1."""

    def __init__(self, trace: Trace, term: sympy.Expr, length: int) -> None:
        self.trace, self.term, self.length = trace, term, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            k = index + self.length if index < 0 else index
            if not 0 <= k < self.length:
                raise IndexError(f"coordinate {index} of {self.length}")
            return self.trace.element(self.term, k)
        start, stop, step = index.indices(self.length)
        if step != 1:
            raise ValueError("a definition takes runs of neighbouring coordinates, x[1:], not every second one")
        return Vector(self.trace, self.trace.moved(self.term, start), max(stop - start, 0))

    def _with(self, other: Any, operation: Callable[[Any, Any], Any]) -> Vector:
        if not isinstance(other, Vector):
            return Vector(self.trace, operation(self.term, other), self.length)
        if other.length != self.length:
            raise ValueError(f"{self.length} coordinates cannot meet {other.length}")
        return Vector(self.trace, operation(self.term, other.term), self.length)

    def __add__(self, other: Any) -> Vector:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> Vector:
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Vector:
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> Vector:
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Any) -> Vector:
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> Vector:
        return self._with(other, lambda a, b: b / a)

    def __pow__(self, power: Any) -> Vector:
        return self._with(power, lambda a, b: a**b)

    def __neg__(self) -> Vector:
        return Vector(self.trace, -self.term, self.length)

    __radd__, __rmul__ = __add__, __mul__


@dataclass
class Repeated:
    """A sum, a product or the largest of `term` over i = 0 … length - 1, known to the rest by its symbol."""

    symbol: sympy.Symbol
    kind: str  # sum | prod | max
    term: sympy.Expr
    length: int

    @property
    def name(self) -> str:
        return self.symbol.name


@dataclass
class Trace:
    """A definition's value in terms of coordinates and of what is repeated; the mathematics `m` that found it."""

    dimension: int
    repeated: list[Repeated] = field(default_factory=list)
    tables: dict[str, tuple[float, ...]] = field(default_factory=dict)
    value: sympy.Expr = sympy.S.Zero

    def moved(self, term: sympy.Expr, by: int) -> sympy.Expr:
        """The term with `by` added to its index."""
        found = {symbol: place for symbol in term.free_symbols if (place := parse(symbol))}
        return term.xreplace({symbol: relative(table, offset + by) for symbol, (table, offset) in found.items()})

    def element(self, term: sympy.Expr, k: int) -> sympy.Expr:
        """The term for i = k."""
        found = {symbol: place for symbol in term.free_symbols if (place := parse(symbol))}
        return term.xreplace(
            {
                symbol: coordinate(offset + k) if table == "x" else sympy.Float(self.tables[table][offset + k])
                for symbol, (table, offset) in found.items()
            }
        )

    def vector(self, values: tuple[float, ...]) -> Vector:
        name = f"v{len(self.tables)}"
        self.tables[name] = tuple(map(float, values))
        return Vector(self, relative(name, 0), len(values))

    def sum(self, terms: Vector) -> sympy.Expr:
        return self._repeat("sum", terms)

    def prod(self, terms: Vector) -> sympy.Expr:
        return self._repeat("prod", terms)

    def max(self, terms: Vector) -> sympy.Expr:
        return self._repeat("max", terms)

    def _repeat(self, kind: str, terms: Vector) -> sympy.Expr:
        if not terms.length:
            return sympy.Integer(kind == "prod")
        symbol = sympy.Symbol(f"{kind}_{len(self.repeated)}", real=True)
        self.repeated.append(Repeated(symbol, kind, terms.term, terms.length))
        return symbol

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in MATHEMATICS:
            raise AttributeError(f"definitions have no {name!r}")
        function = MATHEMATICS[name]

        def apply(*x: Any) -> Any:
            return Vector(self, function(x[0].term), x[0].length) if isinstance(x[0], Vector) else function(*x)

        return apply

    def written_out(self) -> sympy.Expr:
        """The value in terms of coordinates alone, every sum and product written out."""
        known: dict[sympy.Symbol, sympy.Expr] = {}
        for one in self.repeated:
            terms = [self.element(one.term, k).xreplace(known) for k in range(one.length)]
            known[one.symbol] = sympy.Add(*terms) if one.kind == "sum" else sympy.Mul(*terms)
        return self.value.xreplace(known)


def trace(function: Function) -> Trace:
    """The definition of a function, in symbols."""
    found = Trace(function.dimension)
    found.value = sympy.sympify(function.definition(Vector(found, relative("x", 0), function.dimension), found))
    return found
