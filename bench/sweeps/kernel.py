"""The compiled sweep: for all steps of a block of runs, gradient of the function, coefficients, rule.

The runs of a block lie beside each other, row by row: one row for each hyper-parameter, coordinate and state, one lane
for each run, all rows in one buffer that stays in the cache. Every loop over lanes becomes vector instructions. It needs
all distances between rows to be literals: then the compiler sees that no row overlaps another.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType

from bench.problems.function import Function
from bench.sweeps import gradient, powers
from bench.sweeps.trace import trace
from optimizers.algorithm import Algorithm
from optimizers.executors import generate, numba_math
from optimizers.executors.sources import IMPORTS, definition

#: what the words of a job hold
JOB = (
    "next next_buffer blocks buffers buffer_bytes inputs outputs distinct first_of power_of records steps every runs"
).split()

#: rows of float64 that come out of a sweep, beside the coordinates
JUDGED = ("value", "best", "bad_step", "bad_value")

MATHS = Path(numba_math.__file__).read_text(encoding="utf-8")


class Layout:
    """Where the rows of a block are; `lanes` runs lie beside each other."""

    def __init__(self, algorithm: Algorithm, present: tuple[bool, ...], function: Function, real: str) -> None:
        self.algorithm, self.real, self.dimension = algorithm, real, function.dimension
        self.slots = [name for name, there in zip(algorithm.slots, present, strict=True) if there]
        self.written_out = function.dimension <= gradient.WRITTEN_OUT
        self.lanes = 128 if self.written_out else 64
        self.split = powers.split(algorithm)
        self.inits = {
            **{name: init for name, init in algorithm.scalars.items()},
            **{name: algorithm.slots[name].init for name in self.slots},
        }
        extra = [init for init in self.inits.values() if isinstance(init, str) and init not in algorithm.hyper]
        #: what each run brings: hyper-parameters, the limits of its value, and where it starts
        self.columns = [*algorithm.hyper, "direction", *dict.fromkeys(extra), "highest", "lowest"]
        self.at: dict[str, int] = {}
        self.words = 0
        for name in [*self.columns, *algorithm.scalars, *(f"power_{k}" for k in range(self.split.count))]:
            self.add(name, 1)
        if not self.written_out:
            for name in algorithm.outputs:
                self.add(f"c_{name}", 1)
        for name in ("x", *(f"s_{name}" for name in self.slots)):
            self.add(name, self.dimension)
        for name in JUDGED:
            self.add(name, 1)

    def add(self, name: str, rows: int) -> None:
        self.at[name] = self.words
        self.words += rows

    def double(self, name: str, lane: str = "l") -> str:
        """A float64 of one lane."""
        return f"get_float64(b, {self.at[name] * self.lanes} + {lane})"

    def put_double(self, name: str, value: str, lane: str = "l") -> str:
        return f"set_float64(b, {self.at[name] * self.lanes} + {lane}, {value})"

    def _place(self, name: str, index: str) -> str:
        # rows of float32 are as far apart as rows of float64: half of each stays empty
        step = self.lanes * (1 if self.real == "float64" else 2)
        if index.isdigit():
            return f"{self.at[name] * step + int(index) * step} + l"
        return f"{self.at[name] * step} + {index} * {step} + l"

    def get(self, name: str, index: str) -> str:
        """A number of the sweep's own type: coordinate or state `index`."""
        return f"get_{self.real}(b, {self._place(name, index)})"

    def put(self, name: str, index: str, value: str) -> str:
        return f"set_{self.real}(b, {self._place(name, index)}, {value})"


def source(layout: Layout, function: Function, judged: bool) -> str:
    """The module of one algorithm on one function."""
    algorithm, real, lanes = layout.algorithm, layout.real, layout.lanes
    traced = trace(function)
    parts = [
        IMPORTS,
        "from numba import types",
        "import numpy as np",
        "from optimizers.executors.numba_dialect import stored_float32",
        "from optimizers.executors.numba_math import cos, exp, log, sin",
        f"LANES = {lanes}",
        *(f"{name.upper()} = np.array({list(values)}, np.{real})" for name, values in traced.tables.items()),
        "@njit(error_model='numpy')",
        layout.split.powers,
        "@njit(error_model='numpy')",
        layout.split.coefficients,
        "@njit(**OPTIONS)",
        definition(algorithm.rule, "rule"),
    ]
    evaluate, step = (_written_out if layout.written_out else _looped)(layout, traced, parts, judged)
    parts += [
        _def("evaluate", "b", evaluate),
        _def("step", "b, first", step),
        _def("judge", "b, t", _judge(layout)),
        _def("begin", "b, job, block", _begin(layout)),
        _def("share_powers", "b, job, block", _share_powers(layout)),
        _def("record", "b, job, block, t", _record(layout)),
        _def("finish", "b, job, block", _finish(layout)),
        _def("work", "job", _work(judged)),
        "@cfunc('void(intp)', cache=True, **OPTIONS)\ndef openmp_body(job):\n    work(job)\n",
    ]
    return "\n".join(parts)


def _def(name: str, arguments: str, lines: list[str]) -> str:
    return "\n".join(["@njit(**OPTIONS)", f"def {name}({arguments}):", *(f"    {line}" for line in lines), ""])


def _lanes(lines: list[str]) -> list[str]:
    return ["for l in range(LANES):", *(f"    {line}" for line in lines)]


def _coefficients(layout: Layout) -> list[str]:
    """Advances the scalar state of a lane and assigns its coefficients, rounded as the kernels round them."""
    algorithm = layout.algorithm
    values = {"first": "first", "stored": "stored_float32"}
    arguments = [values.get(name) or layout.double(name) for name in algorithm.inputs]
    arguments += [layout.double(f"power_{k}") for k in range(layout.split.count)]
    scalars = len(algorithm.scalars)
    return [
        f"answer = coefficients({', '.join(arguments)})",
        *(layout.put_double(n, f"stored_float32(answer[{i}])") for i, n in enumerate(algorithm.scalars)),
        *(f"c_{n} = {layout.real}(answer[{scalars + i}])" for i, n in enumerate(algorithm.outputs)),
    ]


def _rule(layout: Layout, index: str, gradient_text: str) -> list[str]:
    """The rule for coordinate `index` of a lane."""
    slots = list(layout.algorithm.slots)
    old = [layout.get(f"s_{n}", index) if n in layout.slots else "None" for n in slots]
    arguments = [layout.get("x", index), gradient_text, *old, *(f"c_{n}" for n in layout.algorithm.outputs)]
    return [
        f"{', '.join(f'{n}_new' for n in ['p', *slots])}, = rule({', '.join(arguments)})",
        layout.put("x", index, f"{layout.real}(p_new)"),
        *(layout.put(f"s_{n}", index, f"{layout.real}({n}_new)") for n in layout.slots),
    ]


def _written_out(layout: Layout, traced, parts: list[str], judged: bool) -> tuple[list[str], list[str]]:
    """Evaluation and step where all is written out: one loop over lanes does everything."""
    n = layout.dimension
    names = ", ".join(f"x_{k}" for k in range(n))
    body = "\n".join(f"    {line}" for line in gradient.written_out(traced, layout.real))
    parts.append(f"@njit(**OPTIONS)\ndef objective({names}):\n{body}\n")
    answer = ", ".join(["value", *(f"g_{k}" for k in range(n))])
    here = [f"{answer} = objective({', '.join(layout.get('x', str(k)) for k in range(n))})"]
    step = [*here, *_coefficients(layout)]
    if judged:
        step.append(layout.put_double("value", "value"))
    for k in range(n):
        step += _rule(layout, str(k), f"g_{k}")
    return _lanes([*here, layout.put_double("value", "value")]), _lanes(step)


def _looped(layout: Layout, traced, parts: list[str], judged: bool) -> tuple[list[str], list[str]]:
    """The same with a loop over the coordinates."""
    loops = gradient.Loops(traced, layout.real, layout.get, lambda *args: _stored(layout, *args))
    layout.add("g", layout.dimension)
    for name, rows in loops.rows.items():
        layout.add(name, rows)
    evaluate = loops.source()
    coefficients = _coefficients(layout)
    kept = [_stored(layout, f"c_{name}", "0", f"c_{name}") for name in layout.algorithm.outputs]
    loads = [f"c_{name} = {layout.get(f'c_{name}', '0')}" for name in layout.algorithm.outputs]
    rule = _lanes([*loads, *_rule(layout, "i", layout.get("g", "i"))])
    step = ["evaluate(b)", *_lanes([*coefficients, *kept])]
    return evaluate, [*step, f"for i in range({layout.dimension}):", *(f"    {line}" for line in rule)]


def _stored(layout: Layout, name: str, index: str, value: str) -> str:
    """A statement that keeps a number in its row; values are float64 everywhere."""
    return layout.put_double("value", f"float64({value})") if name == "value" else layout.put(name, index, value)


def _judge(layout: Layout) -> list[str]:
    """Whether the value is out of bounds, which it stays, and the best value before that."""
    value, best, bad = (layout.double(name) for name in ("value", "best", "bad_step"))
    return _lanes(
        [
            f"value, best, bad = {value}, {best}, {bad}",
            f"out = not ((value <= {layout.double('highest')}) & (value >= {layout.double('lowest')}))",
            "fresh = out & (bad < 0.0)",
            layout.put_double("bad_value", f"value if fresh else {layout.double('bad_value')}"),
            "bad = t if fresh else bad",
            layout.put_double("bad_step", "bad"),
            layout.put_double("best", "value if (bad < 0.0) & (value < best) else best"),
        ]
    )


def _begin(layout: Layout) -> list[str]:
    """Fills the rows of a block from what its runs bring."""
    columns = len(layout.columns)
    lines = [
        "inputs = word(job, INPUTS)",
        "runs = word(job, RUNS)",
        "here = block * LANES",
    ]
    body = [
        layout.put_double(name, f"get_float64(inputs, {i} * runs + here + l)") for i, name in enumerate(layout.columns)
    ]
    body += [
        layout.put("x", str(k), f"{layout.real}(get_float64(inputs, {columns + k} * runs + here + l))")
        for k in range(layout.dimension)
    ]
    for name in layout.algorithm.scalars:
        init = layout.inits[name]
        text = layout.double(init) if isinstance(init, str) else f"float64({init})"
        body.append(layout.put_double(name, f"stored_float32({text})"))
    for name in layout.slots:
        init = layout.inits[name]
        text = layout.double(init) if isinstance(init, str) else f"float64({init})"
        body += [layout.put(f"s_{name}", str(k), f"{layout.real}({text})") for k in range(layout.dimension)]
    body += [layout.put_double("best", "np.inf"), layout.put_double("bad_step", "-1.0")]
    body += [layout.put_double("bad_value", "0.0")]
    return [*lines, *_lanes(body)]


def _share_powers(layout: Layout) -> list[str]:
    """Computes each distinct power of a block once, and hands it to the lanes."""
    if not layout.split.count:
        return ["pass"]
    algorithm = layout.algorithm
    at_first = {"first": "0.0", "stored": "stored_float32"}
    arguments = [at_first.get(name) or layout.double(name, "k") for name in algorithm.inputs]
    lines = [
        "many = word(word(job, DISTINCT), block)",
        "here = block * LANES",
        "for j in range(many):",
        "    k = word(word(job, FIRST_OF), here + j)",
        f"    answer = powers({', '.join(arguments)})",
        "    stop = word(word(job, FIRST_OF), here + j + 1) if j + 1 < many else LANES",
    ]
    for k in range(layout.split.count):
        lines += [f"    power = answer[{k}]", "    for l in range(k, stop):"]
        lines.append(f"        {layout.put_double(f'power_{k}', 'power')}")
    return lines


def _record(layout: Layout) -> list[str]:
    """Copies values and coordinates to the records of step t."""
    rows = layout.dimension + 1
    lines = [
        "runs = word(job, RUNS)",
        f"at = (t // word(job, EVERY)) * {rows} * runs + block * LANES",
        "records = word(job, RECORDS)",
    ]
    copies = [f"set_float64(records, at + l, {layout.double('value')})"]
    copies += [
        f"set_float64(records, at + {k + 1} * runs + l, float64({layout.get('x', str(k))}))"
        for k in range(layout.dimension)
    ]
    return [*lines, *_lanes(copies)]


def _finish(layout: Layout) -> list[str]:
    lines = ["runs = word(job, RUNS)", "here = block * LANES", "outputs = word(job, OUTPUTS)"]
    copies = [f"set_float64(outputs, {i} * runs + here + l, {layout.double(n)})" for i, n in enumerate(JUDGED)]
    copies += [
        f"set_float64(outputs, {len(JUDGED) + k} * runs + here + l, float64({layout.get('x', str(k))}))"
        for k in range(layout.dimension)
    ]
    return [*lines, *_lanes(copies)]


def _work(judged: bool) -> list[str]:
    """What one thread does: blocks, as they come, from start to end."""
    judge = ["        judge(b, float64(t))"] if judged else []
    return [
        "b = word(job, BUFFERS) + fetch_add(job + 8 * NEXT_BUFFER, 1) * word(job, BUFFER_BYTES)",
        "every = word(job, EVERY)",
        "steps = word(job, STEPS)",
        "while True:",
        "    block = fetch_add(job + 8 * NEXT, 1)",
        "    if block >= word(job, BLOCKS):",
        "        return",
        "    begin(b, job, block)",
        "    for t in range(steps):",
        "        if every > 0 and t % every == 0:",
        "            evaluate(b)",
        "            record(b, job, block, t)",
        "        share_powers(b, job, block)",
        "        step(b, float64(t == 0))",
        *judge,  # of the value before the step
        "    evaluate(b)",
        *(["    judge(b, float64(steps))"] if judged else []),
        "    if every > 0 and steps % every == 0:",
        "        record(b, job, block, steps)",
        "    finish(b, job, block)",
    ]


@functools.cache
def compiled(
    algorithm: Algorithm, present: tuple[bool, ...], function: Function, real: str, judged: bool
) -> tuple[ModuleType, Layout]:
    """The machine code of one algorithm on one function, kept between processes."""
    layout = Layout(algorithm, present, function, real)
    text = source(layout, function, judged)
    text = "\n".join([*(f"{name.upper()} = {i}" for i, name in enumerate(JOB)), text])
    return generate.load(text, "sweep", MATHS, *generate.numba_ingredients()), layout
