"""A compiled sweep does, run for run, what the optimizer's class does alone; and its gradients are autograd's."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

import optimizers
from bench.contenders import TRAITS, Takes
from bench.problems.function import Function
from bench.problems.functions import FUNCTIONS, named
from bench.sweeps import engine, kernel, layout, rotation
from bench.sweeps.step import TABLE, Step
from optimizers.executors import threads

ELEMENTWISE = [
    name
    for name, traits in TRAITS.items()
    if traits.takes is Takes.TENSORS and engine.elementwise(getattr(optimizers, name))
]
#: beside the defaults, whatever adds a state or a term
OPTIONS = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    "Adam": [{"amsgrad": True, "weight_decay": 0.1}, {"maximize": True}],
    "AdamW": [{"beta1": 0.5, "beta2": 0.9, "eps": 1e-3}],
    "NAdam": [{"momentum_decay": 0.1, "beta1": 0.6}],
    "Adagrad": [{"initial_accumulator_value": 0.5, "lr_decay": 0.1}],
    "RMSprop": [{"momentum": 0.9, "centered": True}, {"alpha": 0.5}],
    "Rprop": [{"etaminus": 0.3, "step_size_max": 0.05}],
    "ASGD": [{"lambd": 0.1, "alpha": 0.5, "t0": 10.0}],
}
CASES = [(name, options) for name in ELEMENTWISE for options in [{}, *OPTIONS.get(name, [])]]
#: written out, with sines, with loops, with loops whose terms overlap, over data, and rotated
SEVERAL = ["rosenbrock", "ackley", "wood", "rosenbrock-10d", "zakharov", "kowalik-osborne", "wood-rotated"]
#: functions that the race does not take by themselves
OTHERS = ["ackley-10d", "schwefel-2.21-10d", "schwefel-2.22-3d", "watson-12d", "trid-40d", "rastrigin-3d-shifted"]
ROTATED = ["sphere-1d-rotated", "booth-rotated", "hartmann-6-rotated-2", "rosenbrock-10d-shifted-rotated"]


def somewhere(function: Function, count: int) -> np.ndarray:
    low, high = np.array(function.domain).T
    return low + np.random.default_rng(0).random((count, function.dimension)) * (high - low)


def near_the_start(function: Function, count: int) -> np.ndarray:
    return np.array(function.start) + np.random.default_rng(1).normal(0, 0.05, (count, function.dimension))


def build(cls: type, point: torch.Tensor, options: dict) -> torch.optim.Optimizer:
    """The class with options by the names that `coefficients` has for them."""
    defaults = cls([torch.zeros(1)]).param_groups[0]
    given: dict = {}
    for name, value in options.items():
        key, place = engine.ITEMS.get(name, (name, None))
        if place is None:
            given[key] = value
        else:
            whole = list(given.get(key, defaults[key]))
            whole[place] = value
            given[key] = tuple(whole)
    return cls([point], **given)


def alone(function: Function, cls: type, start: np.ndarray, options: dict, steps: int) -> np.ndarray:
    """Every point of one run by the optimizer's class, [steps + 1, dimension]."""
    point = torch.tensor(start)
    optimizer = build(cls, point, options)
    path = [point.numpy().copy()]
    for _ in range(steps):
        point.grad = torch.from_numpy(engine.evaluate(function, point.numpy()[None])[1][0])
        optimizer.step()
        path.append(point.numpy().copy())
    return np.array(path)


def test_there_are_enough():
    assert len(ELEMENTWISE) >= 11
    assert not engine.elementwise(optimizers.Muon) and not engine.elementwise(optimizers.Adafactor)


def test_a_class_with_a_step_of_its_own_is_not_its_rule():
    class Stopped(optimizers.Adam):
        def step(self, closure=None):
            """Moves nothing."""

    class Renamed(optimizers.Adam):
        """Adam by another name."""

    for cls in (Stopped, Renamed, optimizers.Adam):
        cls([torch.zeros(1)])  # torch may wrap a step then
    assert [engine.elementwise(cls) for cls in (Stopped, Renamed, optimizers.Adam)] == [False, True, True]


@pytest.mark.parametrize("function", SEVERAL)
@pytest.mark.parametrize(("optimizer", "options"), CASES)
def test_each_run_is_what_the_class_does_alone(optimizer, options, function):
    """To the bit for most, as gradient, coefficients and rule are the same arithmetic in the same order.

    In a sum of two products a compiler may fuse either with the addition, and chooses otherwise for vectors than for
    the one number of the class: one unit in the last place, of which the steps make a few.
    """
    function, cls, steps = named(function), getattr(optimizers, optimizer), 25
    starts = near_the_start(function, 4)
    rates = np.array([1e-4, 1e-3, 1e-2, 1e-3])
    found = engine.sweep(function, cls, {"lr": rates, **options}, starts, steps, every=1)
    for run, start in enumerate(starts):
        expected = alone(function, cls, start, {"lr": float(rates[run]), **options}, steps)
        np.testing.assert_allclose(found.recorded_points[:, run], expected, rtol=1e-14, atol=1e-15)
        np.testing.assert_array_equal(found.points[run], found.recorded_points[-1, run])
    assert (found.points != starts).any()


def test_runs_with_other_states_and_other_powers_keep_their_places():
    """Runs are sorted, divided among kernels and padded on the way; each has to come back as itself."""
    function, rng = FUNCTIONS["booth"], np.random.default_rng(2)
    runs = 300
    starts = somewhere(function, runs)
    beta1 = rng.choice([0.0, 0.5, 0.9], runs)
    rates = rng.uniform(1e-3, 1e-1, runs)
    adam = engine.sweep(function, optimizers.Adam, {"lr": rates, "beta1": beta1}, starts, 20, every=7)
    momentum = rng.choice([0.0, 0.5], runs)
    rmsprop = engine.sweep(function, optimizers.RMSprop, {"lr": rates, "momentum": momentum}, starts, 20, every=7)
    for run in range(0, runs, 23):
        options = {"lr": float(rates[run]), "beta1": float(beta1[run])}
        path = alone(function, optimizers.Adam, starts[run], options, 20)
        np.testing.assert_array_equal(adam.points[run], path[-1])
        np.testing.assert_array_equal(adam.recorded_points[:, run], path[::7])
        options = {"lr": float(rates[run]), "momentum": float(momentum[run])}
        path = alone(function, optimizers.RMSprop, starts[run], options, 20)
        np.testing.assert_array_equal(rmsprop.points[run], path[-1])
        np.testing.assert_array_equal(rmsprop.recorded_points[:, run], path[::7])
    np.testing.assert_array_equal(adam.values, engine.evaluate(function, adam.points)[0])


def test_best_and_bad_are_what_the_record_says():
    function = FUNCTIONS["himmelblau"]
    rates = np.array([1e-4, 1e-2, 0.2, 1.0])
    starts = np.array([function.start] * 4) + 0.5
    limit = 1e3
    found = engine.sweep(function, optimizers.SGD, {"lr": rates}, starts, 30, every=1, bounds=(-1.0, limit))
    for run in range(4):
        values = found.recorded_values[:, run]
        bad = np.flatnonzero(~(values <= limit))
        assert found.bad_step[run] == (bad[0] if len(bad) else -1)
        good = values[: bad[0]] if len(bad) else values
        assert found.best[run] == good.min()
        if len(bad):
            np.testing.assert_array_equal(found.bad_values[run], values[bad[0]])
    assert (found.bad_step[:2] == -1).all() and found.bad_step[3] > 0


def test_what_comes_after_the_first_bad_step_does_not_count():
    function = FUNCTIONS["booth"]
    starts = np.array([function.start] * 2)
    found = engine.sweep(function, optimizers.SGD, {"lr": 0.01}, starts, 30, bounds=(0.0, np.array([50.0, 200.0])))
    assert found.values[0] < 50 and found.bad_step.tolist() == [0, -1]  # it starts at 104
    assert found.best[0] == np.inf and found.bad_values[0] == 104
    assert found.best[1] == found.values[1]


def test_a_value_below_the_lower_bound_is_bad_too():
    function = FUNCTIONS["mccormick"]
    found = engine.sweep(function, optimizers.SGD, {"lr": 1.0}, np.array([[-9.0, -9.0]]), 10, bounds=(-2.0, 1e9))
    assert found.bad_step[0] >= 0 and found.bad_values[0] < -2.0


def test_records_are_every_kth_step():
    function = FUNCTIONS["booth"]
    dense = engine.sweep(function, optimizers.Adam, {}, near_the_start(function, 3), 20, every=1)
    thin = engine.sweep(function, optimizers.Adam, {}, near_the_start(function, 3), 20, every=6)
    none = engine.sweep(function, optimizers.Adam, {}, near_the_start(function, 3), 20)
    np.testing.assert_array_equal(thin.recorded_values, dense.recorded_values[::6])
    np.testing.assert_array_equal(thin.recorded_points, dense.recorded_points[::6])
    assert none.recorded_values.shape == (0, 3) and np.array_equal(none.points, dense.points)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_hits_are_the_first_steps_of_the_record_at_or_below_each_target(name):
    """300 runs, so blocks that are padded, sorted and of several kinds; the targets are each run's own."""
    function, rng = FUNCTIONS["himmelblau"], np.random.default_rng(3)
    starts = near_the_start(function, 300)
    rates = 10 ** rng.uniform(-4, 0, 300)
    low = np.sort(rng.uniform(-50, 250, (300, 5)))[:, ::-1]  # some met at once, some never
    low[::7, 3] = low[::7, 2]  # two of the same
    options = {"lr": rates} | ({"momentum": rng.choice([0.0, 0.5], 300)} if name == "SGD" else {})
    before = engine.sweep(function, getattr(optimizers, name), options, starts, 9)
    low[::5, 4] = np.fmin(before.values[::5], low[::5, 3])  # met exactly
    found = engine.sweep(function, getattr(optimizers, name), options, starts, 30, every=1, targets=low)
    met = found.recorded_values[:, :, None] <= low
    expected = np.where(met.any(0), met.argmax(0), -1)
    np.testing.assert_array_equal(found.hits, expected)
    assert {-1, 0}.issubset(expected.ravel()) and expected.max() > 10


def test_targets_that_rise_or_are_of_other_runs_are_refused():
    function = FUNCTIONS["booth"]
    for targets in (np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]] * 2)):
        with pytest.raises(ValueError, match="targets"):
            engine.sweep(function, optimizers.Adam, {}, np.array([function.start]), 5, targets=targets)


@pytest.mark.parametrize("route", ["openmp", "python"])
def test_threads_change_nothing(monkeypatch, route):
    function = FUNCTIONS["rosenbrock"]
    rates = np.logspace(-4, -1, 1000)
    starts = near_the_start(function, 1000)
    one = engine.sweep(function, optimizers.Adam, {"lr": rates}, starts, 15)
    monkeypatch.setattr(threads, "count", lambda: 3)
    if route == "python":
        monkeypatch.setattr(threads, "openmp", lambda: None)
    elif threads.openmp() is None:
        pytest.skip("torch's OpenMP is not to be found here")
    several = engine.sweep(function, optimizers.Adam, {"lr": rates}, starts, 15)
    np.testing.assert_array_equal(several.points, one.points)


def test_runs_that_diverge_disturb_nobody():
    function = FUNCTIONS["wood"]
    starts = np.array([function.start] * 3)
    found = engine.sweep(function, optimizers.SGD, {"lr": np.array([1.0, 1e-5, 10.0])}, starts, 50)
    assert np.array_equal(np.isfinite(found.values), [False, True, False])
    one = engine.sweep(function, optimizers.SGD, {"lr": 1e-5}, starts[:1], 50)
    np.testing.assert_array_equal(found.points[1], one.points[0])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_more_steps_than_are_prepared_at_once(monkeypatch, name):
    """The table of steps is filled piece by piece for each block, and the states go on from piece to piece."""
    function, cls = FUNCTIONS["booth"], getattr(optimizers, name)
    starts = near_the_start(function, 300)
    rates = np.logspace(-4, -2, 300)
    steps = TABLE + 3
    whole = engine.sweep(function, cls, {"lr": rates}, starts, steps, every=TABLE - 1)
    first = engine.sweep(function, cls, {"lr": rates}, starts, TABLE - 1)
    np.testing.assert_array_equal(whole.recorded_points[1], first.points)
    for run in (0, 299):
        path = alone(function, cls, starts[run], {"lr": float(rates[run])}, steps)
        np.testing.assert_allclose(whole.points[run], path[-1], rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "starts", "words"),
    [
        ({"beta3": 0.1}, [[0.0, 0.0]], "no beta3"),
        ({"lr": -1.0}, [[0.0, 0.0]], "learning rate"),
        ({"lr": float("nan")}, [[0.0, 0.0]], "nan"),
        ({"beta1": np.array([0.5, 1.5])}, [[0.0, 0.0]] * 2, "beta"),
        ({}, [[0.0]], "2 dimensions"),
        ({}, np.zeros((0, 2)), "2 dimensions"),
    ],
)
def test_wrong_input_is_refused(options, starts, words):
    with pytest.raises(ValueError, match=words):
        engine.sweep(FUNCTIONS["booth"], optimizers.Adam, options, np.array(starts), 5)


def test_a_rotation_compiles_nothing_anew(monkeypatch):
    """The function's own code is that of the function as it stands; the stage around it is one for all."""
    loaded = []
    real = kernel.load
    monkeypatch.setattr(kernel, "load", lambda text, kind: loaded.append(kind) or real(text, kind))
    upright, turned = named("dixon-price-6d"), named("dixon-price-6d-rotated-4")
    assert kernel.gradient_source(upright, "float64") == kernel.gradient_source(turned, "float64")
    engine.sweep(named("booth-rotated-11"), optimizers.SGD, {}, np.zeros((1, 2)), 1)
    before = rotation.module("float64")
    loaded.clear()
    engine.sweep(turned, optimizers.SGD, {"lr": 1e-3}, np.array([turned.start]), 3)
    assert loaded == ["sweep_gradient"] and rotation.module("float64") is before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rotated_sweep_of_what_is_round_is_the_sweep_turned(dtype):
    """SGD does not know of axes, so its path on the turned landscape is the turned path."""
    upright, turned = named("rosenbrock-10d"), named("rosenbrock-10d-rotated-1")
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    paths = [
        engine.sweep(one, optimizers.SGD, {"lr": 1e-4}, np.array([one.start]), 40, dtype=dtype, every=10)
        for one in (upright, turned)
    ]
    back = paths[1].recorded_points @ np.array(turned.rotation).T
    np.testing.assert_allclose(back, paths[0].recorded_points, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(paths[1].recorded_values, paths[0].recorded_values, rtol=20 * tolerance)
    assert np.ptp(paths[0].recorded_values) > 1


def test_rows_are_apart():
    """No row of the layout reaches into the next one, and every optimizer has place."""
    assert layout.PITCH >= layout.LANES
    for name in ELEMENTWISE:
        algorithm = getattr(optimizers, name).algorithm
        everything = frozenset([*algorithm.hyper, "direction"])
        made = Step(algorithm, (True,) * len(algorithm.slots), "float64", everything)
        assert max(made.row.values()) < layout.HEAD and len(set(made.row.values())) == len(made.row)
    assert ctypes.sizeof(ctypes.c_ssize_t) == 8


@pytest.mark.parametrize("shape", [(1, 3), (2, 136), (300, 136)])
def test_a_buffer_begins_with_a_line_of_the_cache(shape):
    buffer = engine._aligned(shape)
    assert buffer.ctypes.data % 64 == 0
    assert buffer.flags.c_contiguous and buffer.shape == shape and not buffer.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_judged_are_the_recorded_values(dtype):
    starts = np.random.default_rng(0).uniform(-2, 2, (150, 2))
    function, rates = named("rosenbrock-2d"), np.geomspace(1e-3, 2, 150)
    setting = {"dtype": dtype, "every": 1, "bounds": (-np.inf, 2000.0), "targets": np.tile([100.0, 1.0], (150, 1))}
    found = engine.sweep(function, optimizers.Adam, {"lr": rates}, starts, 40, **setting)
    values = found.recorded_values
    out = values > 2000
    before = np.logical_or.accumulate(out)
    first = np.where(out.any(0), out.argmax(0), -1)
    assert 0 < (first > 0).sum() < 150
    assert np.array_equal(found.bad_step, first)
    assert np.array_equal(found.bad_values, np.where(first < 0, 0, values[first, np.arange(150)]))
    assert np.array_equal(found.best, np.where(before, np.inf, values).min(0))
    for k, target in enumerate((100.0, 1.0)):
        met = values <= target
        assert 0 < met.any(0).sum() < 150
        assert np.array_equal(found.hits[:, k], np.where(met.any(0), met.argmax(0), -1))
