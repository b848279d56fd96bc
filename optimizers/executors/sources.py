"""Turns an algorithm into the source text of a kernel: for Numba the block and the prologue, for Triton the kernel."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable

from ..algorithm import Algorithm
from .generate import COEFFICIENTS, FIRST, GROUP, ROW_HEAD


def definition(function: Callable, name: str) -> str:
    """The source of a function, under the name it has in generated code."""
    return textwrap.dedent(inspect.getsource(function)).replace(f"def {function.__name__}(", f"def {name}(", 1)


def storage(kind: str) -> dict[str, str]:
    """How numbers of a dtype are kept and worked with: sixteen-bit floats are bits in memory, and float32 in sums.

    KIND: the dtype, SIZE: its bytes in memory, REAL: the type of the arithmetic.
    """
    size = {"float64": 8, "float32": 4}.get(kind, 2)
    return {"KIND": kind, "SIZE": str(size), "REAL": kind if size > 2 else "float32"}


#: what every generated CPU kernel begins with
IMPORTS = """from numba import cfunc, float32, float64, njit
from optimizers.executors.numba_dialect import *
from optimizers.executors.numba_dialect import INNER, OPTIONS
from optimizers.executors.llvm_dialect import exact, traced, wide_vectors
from optimizers.executors.raw import *
"""

#: for templates: an element of an array at an address, and the sum options of loops that may add in any order
ELEMENTS = """
# sums may be taken in any order, in float64
SUMS = {**INNER, "fastmath": {"contract", "reassoc"}}
element, set_element = get_${KIND}, set_${KIND}
"""


def numba_block(algorithm: Algorithm, present: tuple[bool, ...], dtype: str, state_dtype: str) -> str:
    """Source of ``block(row, coefs, start, stop)``: the rule over a range of elements of one row of the table."""
    first = ROW_HEAD + len(algorithm.scalars)
    slots = list(algorithm.slots)
    live = ["p", "g", *[name for name, there in zip(slots, present, strict=True) if there]]
    kinds = {name: dtype if name in ("p", "g") else state_dtype for name in live}
    # addresses move to the first element, so that the loop counts from 0 and vectorises
    lines = [f"{n}_at = word(row, {first + i}) + {storage(kinds[n])['SIZE']} * start" for i, n in enumerate(live)]
    real = storage(dtype)["REAL"]
    lines += [f"{name}_c = {real}(get_float64(coefs, {i}))" for i, name in enumerate(algorithm.outputs)]
    rules = {"rule": definition(algorithm.rule, "rule")}
    loops = _loop("rule", live, set(), kinds, slots, algorithm.outputs)
    unread = without_reading(algorithm)
    if unread:
        condition, rules["rule_unread"], names = unread
        shorter = _loop("rule_unread", live, names, kinds, slots, algorithm.outputs)
        loops = [f"if {condition}:", *[f"    {line}" for line in shorter], "else:", *[f"    {line}" for line in loops]]
    return "\n".join(
        [
            IMPORTS,
            *[f"@traced\n{source}" for source in rules.values()],
            "@cfunc('void(intp, intp, intp, intp)', cache=True, **OPTIONS)",
            "def block(row, coefs, start, stop):",
            textwrap.indent("\n".join(lines + loops), "    "),
            "",
        ]
    )


def _loop(rule: str, live: list[str], unread: set[str], kinds: dict[str, str], slots, outputs) -> list[str]:
    """The lines of a loop that loads, applies a rule, and stores; slots in `unread` are only stored."""
    values = {n: f"get_{kinds[n]}({n}_at, i)" for n in live if n not in unread}
    arguments = [values.get(n, "None") for n in ["p", "g", *slots]] + [f"{name}_c" for name in outputs]
    return [
        "for i in range(stop - start):",
        f"    {', '.join(f'{name}_new' for name in ['p', *slots])}, = {rule}({', '.join(arguments)})",
        *[f"    set_{kinds[n]}({n}_at, i, {n}_new)" for n in live if n != "g"],
    ]


def without_reading(algorithm: Algorithm) -> tuple[str, str, set[str]] | None:
    """A condition on coefficients under which the rule does not need a slot's old value, and the rule then.

    What is not read need not be fetched: a fifth of the memory traffic of ASGD before its averaging starts.
    """
    tree = ast.parse(definition(algorithm.rule, "rule_unread"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "where":
            condition, chosen = node.args[:2]
            if not _names(condition) <= set(algorithm.outputs):
                continue
            shorter = _Replace(ast.unparse(node), chosen).visit(ast.parse(ast.unparse(tree)))
            unread = set(algorithm.slots) - _names(shorter)
            if unread:
                for name in ast.walk(condition):
                    if isinstance(name, ast.Name):
                        name.id += "_c"
                return ast.unparse(condition), ast.unparse(shorter), unread
    return None


def _names(tree: ast.AST) -> set[str]:
    """The variables that are read."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


class _Replace(ast.NodeTransformer):
    """Puts another expression in the place of one that is known by its text."""

    def __init__(self, text: str, by: ast.expr):
        self.text, self.by = text, by

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self.by if ast.unparse(node) == self.text else self.generic_visit(node)


def numba_prologue(algorithm: Algorithm, scalar_dtype: str) -> str:
    """Source of ``prologue(...)``: advances the scalar state of every active row and fills its coefficients."""
    scalars = list(algorithm.scalars)
    width, rows = len(algorithm.outputs), len(scalars)
    values = {
        "direction": f"get_float64(h, {len(algorithm.hyper)})",
        "first": "float64(first)",
    }
    values |= {name: f"get_float64(h, {i})" for i, name in enumerate(algorithm.hyper)} | {s: s for s in scalars}
    same = " and ".join(["r > 0", "g == last_g", "first == last_first", *[f"{s} == last_{s}" for s in scalars]])
    body = [
        "coef = coefs",
        "last_g = last_first = -1",
        *[f"last_{s} = new_{s} = 0.0" for s in scalars],
        "for r in range(n):",
        "    row = rows + word(active, r) * row_bytes",
        f"    g = word(row, {GROUP})",
        f"    first = word(row, {FIRST})",
        *[f"    {s} = float64(get_{scalar_dtype}(word(row, {ROW_HEAD + i}), 0))" for i, s in enumerate(scalars)],
        f"    if not ({same}):",
        f"        coef = coefs + r * {8 * width}",
        "        h = hyper + g * hyper_bytes",
        f"        answer = coefficients({', '.join(values[name] for name in algorithm.inputs if name in values)})",
        *[f"        new_{s} = answer[{i}]" for i, s in enumerate(scalars)],
        *[f"        set_float64(coef, {i}, answer[{rows + i}])" for i in range(width)],
        "        last_g = g",
        "        last_first = first",
        *[f"        last_{s} = {s}" for s in scalars],
        *[
            f"    set_{scalar_dtype}(word(row, {ROW_HEAD + i}), 0, {scalar_dtype}(new_{s}))"
            for i, s in enumerate(scalars)
        ],
        f"    set_word(row, {COEFFICIENTS}, coef)",
        f"    set_word(row, {FIRST}, 0)",
    ]
    return "\n".join(
        [
            IMPORTS + f"from optimizers.executors.llvm_dialect import stored_{scalar_dtype}\n",
            f"@exact(stored=stored_{scalar_dtype})" if "stored" in algorithm.inputs else "@exact()",
            definition(algorithm.coefficients, "coefficients"),
            "@cfunc('void(intp, intp, intp, intp, intp, intp, intp)', cache=True, error_model='numpy')",
            "def prologue(rows, row_bytes, active, n, coefs, hyper, hyper_bytes):",
            textwrap.indent("\n".join(body), "    "),
            "",
        ]
    )


class _Divisions(ast.NodeTransformer):
    """Writes ``a / b`` as ``divide(a, b)``, for compilers whose own division is approximate."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            return ast.Call(ast.Name("divide", ast.Load()), [node.left, node.right], [])
        return node


def exactly_divided(function: Callable, name: str) -> str:
    """The source of a function for Triton, whose own division is approximate."""
    return exact_divisions(definition(function, name))


def exact_divisions(text: str) -> str:
    """Source for Triton with every division of floats made exact."""
    return ast.unparse(ast.fix_missing_locations(_Divisions().visit(ast.parse(text))))


def triton_kernel(algorithm: Algorithm, present: tuple[bool, ...], dtype: str, state_dtype: str) -> str:
    """Source of ``kernel``: one program steps one piece of one row of the table."""
    slots = list(algorithm.slots)
    live = ["p", "g", *[name for name, there in zip(slots, present, strict=True) if there]]
    kinds = {name: dtype if name in ("p", "g") else state_dtype for name in live}
    real = storage(dtype)["REAL"]
    coefs = [f"{name}_c" for name in algorithm.outputs]
    arguments = ", ".join([f"{n}_old" if n in live else "None" for n in ["p", "g", *slots]] + coefs)
    results = ", ".join(f"{name}_new" for name in ["p", *slots])

    def body(mask: str) -> list[str]:
        masked = f", {mask}" if mask else ""
        return [
            *[f"{n}_old = tl.load({n}_at + at{masked}).to(tl.{real})" for n in live],
            f"{results}, = rule({arguments})",
            *[f"tl.store({n}_at + at, {n}_new.to(tl.{kinds[n]}){masked})" for n in live if n != "g"],
        ]

    lines = [
        "item = work + 2 * tl.program_id(0)",
        f"row = table + tl.load(item).to(tl.int64) * {2 + len(live)}",
        "start = tl.load(item + 1).to(tl.int64) * PIECE",
        "numel = tl.load(row)",
        f"coef = coefs + tl.load(row + 1) * {len(coefs)}",
        *[f"{n}_at = tl.load(row + {2 + i}).to(tl.pointer_type(tl.{kinds[n]}))" for i, n in enumerate(live)],
        "if ALIGNED:",
        *[f"    {n}_at = tl.multiple_of({n}_at, 16)" for n in live],
        *[f"{name} = tl.load(coef + {i})" for i, name in enumerate(coefs)],
        "stop = tl.minimum(start + PIECE, numel)",
        "for base in range(start, stop, BLOCK):",
        "    base = tl.multiple_of(base, BLOCK)",
        "    at = base + tl.arange(0, BLOCK)",
        "    if base + BLOCK <= numel:",  # without a mask the compiler can load 128 bits at a time
        *[f"        {line}" for line in body("")],
        "    else:",
        "        inside = at < numel",
        *[f"        {line}" for line in body("inside")],
    ]
    return "\n".join(
        [
            "import triton",
            "import triton.language as tl",
            "from optimizers.executors.triton_dialect import *",
            "",
            "",
            "@triton.jit",
            exactly_divided(algorithm.rule, "rule"),
            "",
            "",
            "@triton.jit",
            "def kernel(table, coefs, work, PIECE: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):",
            textwrap.indent("\n".join(lines), "    "),
            "",
        ]
    )
