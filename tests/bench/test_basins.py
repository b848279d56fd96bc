"""Each start flows to a minimum: the one that an accurate solver of the gradient flow finds, and the published one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from bench import starts
from bench.problems import basins
from bench.problems.functions import FUNCTIONS
from bench.problems.quadratics import QUADRATICS

# where most of its starts lie, Easom's gradient is 1e-40; the ellipsoid is slow, and known to have one basin
UNFOLLOWED = ("easom", "ellipsoid")
# their minima are kinks, where Newton's method has no end; all of a function's have the same value
KINKED = ("bukin-6", "alpine", "schwefel-2.20", "schwefel-2.21", "schwefel-2.22", "chebyshev-rosenbrock-nonsmooth")
FOLLOWED = [name for name in FUNCTIONS if name not in (*UNFOLLOWED, *KINKED) and name not in QUADRATICS]


def accurate(function, start) -> float:
    """The value where LSODA's solution of the flow ends, sharpened by a local minimiser."""

    def slope(_, x):
        return -basins.gradients(function, x[None])[0]

    flow = solve_ivp(slope, (0, 1e6), start, method="LSODA", rtol=1e-9, atol=1e-11)
    polished = minimize(
        lambda x: function(torch.from_numpy(x)).item(), flow.y[:, -1], jac=lambda x: -slope(0, x), tol=1e-14
    )
    return polished.fun


def noisy(function, seeds):
    return np.array([starts.start(function, 0, seed) for seed in range(seeds)])


@pytest.mark.parametrize("name", FOLLOWED)
def test_published_starts_end_in_the_published_basin(name):
    """The table gives eight digits. Followed here even where all starts are known to flow to the same."""
    function = dataclasses.replace(FUNCTIONS[name], unimodal=False)
    points, ended = basins.ends(function, noisy(function, 1))
    assert ended.all()
    assert function(torch.from_numpy(points)).item() == pytest.approx(function.basin, rel=1e-7, abs=1e-7)
    found = basins.basins(function, noisy(function, 1))
    assert found == pytest.approx(function.basin, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", ["salomon", "drop-wave"])
def test_starts_on_other_rings_end_on_those(name):
    """Both depend on the radius alone: along a ray, the flow from a start is that to the next minimum downhill."""
    function = FUNCTIONS[name]
    begins = noisy(function, 32)
    (centre,) = function.minimisers
    found = basins.basins(function, begins)
    for start, value in zip(begins, found, strict=True):
        ray = np.linspace(0, 2, 200_001)[:, None] * (start - centre) + centre
        along = function(torch.from_numpy(ray)).numpy()
        place = 100_000
        step = 1 if along[place + 1] < along[place] else -1
        while 0 < place < 200_000 and along[place + step] < along[place]:
            place += step
        # the grid's nearest point lies above the minimum, by less than its spacing squared × the curvature
        assert value == pytest.approx(along[place], abs=1e-5)
    assert len(np.unique(found.round(4))) > 2


@pytest.mark.parametrize("name", KINKED)
def test_where_no_end_is_found_the_published_basin_is_taken(name):
    function = FUNCTIONS[name]
    assert (basins.basins(function, noisy(function, 2)) == function.basin).all()


@pytest.mark.parametrize(
    "name", ["rosenbrock-10d", "ackley", "rastrigin", "styblinski-tang", "levy", "six-hump-camel", "griewank",
             "three-hump-camel", "bohachevsky", "freudenstein-roth", "dixon-price"]
)  # fmt: skip
def test_noisy_starts_end_where_an_accurate_solver_ends(name):
    """All of them: a start so near a ridge that 3e-5 of the domain decides is not among these."""
    function = FUNCTIONS[name]
    begins = noisy(function, 8)
    expected = [accurate(function, start) for start in begins]
    # 1e-9 of what there is to gain is a tenth of the last target
    gain = function(torch.from_numpy(begins)).numpy() - expected
    np.testing.assert_array_less(np.abs(basins.basins(function, begins) - expected), 1e-9 * np.maximum(gain, 1.0))


def test_there_are_several_basins_among_noisy_starts():
    found = basins.basins(FUNCTIONS["ackley"], noisy(FUNCTIONS["ackley"], 32))
    assert len(set(found.round(6))) > 10


def test_values_are_those_of_minima_to_rounding():
    points, ended = basins.ends(FUNCTIONS["rastrigin"], noisy(FUNCTIONS["rastrigin"], 8))
    slopes = basins.gradients(FUNCTIONS["rastrigin"], points)
    assert ended.all() and np.abs(slopes).max() < 1e-7  # with curvatures of 400 that is 1e-17 of value


def test_a_flow_without_an_end_keeps_the_published_basin(monkeypatch):
    function = dataclasses.replace(FUNCTIONS["six-hump-camel"], basin=123.0)
    assert (basins.basins(function, noisy(function, 3)) < 1).all()
    monkeypatch.setattr(basins, "STEPS", 3)
    assert basins.basins(function, noisy(function, 3)).tolist() == [123.0] * 3


def test_a_saddle_is_no_end():
    """x² - y² + y⁴ at the origin, where the slope is 0."""
    saddle = dataclasses.replace(
        FUNCTIONS["booth"],
        definition=lambda x, m: x[0] ** 2 - x[1] ** 2 + x[1] ** 4,
        unimodal=False,
        minimum=-0.25,
        basin=7.0,
    )
    assert basins.basins(saddle, np.zeros((1, 2))).tolist() == [7.0]
    assert basins.basins(saddle, np.array([[1.0, 1e-3]])).tolist() == pytest.approx([-0.25])


def test_nobody_is_followed_where_all_flow_to_the_same(monkeypatch):
    monkeypatch.setattr(basins, "ends", None)
    assert basins.basins(FUNCTIONS["booth"], np.ones((4, 2))).tolist() == [0.0] * 4
