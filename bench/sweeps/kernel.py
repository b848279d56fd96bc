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
from bench.sweeps import disturb, gradient, layout, powers
from bench.sweeps.layout import COMMON, HEAD, LANES, PITCH, STRIDE, double, over_lanes, put_double
from bench.sweeps.trace import trace
from optimizers.algorithm import Algorithm
from optimizers.executors import generate, numba_math
from optimizers.executors.sources import IMPORTS, definition

#: what the words of a job hold
JOB = (
    "next next_buffer blocks buffers buffer_bytes dimension columns inputs outputs distinct first_of "
    "records steps every judged runs evaluate turned matrix kept_row begin powers coefficients rule "
    "targets hits target_count "
    "own_rows numbers move back disturb"  # of the disturbance; the addresses of what it does not have are 0
).split()

#: a call that is not inlined keeps the loop around it from becoming vector instructions
INLINE = "njit(**INNER, forceinline=True)"

BEGINNING = f"""{IMPORTS}
from math import atan2
import numpy as np
from numba import types
from optimizers.executors.numba_dialect import INNER, stored_float32
from optimizers.executors.numba_math import cos, exp, log, sin

LANES = {LANES}
"""

LOOP = """
{WORDS}
call = caller(types.void, types.intp)
call_turned = caller(types.void, types.intp, types.intp, types.intp, types.intp, types.intp)
call_begin = caller(types.void, types.intp, types.intp)
call_coefficients = caller(types.void, types.intp, types.float64)
call_rule = caller(types.void, types.intp, types.intp)
call_powers = caller(types.void, types.intp, types.intp, types.intp)
call_disturbance = caller(types.void, types.intp, types.intp, types.intp, types.intp, types.intp)


@njit(**OPTIONS)
def evaluate(b, job):
    turned = word(job, TURNED)
    if turned == 0:
        call(word(job, EVALUATE), (b,))
    else:
        rotation = (word(job, MATRIX), word(job, KEPT_ROW), word(job, DIMENSION))
        call_turned(turned, (b, word(job, EVALUATE), *rotation))


@njit(**OPTIONS)
def judge(b, t):
    for l in range(LANES):
        value = get_float64(b, {value} + l)
        bad = get_float64(b, {bad_step} + l)
        out = not ((value <= get_float64(b, {highest} + l)) & (value >= get_float64(b, {lowest} + l)))
        fresh = out & (bad < 0.0)
        set_float64(b, {bad_value} + l, value if fresh else get_float64(b, {bad_value} + l))
        bad = t if fresh else bad
        set_float64(b, {bad_step} + l, bad)
        best = get_float64(b, {best} + l)
        set_float64(b, {best} + l, value if (bad < 0.0) & (value < best) else best)


@njit(**OPTIONS)
def aim(b, job, here, l, k):
    there = k < word(job, TARGET_COUNT)
    set_float64(b, {met} + l, float64(k))
    set_float64(b, {target} + l, get_float64(word(job, TARGETS), k * word(job, RUNS) + here + l) if there else -np.inf)


@njit(**OPTIONS)
def meet(b, job, here, t):
    crossed = 0
    for l in range(LANES):
        crossed += get_float64(b, {value} + l) <= get_float64(b, {target} + l)
    if crossed == 0:
        return
    for l in range(LANES):
        k = int(get_float64(b, {met} + l))
        while k < word(job, TARGET_COUNT) and get_float64(b, {value} + l) <= get_float64(b, {target} + l):
            set_float64(word(job, HITS), k * word(job, RUNS) + here + l, t)
            k += 1
            aim(b, job, here, l, k)


@njit(**OPTIONS)
def look(b, job, here, t):
    if word(job, JUDGED):
        judge(b, t)
    if word(job, TARGET_COUNT) > 0:
        meet(b, job, here, t)


@njit(**OPTIONS)
def begin(b, job, here):
    inputs, runs, columns = word(job, INPUTS), word(job, RUNS), word(job, COLUMNS)
    for c in range(columns):
        for l in range(LANES):
            set_float64(b, ({common} + c) * {PITCH} + l, get_float64(inputs, c * runs + here + l))
    for l in range(LANES):
        set_float64(b, {highest} + l, get_float64(inputs, columns * runs + here + l))
        set_float64(b, {lowest} + l, get_float64(inputs, (columns + 1) * runs + here + l))
        set_float64(b, {seed} + l, get_float64(inputs, (columns + 2) * runs + here + l))
        set_float64(b, {best} + l, np.inf)
        set_float64(b, {bad_step} + l, -1.0)
        set_float64(b, {bad_value} + l, 0.0)
        aim(b, job, here, l, 0)
    for i in range(word(job, DIMENSION)):
        for l in range(LANES):
            start = get_float64(inputs, (columns + 3 + i) * runs + here + l)
            set_{REAL}(b, {X} + l, {REAL}(start))
    call_begin(word(job, BEGIN), (b, word(job, DIMENSION)))


@njit(**OPTIONS)
def copy(b, job, to, here, rows):
    runs = word(job, RUNS)
    for r in range(rows):
        for l in range(LANES):
            set_float64(to, r * runs + here + l, get_float64(b, r * {PITCH} + l))
    for i in range(word(job, DIMENSION)):
        for l in range(LANES):
            set_float64(to, (rows + i) * runs + here + l, float64(get_{REAL}(b, {X} + l)))


@njit(**OPTIONS)
def disturbed(b, job, t, which):
    stage = word(job, which)
    if stage != 0:
        own = b + word(job, OWN_ROWS) * {ROW}
        call_disturbance(stage, (b, own, t, word(job, DIMENSION), word(job, NUMBERS)))


@njit(**OPTIONS)
def observe(b, job, t):
    disturbed(b, job, t, MOVE)
    evaluate(b, job)
    disturbed(b, job, t, BACK)


@njit(**OPTIONS)
def record(b, job, here, t):
    row_bytes = 8 * word(job, RUNS)
    at = word(job, RECORDS) + t // word(job, EVERY) * (word(job, DIMENSION) + 1) * row_bytes
    observe(b, job, t)
    copy(b, job, at, here, 1)


@njit(**OPTIONS)
def work(job):
    b = word(job, BUFFERS) + fetch_add(job + 8 * NEXT_BUFFER, 1) * word(job, BUFFER_BYTES)
    steps, every = word(job, STEPS), word(job, EVERY)
    while True:
        block = fetch_add(job + 8 * NEXT, 1)
        if block >= word(job, BLOCKS):
            return
        here = block * LANES
        begin(b, job, here)
        for t in range(steps):
            if every > 0 and t % every == 0:
                record(b, job, here, t)
            observe(b, job, t)
            look(b, job, here, float64(t))
            disturbed(b, job, t, DISTURB)
            call_powers(word(job, POWERS), (b, word(word(job, DISTINCT), block), word(job, FIRST_OF) + 8 * here))
            call_coefficients(word(job, COEFFICIENTS), (b, float64(t == 0)))
            for i in range(word(job, DIMENSION)):
                call_rule(word(job, RULE), (b, b + i * {COORDINATE}))
        observe(b, job, steps)
        look(b, job, here, float64(steps))
        if every > 0 and steps % every == 0:
            record(b, job, here, steps)
        copy(b, job, word(job, OUTPUTS), here, 4)


@cfunc("void(intp)", cache=True, **OPTIONS)
def body(job):
    work(job)
"""


def loop_source(real: str) -> str:
    """The loop over blocks and steps, for coordinates of one type."""
    size = PITCH * (1 if real == "float64" else 2)
    names = {name: str(row * PITCH) for row, name in enumerate(COMMON)}
    names |= {
        "REAL": real,
        "X": f"{HEAD * size} + i * {STRIDE * size}",
        "common": str(len(COMMON)),
        "PITCH": str(PITCH),
        "ROW": str(8 * PITCH),
        "COORDINATE": str(8 * STRIDE * PITCH),
    }
    names["WORDS"] = "\n".join(f"{name.upper()} = {i}" for i, name in enumerate(JOB))
    text = LOOP
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return BEGINNING + text


class Step:
    """An optimizer's coefficients and rule, with the rows they take, for the states in `present`."""

    def __init__(self, algorithm: Algorithm, present: tuple[bool, ...], real: str) -> None:
        self.algorithm, self.real = algorithm, real
        self.slots = [name for name, there in zip(algorithm.slots, present, strict=True) if there]
        self.split = powers.split(algorithm)
        self.scalars = dict(algorithm.scalars)
        inits = [*self.scalars.values(), *(algorithm.slots[name].init for name in self.slots)]
        names = dict.fromkeys([*algorithm.hyper, "direction", *(init for init in inits if isinstance(init, str))])
        #: what each run brings
        self.columns = list(names)
        rows = [*self.columns, *self.scalars, *(f"power_{k}" for k in range(self.split.count))]
        rows += [f"c_{name}" for name in algorithm.outputs]
        self.row = {name: len(COMMON) + i for i, name in enumerate(rows)}
        if len(COMMON) + len(rows) > HEAD or 2 + len(self.slots) > STRIDE:
            raise TypeError(f"a sweep has no place for {len(rows)} numbers and {len(self.slots)} states")

    def source(self) -> str:
        """The module with ``begin(b)``, ``powers_of(b, distinct, first_of)``,
        ``coefficients_of(b, first)`` and, for the coordinate whose rows begin at `at`, ``rule_of(b, at)``.
        """
        parts = [BEGINNING]
        for text in (self.split.powers, self.split.coefficients):
            parts += ["@njit(**{**INNER, 'fastmath': False}, forceinline=True)", text]
        parts += [f"@{INLINE}", definition(self.algorithm.rule, "rule")]
        compiled = "cfunc('void({})', cache=True, **OPTIONS)".format
        parts += [
            layout.function("begin", "b, dimension", self._begin(), compiled("intp, intp")),
            layout.function("powers_of", "b, distinct, first_of", self._powers(), compiled("intp, intp, intp")),
            layout.function("coefficients_of", "b, first", self._coefficients(), compiled("intp, float64")),
            layout.function("rule_of", "b, at", self._rule(), compiled("intp, intp")),
        ]
        return "\n".join(parts)

    def _init(self, init: float | str) -> str:
        return double(self.row[init]) if isinstance(init, str) else f"float64({init})"

    def _begin(self) -> list[str]:
        scalars = [put_double(self.row[n], f"stored_float32({self._init(i)})") for n, i in self.scalars.items()]
        states = [
            layout.put(
                self.real, HEAD + 2 + k, f"{self.real}({self._init(self.algorithm.slots[name].init)})", "i", STRIDE
            )
            for k, name in enumerate(self.slots)
        ]
        lines = over_lanes(scalars)
        return [*lines, "for i in range(dimension):", *layout.indented(over_lanes(states) or ["pass"])]

    def _arguments(self, lane: str, first: str) -> list[str]:
        supplied = {"first": first, "stored": "stored_float32"}
        return [supplied.get(name) or double(self.row[name], lane) for name in self.algorithm.inputs]

    def _powers(self) -> list[str]:
        """Each distinct setting's powers are computed once and handed to the lanes up to the next setting."""
        if not self.split.count:
            return ["pass"]
        lines = [
            "for j in range(distinct):",
            "    k = word(first_of, j)",
            "    stop = word(first_of, j + 1) if j + 1 < distinct else LANES",
            f"    answer = powers({', '.join(self._arguments('k', '0.0'))})",
        ]
        for k in range(self.split.count):
            lines += [f"    power = answer[{k}]", "    for l in range(k, stop):"]
            lines.append(f"        {put_double(self.row[f'power_{k}'], 'power')}")
        return lines

    def _coefficients(self) -> list[str]:
        """Advances the scalar state, and keeps the coefficients, rounded as the kernels of the library round them."""
        arguments = self._arguments("l", "first")
        arguments += [double(self.row[f"power_{k}"]) for k in range(self.split.count)]
        rounded = [put_double(self.row[n], f"stored_float32(answer[{i}])") for i, n in enumerate(self.scalars)]
        kept = {
            name: layout.put(self.real, self.row[f"c_{name}"], f"{self.real}(answer[{len(self.scalars) + i}])")
            for i, name in enumerate(self.algorithm.outputs)
        }
        call = f"answer = coefficients({', '.join(arguments)})"
        once = over_lanes([call, *(kept[name] for name in kept if name in self.split.constant)])
        always = [*rounded, *(kept[name] for name in kept if name not in self.split.constant)]
        lines = ["if first != 0.0:", *layout.indented(once)] if self.split.constant else []
        return [*lines, *(over_lanes([call, *always]) if always else [])] or ["pass"]

    def _rule(self) -> list[str]:
        """One coordinate. A loop over all of them around this one would keep it from becoming vector instructions:

        the compiler asks once, ahead of such a loop, whether any row of one kind lies among those of another.
        """
        slots = list(self.algorithm.slots)
        place = {name: HEAD + 2 + k for k, name in enumerate(self.slots)} | {"p": HEAD, "g": HEAD + 1}
        values = [layout.get(self.real, place[n], base="at") if n in place else "None" for n in ["p", "g", *slots]]
        values += [layout.get(self.real, self.row[f"c_{name}"]) for name in self.algorithm.outputs]
        return over_lanes(
            [
                f"{', '.join(f'{n}_new' for n in ['p', *slots])}, = rule({', '.join(values)})",
                *(layout.put(self.real, place[n], f"{self.real}({n}_new)", base="at") for n in ["p", *self.slots]),
            ]
        )


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
        parts.append(layout.function("objective", names, gradient.written_out(traced, real), INLINE))
        places = ", ".join(layout.x(real, str(k)) for k in range(dimension))
        lines = over_lanes(
            [
                f"value, {', '.join(f'g_{k}' for k in range(dimension))} = objective({places})",
                put_double(value, "float64(value)"),
                *(layout.put(real, HEAD + 1, f"g_{k}", str(k), STRIDE) for k in range(dimension)),
            ]
        )
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
def step(algorithm: Algorithm, present: tuple[bool, ...], real: str) -> tuple[Any, Step]:
    """An optimizer's compiled step."""
    made = Step(algorithm, present, real)
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
    return load(disturb.source(kind, real, BEGINNING), "sweep_disturbance")
