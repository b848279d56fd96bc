"""The dialect of rules for `llvm_numbers`: a function in it is compiled by being called, and Numba need not read it.

What is no `Number` is worked as `optimizers.dialect` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .. import dialect
from . import numba_math
from .llvm_numbers import Number, where  # noqa: F401  # of the dialect


def _numbers(function: Callable[..., Number]) -> Callable[..., Any]:
    """A function that is also given constants: beside a number they are of its type."""
    plain = getattr(dialect, function.__name__)

    def taken(*given):
        like = next((one for one in given if isinstance(one, Number)), None)
        return plain(*given) if like is None else function(*map(like.constant, given))

    taken.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return taken


exp, exp_negative, expm1, log, log1p, log1p_unit, tanh = (
    _numbers(getattr(numba_math.of_numbers, name))
    for name in "exp exp_negative expm1 log log1p log1p_unit tanh".split()
)


@_numbers
def sqrt(x):
    return x.sqrt()


@_numbers
def absolute(x):
    return abs(x)


@_numbers
def maximum(x, y):
    return where((x >= y) | (x != x), x, y)


@_numbers
def minimum(x, y):
    return where((x <= y) | (x != x), x, y)


@_numbers
def sign(x):
    return (x > 0) - (x < 0)


@_numbers
def lerp(x, y, weight):
    """Each half of the way is measured from its own end, as torch does."""
    return where(weight < 0.5, x + weight * (y - x), y - (y - x) * (1 - weight))


@_numbers
def softplus(x):
    return maximum(x, 0) + log1p_unit(exp_negative(-absolute(x)))


def offered(function: Callable[..., Number], conditions: int = 0) -> Any:
    """A function of numbers for code that Numba compiles, after so many conditions: in the widest type it is given."""

    def made(typing, *given):
        floats = [one for one in given[conditions:] if isinstance(one, types.Float)]
        kind = max(floats, key=lambda one: one.bitwidth, default=types.float64)

        def generate(context, builder, signature, values):
            return function(*(Number(builder, value) for value in values)).value

        return kind(*[types.boolean] * conditions, *[kind] * (len(given) - conditions)), generate

    return _intrinsic(made, function)


def traced(function: Callable[..., Any]) -> Any:
    """A function in the dialect, of numbers of one type or None, for code that Numba compiles."""
    function = FunctionType(function.__code__, globals(), function.__name__)

    def made(typing, *given):
        kind = next(one for one in given if isinstance(one, types.Float))

        def called(builder, values):
            answer = function(*(None if t is types.none else Number(builder, v) for t, v in zip(given, values)))
            like = Number(builder, values[given.index(kind)])
            if isinstance(answer, tuple):
                return tuple(None if one is None else like.constant(one).value for one in answer)
            return like.constant(answer).value

        def generate(context, builder, signature, values):
            answer = called(builder, values)
            if not isinstance(answer, tuple):
                return answer
            parts = [context.get_dummy_value() if one is None else one for one in answer]
            return context.make_tuple(builder, signature.return_type, parts)

        # what it answers is known once it has been called
        answer = called(*_draft([_FLOATS.get(one, _FLOATS[kind]) for one in given]))
        if not isinstance(answer, tuple):
            return kind(*given), generate
        return types.Tuple([types.none if one is None else kind for one in answer])(*given), generate

    return _intrinsic(made, function)


_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def _draft(kinds: Sequence[ir.Type]) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
    """What writes a function that nobody needs, and its arguments."""
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), kinds), "draft")
    return ir.IRBuilder(function.append_basic_block()), function.args


def _intrinsic(made: Callable[..., Any], function: Callable[..., Any]) -> Any:
    """`made` with the names of a function's arguments, which Numba asks for."""
    named = inspect.signature(function).parameters.values()
    first = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    made.__signature__ = inspect.Signature([first, *named])  # type: ignore[attr-defined]
    made.__name__ = function.__name__
    return intrinsic(made)
