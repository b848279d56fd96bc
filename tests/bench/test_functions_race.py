"""The race on test functions: a joint sweep is what its runs would be alone, and what diverged is said."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch

from bench import contenders, functions_race, sweep
from bench.budgets import DEFAULT, SMOKE
from bench.cell import Cell
from bench.problems.catalogue import CATALOGUE
from bench.problems.functions import FUNCTIONS

JOINT = [name for name, traits in contenders.TRAITS.items() if traits.takes is contenders.Takes.TENSORS]
SMALL = dataclasses.replace(SMOKE, function_steps=40, function_learning_rates=3, function_seeds=2)


def cell(name: str, optimizer: str, budget=SMALL, seed: int = 0) -> Cell:
    return functions_race.cells(budget, "cpu", [optimizer], [name], seed)[0]


@pytest.mark.parametrize("optimizer", JOINT)
def test_joint_sweep_equals_torch_one_run_at_a_time(optimizer):
    function = FUNCTIONS["six-hump-camel"]
    steps, lrs = 60, [multiple * sweep.default_lr(optimizer) for multiple in sweep.lr_multiples(3)]
    starts = torch.tensor([functions_race.start(function, 0, seed) for seed in range(3)], dtype=torch.float64)
    joint = functions_race.descend(
        function, lambda groups: contenders.build("ours", optimizer, groups), starts, lrs, steps
    )
    for run in range(len(lrs) * len(starts)):
        point = starts[run % len(starts)].clone()
        alone = contenders.build("loop", optimizer, [point], lr=lrs[run // len(starts)])
        losses = []
        for _ in range(steps):
            # The race's gradient: autograd's last bit differs, and Adadelta makes 1e-5 of that within these steps.
            loss, point.grad = function.value_and_gradient(point)
            losses.append(loss.item())
            alone.step()
        losses.append(function(point).item())
        expected = torch.tensor(losses, dtype=torch.float64)
        torch.testing.assert_close(joint.losses[:, run], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(joint.points[-1, run], point, rtol=1e-10, atol=1e-10)
        assert losses[-1] != losses[0]


@pytest.mark.parametrize("function", ["six-hump-camel", "ackley", "zakharov"])  # none of them chaotic at these rates
@pytest.mark.parametrize("optimizer", [name for name in JOINT if name != "Adafactor"])
def test_a_compiled_sweep_gives_the_rows_of_the_batched_one(optimizer, function, monkeypatch):
    made = cell(function, optimizer, dataclasses.replace(SMALL, function_steps=25))
    compiled = functions_race.run(made).rows
    monkeypatch.setattr(functions_race, "executor_of", lambda optimizer, device: functions_race.BATCHED)
    batched = functions_race.run(made).rows
    assert {row.pop("executor") for row in compiled} == {"compiled"}
    assert {row.pop("executor") for row in batched} == {"batched"}
    for one, other in zip(compiled, batched, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "reason", "_losses", "_trace"}:
            # the last bits of the gradients differ, and the steps make more of that
            number = isinstance(other[name], float)
            expected = pytest.approx(other[name], rel=1e-7, abs=1e-9, nan_ok=True) if number else other[name]
            assert one[name] == expected, name
        for name in one.keys() & {"_losses", "_trace"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-9)


def test_the_executor_is_the_fastest_that_is_exact(monkeypatch):
    found = {name: functions_race.executor_of(name, "cpu") for name in (*JOINT, "LBFGS")}
    assert found.pop("LBFGS") == "one at a time" and found.pop("Adafactor") == "batched"
    assert set(found.values()) == {"compiled"} and len(found) >= 11
    assert functions_race.executor_of("Adam", "cuda") == "batched"
    monkeypatch.setattr(functions_race.kernels, "executor", lambda device: "numba is not installed")
    assert functions_race.executor_of("Adam", "cpu") == "batched"


def lbfgs(groups):
    return contenders.build("ours", "LBFGS", groups)


def test_lbfgs_takes_as_many_gradients_as_the_others_and_no_more():
    """Its steps make up to twenty evaluations; what is compared is evaluations."""
    function = FUNCTIONS["rosenbrock"]
    starts = torch.tensor([functions_race.start(function, 0, seed) for seed in range(2)], dtype=torch.float64)
    found = functions_race.descend_by_closure(function, lbfgs, starts, [0.03, 0.1], 45)
    assert found.losses.shape == (46, 4) and found.points.shape == (len(found.kept), 4, 2)
    assert found.evaluations == [45] * 4
    assert found.losses[0].tolist() == [function(start).item() for start in starts] * 2
    for place, step in enumerate(found.kept):  # each loss is that of the point beside it
        torch.testing.assert_close(function(found.points[place]), found.losses[step], rtol=1e-12, atol=0)


def test_lbfgs_follows_the_path_of_torch():
    function = FUNCTIONS["rosenbrock"]
    start = torch.tensor([function.start], dtype=torch.float64)
    found = functions_race.descend_by_closure(function, lbfgs, start, [0.1], 60)
    point, losses = start[0].clone(), []
    alone = contenders.build("loop", "LBFGS", [point], lr=0.1)

    def closure():
        values, gradients = function.value_and_gradient(point[None])
        point.grad = gradients[0]
        losses.append(values.item())
        return values[0]

    for _ in range(4):
        alone.step(closure)
    expected = torch.tensor(losses[:61], dtype=torch.float64)
    torch.testing.assert_close(found.losses[:, 0], expected, rtol=1e-6, atol=1e-12)


def test_lbfgs_stops_where_nothing_moves_and_where_it_has_diverged(monkeypatch):
    function_class, count = type(FUNCTIONS["booth"]), []
    real = function_class.value_and_gradient
    monkeypatch.setattr(function_class, "value_and_gradient", lambda *args: count.append(1) or real(*args))
    rows = functions_race.run(cell("booth", "LBFGS", dataclasses.replace(SMALL, function_steps=3000))).rows
    assert {row["status"] for row in rows} == {"ok", "diverged"}
    assert all(row["evaluations"] < 3000 and row["gap"] < 1e-6 for row in rows if row["status"] == "ok")
    assert all(row["first_bad_step"] < row["evaluations"] < 100 for row in rows if row["status"] == "diverged")
    assert sum(row["evaluations"] for row in rows) == len(count)


@pytest.mark.parametrize("optimizer", ["Muon", "SparseAdam"])
def test_who_cannot_race_is_skipped_with_a_sentence(optimizer):
    outcome = functions_race.run(cell("booth", optimizer))
    assert outcome.status == "skipped" and not outcome.rows
    assert optimizer in outcome.reason and "only" in outcome.reason


def test_runs_that_diverge_disturb_nobody():
    function = FUNCTIONS["wood"]
    starts = torch.tensor([function.start], dtype=torch.float64)

    def sgd(groups):
        return contenders.build("ours", "SGD", groups)

    alone = functions_race.descend(function, sgd, starts, [1e-5], 50)
    among = functions_race.descend(function, sgd, starts, [1.0, 1e-5, 10.0], 50)
    assert not torch.isfinite(among.losses[-1, [0, 2]]).any()
    assert torch.equal(among.losses[:, 1], alone.losses[:, 0])
    assert torch.equal(among.points[:, 1], alone.points[:, 0])


def test_rows_are_flat_json_with_one_row_per_learning_rate_and_seed():
    rows = functions_race.run(cell("himmelblau", "Adam")).rows
    assert [(row["lr_multiple"], row["seed"]) for row in rows] == [
        (multiple, seed) for multiple in sweep.lr_multiples(3) for seed in range(2)
    ]
    first = rows[0]
    assert first["function"] == "himmelblau" and first["dimension"] == 2 and first["steps"] == 40
    assert first["initial_loss"] == 170 and first["evaluations"] == 40 and first["seconds"] > 0
    assert first["gap"] == first["best_loss"] - first["minimum"] < 170
    assert first["lr"] == pytest.approx(1e-3 / math.sqrt(10))
    assert json.loads(json.dumps(rows)) == rows


def test_the_loss_falls_and_the_curve_shows_it():
    rows = functions_race.run(cell("booth", "Rprop")).rows
    (best,) = [row for row in rows if "_trace" in row]
    steps, losses = zip(*best["_losses"], strict=True)
    assert steps[0] == 0 and steps[-1] == 40 and list(steps) == sorted(set(steps))
    assert losses[0] == best["initial_loss"] == 104
    assert losses[-1] == pytest.approx(best["final_loss"], rel=1e-6) and losses[-1] < 1
    assert best["_trace"][0] == [-5, 5] and len(best["_trace"]) == len(best["_losses"]) <= sweep.KEPT_STEPS
    assert FUNCTIONS["booth"](torch.tensor(best["_trace"][-1], dtype=torch.float64)).item() == pytest.approx(
        best["final_loss"], rel=1e-3
    )
    assert best["final_loss"] == min(row["final_loss"] for row in rows if row["seed"] == 0)


def test_one_curve_is_kept_and_a_trace_in_two_dimensions_only():
    rows = functions_race.run(cell("wood", "Adam")).rows
    (best,) = [row for row in rows if "_losses" in row]
    assert best["final_loss"] == min(row["final_loss"] for row in rows if row["seed"] == 0)
    assert not any("_trace" in row for row in rows)


def test_a_diverged_run_is_a_row_that_says_when_and_why():
    rows = functions_race.run(cell("ellipsoid", "SGD")).rows
    row = rows[-1]
    assert row["status"] == "diverged" and row["gap"] == math.inf
    assert 0 < row["first_bad_step"] < row["evaluations"] == 40  # stepped on with its sweep
    assert f"at step {row['first_bad_step']}" in row["reason"]
    (kept,) = [row for row in rows if "_losses" in row]
    bad = kept["first_bad_step"]
    assert bad is None or max(step for step, _ in kept["_losses"]) < bad


@pytest.mark.parametrize(
    ("losses", "step", "words"),
    [
        ([5.0, 3.0, 4.0, 2.0], None, ""),
        ([5.0, math.nan, 4.0, 2.0], 1, "nan at step 1"),
        ([5.0, 3.0, math.inf, 2.0], 2, "inf at step 2"),
        ([5.0, 4999.0, 5001.0, 2.0], 2, "more than 1000 times"),
        ([0.1, 999.0, 4.0, 1001.0], 3, "more than 1000 times"),  # the gap counts as at least 1
        ([5.0, 3.0, -1.0, 2.0], 2, "left the domain"),
    ],
)
def test_first_bad_step(losses, step, words):
    found = functions_race.first_bad_step(FUNCTIONS["booth"], torch.tensor(losses, dtype=torch.float64))
    assert found[0] == step
    assert words in found[1]


def test_a_run_that_leaves_mccormicks_domain_has_diverged_not_won():
    function = FUNCTIONS["mccormick"]
    starts = torch.tensor([[-9.0, -9.0]], dtype=torch.float64)
    found = functions_race.descend(function, lambda groups: contenders.build("ours", "SGD", groups), starts, [1.0], 10)
    assert functions_race.judge(function, found, 0)["status"] == "diverged"


def test_seed_zero_is_the_published_start_and_others_depend_on_the_runs_seed():
    function = FUNCTIONS["branin"]
    assert functions_race.start(function, 3, 0) == list(function.start)
    assert functions_race.start(function, 3, 1) == functions_race.start(function, 3, 1)
    assert functions_race.start(function, 3, 1) != functions_race.start(function, 4, 1)
    noise = torch.tensor([functions_race.start(function, 0, seed) for seed in range(1, 400)]) - torch.tensor(
        function.start
    )
    torch.testing.assert_close(noise.std(0) / 15, torch.tensor([0.05, 0.05]), rtol=0.1, atol=0)


def test_noise_never_leaves_the_domain():
    edge = dataclasses.replace(FUNCTIONS["booth"], start=(10.0, -10.0))
    for seed in range(1, 20):
        assert all(-10 <= x <= 10 for x in functions_race.start(edge, 0, seed))


def test_cells():
    everything = functions_race.cells(DEFAULT, "cpu", ["SGD", "Adam"], None, 0)
    assert len(everything) == 2 * len(CATALOGUE)
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


def test_learning_rates_are_centred_on_the_default():
    assert sweep.lr_multiples(1) == [1]
    assert sweep.lr_multiples(5) == pytest.approx([0.1, 10**-0.5, 1, 10**0.5, 10])
    with pytest.raises(ValueError, match="4 learning rates"):
        sweep.lr_multiples(4)


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
    starts = torch.tensor([function.start], dtype=torch.float64)
    found = functions_race.descend(function, CompilesFirst, starts, [1e-3, 1e-2], 5)
    assert CompilesFirst.compiled and found.seconds < 0.2
    assert found.points[0].tolist() == [list(function.start)] * 2
    again = functions_race.descend(function, torch.optim.SGD, starts, [1e-3, 1e-2], 5)
    assert torch.equal(found.losses, again.losses)


def test_evaluations_are_the_gradients_that_were_evaluated(monkeypatch):
    function_class, count = type(FUNCTIONS["booth"]), []
    real = function_class.value_and_gradient
    monkeypatch.setattr(function_class, "value_and_gradient", lambda *args: count.append(1) or real(*args))
    monkeypatch.setattr(functions_race, "executor_of", lambda optimizer, device: functions_race.BATCHED)
    for function, status in (("ellipsoid", "diverged"), ("booth", "ok")):
        count.clear()
        rows = functions_race.run(cell(function, "SGD")).rows
        assert {row["status"] for row in rows} == {status}
        assert {row["evaluations"] for row in rows} == {len(count)} == {40}
