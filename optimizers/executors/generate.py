"""Turns an algorithm into source text for a compiler, and that text into a module on disk that caches.

The compilers read real files, and Numba keeps its machine code beside them; the name of a file is the hash of all
that went into it, so a changed rule, dialect or compiler never meets an old binary.
"""

from __future__ import annotations

import ast
import atexit
import functools
import hashlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..algorithm import Algorithm

#: words of a table row before the addresses of its scalars: numel, group, coefficients, first, active
ROW_HEAD = 5
NUMEL, GROUP, COEFFICIENTS, FIRST, ACTIVE = range(ROW_HEAD)


def name(dtype: Any) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def cache_folder() -> Path:
    """A folder of this user's for generated sources; a private temporary one where the usual place is no good."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
        folder = Path(base) / "torch-optimizer-kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to somebody else, and what lies in it would be executed")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # the latter: there is no home directory
        folder = Path(tempfile.mkdtemp(prefix="torch-optimizer-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


def load(text: str, kind: str, *ingredients: str) -> ModuleType:
    """The module with this source; `ingredients` are what else decides the machine code (dialect, versions)."""
    digest = hashlib.sha256("\0".join([text, sys.version, *ingredients]).encode()).hexdigest()[:20]
    key = f"optimizers_generated_{kind}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    path = cache_folder() / f"{key}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # or a power cut left half of it
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as draft:
            draft.write(text)
        os.replace(draft.name, path)
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # before it runs: its functions are found again by this name when loaded from cache
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


@functools.cache
def numba_ingredients() -> tuple[str, ...]:
    """What decides Numba's machine code besides the text that is compiled."""
    import llvmlite
    import numba

    sources = [Path(__file__).with_name(f"{file}.py") for file in ("generate", "raw", "numba_dialect")]
    return (numba.__version__, llvmlite.__version__, *[source.read_text(encoding="utf-8") for source in sources])


@functools.cache
def compiled(kind: str) -> ModuleType:
    """The module ``jit_<kind>.py`` of this package, compiled anew when anything it was made of has changed.

    Numba by itself looks only at the file that a function stands in, not at what it takes from others.
    """
    text = Path(__file__).with_name(f"jit_{kind}.py").read_text(encoding="utf-8")
    return load(text, kind, *numba_ingredients())


def definition(function: Callable, name: str) -> str:
    """The source of a function, under the name it has in generated code."""
    return textwrap.dedent(inspect.getsource(function)).replace(f"def {function.__name__}(", f"def {name}(", 1)


def numba_block(algorithm: Algorithm, present: tuple[bool, ...], dtype: str, state_dtype: str) -> str:
    """Source of ``block(row, coefs, start, stop)``: the rule over a range of elements of one row of the table."""
    first = ROW_HEAD + len(algorithm.scalars)
    slots = list(algorithm.slots)
    live = ["p", "g", *[name for name, there in zip(slots, present, strict=True) if there]]
    kinds = {name: dtype if name in ("p", "g") else state_dtype for name in live}
    size = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
    # addresses move to the first element, so that the loop counts from 0 and vectorises
    lines = [f"{n}_at = word(row, {first + i}) + {size[kinds[n]]} * start" for i, n in enumerate(live)]
    real = "float64" if dtype == "float64" else "float32"
    lines += [f"{name}_c = {real}(get_float64(coefs, {i}))" for i, name in enumerate(algorithm.outputs)]
    lines += ["for i in range(stop - start):"]
    arguments = [
        f"load_{kinds[n]}(get_{_cell(kinds[n])}({n}_at, i))" if n in live else "None" for n in ["p", "g", *slots]
    ]
    results = ", ".join(f"{name}_new" for name in ["p", *slots])
    lines += [f"    {results}, = rule({', '.join(arguments + [f'{name}_c' for name in algorithm.outputs])})"]
    lines += [f"    set_{_cell(kinds[n])}({n}_at, i, store_{kinds[n]}({n}_new))" for n in live if n != "g"]
    return "\n".join(
        [
            "from numba import cfunc, float32, float64, njit",
            "from optimizers.executors.numba_dialect import *",
            "from optimizers.executors.numba_dialect import OPTIONS",
            "from optimizers.executors.raw import *",
            "",
            "@njit(**OPTIONS)",
            definition(algorithm.rule, "rule"),
            "@cfunc('void(intp, intp, intp, intp)', cache=True, **OPTIONS)",
            "def block(row, coefs, start, stop):",
            textwrap.indent("\n".join(lines), "    "),
            "",
        ]
    )


def numba_prologue(algorithm: Algorithm, scalar_dtype: str) -> str:
    """Source of ``prologue(...)``: advances the scalar state of every active row and fills its coefficients."""
    scalars = list(algorithm.scalars)
    width, rows = len(algorithm.outputs), len(scalars)
    values = {
        "direction": f"get_float64(h, {len(algorithm.hyper)})",
        "first": "first",
        "stored": f"stored_{scalar_dtype}",
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
        f"        answer = coefficients({', '.join(values[name] for name in algorithm.inputs)})",
        *[f"        new_{s} = float64(answer[{i}])" for i, s in enumerate(scalars)],
        *[f"        set_float64(coef, {i}, float64(answer[{rows + i}]))" for i in range(width)],
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
            "from numba import cfunc, float32, float64, njit",
            "from optimizers.executors.numba_dialect import *",
            f"from optimizers.executors.numba_dialect import stored_{scalar_dtype}",
            "from optimizers.executors.raw import *",
            "",
            "@njit(error_model='numpy')",
            definition(algorithm.coefficients, "coefficients"),
            "@cfunc('void(intp, intp, intp, intp, intp, intp, intp)', cache=True, error_model='numpy')",
            "def prologue(rows, row_bytes, active, n, coefs, hyper, hyper_bytes):",
            textwrap.indent("\n".join(body), "    "),
            "",
        ]
    )


def _cell(kind: str) -> str:
    """The type of memory that holds one element: sixteen-bit floats are handled as bits."""
    return kind if kind in ("float32", "float64") else "uint16"


class _Divisions(ast.NodeTransformer):
    """Writes ``a / b`` as ``divide(a, b)``, for compilers whose own division is approximate."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            return ast.Call(ast.Name("divide", ast.Load()), [node.left, node.right], [])
        return node


def triton_kernel(algorithm: Algorithm, present: tuple[bool, ...], dtype: str, state_dtype: str) -> str:
    """Source of ``kernel``: one program steps one piece of one row of the table."""
    slots = list(algorithm.slots)
    live = ["p", "g", *[name for name, there in zip(slots, present, strict=True) if there]]
    kinds = {name: dtype if name in ("p", "g") else state_dtype for name in live}
    real = "float64" if dtype == "float64" else "float32"
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
    rule = ast.parse(definition(algorithm.rule, "rule"))
    return "\n".join(
        [
            "import triton",
            "import triton.language as tl",
            "from optimizers.executors.triton_dialect import *",
            "",
            "",
            "@triton.jit",
            ast.unparse(ast.fix_missing_locations(_Divisions().visit(rule))),
            "",
            "",
            "@triton.jit",
            "def kernel(table, coefs, work, PIECE: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):",
            textwrap.indent("\n".join(lines), "    "),
            "",
        ]
    )
