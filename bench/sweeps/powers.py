"""Takes the powers out of an optimizer's coefficients, so that runs that share them share the work.

``beta1 ** step`` costs more than the rest of a step together, and depends on no more than one or two hyper-parameters.
So a sweep has the powers of a block of runs computed once for each distinct setting of those.
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
    """

    count: int
    depends: frozenset[str]
    powers: str
    coefficients: str


def split(algorithm: Algorithm) -> Powers:
    """The powers of an algorithm's coefficients, which are assignments to names and one return."""
    tree = ast.parse(definition(algorithm.coefficients, "coefficients"))
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    depends = {name: frozenset([name]) for name in algorithm.inputs}
    found = _Powers(depends)
    body: list[ast.stmt] = []
    with_powers: list[ast.stmt] = []
    for statement in function.body:
        if not isinstance(statement, ast.Assign | ast.Return) or statement.value is None:
            raise TypeError(f"coefficients are assignments and a return, not {ast.unparse(statement)!r}")
        before = len(found.assigned)
        new = found.visit(ast.parse(ast.unparse(statement)).body[0])
        body.append(new)
        with_powers += found.assigned[before:]
        if isinstance(statement, ast.Assign):
            with_powers.append(new)
            for name in ast.walk(statement.targets[0]):
                if isinstance(name, ast.Name):
                    depends[name.id] = _depends(statement.value, depends)
    names = [f"power_{k}" for k in range(len(found.assigned))]
    arguments = ", ".join(algorithm.inputs)
    return Powers(
        len(names),
        frozenset().union(*found.depends),
        _function("powers", arguments, [*with_powers, ast.parse(f"return ({''.join(f'{n}, ' for n in names)})")]),
        _function("coefficients", ", ".join([*algorithm.inputs, *names]), body),
    )


def _function(name: str, arguments: str, body: list) -> str:
    lines = [f"    {ast.unparse(ast.fix_missing_locations(statement))}" for statement in body]
    return "\n".join([f"def {name}({arguments}):", *lines])


def _depends(node: ast.AST, depends: Mapping[str, frozenset[str]]) -> frozenset[str]:
    names = (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
    return frozenset().union(*(depends.get(name, frozenset()) for name in names))


class _Powers(ast.NodeTransformer):
    """Puts a name in the place of each power, and keeps its assignment."""

    def __init__(self, depends: Mapping[str, frozenset[str]]):
        self.known = depends
        self.assigned: list[ast.stmt] = []
        self.depends: list[frozenset[str]] = []

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow):
            return node
        name = f"power_{len(self.assigned)}"
        self.assigned += ast.parse(f"{name} = {ast.unparse(node)}").body
        self.depends.append(_depends(node, self.known))
        self.known = {**self.known, name: self.depends[-1]}
        return ast.Name(name, ast.Load())
