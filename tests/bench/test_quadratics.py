"""The quadratic family is what its formulas say, and refuses what it cannot be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import optimizers
from bench.problems.disturbance import (
    CorrelatedNoise,
    Delayed,
    Drifting,
    HeavyNoise,
    Noise,
    Oracle,
    Quantised,
    Sparse,
)
from bench.problems.function import Function, shifted
from bench.problems.functions import FUNCTIONS, named
from bench.problems.quadratics import MINIMISER, QUADRATICS, RACED, ladder, quadratic, quadratic_deep, subgroup_rotation
from bench.score import hits
from bench.sweeps import engine
from tests.bench.disturbed import TEN, starts_of, tensor

ALL = pytest.mark.parametrize("function", QUADRATICS.values(), ids=QUADRATICS)


# the functions


def test_names_are_keys_and_belong_to_the_race():
    assert all(name == function.name for name, function in QUADRATICS.items())
    assert all(named(name.upper()) is function for name, function in QUADRATICS.items())
    assert set(QUADRATICS) & set(FUNCTIONS) == set(RACED) and len(RACED) == 12
    kinds = {type(function.disturbance) for function in QUADRATICS.values()} - {type(None)}
    assert kinds == {CorrelatedNoise, Noise, HeavyNoise, Sparse, Delayed, Drifting, Quantised}


@ALL
def test_minimum_start_and_gradient(function):
    values, gradient = function.value_and_gradient(tensor(function.minimisers))
    # R x* is rounded: of the order of 1e-16 in each coordinate, which the curvatures multiply
    assert values.item() == pytest.approx(function.minimum, rel=1e-14, abs=1e-20) and gradient.abs().max() < 1e-9
    assert function.basin == function.minimum
    points = torch.cat([tensor([function.start]), tensor(starts_of(function, 5))]).requires_grad_()
    values = function(points)
    (expected,) = torch.autograd.grad(values.sum(), points)
    value, gradient = function.value_and_gradient(points.detach())
    torch.testing.assert_close(value, values.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-13 * expected.abs().max().item())
    assert all(low < x < high for x, (low, high) in zip(function.start, function.domain, strict=True))


@ALL
def test_the_origin_earns_nothing(function):
    """A null competitor goes there, and weight decay pulls there: it must lie above the start."""
    origin, start = (
        function(torch.zeros(2, function.dimension, dtype=torch.float64))[0],
        function(tensor(function.start)),
    )
    assert (origin - function.minimum) / (start - function.minimum) > 1


@ALL
@pytest.mark.parametrize("where", ["start", "origin"])
def test_who_rests_earns_nothing_even_where_the_optimum_moves(function, where):
    """Over the 5000 steps of the full budget; the first target lies at 0.56 of the start's gap."""
    resting = torch.zeros(1, function.dimension, dtype=torch.float64) if where == "origin" else tensor([function.start])
    oracle = Oracle(function, [0])
    losses = []
    for oracle.step in range(0, 5001, 10):
        losses.append(oracle.values(resting).item() - function.minimum)
    initial = function(tensor(function.start)).item() - function.minimum
    assert min(losses) >= initial * (1 - 1e-12) if where == "start" else min(losses) > initial * hits.TARGETS[0]


def curvatures(function: Function) -> np.ndarray:
    """Eigenvalues of the Hessian, ascending; of a quadratic it is the gradient's difference of unit vectors."""
    points = torch.eye(function.dimension, dtype=torch.float64) + tensor(function.minimisers[0])
    hessian = function.value_and_gradient(points)[1].numpy()
    return np.linalg.eigvalsh((hessian + hessian.T) / 2), hessian


@pytest.mark.parametrize("exponent", range(1, 7))
def test_the_ladder_has_its_condition_numbers_and_its_rotation_changes_only_the_axes(exponent):
    straight, turned = QUADRATICS[f"quadratic-1e{exponent}"], QUADRATICS[f"quadratic-1e{exponent}-rotated"]
    for function in (straight, turned):
        found, hessian = curvatures(function)
        # eigenvalues are known to 1e-16 of the largest
        np.testing.assert_allclose(found, np.logspace(0, exponent, 10), rtol=0, atol=1e-14 * 10**exponent)
        off = np.abs(hessian - np.diag(np.diag(hessian))).max()
        assert off < 1e-12 if function is straight else off > 0.1 * 10**exponent
    assert straight(tensor(straight.start)).item() == pytest.approx(turned(tensor(turned.start)).item(), rel=1e-13)


@pytest.mark.parametrize("dimension", [2, 3, 10])
def test_rotations_are_rotations(dimension):
    found = subgroup_rotation(np.random.RandomState(5), dimension)
    np.testing.assert_allclose(found @ found.T, np.eye(dimension), atol=1e-14)
    assert np.linalg.det(found) == pytest.approx(1, abs=1e-13)


def test_rotations_are_drawn_from_the_haar_measure():
    """Then each entry has mean 0 and variance 1/n; of 4000 draws the means are known to 0.009, the squares to 0.008."""
    random = np.random.RandomState(1)
    drawn = np.array([subgroup_rotation(random, 3) for _ in range(4000)])
    assert np.abs(drawn.mean(0)).max() < 0.04  # four of those
    assert np.abs((drawn**2).mean(0) - 1 / 3).max() < 0.02  # a square's deviation is 0.3: four times 0.0047


def test_deep_is_the_mean_loss_over_the_data():
    function = quadratic_deep()
    random = np.random.RandomState(42)
    spectrum = np.concatenate([random.uniform(0, 1, 90), random.uniform(30, 60, 10)])
    rotation = np.array(function.rotation)
    # from the algorithm as published, run beside this one; their first numbers
    np.testing.assert_allclose(rotation[0, :3], [-0.10934862, -0.04121565, -0.0590588], atol=1e-8)
    hessian = rotation.T @ np.diag(spectrum) @ rotation
    np.testing.assert_allclose(hessian[0, :3], [6.22142944, 1.1270199, -0.54728195], atol=1e-8)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(100), atol=1e-13)
    data = np.float32(np.random.RandomState(42).normal(0, 0.6, (1000, 100))).astype(float)
    for theta in (np.ones(100), np.random.default_rng(0).normal(size=100)):
        apart = theta - data
        value, gradient = function.value_and_gradient(tensor(theta))
        assert value.item() == pytest.approx(np.einsum("ni,ij,nj->n", apart, hessian, apart).mean() / 2, rel=1e-12)
        np.testing.assert_allclose(gradient, hessian @ apart.mean(0), atol=1e-12)
    assert function.start == (1.0,) * 100
    np.testing.assert_allclose(function.minimisers[0], data.mean(0), atol=1e-15)


def test_the_noise_of_deep_is_that_of_its_batches():
    """The covariance of gradients on batches of 128 of 1000 rows without replacement, and of 3000 batches as drawn."""
    function = quadratic_deep()
    factor, rotation = np.array(function.disturbance.factor), np.array(function.rotation)
    hessian = rotation.T @ np.diag(np.array(function.definition.keywords["halves"]) * 2) @ rotation
    data = np.float32(np.random.RandomState(42).normal(0, 0.6, (1000, 100))).astype(float)
    random = np.random.default_rng(3)
    means = np.array([data[random.permutation(1000)[:128]].mean(0) for _ in range(3000)])
    drawn = (means - data.mean(0)) @ hessian
    assert np.trace(factor @ factor.T) == pytest.approx(
        (drawn**2).sum(1).mean(), rel=0.04
    )  # 3000 draws: 0.8 % each way
    exact = hessian @ np.cov(data.T) @ hessian / 128 * (1 - 128 / 1000)
    np.testing.assert_allclose(factor @ factor.T, exact, atol=1e-12 * np.abs(exact).max())


def test_deep_is_raced_away_from_the_origin_and_is_otherwise_the_same():
    raced, published = QUADRATICS["quadratic-deep"], quadratic_deep()
    assert raced.minimum == published.minimum and raced.disturbance == published.disturbance
    by = np.array(raced.start) - published.start
    assert np.abs(by).min() == 1.5
    points = starts_of(published, 4)
    torch.testing.assert_close(raced(tensor(points + by)), published(tensor(points)), rtol=1e-12, atol=0)


def test_shifting_a_rotated_function_moves_it_by_as_much():
    function = QUADRATICS["quadratic-1e3-rotated"]
    by = tuple(range(10))
    moved = shifted(function, by)
    assert moved(tensor(moved.minimisers)).item() < 1e-20
    torch.testing.assert_close(moved(tensor(moved.start)), function(tensor(function.start)), rtol=1e-12, atol=0)


def test_the_noisy_quadratic_model():
    function = QUADRATICS["quadratic-noisy"]
    expected = 1 / np.arange(1, 101)
    np.testing.assert_allclose(curvatures(function)[0], expected[::-1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(np.square(function.disturbance.scale), expected, rtol=1e-15)


def test_where_noise_leaves_gradient_descent_is_where_theory_says():
    """Without memory, x - x* has in the limit the variance lr² c / (1 - (1 - lr h)²), with noise of variance c = h.

    So the loss is Σ ½ lr h / (2 - lr h). It holds only for noise of the right variance, independent in steps, in
    coordinates (a sum of squares would not see that, its spread over runs does) and in runs.
    """
    function = quadratic("n", "", [1 / i for i in range(1, 11)], "", disturbance=Noise(tuple(np.arange(1, 11) ** -0.5)))
    runs, lr = 4096, 0.5
    starts = np.broadcast_to(function.minimisers[0], (runs, 10))
    found = engine.sweep(function, optimizers.SGD, {"lr": lr}, starts, 400, seeds=np.arange(runs)).values
    curvature = 1 / np.arange(1, 11)
    each = lr * curvature / (2 - lr * curvature) / 2
    # a square of a normal number of variance v has mean v and variance 2 v²; each mean is met within four of its errors
    spread = math.sqrt(2 * (each**2).sum())
    assert found.mean() == pytest.approx(each.sum(), abs=4 * spread / math.sqrt(runs))
    assert found.std() == pytest.approx(spread, rel=0.08)


# wrong input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: quadratic("q", "", [], ""), "0 dimensions"),
        (lambda: quadratic("q", "", [1.0], ""), "minimiser of 10"),
        (lambda: quadratic("q", "", [1.0, -2.0], "", minimiser=(0.0, 0.0)), "-2.0.*above 0"),
        (lambda: dataclasses.replace(TEN, start=()), "0 dimensions"),
        (lambda: subgroup_rotation(np.random.RandomState(0), 1), "1 dimensions"),
        (lambda: Noise(()), "0 dimensions"),
        (lambda: Noise((1.0, -0.5)), "-0.5.*0 or more"),
        (lambda: HeavyNoise((math.nan,)), "nan.*0 or more"),
        (lambda: CorrelatedNoise(((1.0, 2.0),)), "square"),
        (lambda: CorrelatedNoise(((math.inf,),)), "finite"),
        (lambda: Sparse(0.0), r"0.0.*\(0, 1\]"),
        (lambda: Sparse(1.5), r"1.5.*\(0, 1\]"),
        (lambda: Sparse(math.nan), r"nan.*\(0, 1\]"),
        (lambda: Delayed(-3), "-3 steps.*1 or more"),
        (lambda: Delayed(1.5), "1.5 steps.*whole"),
        (lambda: Drifting(()), "0 dimensions"),
        (lambda: Drifting((math.inf,)), "inf.*finite"),
        (lambda: Quantised(0.0), "0.0.*above 0"),
        (lambda: dataclasses.replace(TEN, disturbance=Noise((1.0,) * 3)), "10 dimensions and its disturbance 3"),
        (lambda: engine.sweep(TEN, optimizers.SGD, {}, starts_of(TEN, 1), 1, seeds=-1), "-1 is no seed"),
        (lambda: engine.sweep(TEN, optimizers.SGD, {}, starts_of(TEN, 1), 1, seeds=np.array([0.5])), "0.5 is no seed"),
        (lambda: engine.sweep(TEN, optimizers.SGD, {}, starts_of(TEN, 1), 1, seeds=2**53), "is no seed"),
    ],
)
def test_wrong_input_is_refused_with_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_ladder_can_be_climbed_further():
    assert curvatures(ladder(2, rotated=True))[0][-1] == pytest.approx(100, rel=1e-12)
    assert len(MINIMISER) == len(set(MINIMISER)) == 10 and 0 not in MINIMISER
