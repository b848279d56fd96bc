"""The race on quadratics whose gradients are disturbed: the same noise for everybody, judged by true values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import optimizers
from bench import contenders, descents, functions_race, nulls, starts
from bench.budgets import SMOKE
from bench.problems.quadratics import QUADRATICS, RACED
from bench.sweeps import engine
from tests.bench.disturbed import EVERY, TEN, disturbed, starts_of, tensor

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
