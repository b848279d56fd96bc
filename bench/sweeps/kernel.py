"""The pieces of a compiled sweep: a function's gradient, what disturbs it, an optimizer's step, and the loop.

Each is compiled once and kept between processes: so many functions, disturbances and optimizers, not their product.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from sympy.core.parameters import distribute

from bench.problems.disturbance import Disturbance
from bench.problems.function import Function
from bench.sweeps import disturb, gradient, layout
from bench.sweeps.layout import BEGINNING, HEAD, INLINE, STRIDE, over_lanes
from bench.sweeps.loop import loop_source
from bench.sweeps.step import Step
from bench.sweeps.trace import trace
from optimizers.algorithm import Algorithm
from optimizers.executors import generate, numba_math


def gradient_source(function: Function, real: str) -> tuple[str, int]:
    """The module with ``evaluate(b)``, which writes a block's values and gradients; and how many rows it takes."""
    with distribute(False):  # 2π (x - s) stays that: 2π x - 2π s would lose digits
        return _gradient_source(function, real)


def _gradient_source(function: Function, real: str) -> tuple[str, int]:
    traced, dimension = trace(function), function.dimension
    tables = (f"{name.upper()} = np.array({list(values)}, np.{real})" for name, values in traced.tables.items())
    parts = [BEGINNING, *tables]
    rows = HEAD + STRIDE * dimension
    value = layout.common("value")
    if gradient.can_be_written_out(traced):
        names = ", ".join(f"x_{k}" for k in range(dimension))
        written = gradient.written_out(traced, real)
        parts.append(layout.function("objective", names, written, INLINE))
        places = ", ".join(layout.x(real, str(k)) for k in range(dimension))
        over = over_lanes(
            [
                f"value, {', '.join(f'g_{k}' for k in range(dimension))} = objective({places})",
                layout.put(real, value, "value"),
                *(layout.put(real, HEAD + 1, f"g_{k}", str(k), STRIDE) for k in range(dimension)),
            ]
        )
        lines = [*layout.wide(written), *over]
    else:
        loops = gradient.Loops(traced, real, rows)
        lines, rows = loops.source(), loops.end
        parts += ["call_part = caller(types.void, types.intp, types.intp)", *loops.parts]
    parts.append(layout.function("evaluate", "b", lines, "cfunc('void(intp)', cache=True, **OPTIONS)"))
    return "\n".join(parts), rows


def load(text: str, kind: str) -> Any:
    """The compiled module of a source that takes its mathematics from the optimizers' kernels."""
    maths = Path(numba_math.__file__).read_text(encoding="utf-8")
    return generate.load(text, kind, maths, *generate.numba_ingredients())


@functools.cache
def loop(real: str) -> Any:
    """The compiled loop."""
    return load(loop_source(real), "sweep_loop")


@functools.cache
def step(algorithm: Algorithm, present: tuple[bool, ...], real: str, varying: frozenset[str]) -> tuple[Any, Step]:
    """An optimizer's compiled step."""
    made = Step(algorithm, present, real, varying)
    return load(made.source(), "sweep_step"), made


def parts(compiled: Any) -> np.ndarray:
    """The addresses that ``evaluate`` finds in the row of parts; as float64, of which a buffer is made."""
    names = itertools.takewhile(lambda name: hasattr(compiled, name), (f"part_{k}" for k in itertools.count()))
    return np.array([getattr(compiled, name).address for name in names], np.int64).view(np.float64)


@functools.cache
def evaluation(function: Function, real: str) -> tuple[Any, int]:
    """A function's compiled value and gradient without rotation and disturbance, and how many rows a block takes."""
    text, rows = gradient_source(function, real)
    return load(text, "sweep_gradient"), rows


@functools.cache
def disturbance(kind: type[Disturbance], real: str) -> Any:
    """What a kind of disturbance does, compiled."""
    return load(disturb.source(kind, real, layout.BEGINNING), "sweep_disturbance")
