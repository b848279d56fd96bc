"""Takes out of an optimizer's coefficients what need not be computed for every run in every step.

What depends on nothing in which the runs differ is computed once a step for all of them. ``beta1 ** step`` costs more
than the rest of a step together, and where runs differ in beta1 those with the same one share it. Coefficients that no
step changes are kept from the first one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from optimizers.algorithm import Algorithm
from optimizers.executors.sources import definition

Depends = dict[str, frozenset[str]]


class Split(NamedTuple):
    """Three pieces of source that together are an algorithm's `coefficients`; names of its own begin with ``v_``.

    varying: the inputs that differ from run to run: hyper-parameters, and the scalar states that come of them.
    uniform: statements that compute the `numbers`, which are alike in all runs, from the inputs that do not vary.
    powers: statements that compute the `power_names`, which some runs share, from the inputs that vary and the numbers.
    coefficients: statements with which, from all of those, the expressions in `answers` are the new states, by the name
        ``new_step`` and the like, and the algorithm's outputs, as far as they are no numbers.
    states, outputs: which of the `numbers` a scalar state and an output of the algorithm is, if it is one.
    depends: the varying inputs that the powers depend on.
    constant: which of the algorithm's outputs are the same in every step.
    """

    varying: frozenset[str]
    uniform: list[str]
    numbers: tuple[str, ...]
    powers: list[str]
    power_names: tuple[str, ...]
    coefficients: list[str]
    answers: Mapping[str, str]
    states: Mapping[str, str]
    outputs: Mapping[str, str]
    depends: frozenset[str]
    constant: frozenset[str]


def split(algorithm: Algorithm, columns: frozenset[str]) -> Split:
    """The coefficients of an algorithm, which are assignments to names and one return, where runs differ in `columns`.

    Raises TypeError for coefficients that are anything else.
    """
    body = _statements(algorithm)
    inputs = {name: frozenset([name]) for name in algorithm.inputs if name != "stored"}
    states = [f"new_{name}" for name in algorithm.scalars]
    returned = [*states, *algorithm.outputs]
    needs = dict(zip(returned, _returned(body, inputs), strict=True))
    varying = _varying(algorithm, needs, columns)

    def alike(node: ast.expr, depends: frozenset[str]) -> bool:
        return bool(depends) and not depends & varying

    together, rest, found = _apart(body, inputs, "u", alike, whole=False)
    parts = dict(zip(returned, _elements(rest[-1]), strict=True))
    numbers = {name: part.id for name, part in parts.items() if isinstance(part, ast.Name) and part.id in found}
    answers = tuple(name for name in returned if name not in numbers)
    rest = _alive([*rest[:-1], _return([parts[name] for name in answers])])
    used = tuple(name for name in found if name in {*numbers.values(), *_names(rest)})

    inputs |= {name: frozenset([name]) for name in used}
    powers_of = (_needs(node, depends) for node, depends in _nodes(rest, inputs) if _is_power(node))
    shared = frozenset().union(*powers_of) - {*used}

    def powerful(node: ast.expr, depends: frozenset[str]) -> bool:
        return depends <= shared | {*used} and any(map(_is_power, ast.walk(node)))

    raised, rest, powers = _apart(rest, inputs, "power", powerful, whole=True)
    own = {*algorithm.inputs, *_names(body, ast.Store)}
    changing = {*algorithm.scalars, "first"}
    return Split(
        varying,
        _lines(together, own),
        used,
        _lines(raised, own),
        tuple(powers),
        _lines(rest[:-1], own),
        dict(zip(answers, _lines(map(ast.Expr, _elements(rest[-1])), own), strict=True)),
        {name: numbers[new] for name, new in zip(algorithm.scalars, states, strict=True) if new in numbers},
        {name: numbers[name] for name in algorithm.outputs if name in numbers},
        shared,
        frozenset(name for name in algorithm.outputs if not needs[name] & changing),
    )


def _statements(algorithm: Algorithm) -> list[ast.stmt]:
    (function,) = ast.parse(definition(algorithm.coefficients, "coefficients")).body
    assert isinstance(function, ast.FunctionDef)
    for statement in function.body:
        if not isinstance(statement, ast.Assign | ast.Return) or statement.value is None:
            raise TypeError(f"coefficients are assignments and a return, not {ast.unparse(statement)!r}")
    return function.body


def _varying(algorithm: Algorithm, needs: Depends, columns: frozenset[str]) -> frozenset[str]:
    """The columns, and the scalar states that begin with one or come of what varies."""
    varying = columns
    while True:
        more = {name for name, init in algorithm.scalars.items() if init in varying or needs[f"new_{name}"] & varying}
        if more <= varying:
            return varying
        varying |= more


def _apart(
    body: Sequence[ast.stmt],
    inputs: Depends,
    prefix: str,
    wanted: Callable[[ast.expr, frozenset[str]], bool],
    whole: bool,
) -> tuple[list[ast.stmt], list[ast.stmt], list[str]]:
    """Statements that compute the largest `wanted` expressions, the statements left without them, and their names.

    The first have of the left ones those that they may need: all of them if `whole`, else those of wanted values.
    """
    depends, taken = dict(inputs), _Taken(prefix, wanted)
    apart: list[ast.stmt] = []
    left: list[ast.stmt] = []
    for statement in body:
        before = len(taken.assigned)
        taken.depends = depends
        new = taken.visit(ast.parse(ast.unparse(statement)).body[0])
        apart += taken.assigned[before:]
        left.append(new)
        if isinstance(statement, ast.Assign):
            if whole or wanted(statement.value, _needs(statement.value, depends)):
                apart.append(new)
            _assign(statement, depends)
    return apart, left, [f"{prefix}_{k}" for k in range(len(taken.assigned))]


class _Taken(ast.NodeTransformer):
    """Puts a name in the place of each of the largest expressions that are wanted, and keeps its assignment."""

    def __init__(self, prefix: str, wanted: Callable[[ast.expr, frozenset[str]], bool]):
        self.prefix, self.wanted = prefix, wanted
        self.depends: Depends = {}
        self.assigned: list[ast.stmt] = []

    def visit(self, node: ast.AST) -> ast.AST:
        number = isinstance(node, ast.expr) and not isinstance(node, ast.Tuple | ast.Compare)
        if not number or _is_target(node) or not self.wanted(node, _needs(node, self.depends)):
            return self.generic_visit(node)
        name = f"{self.prefix}_{len(self.assigned)}"
        self.assigned += ast.parse(f"{name} = {ast.unparse(node)}").body
        return _name(name)


def _is_target(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _is_power(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _needs(node: ast.AST, depends: Depends) -> frozenset[str]:
    names = (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
    return frozenset().union(*(depends.get(name, frozenset()) for name in names))


def _assign(statement: ast.Assign, depends: Depends) -> None:
    needs = _needs(statement.value, depends)
    for name in ast.walk(statement.targets[0]):
        if isinstance(name, ast.Name):
            depends[name.id] = needs


def _nodes(body: Sequence[ast.stmt], inputs: Depends) -> list[tuple[ast.AST, Depends]]:
    """All parts of all values, each with what the names in it depend on at its place."""
    depends, found = dict(inputs), []
    for statement in body:
        found += [(node, dict(depends)) for node in ast.walk(statement.value)]
        if isinstance(statement, ast.Assign):
            _assign(statement, depends)
    return found


def _returned(body: Sequence[ast.stmt], inputs: Depends) -> list[frozenset[str]]:
    """What each part of the answer depends on."""
    depends = dict(inputs)
    for statement in body[:-1]:
        _assign(statement, depends)
    return [_needs(part, depends) for part in _elements(body[-1])]


def _elements(answer: ast.stmt) -> list[ast.expr]:
    assert isinstance(answer, ast.Return) and answer.value is not None
    return answer.value.elts if isinstance(answer.value, ast.Tuple) else [answer.value]


def _names(body: Sequence[ast.stmt], kind: type = ast.Load) -> set[str]:
    """The names that are read, or that are assigned to."""
    return {n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}


def _alive(body: list[ast.stmt]) -> list[ast.stmt]:
    """Without assignments to what nobody reads."""
    alive = [body[-1]]
    for statement in reversed(body[:-1]):
        if _names([statement], ast.Store) & _names(alive):
            alive.insert(0, statement)
    return alive


def _lines(body: Iterable[ast.stmt], own: set[str]) -> list[str]:
    """Source text in which nothing that surrounds it has the algorithm's own names."""
    lines = []
    for statement in body:
        new = ast.parse(ast.unparse(ast.fix_missing_locations(statement))).body[0]
        for name in ast.walk(new):
            if isinstance(name, ast.Name) and name.id in own:
                name.id = "stored_float32" if name.id == "stored" else f"v_{name.id}"
        lines.append(ast.unparse(new))
    return lines


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _return(parts: list[ast.expr]) -> ast.Return:
    return ast.Return(ast.Tuple(parts, ast.Load()))
