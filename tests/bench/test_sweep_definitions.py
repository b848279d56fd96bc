"""Compiled values and gradients are autograd's, and what a definition becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.problems.function import Function
from bench.problems.functions import FUNCTIONS, named
from bench.sweeps import engine
from bench.sweeps.trace import trace
from tests.bench.test_sweeps import OTHERS, ROTATED, SEVERAL, near_the_start, somewhere


@pytest.mark.parametrize("name", [*FUNCTIONS, *OTHERS, *ROTATED])
def test_values_and_gradients_are_those_of_autograd(name):
    function = named(name)
    points = torch.tensor(somewhere(function, 200)).requires_grad_()
    expected = function(points)
    (slope,) = torch.autograd.grad(expected.sum(), points)
    value, gradient = engine.evaluate(function, points.detach().numpy())
    # Both round every operation; terms of the size of the largest cancel, so what is lost is lost against that. Sines
    # of what is hundreds, or a power of what is large, make a hundred roundings of one.
    part = 1e-12 if name in ("salomon", "cross-in-tray") else 2e-14
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-13, atol=part * expected.abs().max().item())
    np.testing.assert_allclose(gradient, slope, rtol=1e-13, atol=part * slope.abs().max().item())


@pytest.mark.parametrize("name", SEVERAL)
def test_float32_is_float32(name):
    function = named(name)
    points = near_the_start(function, 10)
    value, gradient = engine.evaluate(function, points, "float32")
    expected, slope = engine.evaluate(function, points.astype(np.float32).astype(float))
    assert 0 < np.abs(value / expected - 1).max() < 1e-5
    assert 0 < np.abs(gradient - slope).max() < 1e-5 * np.abs(slope).max()


@pytest.mark.parametrize("name", SEVERAL)
def test_an_evaluator_is_evaluate_call_after_call(name):
    function = named(name)
    points = torch.tensor(near_the_start(function, 300)).view(3, 100, function.dimension)
    evaluate = engine.evaluator(function)
    values, gradients = evaluate(points)
    expected, slopes = engine.evaluate(function, points.view(300, -1).numpy())
    evaluate(points[:, :1])
    np.testing.assert_array_equal(values.view(-1), expected)  # and the next call has not changed it
    np.testing.assert_array_equal(gradients.view(300, -1), slopes)
    one, slope = evaluate(points[0, 0])
    assert one.shape == () and one == expected[0] and slope.tolist() == slopes[0].tolist()


def test_definitions_are_traced_with_their_sums_kept():
    traced = trace(FUNCTIONS["rosenbrock-10d"])
    assert [(one.kind, one.length) for one in traced.repeated] == [("sum", 9)]


def made(definition, dimension: int) -> Function:
    """A function with a definition, of which nothing else matters."""
    corner = (0.0,) * dimension
    return Function("made", "", definition, ((-1.0, 1.0),) * dimension, corner, (corner,), 0.0, 0.0, "")


@pytest.mark.parametrize("dimension", [2, 6])
def test_at_kinks_the_subgradient_is_torchs(dimension):
    """0 for an absolute value, an even share for each of the largest; in loops and written out."""

    def definition(x, m):
        return m.max(m.absolute(x)) + m.absolute(x[0] - x[1]) + m.sum(m.absolute(x - 1)) + (x[0] + 3) ** 0.3

    def without_max(x, m):
        return m.absolute(x[0] - x[1]) + m.sum(m.absolute(x - 1))

    points = np.random.default_rng(3).integers(-2, 3, (400, dimension)).astype(float)
    for function in (made(definition, dimension), made(without_max, dimension)):
        leaf = torch.tensor(points).requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
        value, gradient = engine.evaluate(function, points)
        np.testing.assert_allclose(value, function(torch.tensor(points)), rtol=1e-14)
        np.testing.assert_allclose(gradient, slope, rtol=1e-14, atol=1e-15)


def test_angles_are_right_all_around():
    function = made(lambda x, m: m.atan2(x[1], x[0]) * m.sqrt(x[0] ** 2 + x[1] ** 2), 2)
    turn = np.linspace(-3.1, 3.1, 60)
    points = np.stack([np.cos(turn), np.sin(turn)], 1) * np.linspace(0.1, 5, 60)[:, None]
    value, gradient = engine.evaluate(function, points)
    np.testing.assert_allclose(value, turn * np.linspace(0.1, 5, 60), rtol=1e-13)
    complex_step = function.value_and_gradient(torch.tensor(points))[1]
    np.testing.assert_allclose(gradient, complex_step, rtol=1e-12, atol=1e-14)


def test_a_sum_over_data_is_as_many_terms_as_there_are_data():
    traced = trace(named("watson"))
    assert [(one.kind, one.length) for one in traced.repeated] == [("sum", 29)]
    assert trace(named("hartmann-6")).repeated[0].length == 4


def test_products_in_loops():
    """Griewank's product by factors before and after, also where a factor is 0."""
    wide = Function(
        name="product",
        title="",
        definition=lambda x, m: m.prod(x) + m.sum(x[1:] * x[:-1]) + x[0] * x[-1],
        domain=((-1.0, 1.0),) * 7,
        start=(0.5,) * 7,
        minimisers=((0.0,) * 7,),
        minimum=0.0,
        basin=0.0,
        source="",
    )
    points = somewhere(wide, 5)
    points[0, 3] = 0.0
    leaf = torch.tensor(points).requires_grad_()
    (slope,) = torch.autograd.grad(wide(leaf).sum(), leaf)
    value, gradient = engine.evaluate(wide, points)
    np.testing.assert_allclose(gradient, slope, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(value, wide(torch.tensor(points)), rtol=1e-13, atol=1e-15)
