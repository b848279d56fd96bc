"""Source text of a function's value and gradient, differentiated symbolically from its one definition.

Up to four coordinates everything is written out, so that it stays in registers. Beyond, and where a sum runs over more
data than that, loops stay loops: a pass adds up the sums, then the chain rule goes back through their terms (reverse
mode by hand, with sympy for the derivative of a term).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sympy

from bench.sweeps import layout
from bench.sweeps.layout import HEAD, STRIDE, indented, over_lanes
from bench.sweeps.trace import MATHEMATICS, Repeated, Trace, coordinate, number, parse, sign

#: up to so many coordinates, and terms of a sum, a function is written out
WRITTEN_OUT = 4

CALLS = {function: name for name, function in MATHEMATICS.items() if name != "sqrt"} | {sign: "sign"}
#: what a sum, a product or the largest term begins with
BEGIN = {"sum": "0.0", "prod": "1.0", "max": "-np.inf"}


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
            return f"{CALLS[e.func]}({', '.join(map(self.text, e.args))})"
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
            return self.text(sympy.exp(power * sympy.log(base), evaluate=False))
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


def can_be_written_out(trace: Trace) -> bool:
    """Whether the function is short enough; the largest of several terms is always found by a loop."""
    short = all(one.length <= WRITTEN_OUT and one.kind != "max" for one in trace.repeated)
    return trace.dimension <= WRITTEN_OUT and short


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
        self.parts: list[str] = []
        for one in trace.repeated:
            if any(other.symbol in one.term.free_symbols for other in trace.repeated):
                raise TypeError(f"with more than {WRITTEN_OUT} terms no sum may stand in the terms of another sum")
            rows = {one.name: 1, f"by_{one.name}": 1}
            if one.kind == "max":
                rows |= {f"count_{one.name}": 1}
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
        """The statements that write the row ``value`` and the gradient; `parts` has what they call."""
        repeated, real = self.trace.repeated, self.real
        lines = over_lanes([self.put(one.name, f"{real}({BEGIN[one.kind]})") for one in repeated])
        for alike in self._by_length():
            lines += self._loop(f"{alike[0].length}", self._forward(alike))
        zero = over_lanes([self.put("g", f"{real}(0)", "i")])
        lines += [f"for i in range({self.trace.dimension}):", *indented(zero)]
        lines += over_lanes(self._outer())
        for alike in self._by_length():
            lines += self._loop(f"{alike[0].length - 1}, -1, -1", self._backward(alike))
        return lines

    def _loop(self, rounds: str, body: list[str]) -> list[str]:
        """A loop over i that calls its body by address.

        Were the body within, the compiler would write out all rounds, for a second, and of more rounds than it writes
        out make no vector instructions, as it asks only ahead of a loop whether rows overlap.
        """
        k = len(self.parts)
        self.parts.append(
            layout.function(f"part_{k}", "b, i", over_lanes(body), "cfunc('void(intp, intp)', cache=True, **OPTIONS)")
        )
        return [f"part = {layout.part(k)}", f"for i in range({rounds}):", "    call_part(part, (b, i))"]

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
        """Adds the terms of index i to the sums, multiplies the products, and counts how many are the largest."""
        writer = Writer(self.real)
        texts = writer.write([one.term for one in alike])
        lines = [*self._loads(one.term for one in alike), *writer.lines]
        for one, text in zip(alike, texts, strict=True):
            before = self.get(one.name)
            if one.kind == "sum":
                lines.append(self.put(one.name, f"{before} + {text}"))
            elif one.kind == "prod":
                lines.append(self.put(f"before_{one.name}", before, "i"))
                lines.append(self.put(one.name, f"{before} * {text}"))
            else:
                count = f"count_{one.name}"
                lines.append(f"before, term, count = {before}, {text}, {self.get(count)}")
                again = f"count + {self.real}(term == before)"
                lines.append(self.put(count, f"{self.real}(1) if term > before else {again}"))
                lines.append(self.put(one.name, "maximum(term, before)"))
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
        writer = Writer(self.real)
        others = [one for one in alike if one.kind != "sum"]
        terms = writer.write([one.term for one in others])
        lines = [*self._loads(one.term for one in alike), *writer.lines]
        lines += [f"term_{one.name} = {text}" for one, text in zip(others, terms, strict=True)]
        writer.lines = []
        owed: dict[str, list[sympy.Expr]] = {}
        for one in alike:
            factor = sympy.Symbol(f"factor_{one.name}", real=True)
            lines.append(f"{factor} = {self._factor(one)}")
            for symbol in sorted(one.term.free_symbols, key=str):
                index = _place_in_x(symbol)
                if index is not None:
                    owed.setdefault(index, []).append(factor * sympy.diff(one.term, symbol))
        texts = writer.write([sympy.Add(*debts) for debts in owed.values()])
        lines += writer.lines
        lines += [self.put("g", f"{self.get('g', i)} + {text}", i) for i, text in zip(owed, texts, strict=True)]
        for one in others:
            if one.kind == "prod":
                lines.append(self.put(f"after_{one.name}", f"{self.get(f'after_{one.name}')} * term_{one.name}"))
        return lines

    def _factor(self, one: Repeated) -> str:
        """The derivative of the value by a term: for a product times the other factors, for a maximum shared evenly."""
        by = self.get(f"by_{one.name}")
        if one.kind == "prod":
            return f"{self.get(f'before_{one.name}', 'i')} * {self.get(f'after_{one.name}')}"
        if one.kind == "max":
            share = f"{by} / {self.get(f'count_{one.name}')}"
            return f"{share} if term_{one.name} == {self.get(one.name)} else {self.real}(0)"
        return by


def _place_in_x(symbol: sympy.Symbol) -> str | None:
    """The index of the coordinate that a symbol stands for; None for other symbols."""
    place, k = parse(symbol), number(symbol)
    if place is not None:
        return _index(place[1]) if place[0] == "x" else None
    return None if k is None else str(k)


def _index(offset: int) -> str:
    return f"(i + {offset})" if offset else "i"
