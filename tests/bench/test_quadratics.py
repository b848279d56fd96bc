"""The quadratic family is what its formulas say; what disturbs gradients has the right law, in torch and compiled."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import optimizers
from bench import contenders, descents, functions_race, nulls, starts
from bench.budgets import SMOKE
from bench.problems import disturbance
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
from bench.problems.quadratics import MINIMISER, QUADRATICS, RACED, haar, ladder, quadratic, quadratic_deep
from bench.score import hits
from bench.sweeps import engine
from optimizers.executors import threads

ALL = pytest.mark.parametrize("function", QUADRATICS.values(), ids=QUADRATICS)
#: in ten dimensions, where the compiled gradient is a loop over coordinates, and in two, where it is written out
PLANE = quadratic("plane", "", [1.0, 20.0], "", minimiser=[0.5, -1.0])
TEN = QUADRATICS["quadratic-1e2"]
FACTOR = tuple(map(tuple, np.random.default_rng(0).normal(size=(10, 10)).tolist()))
KINDS = {
    "noise": Noise(tuple(np.linspace(0.1, 2, 10).tolist())),
    "heavy": HeavyNoise(tuple(np.linspace(0.1, 2, 10).tolist())),
    "correlated": CorrelatedNoise(FACTOR),
    "sparse": Sparse(0.3),
    "delayed": Delayed(4),
    "drifting": Drifting((0.01, -0.02) * 5),
    "quantised": Quantised(0.7),
}
RANDOM = ("noise", "heavy", "correlated", "sparse")
EVERY = pytest.mark.parametrize("kind", KINDS)


def disturbed(kind: str, function: Function = TEN) -> Function:
    one = KINDS[kind]
    if function.dimension == 2:
        one = {
            "noise": Noise((0.1, 2.0)),
            "heavy": HeavyNoise((0.1, 2.0)),
            "correlated": CorrelatedNoise(((1.0, 0.5), (-0.5, 2.0))),
            "drifting": Drifting((0.01, -0.02)),
        }.get(kind, one)
    return dataclasses.replace(function, disturbance=one)


def starts_of(function: Function, count: int) -> np.ndarray:
    return np.array(function.start) + np.random.default_rng(1).normal(0, 0.05, (count, function.dimension))


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def alone(function, cls, start, options, steps, seed) -> tuple[np.ndarray, np.ndarray]:
    """Every point and true value of one run by the optimizer's class."""
    oracle, point = Oracle(function, [seed]), torch.tensor(start)
    optimizer = cls([point], **options)
    path, values = [point.numpy().copy()], []
    for _ in range(steps):
        value, gradient = oracle.ask(point[None])
        point.grad = gradient[0]
        optimizer.step()
        values.append(value.item())
        path.append(point.numpy().copy())
    return np.array(path), np.array([*values, oracle.values(point[None]).item()])


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
    found = haar(np.random.RandomState(5), dimension)
    np.testing.assert_allclose(found @ found.T, np.eye(dimension), atol=1e-14)
    assert np.linalg.det(found) == pytest.approx(1, abs=1e-13)


def test_rotations_are_drawn_from_the_haar_measure():
    """Then each entry has mean 0 and variance 1/n; of 4000 draws the means are known to 0.009, the squares to 0.008."""
    random = np.random.RandomState(1)
    drawn = np.array([haar(random, 3) for _ in range(4000)])
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


# the race


SMALL = dataclasses.replace(
    SMOKE, function_steps=40, function_learning_rates=3, function_seeds=3, function_extra_rates=0
)


def rows(name: str, optimizer: str, seed: int = 0) -> list[dict]:
    (cell,) = functions_race.cells(SMALL, "cpu", [optimizer], [name], seed)
    outcome = functions_race.run(cell)
    assert {row["function"] for row in outcome.rows} == {name} and len(outcome.rows) == 3
    return [{key: value for key, value in row.items() if key != "seconds"} for row in outcome.rows]


@pytest.mark.parametrize("name", ["quadratic-noisy", "quadratic-deep", "quadratic-delayed", "quadratic-drifting"])
@pytest.mark.parametrize("optimizer", ["Adam", "Adafactor", "LBFGS"])
def test_the_race_takes_quadratics(name, optimizer):
    found = rows(name, optimizer)
    assert found == rows(name, optimizer)
    assert all(row["evaluations"] == 40 * row["runs"] for row in found if not row["diverged"])
    assert all(row["minimum"] == row["basin"] == QUADRATICS[name].minimum for row in found)
    (curve,) = [row["_losses"] for row in found if "_losses" in row]
    assert len(curve) == 41 or optimizer == "LBFGS"
    assert min(loss for _, loss in curve) < curve[0][1]
    assert {row["executor"] for row in found} == {
        {"Adam": "compiled", "Adafactor": "batched", "LBFGS": "one at a time"}[optimizer]
    }


def test_a_disturbed_function_is_compiled_for_the_cpu_only(monkeypatch):
    assert functions_race.executor_of("Adam", "cpu", QUADRATICS["quadratic-deep"]) == functions_race.COMPILED
    assert functions_race.executor_of("Adam", "cuda", QUADRATICS["quadratic-deep"]) == functions_race.BATCHED


def test_the_noise_of_the_race_comes_from_its_seed():
    one, other = (next(row for row in rows("quadratic-noisy", "Adam", seed) if "_losses" in row) for seed in (0, 1))
    first, again = (dict(row["_losses"]) for row in (one, other))
    assert first[0] == again[0]  # the published start
    assert first[40] != again[40]
    made = [starts.starts(TEN, race, 5) for race in (0, 1)]
    seeds = {int(seed) for one in made for seed in one.noise}
    assert len(seeds) == 10 and all(0 <= seed < 2**53 for seed in seeds)
    np.testing.assert_array_equal(made[0].take([3, 1]).noise, made[0].noise[[3, 1]])


def test_the_curve_that_is_drawn_is_that_of_the_run_it_repeats():
    """Its end is that of the run of seed 0, to the seven digits of a curve; with other noise it would be elsewhere."""
    function = QUADRATICS["quadratic-noisy"]
    (row,) = [row for row in rows("quadratic-noisy", "Adam") if "_losses" in row]
    begins = starts.starts(function, 0, 3)
    runs = descents.compiled(function, optimizers.Adam, begins, [row["lr"]], 40)
    assert row["_losses"][-1][1] == pytest.approx(runs.final[0], rel=1e-6)
    elsewhere = dataclasses.replace(begins, noise=begins.noise + 1)
    assert descents.compiled(function, optimizers.Adam, elsewhere, [row["lr"]], 40).final[0] != runs.final[0]


@pytest.mark.parametrize("name", RACED)
def test_hits_on_the_way_are_those_of_the_true_values(name):
    """The loop judges ahead of the disturbance: what it counts is what the record of true values says."""
    function = QUADRATICS[name]
    begins = starts.starts(function, 0, 4)
    judged = descents.compiled(function, optimizers.Adam, begins, [0.1], 60)
    expected = descents.judge(descents.recorded(function, optimizers.Adam, begins, [0.1], 60), begins)
    np.testing.assert_array_equal(judged.hits, expected.hits)
    np.testing.assert_array_equal(judged.best, expected.best)
    assert np.isfinite(judged.hits).any()


@EVERY
def test_batched_runs_are_compiled_runs(kind):
    one, lrs = disturbed(kind), [1e-3, 1e-2]
    begins = starts.of_points(one, starts_of(one, 3), [7, 8, 2**52])
    batched = descents.batched(one, lambda groups: contenders.build("ours", "Adam", groups), begins, lrs, 30)
    for place, lr in enumerate(lrs):
        compiled = descents.recorded(one, optimizers.Adam, begins, [lr], 30)
        runs = slice(3 * place, 3 * place + 3)
        np.testing.assert_allclose(batched.losses[:, runs], compiled.losses, rtol=1e-10)
        np.testing.assert_allclose(batched.points[:, runs], compiled.points, rtol=1e-11, atol=1e-12)


@EVERY
def test_who_evaluates_by_itself_is_told_the_disturbed_gradient_too(kind):
    one, steps = disturbed(kind), 30
    begins = starts.of_points(one, starts_of(one, 2), [3, 4])

    def sgd(groups):
        return contenders.build("ours", "SGD", groups)

    lrs = [1e-4, 1e-3]  # a run that diverges would end
    expected = descents.batched(one, sgd, begins, lrs, steps)
    for evaluate in (None, engine.evaluator(one)):
        found = descents.one_at_a_time(one, sgd, begins, lrs, steps, evaluate)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-10)


def test_a_gradient_that_is_late_is_waited_for():
    """L-BFGS moves nothing while it is told 0; where nothing disturbs, that is the end of a run."""
    one = disturbed("delayed")
    found = descents.one_at_a_time(
        one,
        lambda groups: contenders.build("ours", "LBFGS", groups, max_iter=31, max_eval=32),
        starts.of_points(one, np.array([one.start])),
        [1e-4],
        30,
    )
    assert found.evaluations == [30]
    assert (found.losses[:5, 0] == found.losses[0, 0]).all() and found.losses[5, 0] != found.losses[0, 0]


@pytest.mark.parametrize("name", RACED)
@pytest.mark.parametrize("null", nulls.MOVES)
def test_who_optimizes_nothing_meets_no_target(name, null):
    """Nor does the optimum that drifts come to one who waits for it."""
    cells = [cell for cell in nulls.cells(SMALL, "cpu", [], [name], 0) if cell.optimizer == null]
    (row,) = nulls.run(dataclasses.replace(cells[0], settings=cells[0].settings | {"steps": 500})).rows
    assert {*row["_hits"]} == {""}


def test_a_point_that_rests_is_judged_against_the_optimum_of_each_step():
    one = QUADRATICS["quadratic-drifting"]
    begins = starts.starts(one, 0, 2)
    runs, _ = nulls.made(one, "stands still", begins, 0.1, 300, "cpu")
    away = torch.tensor(begins.points) - 300 * tensor(one.disturbance.velocity)
    np.testing.assert_allclose(runs.final, one(away), rtol=1e-12)


# wrong input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: quadratic("q", "", [], ""), "0 dimensions"),
        (lambda: quadratic("q", "", [1.0], ""), "minimiser of 10"),
        (lambda: quadratic("q", "", [1.0, -2.0], "", minimiser=(0.0, 0.0)), "-2.0.*above 0"),
        (lambda: dataclasses.replace(TEN, start=()), "0 dimensions"),
        (lambda: haar(np.random.RandomState(0), 1), "1 dimensions"),
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
