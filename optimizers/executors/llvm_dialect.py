"""The dialect of rules for `llvm_numbers`: a function in it is compiled by being called, and Numba need not read it.

What is no `Number` is worked as `optimizers.dialect` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import dialect
from . import llvm_numbers, numba_math
from .llvm_numbers import Cell, Exact, Number, where

#: whether vectors of 512 bits cost no clock rate: they do in those that have AVX-512 but not this, which came later
WIDE = llvmlite.binding.get_host_cpu_features().get("avx512vbmi2", False)


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

    return _intrinsic(made, function.__name__, inspect.signature(function).parameters)


def stored_float32(x: Any) -> Any:
    """As float64, after it was kept in float32."""
    return x.single().double() if isinstance(x, Number) else float(np.float32(x))


def stored_float64(x: Any) -> Any:
    return x


def float32(x: Any) -> Any:
    return x.single() if isinstance(x, Number) else x


def float64(x: Any) -> Any:
    return x.double() if isinstance(x, Number) else x


def _memory(cell: Cell) -> tuple[Callable[..., Number], Callable[..., None]]:
    """Load and store, as in `raw`."""

    def load(at, index):
        return type(at)(at.builder, cell.load(at.builder, at.value, at.constant(index).value))

    def store(at, index, x):
        value = x.number.value if isinstance(x, Number) else ir.Constant(cell.number, x)
        cell.store(at.builder, at.value, at.constant(index).value, value)

    return load, store


get_float32, set_float32 = _memory(llvm_numbers.FLOAT32)
get_float64, set_float64 = _memory(llvm_numbers.FLOAT64)
get_float16, set_float16 = _memory(llvm_numbers.FLOAT16)
get_bfloat16, set_bfloat16 = _memory(llvm_numbers.BFLOAT16)


@intrinsic
def wide_vectors(typing):
    """The function that calls this computes in the widest vectors there are.

    LLVM halves them by itself where they once cost processors their clock rate. A function keeps this only where it is
    not inlined into another.
    """

    def generate(context, builder, signature, values):
        if WIDE:
            builder.function.attributes.add("noinline")
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # `add` knows no attributes with values
        return context.get_dummy_value()

    return types.none(), generate


def loop(count: Number, body: Callable[[Number], None]) -> None:
    """Does something with each of the whole numbers below a count."""
    with cgutils.for_range(count.builder, count.value) as each:
        body(type(count)(count.builder, each.index))


def traced(function: Callable[..., Any], number: type[Number] = Number, **known: Any) -> Any:
    """A function in the dialect, of floats of one type, addresses and None, for code that Numba compiles.

    known: arguments that are given here.
    """
    function = FunctionType(function.__code__, globals(), function.__name__)
    names = [name for name in inspect.signature(function).parameters if name not in known]

    def made(typing, *given):
        constant = next((one for one in given if isinstance(one, types.Float)), types.float64)

        def called(builder, values):
            """What it answers, and of which types."""
            numbers = [None if t is types.none else number(builder, v) for t, v in zip(given, values, strict=True)]
            answer = function(**dict(zip(names, numbers, strict=True)), **known)
            parts = [_typed(one, constant) for one in (answer if isinstance(answer, tuple) else [answer])]
            kinds, values = zip(*parts, strict=True)
            return isinstance(answer, tuple), kinds, values

        def generate(context, builder, signature, values):
            several, _, values = called(builder, values)
            parts = [context.get_dummy_value() if one is None else one for one in values]
            return context.make_tuple(builder, signature.return_type, parts) if several else parts[0]

        # what it answers is known once it has been called
        several, kinds, _ = called(*_draft(given))
        return (types.Tuple(kinds) if several else kinds[0])(*given), generate

    return _intrinsic(made, function.__name__, names)


def exact(**known: Any) -> Callable[[Callable[..., Any]], Any]:
    """`traced`, but without a product and a sum in one rounding, in what is compiled without fastmath."""
    return lambda function: traced(function, Exact, **known)


_KINDS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: ir.IntType(1)}


def _typed(answer: Any, constant: types.Type) -> tuple[types.Type, ir.Value | None]:
    """What Numba calls the type of an answer, which a constant has not, and its value."""
    if answer is None:
        return types.none, None
    if not isinstance(answer, Number):
        return constant, ir.Constant(_KINDS[constant], answer)
    return types.float32 if answer.type == ir.FloatType() else types.float64, answer.number.value


def _draft(given: Sequence[types.Type]) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
    """What writes a function that nobody needs, and its arguments."""
    kinds = [_KINDS.get(one, ir.IntType(64)) for one in given]
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), kinds), "draft")
    return ir.IRBuilder(function.append_basic_block()), function.args


def _intrinsic(made: Callable[..., Any], name: str, arguments: Iterable[str]) -> Any:
    """`made` with a name, and names of arguments, which Numba asks for."""
    parameters = [inspect.Parameter(one, inspect.Parameter.POSITIONAL_OR_KEYWORD) for one in ("typing", *arguments)]
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    made.__name__ = name
    return intrinsic(made)
