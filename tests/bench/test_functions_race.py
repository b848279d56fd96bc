"""The race on test functions: a joint sweep is what its runs would be alone, and what diverged is said."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch

import optimizers
from bench import contenders, descents, functions_race, starts, sweep
from bench.budgets import DEFAULT, SMOKE
from bench.cell import Cell
from bench.problems.functions import FUNCTIONS

JOINT = [name for name, traits in contenders.TRAITS.items() if traits.takes is contenders.Takes.TENSORS]
SMALL = dataclasses.replace(SMOKE, function_steps=40, function_learning_rates=3, function_extra_rates=0)
BOOTH = FUNCTIONS["booth"]


def cell(name: str, optimizer: str, budget=SMALL, seed: int = 0) -> Cell:
    return functions_race.cells(budget, "cpu", [optimizer], [name], seed)[0]


def points_of(function, seeds: int) -> np.ndarray:
    return np.array([starts.start(function, 0, seed) for seed in range(seeds)])


def ours(optimizer: str):
    return lambda groups: contenders.build("ours", optimizer, groups)


@pytest.mark.parametrize("optimizer", JOINT)
def test_joint_sweep_equals_torch_one_run_at_a_time(optimizer):
    function = FUNCTIONS["six-hump-camel"]
    steps, lrs = 60, [multiple * sweep.default_lr(optimizer) for multiple in sweep.lr_multiples(3)]
    begins = starts.starts(function, 0, 3)
    joint = descents.batched(function, ours(optimizer), begins, lrs, steps)
    for run in range(len(lrs) * 3):
        point = torch.tensor(begins.points[run % 3])
        alone = contenders.build("loop", optimizer, [point], lr=lrs[run // 3])
        losses = []
        for _ in range(steps):
            # The race's gradient: autograd's last bit differs, and Adadelta makes 1e-5 of that within these steps.
            loss, point.grad = function.value_and_gradient(point)
            losses.append(loss.item())
            alone.step()
        losses.append(function(point).item())
        np.testing.assert_allclose(joint.losses[:, run], losses, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(joint.points[-1, run], point, rtol=1e-10, atol=1e-10)
        assert losses[-1] != losses[0]


@pytest.mark.parametrize(
    "function", ["six-hump-camel", "ackley", "zakharov", "booth-rotated"]
)  # none of them chaotic at these rates
@pytest.mark.parametrize("optimizer", [name for name in JOINT if name != "Adafactor"])
def test_a_compiled_sweep_gives_the_rows_of_the_batched_one(optimizer, function, monkeypatch):
    made = cell(function, optimizer, dataclasses.replace(SMALL, function_steps=25))
    compiled = functions_race.run(made).rows
    monkeypatch.setattr(functions_race, "executor_of", lambda *_: functions_race.BATCHED)
    batched = functions_race.run(made).rows
    assert {row.pop("executor") for row in compiled} == {"compiled"}
    assert {row.pop("executor") for row in batched} == {"batched"}
    for one, other in zip(compiled, batched, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "_losses", "_trace"}:
            # the last bits of the gradients differ, and the steps make more of that
            number = isinstance(other[name], float)
            expected = pytest.approx(other[name], rel=1e-7, abs=1e-9, nan_ok=True) if number else other[name]
            assert one[name] == expected, name
        for name in one.keys() & {"_losses", "_trace"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("function", ["himmelblau", "wood", "mccormick", "rosenbrock-10d"])
@pytest.mark.parametrize("optimizer", [name for name in JOINT if name != "Adafactor"])
def test_what_the_compiled_loop_judges_is_what_its_record_says(optimizer, function):
    """Exactly: hits, first bad step, best and last loss are read off the same numbers, here and there."""
    function = FUNCTIONS[function]
    begins = starts.starts(function, 0, 5)
    lrs = [sweep.default_lr(optimizer) * 10.0**decade for decade in (-2, 0, 1, 2, 4)]
    cls = getattr(optimizers, optimizer)
    judged = descents.compiled(function, cls, begins, lrs, 60)
    for place, lr in enumerate(lrs):
        for seed in range(5):
            one = descents.recorded(function, cls, begins.take([seed]), [lr], 60)
            expected = descents.judge(one, begins.take(slice(seed, seed + 1)))
            found = judged.take(slice(place * 5 + seed, place * 5 + seed + 1))
            for name in ("final", "best", "bad_step", "hits", "evaluations"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert np.isfinite(judged.hits).any() and np.isinf(judged.hits).any()


def test_the_executor_is_the_fastest_that_is_exact(monkeypatch):
    found = {name: functions_race.executor_of(name, "cpu", BOOTH) for name in (*JOINT, "LBFGS")}
    assert found.pop("LBFGS") == "one at a time" and found.pop("Adafactor") == "batched"
    assert set(found.values()) == {"compiled"} and len(found) >= 11
    monkeypatch.setattr(functions_race.kernels, "executor", lambda device: "numba is not installed")
    assert functions_race.executor_of("Adam", "cpu", BOOTH) == "batched"


lbfgs = ours("LBFGS")


def test_lbfgs_takes_as_many_gradients_as_the_others_and_no_more():
    """Its steps make up to twenty evaluations; what is compared is evaluations."""
    function = FUNCTIONS["rosenbrock"]
    begins = starts.starts(function, 0, 2)
    found = descents.one_at_a_time(function, lbfgs, begins, [0.03, 0.1], 45)
    assert found.losses.shape == (46, 4) and found.points.shape == (len(found.kept), 4, 2)
    assert found.evaluations == [45] * 4
    assert found.losses[0].tolist() == begins.losses.tolist() * 2
    for place, step in enumerate(found.kept):  # each loss is that of the point beside it
        here = function(torch.from_numpy(found.points[place]))
        np.testing.assert_allclose(here, found.losses[step], rtol=1e-12)


def test_lbfgs_follows_the_path_of_torch():
    function = FUNCTIONS["rosenbrock"]
    found = descents.one_at_a_time(function, lbfgs, starts.starts(function, 0, 1), [0.1], 60)
    point, losses = torch.tensor(function.start, dtype=torch.float64), []
    alone = contenders.build("loop", "LBFGS", [point], lr=0.1)

    def closure():
        value, point.grad = function.value_and_gradient(point)
        losses.append(value.item())
        return value

    for _ in range(4):
        alone.step(closure)
    np.testing.assert_allclose(found.losses[:, 0], losses[:61], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["rosenbrock", "wood", "ellipsoid", "rastrigin"])
def test_the_race_makes_the_steps_of_lbfgs_in_one(name):
    """The same evaluations in the same order, so the same losses."""
    function = FUNCTIONS[name]
    begins = starts.starts(function, 0, 2)
    evaluate = functions_race.evaluator(function, "cpu")
    many = descents.one_at_a_time(function, lbfgs, begins, [0.1, 1.0], 100, evaluate)
    for place, rate in enumerate(functions_race.make_alone(function, "LBFGS", begins, [0.1, 1.0], 100, "cpu")):
        losses, _, _ = rate.curve()
        length = min(many.evaluations[2 * place], int(rate.runs.evaluations[0]))
        assert length > 5
        np.testing.assert_array_equal(losses[:length], many.losses[:length, 2 * place])


def test_lbfgs_stops_where_nothing_moves_and_where_it_has_diverged(monkeypatch):
    count = []
    real = functions_race.evaluator

    def counted(function, device):
        evaluate = real(function, device)
        return lambda point: count.append(1) or evaluate(point)

    monkeypatch.setattr(functions_race, "evaluator", counted)
    rows = functions_race.run(cell("booth", "LBFGS", dataclasses.replace(SMALL, function_steps=3000))).rows
    assert [row["diverged"] > 0 for row in rows] == [False, False, True]
    assert all(row["evaluations"] < 2 * 3000 and row["gap_median"] < 1e-6 for row in rows[:2])
    assert rows[2]["evaluations"] < 2 * 100
    assert sum(row["evaluations"] for row in rows) == len(count)


@pytest.mark.parametrize("optimizer", ["Muon", "SparseAdam"])
def test_who_cannot_race_is_skipped_with_a_sentence(optimizer):
    outcome = functions_race.run(cell("booth", optimizer))
    assert outcome.status == "skipped" and not outcome.rows
    assert optimizer in outcome.reason and "only" in outcome.reason


def test_runs_that_diverge_disturb_nobody():
    function = FUNCTIONS["wood"]
    begins = starts.starts(function, 0, 1)
    alone = descents.batched(function, ours("SGD"), begins, [1e-5], 50)
    among = descents.batched(function, ours("SGD"), begins, [1.0, 1e-5, 10.0], 50)
    assert not np.isfinite(among.losses[-1, [0, 2]]).any()
    np.testing.assert_array_equal(among.losses[:, 1], alone.losses[:, 0])
    np.testing.assert_array_equal(among.points[:, 1], alone.points[:, 0])


def test_rows_are_flat_json_with_one_row_per_learning_rate():
    rows = functions_race.run(cell("himmelblau", "Adam")).rows
    assert [row["lr_multiple"] for row in rows] == sweep.lr_multiples(3)
    first = rows[0]
    assert first["function"] == "himmelblau" and first["dimension"] == 2 and first["steps"] == 40
    assert (first["runs"], first["tuning_seeds"], first["diverged"]) == (3, 1, 0)
    assert first["evaluations"] == 3 * 40 and first["seconds"] > 0
    assert rows[-1]["_losses"][0] == [0, 170.0]
    assert 0 < first["gap_q1"] <= first["gap_median"] <= first["gap_q3"] <= first["final_gap_q3"] < 200
    assert first["lr"] == pytest.approx(1e-3 / math.sqrt(10))
    assert len(first["_hits"]) == 3
    assert json.loads(json.dumps(rows)) == rows


def test_a_row_counts_what_its_runs_did():
    """By hand, from the losses of the same runs one by one."""
    function, steps = FUNCTIONS["booth"], 40
    (row,) = functions_race.run(cell("booth", "Rprop", dataclasses.replace(SMALL, function_learning_rates=1))).rows
    begins = starts.starts(function, 0, 3)
    one_by_one = [
        descents.recorded(function, optimizers.Rprop, begins.take([seed]), [0.01], steps).losses[:, 0]
        for seed in range(3)
    ]
    best = sorted(losses.min() for losses in one_by_one)
    assert [row[f"gap_{part}"] for part in ("q1", "median", "q3")] == [best[0], best[1], best[2]]
    assert row["final_gap_median"] == sorted(losses[-1] for losses in one_by_one)[1]
    times = [np.flatnonzero(losses <= losses[0] * 1e-2) for losses in one_by_one]
    assert row["met_2"] == 1 and row["gradients_2"] == sorted(time[0] for time in times)[1]
    assert row["met_8"] == 0 and row["gradients_8"] == math.inf


def test_a_curve_comes_as_near_to_a_minimum_that_is_not_0():
    """Rounded to a few digits, it would stay above or below the minimum by as much."""
    budget = dataclasses.replace(SMALL, function_steps=400)
    rows = functions_race.run(cell("six-hump-camel", "Rprop", budget)).rows
    (best,) = [row for row in rows if "_losses" in row]
    expected = FUNCTIONS["six-hump-camel"].minimum + best["final_gap_q1"]
    assert best["_losses"][-1][1] == pytest.approx(expected, rel=1e-9)  # all seeds end there


def test_the_loss_falls_and_the_curve_shows_it():
    rows = functions_race.run(cell("booth", "Rprop")).rows
    (best,) = [row for row in rows if "_trace" in row]
    steps, losses = zip(*best["_losses"], strict=True)
    assert steps[0] == 0 and steps[-1] == 40 and list(steps) == sorted(set(steps))
    assert losses[0] == 104 and losses[-1] < 1
    assert best["_trace"][0] == [-5, 5] and len(best["_trace"]) == len(best["_losses"]) <= sweep.KEPT_STEPS
    end = torch.tensor(best["_trace"][-1], dtype=torch.float64)
    assert FUNCTIONS["booth"](end).item() == pytest.approx(losses[-1], rel=1e-3)
    ends = [
        descents.recorded(
            FUNCTIONS["booth"],
            optimizers.Rprop,
            starts.starts(FUNCTIONS["booth"], 0, 1),
            [row["lr"]],
            40,
        ).losses[-1, 0]
        for row in rows
    ]
    assert losses[-1] == pytest.approx(min(ends), rel=1e-6) and best["_curve_status"] == "ok"


def test_one_curve_is_kept_and_a_trace_in_two_dimensions_only():
    rows = functions_race.run(cell("wood", "Adam")).rows
    assert sum("_losses" in row for row in rows) == 1
    assert not any("_trace" in row for row in rows)


def test_the_curve_is_of_the_rate_where_seed_0_ended_lowest():
    """Not where it passed the lowest point, nor where another seed ended lower, nor where it diverged."""

    def rate(final, best, bad_step=-1):
        numbers = np.array([final, -9.0])
        made = descents.Runs(numbers, numbers, np.array([best, -9.0]), np.array([bad_step, -1]), *(numbers,) * 3)
        return functions_race.Rate(made, lambda: (np.array([4.0, final]), np.zeros((2, 2)), [0, 1]))

    rows = [{}, {}, {}]
    functions_race.keep_curve(rows, [rate(3.0, 0.0), rate(2.0, 1.0), rate(1.0, 1.0, 1)], FUNCTIONS["booth"])
    assert [row.get("_losses") for row in rows] == [None, [[0, 4.0], [1, 2.0]], None]


def test_a_diverged_run_is_counted_and_said_when_and_why():
    rows = functions_race.run(cell("ellipsoid", "SGD")).rows
    row = rows[-1]
    assert row["status"] == "diverged" and row["diverged"] == row["runs"] == 3 and row["gap_q1"] == math.inf
    assert row["_hits"] == [""] * 3 and row["evaluations"] == 3 * 40  # stepped on with its sweep
    assert row["reason"].startswith(
        "3 of 3 runs diverged, the first at step 1, mostly because the loss rose above 1000"
    )
    (kept,) = [row for row in rows if "_losses" in row]
    assert kept["_curve_status"] == "diverged" and [step for step, _ in kept["_losses"]] == [0]


def test_cells():
    everything = functions_race.cells(DEFAULT, "cpu", ["SGD", "Adam"], None, 0)
    assert len(everything) == 2 * len(FUNCTIONS)
    assert {c.settings["name"] for c in functions_race.cells(SMOKE, "cpu", ["SGD"], None, 0)} == {
        "rosenbrock",
        "rastrigin",
    }
    assert [c.label for c in functions_race.cells(SMOKE, "cpu", ["SGD"], ["beale", "digits"], 0)] == [
        "SGD · beale · cpu"
    ]
    assert functions_race.cells(SMOKE, "cpu", ["SGD"], ["digits"], 0) == []
    assert cell("beale", "SGD", seed=1).id != cell("beale", "SGD", seed=2).id
    assert len(everything[0].settings["lr_multiples"]) == 7
    fast, slow = (functions_race.cells(DEFAULT, "cpu", [name], ["beale"], 0)[0] for name in ("Adam", "LBFGS"))
    assert (fast.settings["seeds"], slow.settings["seeds"]) == (32, DEFAULT.function_slow_seeds)
    given = dataclasses.replace(DEFAULT, lr_multiples=(0.5, 2.0))
    settings = functions_race.cells(given, "cpu", ["Adam"], ["beale"], 0)[0].settings
    assert settings["lr_multiples"] == [0.5, 2.0] and settings["extra_rates"] == 0  # as they were given


@pytest.mark.parametrize("steps", [1, 10, 100, 500, 5000])
def test_kept_steps(steps):
    kept = sweep.kept_steps(steps)
    assert kept[0] == 0 and kept[-1] == steps and len(kept) <= sweep.KEPT_STEPS
    assert kept == sorted(set(kept))
    assert steps < 500 or kept[1] - kept[0] < kept[-1] - kept[-2]


def test_one_thread_gives_the_others_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), sweep.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


class CompilesFirst(torch.optim.SGD):
    """As a kernel: its first step ever takes long."""

    compiled = False

    def step(self, closure=None):
        if not CompilesFirst.compiled:
            CompilesFirst.compiled = True
            time.sleep(0.3)
        super().step(closure)


def test_compilation_is_off_the_clock_and_moves_nothing():
    CompilesFirst.compiled = False
    function = FUNCTIONS["booth"]
    begins = starts.starts(function, 0, 1)
    found = descents.batched(function, CompilesFirst, begins, [1e-3, 1e-2], 5)
    assert CompilesFirst.compiled and found.seconds < 0.2
    assert found.points[0].tolist() == [list(function.start)] * 2
    again = descents.batched(function, torch.optim.SGD, begins, [1e-3, 1e-2], 5)
    np.testing.assert_array_equal(found.losses, again.losses)


def test_evaluations_are_the_gradients_that_were_evaluated(monkeypatch):
    function_class, count = type(FUNCTIONS["booth"]), []
    real = function_class.value_and_gradient
    monkeypatch.setattr(function_class, "value_and_gradient", lambda *args: count.append(1) or real(*args))
    monkeypatch.setattr(functions_race, "executor_of", lambda *_: functions_race.BATCHED)
    monkeypatch.setattr(functions_race, "evaluator", lambda function, device: None)
    for function, status in (("ellipsoid", "diverged"), ("booth", "ok")):
        starts.starts(FUNCTIONS[function], 0, 3)  # whose basins take gradients too
        count.clear()
        rows = functions_race.run(cell(function, "SGD")).rows
        assert {row["status"] for row in rows} == {status}
        seeds = rows[0]["runs"]
        assert {row["evaluations"] for row in rows} == {seeds * len(count)} == {seeds * 40}
