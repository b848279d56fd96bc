"""Gradients in loops: what is taken once, how many passes there are, and that nothing of the last call is left."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sympy
import torch

from bench.problems.function import Function
from bench.problems.functions import named, scalable
from bench.sweeps import engine, kernel, layout
from bench.sweeps.trace import trace

IN_TEN = [f"{name}-10d" for name in scalable() if name != "watson"]  # which has only dimensions of its own
SLOW = ("sin", "cos", "exp", "log")


def passes(name: str) -> int:
    return kernel.gradient_source(named(name), "float64")[0].count("call_part(")


def made(definition, dimension: int) -> Function:
    """A function with a definition, of which nothing else matters."""
    corner = (0.0,) * dimension
    return Function("made", "", definition, ((-1.0, 1.0),) * dimension, corner, (corner,), 0.0, 0.0, "")


def called(text: str, name: str) -> int:
    return len(re.findall(rf"\b{name}\(", text))


@pytest.mark.parametrize("name", IN_TEN)
def test_sines_and_exponentials_are_taken_once(name):
    """For each argument in the definition one sine and one cosine at most, one exponential and one logarithm; all
    on the way there, none on the way back.
    """
    text, _ = kernel.gradient_source(named(name), "float64")
    traced = trace(named(name))
    expressions = [traced.value, *(one.term for one in traced.repeated)]
    arguments = {
        kind: {call.args[0] for e in expressions for call in e.atoms(*kinds)}
        for kind, kinds in {"wave": (sympy.sin, sympy.cos), "exp": (sympy.exp,), "log": (sympy.log,)}.items()
    }
    for function in SLOW:
        most = len(arguments["wave" if function in ("sin", "cos") else function])
        assert called(text, function) <= most, f"{function} of {most} arguments"
    assert not slow_on_the_way_back(text)


def slow_on_the_way_back(text: str) -> int:
    """How many sines and the like the parts call that go from the last index to the first."""
    _, *parts = text.split("\ndef part_")
    back = text.count(", -1, -1)")
    return sum(called(part.split("\n@")[0], function) for part in parts[len(parts) - back :] for function in SLOW)


def test_a_sine_pays_at_once_even_where_a_product_goes_back():
    function = made(lambda x, m: m.sum(m.sin(x)) + m.prod(m.cos(x)), 6)
    text, _ = kernel.gradient_source(function, "float64")
    assert ", -1, -1)" in text and not slow_on_the_way_back(text)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("rastrigin-10d", 1), ("levy-10d", 1), ("rosenbrock-10d", 1), ("michalewicz-10d", 1), ("hartmann-6", 1)),
        *(("ackley-10d", 2), ("griewank-10d", 2), ("zakharov-10d", 2), ("schwefel-2.21-10d", 2)),
    ],
)
def test_where_the_outer_derivative_is_a_number_there_is_one_pass(name, count):
    assert passes(name) == count


@pytest.mark.parametrize(("name", "there"), [("zakharov-10d", False), ("griewank-10d", False), ("rastrigin-10d", True)])
def test_who_goes_back_anyway_pays_then(name, there):
    """A part that writes the gradient on the way there, where another pass writes it too, would do so twice."""
    text = kernel.gradient_source(named(name), "float64")[0]
    part = text.split("\ndef part_")[1].split("\n@")[0]
    assert (f"set_float64(b, {(layout.HEAD + 1) * layout.PITCH} + i" in part) == there


def test_what_is_quick_is_made_anew_and_what_is_slow_is_kept():
    """A row for each term, ten in all, where there is a sine; besides them as many as without."""

    def rows(term) -> int:
        return kernel.gradient_source(made(lambda x, m: m.sum(term(x, m)) ** 2, 10), "float64")[1]

    quick = rows(lambda x, m: x**4 - 3 * x**3)
    assert (
        rows(lambda x, m: m.sin(x)) == rows(lambda x, m: 1 / (1 + x**2)) == rows(lambda x, m: m.sqrt(x)) == quick + 10
    )


DEFINITIONS = {
    "each place at once": lambda x, m: m.sum(x**2),
    "neighbours": lambda x, m: m.sum(x[2:] * x[:-2] ** 2),
    "neighbours on the way back": lambda x, m: m.sum(x[2:] * x[:-2] ** 2) ** 2,
    "some places only": lambda x, m: m.sum(x[1:4] ** 2),
    "the last only, on the way back": lambda x, m: m.sum(x[3:] ** 2) ** 2,
    "two lengths": lambda x, m: m.sum(x**2) + m.sum(x[:3] ** 3) + m.sum(x[1:]) ** 2,
    "one place with all": lambda x, m: m.sum(x[0] * x[1:] ** 2),
    "single places": lambda x, m: x[0] * x[6] ** 2,
    "single places, then sums": lambda x, m: x[0] * x[6] * m.sum(m.sin(x)),
    "sums, then single places": lambda x, m: m.sum(x**2) + x[0] * x[6],
    "a product": lambda x, m: m.prod(x[1:] * x[:-1] + 2),
    "a product and a sum": lambda x, m: m.prod(m.cos(x)) * m.sum(m.exp(x)) + 3 * m.sum(x**2),
    "sines at once, then a product": lambda x, m: m.sum(m.sin(x)) + m.prod(m.cos(x)),
    "the largest": lambda x, m: m.max(m.absolute(x)) + m.max(x[2:] * x[:-2]),
}


@pytest.mark.parametrize("which", DEFINITIONS)
def test_every_place_of_the_gradient_is_begun_anew(which):
    """A second call on the same rows, at other points, is as right as the first: nothing was left lying there."""
    function = made(DEFINITIONS[which], 7)
    evaluate = engine.evaluator(function)
    for seed in range(2):
        points = torch.tensor(np.random.default_rng(seed).uniform(0.2, 1.5, (50, 7)))
        leaf = points.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
        value, gradient = evaluate(points)
        np.testing.assert_allclose(value, function(points), rtol=1e-13)
        np.testing.assert_allclose(gradient, slope, rtol=1e-12, atol=1e-13)
