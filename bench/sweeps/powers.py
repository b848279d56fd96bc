"""Takes out of an optimizer's coefficients what need not be computed for every run in every step.

``beta1 ** step`` costs more than the rest of a step together, and depends on no more than one or two hyper-parameters.
So a sweep has the powers of a block of runs, and what is made of them and the same hyper-parameters alone, computed
once for each distinct setting of those. Coefficients that no step changes are kept from the first one.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import NamedTuple

from optimizers.algorithm import Algorithm
from optimizers.executors.sources import definition


class Powers(NamedTuple):
    """Two functions that together are `coefficients`, and the arguments that the powers depend on.

    powers: the arguments of `coefficients` in, a tuple of its powers out.
    coefficients: the same arguments and the powers in, what `coefficients` returns out.
    constant: which of the algorithm's outputs are the same in every step.
    """

    count: int
    depends: frozenset[str]
    powers: str
    coefficients: str
    constant: frozenset[str]


def split(algorithm: Algorithm) -> Powers:
    """The powers of an algorithm's coefficients, which are assignments to names and one return."""
    tree = ast.parse(definition(algorithm.coefficients, "coefficients"))
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    depends = {name: frozenset([name]) for name in algorithm.inputs}
    for statement in function.body:
        if not isinstance(statement, ast.Assign | ast.Return) or statement.value is None:
            raise TypeError(f"coefficients are assignments and a return, not {ast.unparse(statement)!r}")
    shared = _shared(function.body, dict(depends))
    found = _Taken(depends, shared)
    body: list[ast.stmt] = []
    with_powers: list[ast.stmt] = []
    returned: list[frozenset[str]] = []
    for statement in function.body:
        before, old = len(found.assigned), statement.value
        needs = _depends(old, depends)
        if isinstance(statement, ast.Return):
            parts = old.elts if isinstance(old, ast.Tuple) else [old]
            returned = [_depends(part, depends) for part in parts]
        new = found.visit(ast.parse(ast.unparse(statement)).body[0])
        body.append(new)
        with_powers += found.assigned[before:]
        if isinstance(statement, ast.Assign):
            with_powers.append(new)
            _assign(statement, needs, depends)
    names = [f"power_{k}" for k in range(len(found.assigned))]
    arguments = ", ".join(algorithm.inputs)
    changing = {*algorithm.scalars, "first"}
    outputs = zip(algorithm.outputs, returned[len(algorithm.scalars) :], strict=True)
    return Powers(
        len(names),
        shared,
        _function("powers", arguments, [*with_powers, ast.parse(f"return ({''.join(f'{n}, ' for n in names)})")]),
        _function("coefficients", ", ".join([*algorithm.inputs, *names]), body),
        frozenset(name for name, needs in outputs if not needs & changing),
    )


def _function(name: str, arguments: str, body: list) -> str:
    lines = [f"    {ast.unparse(ast.fix_missing_locations(statement))}" for statement in body]
    return "\n".join([f"def {name}({arguments}):", *lines])


def _shared(body: list[ast.stmt], depends: dict[str, frozenset[str]]) -> frozenset[str]:
    """The arguments that powers depend on."""
    found: frozenset[str] = frozenset()
    for statement in body:
        found = found.union(*(_depends(node, depends) for node in ast.walk(statement) if _is_power(node)))
        if isinstance(statement, ast.Assign):
            _assign(statement, _depends(statement.value, depends), depends)
    return found


def _assign(statement: ast.Assign, needs: frozenset[str], depends: dict[str, frozenset[str]]) -> None:
    for name in ast.walk(statement.targets[0]):
        if isinstance(name, ast.Name):
            depends[name.id] = needs


def _is_power(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _depends(node: ast.AST, depends: Mapping[str, frozenset[str]]) -> frozenset[str]:
    names = (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
    return frozenset().union(*(depends.get(name, frozenset()) for name in names))


class _Taken(ast.NodeTransformer):
    """Puts a name in the place of each expression that has a power and is `shared`, and keeps its assignment."""

    def __init__(self, depends: Mapping[str, frozenset[str]], shared: frozenset[str]):
        self.known, self.shared = depends, shared
        self.assigned: list[ast.stmt] = []

    def visit(self, node: ast.AST) -> ast.AST:
        whole = isinstance(node, ast.expr) and not isinstance(node, ast.Tuple)
        if not whole or not any(map(_is_power, ast.walk(node))) or not _depends(node, self.known) <= self.shared:
            return self.generic_visit(node)
        name = f"power_{len(self.assigned)}"
        self.assigned += ast.parse(f"{name} = {ast.unparse(node)}").body
        return ast.Name(name, ast.Load())
