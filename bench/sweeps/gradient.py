"""Source text of a function's value and gradient, differentiated symbolically from its one definition.

Up to four coordinates everything is written out, so that it stays in registers. Beyond, and where a sum runs over more
data than that, loops stay loops: a pass adds up the sums, then the chain rule goes back through their terms (reverse
mode by hand, with sympy for the derivative of a term), but for those whose share in the gradient was known at once.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy

from bench.sweeps import layout
from bench.sweeps.layout import HEAD, STRIDE, indented, over_lanes
from bench.sweeps.trace import Repeated, Trace, atan2, coordinate, number, parse
from bench.sweeps.writer import Writer

#: up to so many coordinates, and terms of a sum, a function is written out
WRITTEN_OUT = 4

#: what takes longer than to keep a row and fetch it again, besides divisions and roots
SLOW = (sympy.sin, sympy.cos, sympy.exp, sympy.log, atan2)
#: what a sum, a product or the largest term begins with
BEGIN = {"sum": "0.0", "prod": "1.0", "max": "-np.inf"}


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
    """A function's gradient over rows of lanes; `first` is the first row that is free for it, `end` the first after.

    Where the value's derivative by a sum is a number, its terms pay what they owe to the gradient at once. What others
    owe waits until that derivative is known: it is kept, a row for each term, where it takes more than a few
    multiplications, and made anew where not.
    """

    def __init__(self, trace: Trace, real: str, first: int) -> None:
        self.trace, self.real = trace, real
        self.row: dict[str, tuple[int, int]] = {"x": (HEAD, STRIDE), "g": (HEAD + 1, STRIDE)}
        self.end = first
        self.parts: list[str] = []
        self.begun = False  # whether the gradient has been written to
        self.by = {one.name: sympy.diff(trace.value, one.symbol) for one in trace.repeated}
        self.slopes = {one.name: _slopes(one.term) for one in trace.repeated}
        for one in trace.repeated:
            if any(other.symbol in one.term.free_symbols for other in trace.repeated):
                raise TypeError(f"with more than {WRITTEN_OUT} terms no sum may stand in the terms of another sum")
            rows = {one.name: 1}
            if one.kind == "prod":
                rows |= {f"terms_{one.name}": one.length, f"after_{one.name}": 1}
            elif self.waits(one):
                rows |= {f"by_{one.name}": 1}
            if self.keeps(one):
                rows |= {f"{one.name}_by_{symbol}": one.length for symbol in self.slopes[one.name]}
            if one.kind == "max":
                rows |= {f"count_{one.name}": 1}
            for name, count in rows.items():
                self.row[name] = self.end, 1
                self.end += count

    def waits(self, one: Repeated) -> bool:
        """Whether the derivative of the value by this one is known only after all terms."""
        return one.kind != "sum" or not self.by[one.name].is_number

    def pays_at_once(self, one: Repeated) -> bool:
        """Whether what its terms owe is added to the gradient on the way there: it is if it can be, but for what is
        quick to make anew where somebody has to go back over the same places.
        """
        alike = (other for other in self.trace.repeated if other.length == one.length)
        return not self.waits(one) and (self.slow(one) or not any(map(self.waits, alike)))

    def keeps(self, one: Repeated) -> bool:
        """Whether the derivatives of the terms are kept for the way back."""
        return one.kind == "prod" or (one.kind == "sum" and self.waits(one) and self.slow(one))

    def slow(self, one: Repeated) -> bool:
        """Whether a derivative of a term takes longer than to keep a row and fetch it again."""
        return any(slope.has(*SLOW) or _divides(slope) for slope in self.slopes[one.name].values())

    def get(self, name: str, index: str = "") -> str:
        row, stride = self.row[name]
        return layout.get(self.real, row, index, stride)

    def put(self, name: str, value: str, index: str = "") -> str:
        row, stride = self.row[name]
        return layout.put(self.real, row, value, index, stride)

    def put_value(self, value: str) -> str:
        return layout.put(self.real, layout.common("value"), f"{self.real}({value})")

    def source(self) -> list[str]:
        """The statements that write the row ``value`` and the gradient; `parts` has what they call."""
        begin = [self.put(one.name, f"{self.real}({BEGIN[one.kind]})") for one in self.trace.repeated]
        lines = self.over_lanes(begin)
        for alike in self._by_length(self.trace.repeated):
            lines += self._pass(*self._forward(alike), range(alike[0].length))
        lines += self._outer()
        for alike in self._by_length([one for one in self.trace.repeated if not self.pays_at_once(one)]):
            lines += self._pass(*self._backward(alike), range(alike[0].length - 1, -1, -1))
        return lines

    def over_lanes(self, lines: list[str]) -> list[str]:
        return over_lanes(lines)

    def loop(self, rounds: range, lines: list[str]) -> list[str]:
        """A loop over i that calls its body by address.

        Were the body within, the compiler would write out all rounds, for a second, and of more rounds than it writes
        out make no vector instructions, as it asks only ahead of a loop whether rows overlap.
        """
        k = len(self.parts)
        compiler = "cfunc('void(intp, intp)', cache=True, **OPTIONS)"
        self.parts.append(layout.function(f"part_{k}", "b, i", [*layout.wide(lines), *over_lanes(lines)], compiler))
        return [f"part = {layout.part(k)}", f"for i in {rounds}:", "    call_part(part, (b, i))"]

    def clear(self, rows: range) -> list[str]:
        """Sets rows of the gradient to 0."""
        zero = over_lanes([self.put("g", f"{self.real}(0)", "i")])
        return [f"for i in {rows}:", *indented(zero)] if rows else []

    def _by_length(self, repeated: list[Repeated]) -> list[list[Repeated]]:
        """What is repeated equally often shares a loop."""
        lengths = dict.fromkeys(one.length for one in repeated)
        return [[one for one in repeated if one.length == length] for length in lengths]

    def _pass(self, lines: list[str], owed: dict[sympy.Symbol, str], rounds: range) -> list[str]:
        """A loop of these lines that adds to the gradient what is owed to each coordinate.

        The first such loop has nothing to add to: of the places that it comes by, it writes each the first time, and
        only those that it never comes to first are cleared before.
        """
        cleared: list[str] = []
        fresh = None
        if owed and not self.begun:
            self.begun = True
            places = [place[1] for symbol in owed if (place := parse(symbol))]
            if len(places) == len(owed):
                fresh = max(places) if rounds.step > 0 else min(places)
                cleared += self.clear(range(fresh)) + self.clear(range(fresh + len(rounds), self.trace.dimension))
            else:
                cleared += self.clear(range(self.trace.dimension))
        for symbol, text in owed.items():
            place, index = parse(symbol), _place_in_x(symbol)
            new = place is not None and place[1] == fresh
            lines = [*lines, self.put("g", text if new else f"{self.get('g', index)} + {text}", index)]
        return [*cleared, *self.loop(rounds, lines)]

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

    def _forward(self, alike: list[Repeated]) -> tuple[list[str], dict[sympy.Symbol, str]]:
        """Adds the terms of index i to the sums, multiplies the products, counts how many are the largest, and keeps
        what is needed on the way back; with what those owe that pay at once.
        """
        writer = Writer(self.real)
        owed = _together((self.by[one.name], self.slopes[one.name]) for one in alike if self.pays_at_once(one))
        kept = [(one, symbol, e) for one in alike if self.keeps(one) for symbol, e in self.slopes[one.name].items()]
        texts = iter(writer.write([*(one.term for one in alike), *(e for *_, e in kept), *owed.values()]))
        lines = [*self._loads(one.term for one in alike), *writer.lines]
        for one, text in zip(alike, texts, strict=False):
            before = self.get(one.name)
            if one.kind == "sum":
                lines.append(self.put(one.name, f"{before} + {text}"))
            elif one.kind == "prod":
                lines.append(f"before_{one.name}, term = {before}, {text}")
                lines.append(self.put(f"terms_{one.name}", "term", "i"))
                lines.append(self.put(one.name, f"before_{one.name} * term"))
            else:
                count = f"count_{one.name}"
                lines.append(f"before, term, count = {before}, {text}, {self.get(count)}")
                again = f"count + {self.real}(term == before)"
                lines.append(self.put(count, f"{self.real}(1) if term > before else {again}"))
                lines.append(self.put(one.name, "maximum(term, before)"))
        for (one, symbol, _), text in zip(kept, texts, strict=False):
            others = f"before_{one.name} * " if one.kind == "prod" else ""
            lines.append(self.put(f"{one.name}_by_{symbol}", f"{others}{text}", "i"))
        return lines, dict(zip(owed, texts, strict=True))

    def _outer(self) -> list[str]:
        """The value, its derivatives by each sum and product, and those by single coordinates."""
        value = self.trace.value
        later = [one for one in self.trace.repeated if self.waits(one)]
        singles = {symbol: k for symbol in sorted(value.free_symbols, key=str) if (k := number(symbol)) is not None}
        by = [*(self.by[one.name] for one in later), *(sympy.diff(value, symbol) for symbol in singles)]
        writer = Writer(self.real)
        text, *texts = (f"{self.real}({text})" for text in writer.write([value, *by]))
        lines = [*self._loads([value, *by]), *writer.lines, self.put_value(text)]
        for one, text in zip(later, texts, strict=False):
            lines.append(self.put(f"{'after' if one.kind == 'prod' else 'by'}_{one.name}", text))
        cleared = self.clear(range(self.trace.dimension)) if singles and not self.begun else []
        self.begun |= bool(singles)
        for k, text in zip(singles.values(), texts[len(later) :], strict=True):
            lines.append(self.put("g", f"{self.get('g', str(k))} + {text}", str(k)))
        return [*cleared, *self.over_lanes(lines)]

    def _backward(self, alike: list[Repeated]) -> tuple[list[str], dict[sympy.Symbol, str]]:
        """What the terms of index i owe to their coordinates.

        The derivative of a product by one factor is that of the factors before times those after.
        """
        writer = Writer(self.real)
        anew = [one for one in alike if not self.keeps(one)]
        largest = [one for one in alike if one.kind == "max"]
        terms = writer.write([one.term for one in largest])
        lines = [*self._loads(one.term for one in anew), *writer.lines]
        lines += [f"term_{one.name} = {text}" for one, text in zip(largest, terms, strict=True)]
        writer.lines = []
        debts: list[tuple[sympy.Expr, dict[sympy.Symbol, sympy.Expr]]] = []
        for one in alike:
            factor = self.by[one.name]
            if self.waits(one):
                factor = sympy.Symbol(f"factor_{one.name}", real=True)
                lines.append(f"{factor} = {self._factor(one)}")
            slopes = self.slopes[one.name]
            if self.keeps(one):
                slopes = {symbol: sympy.Symbol(f"{one.name}_by_{symbol}", real=True) for symbol in slopes}
                lines += [f"{kept} = {self.get(kept.name, 'i')}" for kept in slopes.values()]
            debts.append((factor, slopes))
        owed = _together(debts)
        texts = writer.write(list(owed.values()))
        lines += writer.lines
        for one in alike:
            if one.kind == "prod":
                after, term = self.get(f"after_{one.name}"), self.get(f"terms_{one.name}", "i")
                lines.append(self.put(f"after_{one.name}", f"{after} * {term}"))
        return lines, dict(zip(owed, texts, strict=True))

    def _factor(self, one: Repeated) -> str:
        """The derivative of the value by a term, but for the factors before it, which are in what was kept; the one by
        a maximum is shared evenly.
        """
        if one.kind == "prod":
            return self.get(f"after_{one.name}")
        by = self.get(f"by_{one.name}")
        if one.kind == "max":
            share = f"{by} / {self.get(f'count_{one.name}')}"
            return f"{share} if term_{one.name} == {self.get(one.name)} else {self.real}(0)"
        return by


def _slopes(term: sympy.Expr) -> dict[sympy.Symbol, sympy.Expr]:
    """The derivatives of a term by each of its coordinates."""
    symbols = (symbol for symbol in sorted(term.free_symbols, key=str) if _place_in_x(symbol) is not None)
    return {symbol: sympy.diff(term, symbol) for symbol in symbols}


def _divides(e: sympy.Expr) -> bool:
    """Whether an expression takes a division or a root."""
    return any(not power.exp.is_Integer or power.exp.is_negative for power in e.atoms(sympy.Pow))


def _together(
    debts: Iterable[tuple[sympy.Expr, dict[sympy.Symbol, sympy.Expr]]],
) -> dict[sympy.Symbol, sympy.Expr]:
    """What several owe to each coordinate: each a factor times its derivatives."""
    owed: dict[sympy.Symbol, list[sympy.Expr]] = {}
    for factor, slopes in debts:
        for symbol, slope in slopes.items():
            owed.setdefault(symbol, []).append(factor * slope)
    return {symbol: sympy.Add(*amounts) for symbol, amounts in owed.items()}


def _place_in_x(symbol: sympy.Symbol) -> str | None:
    """The index of the coordinate that a symbol stands for; None for other symbols."""
    place, k = parse(symbol), number(symbol)
    if place is not None:
        return _index(place[1]) if place[0] == "x" else None
    return None if k is None else str(k)


def _index(offset: int) -> str:
    return f"(i + {offset})" if offset else "i"
