"""Source text of a function's value and gradient, differentiated symbolically from its one definition.

Up to four coordinates everything is written out, so that it stays in registers. Beyond, loops over the coordinates
stay loops: a pass adds up the sums, then the chain rule goes back through their terms (reverse mode by hand, with sympy
for the derivative of a term).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import sympy

from bench.sweeps.trace import Repeated, Trace, coordinate, parse

#: up to so many coordinates a function is written out
WRITTEN_OUT = 4

CALLS = {sympy.sin: "sin", sympy.cos: "cos", sympy.exp: "exp", sympy.log: "log"}


class Writer:
    """Writes expressions as assignments; `real` is the type of every constant, or one would make all float64."""

    def __init__(self, real: str, names: dict[sympy.Symbol, str] | None = None) -> None:
        self.real, self.names = real, dict(names or {})
        self.lines: list[str] = []
        self.count = 0

    def write(self, expressions: Sequence[sympy.Expr]) -> list[str]:
        """Assigns what several expressions share to temporaries; the text of each expression."""
        shared, reduced = sympy.cse(list(expressions), symbols=(sympy.Symbol(f"c{self.count}_{k}") for k in range(9999)))
        self.count += 1
        for symbol, expression in shared:
            self.lines.append(f"{symbol} = {self.text(expression)}")
        return [self.text(expression) for expression in reduced]

    def text(self, e: sympy.Expr) -> str:
        """One expression, in parentheses where needed."""
        if isinstance(e, sympy.Symbol):
            return self.names.get(e, str(e))
        if e.is_Number or e.is_NumberSymbol:
            return f"{self.real}({float(e)!r})"
        if e.is_Add:
            return f"({' + '.join(self.text(term) for term in e.args)})"
        if e.is_Mul:
            return self._product(e)
        if e.is_Pow:
            return self._power(e.base, e.exp)
        if e.func in CALLS:
            return f"{CALLS[e.func]}({self.text(e.args[0])})"
        raise TypeError(f"definitions have no {e.func.__name__}")

    def _product(self, e: sympy.Expr) -> str:
        numerator, denominator = sympy.fraction(e, exact=True)
        if denominator != 1 and not denominator.is_Number:
            return f"({self.text(numerator)} / {self.text(denominator)})"
        number, rest = e.as_coeff_Mul()
        if number == -1:
            return f"(-{self.text(rest)})"
        return f"({' * '.join(self.text(factor) for factor in e.args)})"

    def _power(self, base: sympy.Expr, power: sympy.Expr) -> str:
        if power.is_negative:
            return f"({self.real}(1.0) / {self._power(base, -power)})"
        half = sympy.Rational(power)
        if half.q not in (1, 2):
            raise TypeError(f"definitions take whole and half powers, not {power}")
        name = self._name(self.text(base))
        factors = [f"sqrt({name})"] if half.q == 2 else []
        square, n = name, half.p // half.q
        while n:
            if n & 1:
                factors.append(square)
            n >>= 1
            if n:
                square = self._name(f"{square} * {square}")
        return f"({' * '.join(factors)})"

    def _name(self, text: str) -> str:
        if text.isidentifier():
            return text
        self.count += 1
        self.lines.append(f"p{self.count} = {text}")
        return f"p{self.count}"


def written_out(trace: Trace, real: str) -> list[str]:
    """The body of ``objective(x_0, x_1, …)``, which returns the value and the gradient."""
    value, writer = trace.written_out(), Writer(real)
    coordinates = [coordinate(k) for k in range(trace.dimension)]
    texts = writer.write([value, *[sympy.diff(value, x) for x in coordinates]])
    # a constant must have the type of the rest too
    return [*writer.lines, f"return {', '.join(f'{real}({text})' for text in texts)}"]


@dataclass
class Loops:
    """Code over rows of lanes. `rows` names the rows it needs beside ``x`` and ``g``, with how many of each."""

    trace: Trace
    real: str
    get: Callable[[str, str], str]  # (rows, index) -> text
    put: Callable[[str, str, str], str]  # (rows, index, value) -> statement
    rows: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.trace.repeated:
            if any(other.symbol in one.term.free_symbols for other in self.trace.repeated):
                raise TypeError("a sum inside the terms of another sum is not taken in more than four dimensions")
            self.rows |= {str(one.symbol): 1, f"by_{one.symbol}": 1}
            if one.kind == "prod":
                self.rows |= {f"before_{one.symbol}": one.length, f"after_{one.symbol}": 1}

    def source(self) -> list[str]:
        """The statements that write the rows ``value`` and ``g``."""
        lines = self._lanes([self.put(str(one.symbol), "0", self._real(one.kind == "prod")) for one in self._all()])
        for alike in self._by_length():
            lines += [f"for i in range({alike[0].length}):", *_indented(self._lanes(self._forward(alike)))]
        lines += [f"for i in range({self.trace.dimension}):", *_indented(self._lanes([self.put("g", "i", self._real(0))]))]
        lines += self._lanes(self._outer())
        for alike in self._by_length():
            backwards = f"for i in range({alike[0].length - 1}, -1, -1):"
            lines += [backwards, *_indented(self._lanes(self._backward(alike)))]
        return lines

    def _all(self) -> list[Repeated]:
        return self.trace.repeated

    def _by_length(self) -> list[list[Repeated]]:
        """What is repeated equally often shares a loop."""
        lengths = dict.fromkeys(one.length for one in self._all())
        return [[one for one in self._all() if one.length == length] for length in lengths]

    def _real(self, number: float) -> str:
        return f"{self.real}({float(number)})"

    @staticmethod
    def _lanes(lines: list[str]) -> list[str]:
        return ["for l in range(LANES):", *_indented(lines)] if lines else []

    def _loads(self, expressions: Iterable[sympy.Expr]) -> list[str]:
        """Assigns every symbol of the expressions from its row or its table."""
        symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=str)
        return [f"{symbol} = {self._load(symbol)}" for symbol in symbols]

    def _load(self, symbol: sympy.Symbol) -> str:
        place = parse(symbol)
        if place is None:
            name = symbol.name
            return self.get("x", name[2:]) if name.startswith("x_") else self.get(name, "0")
        table, offset = place
        index = f"(i + {offset})" if offset else "i"
        return self.get("x", index) if table == "x" else f"{table.upper()}[{index}]"

    def _forward(self, alike: list[Repeated]) -> list[str]:
        writer = Writer(self.real)
        texts = writer.write([one.term for one in alike])
        lines = [*self._loads(one.term for one in alike), *writer.lines]
        for one, text in zip(alike, texts, strict=True):
            name = str(one.symbol)
            if one.kind == "prod":
                lines.append(self.put(f"before_{name}", "i", self.get(name, "0")))
            lines.append(self.put(name, "0", f"{self.get(name, '0')} {'*' if one.kind == 'prod' else '+'} {text}"))
        return lines

    def _outer(self) -> list[str]:
        """The value, its derivatives by each sum and product, and those by single coordinates."""
        value = self.trace.value
        singles = sorted((s for s in value.free_symbols if s.name.startswith("x_")), key=lambda s: int(s.name[2:]))
        by = [sympy.diff(value, symbol) for symbol in [*(one.symbol for one in self._all()), *singles]]
        writer = Writer(self.real)
        texts = [f"{self.real}({text})" for text in writer.write([value, *by])]
        rows = [("value", "0"), *((f"by_{one.symbol}", "0") for one in self._all()), *(("g", s.name[2:]) for s in singles)]
        lines = [*self._loads([value, *by]), *writer.lines]
        lines += [self.put(name, index, text) for (name, index), text in zip(rows, texts, strict=True)]
        return lines + [
            self.put(f"after_{one.symbol}", "0", self.get(f"by_{one.symbol}", "0"))
            for one in self._all()
            if one.kind == "prod"
        ]

    def _backward(self, alike: list[Repeated]) -> list[str]:
        """Adds to the gradient what the terms of index i owe to their coordinates."""
        owed: dict[int, list[sympy.Expr]] = {}
        loads, after = [], []
        for one in alike:
            factor = sympy.Symbol(f"factor_{one.symbol}", real=True)
            if one.kind == "prod":
                before, rest = self.get(f"before_{one.symbol}", "i"), self.get(f"after_{one.symbol}", "0")
                loads.append(f"{factor} = {before} * {rest}")
                after.append(one)
            else:
                loads.append(f"{factor} = {self.get(f'by_{one.symbol}', '0')}")
            for symbol in one.term.free_symbols:
                place = parse(symbol)
                if place and place[0] == "x":
                    owed.setdefault(place[1], []).append(factor * sympy.diff(one.term, symbol))
        offsets = sorted(owed)
        sums = [sympy.Add(*owed[offset]) for offset in offsets]
        writer = Writer(self.real)
        texts = writer.write([*sums, *[one.term for one in after]])
        known = [e.xreplace({s: sympy.Integer(1) for s in e.free_symbols if s.name.startswith("factor_")}) for e in sums]
        lines = [*self._loads([*known, *[e for e in (one.term for one in alike)]]), *loads, *writer.lines]
        for offset, text in zip(offsets, texts, strict=False):
            index = f"(i + {offset})" if offset else "i"
            lines.append(self.put("g", index, f"{self.get('g', index)} + {text}"))
        for one, text in zip(after, texts[len(offsets) :], strict=True):
            lines.append(self.put(f"after_{one.symbol}", "0", f"{self.get(f'after_{one.symbol}', '0')} * {text}"))
        return lines


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
