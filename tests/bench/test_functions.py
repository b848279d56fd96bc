"""What is said of each test function is true: minima, minimisers, starts, basins, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp

from bench.problems.function import Function, shifted
from bench.problems.functions import FUNCTIONS

ALL = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
SMOOTH = [function for function in FUNCTIONS.values() if function.smooth]
PLANAR = [function for function in FUNCTIONS.values() if function.dimension == 2]


def tensor(point) -> torch.Tensor:
    return torch.tensor(point, dtype=torch.float64)


def somewhere(function: Function, count: int = 7) -> torch.Tensor:
    """Points spread over the domain."""
    low, high = tensor(function.domain).T
    share = torch.tensor(np.random.default_rng(0).random((count, function.dimension)))
    return low + share * (high - low)


def test_there_are_enough_and_their_names_are_keys():
    assert len(FUNCTIONS) >= 16
    assert all(name == function.name for name, function in FUNCTIONS.items())
    assert {"rosenbrock", "rosenbrock-10d", "ackley", "rastrigin", "beale", "himmelblau"} <= set(FUNCTIONS)


@ALL
def test_minimum_is_reached_at_every_minimiser(function):
    values = function(tensor(function.minimisers))
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, torch.full_like(values, function.minimum), rtol=1e-13, atol=1e-13)


@ALL
def test_nothing_in_the_domain_is_lower(function):
    low = function.minimum - 1e-9 * max(1, abs(function.minimum))
    assert (function(somewhere(function, 20_000)) >= low).all()


@pytest.mark.parametrize("function", SMOOTH, ids=lambda function: function.name)
def test_gradient_is_zero_at_minimisers(function):
    _, gradient = function.value_and_gradient(tensor(function.minimisers))
    assert gradient.abs().max() < 1e-9


@ALL
def test_start_has_its_published_value_and_is_no_minimiser(function):
    start = tensor(function.start)
    value, gradient = function.value_and_gradient(start)
    if function.start_value is not None:
        assert value.item() == pytest.approx(function.start_value, rel=1e-13)
    assert value > function.minimum + 0.1
    assert gradient.norm() > 0.05
    assert all(low <= x <= high for x, (low, high) in zip(function.start, function.domain, strict=True))


@pytest.mark.parametrize("function", PLANAR, ids=lambda function: function.name)
def test_gradient_flow_from_the_start_ends_in_the_basin(function):
    def downhill(_, x):
        return -function.value_and_gradient(torch.from_numpy(x))[1].numpy()

    end = solve_ivp(downhill, (0, 1e3), function.start, method="LSODA", rtol=1e-7, atol=1e-9).y[:, -1]
    assert function(tensor(end)).item() == pytest.approx(function.basin, abs=2e-6)


@ALL
def test_gradient_is_that_of_finite_differences(function):
    points = somewhere(function)
    width = torch.tensor([high - low for low, high in function.domain], dtype=torch.float64)
    _, gradient = function.value_and_gradient(points)
    for axis in range(function.dimension):
        step = torch.zeros(function.dimension, dtype=torch.float64)
        step[axis] = 1e-6 * width[axis]
        slope = (function(points + step) - function(points - step)) / (2 * step[axis])
        scale = gradient.abs().max(1).values + 1
        assert ((gradient[:, axis] - slope).abs() / scale).max() < 1e-5


@ALL
def test_value_and_gradient_are_those_of_autograd(function):
    points = somewhere(function).requires_grad_()
    values = function(points)
    (expected,) = torch.autograd.grad(values.sum(), points)
    value, gradient = function.value_and_gradient(points)
    torch.testing.assert_close(value, values.detach(), rtol=1e-14, atol=1e-14)
    scale = expected.abs().max().clamp_min(1e-300)  # on the plain of Easom all are 0
    torch.testing.assert_close(gradient / scale, expected / scale, rtol=0, atol=1e-14)


@ALL
def test_batches_of_any_shape(function):
    points = somewhere(function, 6)
    value, gradient = function.value_and_gradient(points.reshape(2, 3, -1))
    one_by_one = [function.value_and_gradient(point) for point in points]
    torch.testing.assert_close(value, torch.stack([v for v, _ in one_by_one]).reshape(2, 3), rtol=1e-14, atol=1e-14)
    expected = torch.stack([g for _, g in one_by_one]).reshape(gradient.shape)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-13)
    assert value.dtype == gradient.dtype == torch.float64


class SympyMath:
    """The mathematics of the definitions in symbols."""

    sin, cos, exp, sqrt = (
        np.vectorize(getattr(sympy, name), otypes=[object]) for name in ("sin", "cos", "exp", "sqrt")
    )
    vector = staticmethod(np.array)

    @staticmethod
    def sum(terms):
        return sum(terms.tolist())

    @staticmethod
    def prod(terms):
        return sympy.prod(terms.tolist())


@ALL
def test_the_same_definition_serves_sympy(function):
    symbols = np.array(sympy.symbols(f"x:{function.dimension}"), dtype=object)
    formula = sympy.sympify(np.asarray(function.definition(symbols, SympyMath)).item())
    point = somewhere(function, 1)[0]
    value = float(formula.subs(dict(zip(symbols, point.tolist(), strict=True))))
    assert value == pytest.approx(function(point).item(), rel=1e-10, abs=1e-10)


def test_shifting_moves_everything_together():
    function = FUNCTIONS["booth"]
    moved = shifted(function, by=(10.0, -1.0))
    assert moved.start == (5.0, 4.0)
    assert moved.domain == ((0.0, 20.0), (-11.0, 9.0))
    assert moved.minimisers == ((11.0, 2.0),)
    assert moved(tensor(moved.start)) == function(tensor(function.start)) == 104


def test_no_minimiser_is_the_origin():
    for function in FUNCTIONS.values():
        assert all(any(x != 0 for x in minimiser) for minimiser in function.minimisers), function.name


def test_overflow_is_a_number_not_a_warning():
    value, _ = FUNCTIONS["freudenstein-roth"].value_and_gradient(tensor([1e200, 1e200]))
    assert not torch.isfinite(value)
