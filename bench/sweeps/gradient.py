"""Source text of a function's value and gradient, differentiated symbolically from its one definition.

Up to four coordinates everything is written out, so that it stays in registers. Beyond, loops over the coordinates
stay loops: a pass adds up the sums, then the chain rule goes back through their terms (reverse mode by hand, with sympy
for the derivative of a term).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sympy

from bench.sweeps import layout
from bench.sweeps.layout import HEAD, STRIDE, indented, over_lanes
from bench.sweeps.trace import Repeated, Trace, coordinate, number, parse

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
        shared, reduced = sympy.cse(
            list(expressions), symbols=(sympy.Symbol(f"c{self.count}_{k}") for k in range(9999))
        )
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


class Loops:
    """A function's gradient over rows of lanes; `first` is the first row that is free for it, `end` the first after."""

    def __init__(self, trace: Trace, real: str, first: int) -> None:
        self.trace, self.real = trace, real
        self.row: dict[str, tuple[int, int]] = {"x": (HEAD, STRIDE), "g": (HEAD + 1, STRIDE)}
        self.end = first
        for one in trace.repeated:
            if any(other.symbol in one.term.free_symbols for other in trace.repeated):
                raise TypeError(f"in more than {WRITTEN_OUT} dimensions no sum may stand in the terms of another sum")
            rows = {one.name: 1, f"by_{one.name}": 1}
            if one.kind == "prod":
                rows |= {f"before_{one.name}": one.length, f"after_{one.name}": 1}
            for name, count in rows.items():
                self.row[name] = self.end, 1
                self.end += count

    def get(self, name: str, index: str = "") -> str:
        row, stride = self.row[name]
        return layout.get(self.real, row, index, stride)

    def put(self, name: str, value: str, index: str = "") -> str:
        row, stride = self.row[name]
        return layout.put(self.real, row, value, index, stride)

    def put_value(self, value: str) -> str:
        return layout.put_double(layout.common("value"), f"float64({value})")

    def source(self) -> list[str]:
        """The statements that write the row ``value`` and the gradient."""
        repeated, real = self.trace.repeated, self.real
        lines = over_lanes([self.put(one.name, f"{real}({int(one.kind == 'prod')})") for one in repeated])
        for alike in self._by_length():
            lines += [f"for i in range({alike[0].length}):", *indented(over_lanes(self._forward(alike)))]
        zero = over_lanes([self.put("g", f"{real}(0)", "i")])
        lines += [f"for i in range({self.trace.dimension}):", *indented(zero)]
        lines += over_lanes(self._outer())
        for alike in self._by_length():
            backwards = f"for i in range({alike[0].length - 1}, -1, -1):"
            lines += [backwards, *indented(over_lanes(self._backward(alike)))]
        return lines

    def _by_length(self) -> list[list[Repeated]]:
        """What is repeated equally often shares a loop."""
        lengths = dict.fromkeys(one.length for one in self.trace.repeated)
        return [[one for one in self.trace.repeated if one.length == length] for length in lengths]

    def _loads(self, expressions: Iterable[sympy.Expr]) -> list[str]:
        """Assigns every symbol of the expressions from its row or its table."""
        symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=str)
        return [f"{symbol} = {self._load(symbol)}" for symbol in symbols]

    def _load(self, symbol: sympy.Symbol) -> str:
        place = parse(symbol)
        if place is None:
            k = number(symbol)
            return self.get(symbol.name) if k is None else self.get("x", str(k))
        table, offset = place
        return self.get("x", _index(offset)) if table == "x" else f"{table.upper()}[{_index(offset)}]"

    def _forward(self, alike: list[Repeated]) -> list[str]:
        """Adds the terms of index i to the sums, and multiplies the products."""
        writer = Writer(self.real)
        texts = writer.write([one.term for one in alike])
        lines = [*self._loads(one.term for one in alike), *writer.lines]
        for one, text in zip(alike, texts, strict=True):
            sign = "+" if one.kind == "sum" else "*"
            if one.kind == "prod":
                lines.append(self.put(f"before_{one.name}", self.get(one.name), "i"))
            lines.append(self.put(one.name, f"{self.get(one.name)} {sign} {text}"))
        return lines

    def _outer(self) -> list[str]:
        """The value, its derivatives by each sum and product, and those by single coordinates."""
        value, repeated = self.trace.value, self.trace.repeated
        singles = {symbol: k for symbol in value.free_symbols if (k := number(symbol)) is not None}
        by = [sympy.diff(value, symbol) for symbol in [*(one.symbol for one in repeated), *singles]]
        writer = Writer(self.real)
        text, *texts = (f"{self.real}({text})" for text in writer.write([value, *by]))
        lines = [*self._loads([value, *by]), *writer.lines]
        lines.append(self.put_value(text))
        rows = [(f"by_{one.name}", "") for one in repeated] + [("g", str(k)) for k in singles.values()]
        lines += [self.put(name, text, index) for (name, index), text in zip(rows, texts, strict=True)]
        products = (one for one in repeated if one.kind == "prod")
        return lines + [self.put(f"after_{one.name}", self.get(f"by_{one.name}")) for one in products]

    def _backward(self, alike: list[Repeated]) -> list[str]:
        """Adds what the terms of index i owe to their coordinates to the gradient.

        The derivative of a product by one factor is that of the factors before times those after.
        """
        owed: dict[int, list[sympy.Expr]] = {}
        lines = self._loads(one.term for one in alike)
        for one in alike:
            factor = sympy.Symbol(f"factor_{one.name}", real=True)
            text = self.get(f"by_{one.name}")
            if one.kind == "prod":
                text = f"{self.get(f'before_{one.name}', 'i')} * {self.get(f'after_{one.name}')}"
            lines.append(f"{factor} = {text}")
            for symbol in one.term.free_symbols:
                place = parse(symbol)
                if place and place[0] == "x":
                    owed.setdefault(place[1], []).append(factor * sympy.diff(one.term, symbol))
        products = [one for one in alike if one.kind == "prod"]
        writer = Writer(self.real)
        texts = writer.write([*(sympy.Add(*owed[offset]) for offset in owed), *(one.term for one in products)])
        lines += writer.lines
        for offset, text in zip(owed, texts, strict=False):
            lines.append(self.put("g", f"{self.get('g', _index(offset))} + {text}", _index(offset)))
        for one, text in zip(products, texts[len(owed) :], strict=True):
            lines.append(self.put(f"after_{one.name}", f"{self.get(f'after_{one.name}')} * {text}"))
        return lines


def _index(offset: int) -> str:
    return f"(i + {offset})" if offset else "i"
