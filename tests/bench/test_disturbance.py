"""What disturbs gradients has the right law, in torch and compiled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import optimizers
from bench.problems import disturbance
from bench.problems.disturbance import (
    Oracle,
)
from bench.problems.function import Function
from bench.sweeps import engine
from optimizers.executors import threads
from tests.bench.disturbed import EVERY, FACTOR, KINDS, PLANE, RANDOM, TEN, alone, disturbed, starts_of, tensor

# random numbers


def test_uniform_numbers_are_uniform_and_independent():
    """A million: means are known to 3e-4, and correlations of its neighbours to 1e-3; four of those allowed."""
    seeds = np.arange(100)
    drawn = np.array([disturbance.uniform(seeds, step, 100) for step in range(100)])  # steps, runs, counters
    assert drawn.min() > 0 and drawn.max() < 1
    counts, _ = np.histogram(drawn, 100, (0, 1))
    # chi-squared with 99 degrees of freedom: mean 99, deviation 14
    assert 99 - 4 * 14 < ((counts - 1e4) ** 2 / 1e4).sum() < 99 + 4 * 14
    for axis in range(3):
        along = np.moveaxis(drawn, axis, 0)
        assert abs(np.corrcoef(along[:-1].ravel(), along[1:].ravel())[0, 1]) < 4e-3
    assert len(np.unique(drawn)) == drawn.size


def test_a_stream_depends_on_its_own_seed_only():
    many = disturbance.normal(np.array([3, 4, 5]), 7, 6)
    np.testing.assert_array_equal(many[1], disturbance.normal(np.array([4]), 7, 6)[0])
    np.testing.assert_array_equal(many[:, :4], disturbance.normal(np.array([3, 4, 5]), 7, 4))
    assert len(np.unique([many, disturbance.normal(np.array([3, 4, 5]), 8, 6)])) == 36


def test_normal_numbers_are_normal():
    """Of 400,000: mean to 0.0016, variance to 0.0022, fourth moment to 0.016, tail beyond 3 (0.0027) to 3 %."""
    drawn = disturbance.normal(np.arange(400), 11, 1000).ravel()
    assert abs(drawn.mean()) < 4 * 0.0016
    assert drawn.var() == pytest.approx(1, abs=4 * 0.0022)
    assert (drawn**4).mean() == pytest.approx(3, abs=4 * 0.016)
    assert (np.abs(drawn) > 3).mean() == pytest.approx(0.0027, rel=0.12)


def test_heavy_tails_are_those_of_student_with_two_degrees_of_freedom():
    """P(|t| > x) = 1 - x / √(2 + x²); each share is met within four of its binomial errors."""
    drawn = np.abs(disturbance.student2(np.arange(400), 11, 1000).ravel())
    for x in (0.5, 1.0, 3.0, 10.0, 50.0):
        share = 1 - x / math.sqrt(2 + x * x)
        assert (drawn > x).mean() == pytest.approx(share, abs=4 * math.sqrt(share / drawn.size))
    signs = disturbance.student2(np.arange(400), 11, 1000) > 0
    assert signs.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(drawn.size))


# what is told


def told(kind: str, steps: int, function: Function = TEN, runs: int = 5, first_seed: int = 0):
    """Points, true gradients and told ones [steps, runs, dimension] at fixed points."""
    one = disturbed(kind, function)
    points = torch.tensor(starts_of(one, runs))
    oracle = Oracle(one, range(first_seed, first_seed + runs))
    return points, one.value_and_gradient(points)[1], torch.stack([oracle.ask(points)[1] for _ in range(steps)])


@pytest.mark.parametrize("kind", ["noise", "correlated"])
def test_noise_has_its_mean_and_its_covariance(kind):
    _, true, found = told(kind, 500, runs=200)
    noise = (found - true).reshape(-1, 10).numpy()  # 100,000 draws: means to 0.003, covariances to 0.005 deviations
    factor = np.array(FACTOR) if kind == "correlated" else np.diag(KINDS["noise"].scale)
    covariance = factor @ factor.T
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(noise.mean(0)) / scale).max() < 4.5 * 0.0032
    assert (np.abs(np.cov(noise.T) - covariance) / np.outer(scale, scale)).max() < 4.5 * 0.0045


def test_sparse_gradients_are_whole_or_nothing():
    _, true, found = told("sparse", 400, runs=50)
    there = found == true
    assert ((found == 0) | there).all() and (true != 0).all()
    share = there.double().mean((0, 1))  # 20,000 draws for each coordinate: to 0.0032
    assert (share - 0.3).abs().max() < 4 * 0.0032


def test_a_delay_tells_the_gradient_of_so_many_steps_ago():
    one = disturbed("delayed")
    path = [torch.tensor(starts_of(one, 3)) + step for step in range(9)]
    oracle = Oracle(one, [0, 1, 2])
    found = [oracle.ask(points) for points in path]
    for step, (values, gradient) in enumerate(found):
        torch.testing.assert_close(values, one(path[step]), rtol=1e-15, atol=0)
        expected = one.value_and_gradient(path[step - 4])[1] if step >= 4 else torch.zeros(3, 10, dtype=torch.float64)
        assert torch.equal(gradient, expected)


def test_a_drift_moves_the_optimum_that_values_are_of():
    one = disturbed("drifting")
    oracle, at = Oracle(one, [0]), tensor(one.minimisers)
    for step in range(5):
        where = at + step * tensor(one.disturbance.velocity)
        assert oracle.values(where).item() == pytest.approx(one.minimum, abs=1e-25)
        assert step == 0 or oracle.values(at).item() > 1e-6
        assert oracle.ask(where)[1].abs().max() < 1e-12


def test_quantised_gradients_are_the_nearest_multiples():
    _, true, found = told("quantised", 1)
    whole = found[0] / 0.7
    assert torch.allclose(whole, whole.round(), rtol=0, atol=1e-12) and (found[0] != true).all()
    assert (found[0] - true).abs().max() <= 0.35 * (1 + 1e-12)


@EVERY
def test_values_are_true_and_seeds_are_all_that_matters(kind):
    one = disturbed(kind)
    points = torch.tensor(starts_of(one, 3))
    first, again, other = (Oracle(one, seeds).ask(points) for seeds in ([1, 2, 3], [1, 2, 3], [4, 5, 6]))
    assert torch.equal(first[0], one(points)) or torch.allclose(first[0], one(points), rtol=1e-14)
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[1], other[1]) == (kind not in RANDOM)


def test_another_way_to_evaluate_is_asked_where_the_landscape_is():
    one = disturbed("drifting")
    asked = []

    def evaluate(points):
        asked.append(points.clone())
        return one.value_and_gradient(points)

    oracle, other, points = Oracle(one, [0], evaluate), Oracle(one, [0]), torch.tensor(starts_of(one, 1))
    for step in range(3):
        assert torch.equal(oracle.ask(points)[1], other.ask(points)[1])
        assert torch.equal(asked[step], points - step * tensor(one.disturbance.velocity))


def test_without_a_disturbance_the_gradient_is_the_true_one():
    points = torch.tensor(starts_of(TEN, 3))
    values, gradients = Oracle(TEN, [0, 1, 2]).ask(points)
    expected = TEN.value_and_gradient(points)
    assert torch.equal(values, expected[0]) and torch.equal(gradients, expected[1])


# compiled


@EVERY
@pytest.mark.parametrize("function", [PLANE, TEN], ids=["written out", "loops"])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("SGD", {"momentum": 0.9}), ("Adam", {"weight_decay": 0.1}), ("RMSprop", {"momentum": 0.5})],
)
def test_each_compiled_run_is_what_the_class_does_alone(kind, function, optimizer, options):
    """Noise, sums and logarithms are rounded elsewhere: a few units in the last place, of which 25 steps make a few."""
    one, cls, steps = disturbed(kind, function), getattr(optimizers, optimizer), 25
    starts, rates = starts_of(one, 4), np.array([1e-4, 1e-3, 1e-2, 1e-3])
    seeds = np.array([5, 2**53 - 1, 5, 0])
    found = engine.sweep(one, cls, {"lr": rates, **options}, starts, steps, every=1, seeds=seeds)
    for run, start in enumerate(starts):
        path, values = alone(one, cls, start, {"lr": float(rates[run]), **options}, steps, int(seeds[run]))
        np.testing.assert_allclose(found.recorded_points[:, run], path, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.recorded_values[:, run], values, rtol=1e-11)
        assert (path[-1] != path[0]).any()
    undisturbed = engine.sweep(function, cls, {"lr": rates, **options}, starts, steps)
    assert (np.abs(undisturbed.points - found.points).max(1) > 1e-8).all()


@EVERY
def test_many_runs_keep_their_own_streams_and_memories(kind, monkeypatch):
    """Blocks follow one another in a buffer, on several threads: a memory that is not emptied would show."""
    one, runs, steps = disturbed(kind, PLANE), 500, 12
    starts, seeds = starts_of(one, runs), np.random.default_rng(2).integers(0, 2**53, runs)
    rates = np.logspace(-4, -2, runs)
    found = engine.sweep(one, optimizers.SGD, {"lr": rates}, starts, steps, seeds=seeds)
    points, oracle = torch.tensor(starts), Oracle(one, seeds.tolist())
    for _ in range(steps):
        points -= torch.tensor(rates)[:, None] * oracle.ask(points)[1]
    np.testing.assert_allclose(found.points, points, rtol=1e-12, atol=1e-13)
    monkeypatch.setattr(threads, "count", lambda: 3)
    several = engine.sweep(one, optimizers.SGD, {"lr": rates}, starts, steps, seeds=seeds)
    np.testing.assert_array_equal(several.points, found.points)


@EVERY
def test_float32_is_near_float64(kind):
    """The same noise, rounded; a gradient near half a unit may be rounded to the other side."""
    one, starts = disturbed(kind), starts_of(TEN, 3)
    single, double = (
        engine.sweep(one, optimizers.SGD, {"lr": 1e-3}, starts, 10, dtype=dtype, seeds=np.arange(3)).points
        for dtype in ("float32", "float64")
    )
    assert 0 < np.abs(single - double).max() < (1e-3 if kind == "quantised" else 1e-5)


def test_records_and_bounds_are_of_true_values():
    one = disturbed("drifting")
    found = engine.sweep(one, optimizers.SGD, {"lr": 1e-3}, starts_of(one, 2), 40, every=3, bounds=(-1.0, 1e9))
    dense = engine.sweep(one, optimizers.SGD, {"lr": 1e-3}, starts_of(one, 2), 40, every=1, bounds=(-1.0, 1e9))
    np.testing.assert_array_equal(found.recorded_values, dense.recorded_values[::3])
    np.testing.assert_array_equal(found.recorded_points, dense.recorded_points[::3])
    np.testing.assert_array_equal(found.best, dense.recorded_values.min(0))
    velocity = np.array(one.disturbance.velocity)
    for step in (0, 7, 40):
        there = torch.tensor(dense.recorded_points[step] - step * velocity)
        np.testing.assert_allclose(dense.recorded_values[step], one(there), rtol=1e-12)
