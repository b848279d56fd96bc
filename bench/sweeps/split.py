"""Takes out of an optimizer's coefficients what need not be computed for every run in every step.

What depends on nothing in which the runs differ is computed once a step for all of them. ``beta1 ** step`` costs more
than the rest of a step together, and where runs differ in beta1 those with the same one share it. Coefficients that no
step changes are kept from the first one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from optimizers.algorithm import Algorithm
from optimizers.executors.sources import definition

Depends = dict[str, frozenset[str]]


class Split(NamedTuple):
    """Three functions that together are an algorithm's `coefficients`.

    varying: the inputs that differ from run to run: hyper-parameters, and the scalar states that come of them.
    uniform: all inputs in, the numbers that are alike in all runs out, named ``u_0``, ``u_1``, … in `numbers`.
    powers: all inputs and the `numbers` in, powers that runs may share out, as many as `count`.
    coefficients: all inputs, the `numbers` and the powers in; `answers` out: new states (``new_step``) and outputs.
    states, outputs: which of the `numbers` a scalar state and an output of the algorithm is, if it is one.
    depends: the varying inputs that the powers depend on.
    constant: which of the algorithm's outputs are the same in every step.
    """

    varying: frozenset[str]
    uniform: str
    numbers: tuple[str, ...]
    powers: str
    count: int
    coefficients: str
    answers: tuple[str, ...]
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
    arguments = list(algorithm.inputs)
    changing = {*algorithm.scalars, "first"}
    return Split(
        varying,
        _function("uniform", arguments, [*together, _return(map(_name, used))]),
        used,
        _function("powers", [*arguments, *used], [*raised, _return(map(_name, powers))]),
        len(powers),
        _function("coefficients", [*arguments, *used, *powers], rest),
        answers,
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


def _names(body: Sequence[ast.stmt]) -> set[str]:
    """The names that are read."""
    return {n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _alive(body: list[ast.stmt]) -> list[ast.stmt]:
    """Without assignments to what nobody reads."""
    alive = [body[-1]]
    for statement in reversed(body[:-1]):
        targets = {name.id for name in ast.walk(statement.targets[0]) if isinstance(name, ast.Name)}
        if targets & _names(alive):
            alive.insert(0, statement)
    return alive


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _return(parts) -> ast.Return:
    return ast.Return(ast.Tuple(list(parts), ast.Load()))


def _function(name: str, arguments: Sequence[str], body: Sequence[ast.stmt]) -> str:
    lines = [f"    {ast.unparse(ast.fix_missing_locations(statement))}" for statement in body]
    return "\n".join([f"def {name}({', '.join(arguments)}):", *lines])
