"""Source text of a sweep for Triton: one kernel for a function and an optimizer, with all of a run in registers.

The gradient is the CPU's text, the coefficients and the rule are the optimizer's own. A GPU has no call of code that
is compiled apart, so here it is one kernel for each pair, not one for each of both.
"""

from __future__ import annotations

import ast
import re
import textwrap

import sympy
from sympy.core.parameters import distribute

from bench.problems.function import Function
from bench.sweeps import gradient
from bench.sweeps.step import Step
from bench.sweeps.trace import Trace, parse, trace
from optimizers.algorithm import Algorithm
from optimizers.executors.sources import definition, exact_divisions, exactly_divided

#: coordinates are written out one by one, and have to find place in registers
LARGEST = 20

BEGINNING = """import triton
import triton.language as tl
from optimizers.executors.triton_dialect import *
from bench.sweeps.triton_names import *
"""
#: coordinate, gradient or state of index i + offset, as `Unrolled` writes it first
PLACE = re.compile(r"<(\w+) \(?i(?: \+ (-?\d+)\))?>")


#: what Triton has, and its interpreter too
MATHEMATICS = (sympy.sin, sympy.cos, sympy.exp, sympy.log)


def refusal(function: Function) -> str:
    """Why there is no kernel for a function, or an empty string."""
    for name in ("rotation", "disturbance"):  # what the kernel would leave out
        if getattr(function, name, None) is not None:
            return f"the kernel knows no {name}"
    if function.dimension > LARGEST:
        return f"it has {function.dimension} dimensions, and registers hold {LARGEST}"
    traced = trace(function)
    if strange := {one.kind for one in traced.repeated} - {"sum", "prod"}:
        return f"the kernel knows no {strange.pop()} over coordinates"
    used = set().union(*(e.atoms(sympy.Function) for e in [traced.value, *(one.term for one in traced.repeated)]))
    if strange := {str(one.func) for one in used if one.func not in MATHEMATICS}:
        return f"the kernel knows no {strange.pop()}"
    return ""


class Unrolled(gradient.Loops):
    """A function's gradient with its loops written out: the same operations in the same order."""

    def __init__(self, trace: Trace, real: str) -> None:
        super().__init__(trace, real, 0)

    def get(self, name: str, index: str = "") -> str:
        return name if not index else f"{name}_{index}" if index.isdigit() else f"<{name} {index}>"

    def put(self, name: str, value: str, index: str = "") -> str:
        return f"{self.get(name, index)} = {value}"

    def put_value(self, value: str) -> str:
        return f"value = float64({value})"

    def _load(self, symbol) -> str:
        place = parse(symbol)
        if place is None or place[0] == "x":
            return super()._load(symbol)
        table, offset = place
        return f"<{table} {gradient._index(offset)}>"

    def source(self) -> list[str]:
        """The statements that assign ``value`` and ``g_0``, ``g_1``, … from ``x_0``, ``x_1``, …"""
        return [line for line in super().source() if (sides := line.split(" = ", 1))[0] != sides[1]]

    def over_lanes(self, lines: list[str]) -> list[str]:
        return lines

    def loop(self, rounds: range, lines: list[str]) -> list[str]:
        return [PLACE.sub(lambda found: self._name(found, i), line) for i in rounds for line in lines]  # noqa: B023

    def clear(self, rows: range) -> list[str]:
        return [f"g_{k} = {self.real}(0)" for k in rows]

    def _name(self, found: re.Match, i: int) -> str:
        name, k = found[1], i + int(found[2] or 0)
        values = self.trace.tables.get(name)
        return f"{name}_{k}" if values is None else f"{self.real}({values[k]!r})"


class _Coefficients(ast.NodeTransformer):
    """Triton has no ``**``, wants a comparison as a condition, and knows `stored` as a function of the module."""

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.args = [argument for argument in node.args if argument.arg != "stored"]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name("power", ast.Load()), [node.left, node.right], [])
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "where" and isinstance(node.args[0], ast.Name):
            node.args[0] = ast.Compare(node.args[0], [ast.NotEq()], [ast.Constant(0)])
        return node


def coefficients(algorithm: Algorithm) -> str:
    """An optimizer's coefficients; in float64, in which Triton's division is exact."""
    tree = _Coefficients().visit(ast.parse(definition(algorithm.coefficients, "coefficients")))
    return ast.unparse(ast.fix_missing_locations(tree))


def objective(function: Function, real: str) -> str:
    """``objective(x_0, x_1, …)``, which returns the value in float64 and the gradient."""
    with distribute(False):  # as for the CPU
        traced = trace(function)
        gradients = ", ".join(f"g_{k}" for k in range(function.dimension))
        if function.dimension <= gradient.WRITTEN_OUT:
            *lines, returned = gradient.written_out(traced, real)
            value, rest = f"value, {gradients} = {returned.removeprefix('return ')}", "float64(value)"
            lines += [value]
        else:
            lines, rest = Unrolled(traced, real).source(), "value"
    arguments = ", ".join(f"x_{k}" for k in range(function.dimension))
    body = [*lines, f"return {rest}, {gradients}"]
    return exact_divisions("\n".join([f"def objective({arguments}):", textwrap.indent("\n".join(body), "    ")]))


def source(function: Function, step: Step) -> str:
    """The module with ``kernel``, which makes all steps of LANES runs in one program.

    inputs [rows, runs]: what `step.common` says, the highest and the lowest value, and the start. outputs
    [4 + dimension, runs]: value, best, bad_step, bad_value and the point. records [kept, 1 + dimension, runs]: values
    and points of every k-th step. targets, hits [targets, runs]: values from the highest to the lowest, and the step at
    which each is met, written where it is. All are float64. sizes: runs, steps, k and the number of targets.
    """
    algorithm, real, dimension = step.algorithm, step.real, function.dimension
    rows = [f"o_{name}" for name in step.common] + ["highest", "lowest"]
    points = [f"x_{k}" for k in range(dimension)]
    scalars = list(algorithm.scalars)
    supplied = {"first": "float64(t == 0)"} | {name: f"s_{name}" for name in scalars}
    inputs = ", ".join(supplied.get(name, f"o_{name}") for name in algorithm.inputs if name != "stored")
    answers = [f"new_{name}" for name in scalars] + [f"c_{name}" for name in algorithm.outputs]
    evaluate = f"value, {', '.join(f'g_{k}' for k in range(dimension))} = objective({', '.join(points)})"

    def initial(init: float | str) -> str:
        return f"zero + {f'o_{init}' if isinstance(init, str) else repr(float(init))}"

    def judged(t: str) -> list[str]:
        arguments = f"value, float64({t}), best, bad_step, bad_value, highest, lowest"
        aims = f"value, float64({t}), met, target, targets, hits, count, runs, lane, inside"
        return [
            *("if JUDGED:", f"    best, bad_step, bad_value = judge({arguments})"),
            *("if AIMED:", f"    met, target = meet({aims})"),
        ]

    def recorded(t: str) -> list[str]:
        return [
            "if RECORDED:",
            f"    if {t} % every == 0:",
            f"        at = records + {t} // every * ({1 + dimension} * runs) + lane",
            "        tl.store(at, value, inside)",
            *[f"        tl.store(at + {1 + k} * runs, x_{k}.to(tl.float64), inside)" for k in range(dimension)],
        ]

    def stepped(k: int) -> list[str]:
        states = [f"{name}_{k}" if name in step.slots else "None" for name in algorithm.slots]
        fresh = [f"{name}_{k}" if name in step.slots else f"no_{name}" for name in algorithm.slots]
        arguments = ", ".join([f"x_{k}", f"g_{k}", *states, *(f"c_{name}" for name in algorithm.outputs)])
        return [f"{', '.join([f'x_{k}', *fresh])}, = rule({arguments})"]

    loop = [
        evaluate,
        *judged("t"),
        *recorded("t"),
        f"{', '.join(answers)}, = coefficients({inputs})",
        *[f"s_{name} = stored(new_{name})" for name in scalars],
        *[f"c_{name} = {real}(c_{name})" for name in algorithm.outputs],
        *[line for k in range(dimension) for line in stepped(k)],
    ]
    lines = [
        "runs, steps, every, count = tl.load(sizes), tl.load(sizes + 1), tl.load(sizes + 2), tl.load(sizes + 3)",
        "lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)",
        "inside = lane < runs",
        *[f"{name} = tl.load(inputs + {i} * runs + lane, inside, 0.0)" for i, name in enumerate([*rows, *points])],
        *[f"{name} = {real}({name})" for name in points],
        "zero = tl.zeros([LANES], tl.float64)",
        *[f"s_{name} = stored({initial(init)})" for name, init in algorithm.scalars.items()],
        *[
            f"{name}_{k} = {real}({initial(algorithm.slots[name].init)})"
            for k in range(dimension)
            for name in step.slots
        ],
        "best, bad_step, bad_value = zero + float('inf'), zero - 1.0, zero",
        "met = tl.zeros([LANES], tl.int64)",
        "target = tl.load(targets + lane, inside & (count > 0), float('nan'))",
        "for t in range(steps):",
        *[f"    {line}" for line in loop],
        evaluate,
        *judged("steps"),
        *recorded("steps"),
        *[
            f"tl.store(outputs + {i} * runs + lane, {name}, inside)"
            for i, name in enumerate(["value", "best", "bad_step", "bad_value"])
        ],
        *[f"tl.store(outputs + {4 + k} * runs + lane, x_{k}.to(tl.float64), inside)" for k in range(dimension)],
    ]
    constants = ", ".join(f"{name}: tl.constexpr" for name in ("JUDGED", "RECORDED", "AIMED", "LANES"))
    functions = [objective(function, real), coefficients(algorithm), exactly_divided(algorithm.rule, "rule")]
    return "\n\n".join(
        [
            BEGINNING,
            *[f"\n@triton.jit\n{text}\n" for text in functions],
            f"\n@triton.jit\ndef kernel(inputs, outputs, records, targets, hits, sizes, {constants}):\n"
            + textwrap.indent("\n".join(lines), "    ")
            + "\n",
        ]
    )
