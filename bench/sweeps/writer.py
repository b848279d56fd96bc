"""Source text of symbolic expressions: what they share is assigned once, powers are products."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from bench.sweeps.trace import MATHEMATICS, sign

CALLS = {function: name for name, function in MATHEMATICS.items() if name != "sqrt"} | {sign: "sign"}


class Writer:
    """Writes expressions as assignments; `real` is the type of every constant, or one would make all float64."""

    def __init__(self, real: str, names: dict[sympy.Symbol, str] | None = None) -> None:
        self.real, self.names = real, dict(names or {})
        self.lines: list[str] = []
        self.count = 0
        self.named: dict[str, str] = {}  # no name is ever assigned twice, so the same text is the same number

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
        if text not in self.named:
            self.count += 1
            self.named[text] = f"p{self.count}"
            self.lines.append(f"p{self.count} = {text}")
        return self.named[text]
