"""A race to a loss of one's own: it alone is the target, it can be met, and no start has met it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from bench import descents, functions_race, networks_race, nulls, plan, starts, sweep, verdict
from bench.contenders import NULLS
from bench.errors import BenchError, Exit
from bench.problems.functions import FUNCTIONS
from bench.problems.networks import NETWORKS
from bench.score import hits
from bench.score.derive import derive
from bench.tables import frames, rows_of
from tests.bench.example_tables import race as example_rows

RACE = plan.PARTS["race"]
ROSENBROCK = ("rosenbrock",)


def make(problems, target, optimizers=("Adam",), losses=(), **changes):
    return plan.make("smoke", "cpu", optimizers, problems, 0, RACE, losses, {"target": target, **changes})


def rows(made):
    """The rows of a race, as its report gets them."""
    from bench.journal import Record

    return rows_of([Record(cell, plan.KINDS[cell.kind].run(cell), 0.0, "", "") for cell in made.cells])


@pytest.mark.parametrize(
    ("optimizer", "multiple"), [("Rprop", 10.0), ("Adagrad", 100.0), ("LBFGS", 0.1), ("Adafactor", 10.0)]
)
def test_hits_are_the_gradients_until_a_loss_was_seen_at_or_below_the_target(optimizer, multiple):
    (cell,) = (
        one for one in make(("booth",), 20.0, (optimizer,), seeds=5, lrs=str(multiple)).cells if one.kind == "functions"
    )
    (row,) = functions_race.run(cell).rows
    function, lr = FUNCTIONS["booth"], multiple * sweep.default_lr(optimizer)
    begins = starts.starts(function, 0, cell.settings["seeds"])
    (usual,) = functions_race.MAKERS[row["executor"]](function, optimizer, begins, [lr], 100, "cpu")
    found = [math.inf if not text else int(text) for text in row["_hits"]]
    for seed, when in enumerate(found):
        losses = functions_race.MAKERS[row["executor"]](
            function, optimizer, begins.take(slice(seed, seed + 1)), [lr], 100, "cpu"
        )[0].curve()[0]
        below = np.flatnonzero(losses <= 20.0)
        assert when == (below[0] if len(below) and usual.runs.ok[seed] else math.inf)
    assert row["target"] == 20.0 and row["met_target"] == np.isfinite(found).mean()
    assert "gradients_2" not in row and row["gradients_target"] == np.sort(found)[len(found) // 2]
    assert any(0 < when < math.inf for when in found)


def test_a_network_is_judged_by_it_alone_even_on_a_loss_that_has_no_targets():
    for names, losses in ((("digits",), ()), (("digits",), ("huber",))):
        made = make(names, 0.7, losses=losses, seeds=2, steps=200, lrs="10")
        (cell,) = (one for one in made.cells if one.kind == "networks")
        found = networks_race.run(cell).rows
        for seed in range(2):
            run = [row for row in found if row["seed"] == seed]
            first = next(row["evaluations"] for row in run if row["loss"] <= 0.7)
            assert run[-1]["hits"] == str(first) and first > 0
            assert {row["target"] for row in run} == {row["reference"] for row in run} == {0.7}


def test_scores_say_so_and_are_those_of_this_target():
    made = make(ROSENBROCK, 1.0, ("Rprop", "AdamW"), seeds=4, lrs="100")
    tables = rows(made)
    scores = frames(derive(tables))["scores"]
    assert set(scores["target"]) == {1.0} and len(scores)
    best = {row["optimizer"]: row for row in tables["functions"]}["Rprop"]
    times = np.array([float(text or math.inf) for text in best["_hits"][1:]])  # seed 0 tunes
    areas = 1 - np.log(np.clip(times, 1, 100)) / np.log(100)
    (row,) = scores.query("track == 'tuned' and optimizer == 'Rprop' and problem == 'all'").to_dict("records")
    assert row["score"] == pytest.approx(areas.mean()) and 0 < row["score"] < 1
    assert row["success"] == np.isfinite(times).mean()
    assert (scores[scores["optimizer"].isin(("stands still", "sign flipped"))]["score"] == 0).all()
    said = [one.text for one in verdict.scores(frames(derive(tables)))]
    assert "The only target is a loss of 1, in place of the usual list." in said


def test_a_target_that_nobody_has_met_has_no_winner():
    tables = rows(make(("booth",), 1e-12, ("SGD", "Adam"), seeds=3, steps=3, lrs="0.5,1"))
    said = [one.text for one in verdict.scores(frames(derive(tables)))]
    assert "On test functions on cpu, tuned, nobody has met a target." in said
    assert not any("scores most" in text for text in said)


def test_without_one_nothing_says_so():
    scores = frames(derive({"functions": list(example_rows(("Adam", "SGD")))}))
    assert scores["scores"]["target"].isna().all()
    assert not any("only target" in one.text for one in verdict.scores(scores))


def test_runs_with_and_without_it_are_never_taken_for_each_other():
    plain, own, other = make(ROSENBROCK, None), make(ROSENBROCK, 1e-6), make(ROSENBROCK, 1e-3)
    assert not {cell.id for cell in plain.cells} & {cell.id for cell in own.cells}
    assert len({plain.id, own.id, other.id}) == 3
    assert not any("target" in cell.settings for cell in plain.cells)
    assert {cell.settings["target"] for cell in own.cells} == {1e-6}
    assert {cell.optimizer for cell in own.cells} == {"Adam", *NULLS}


@pytest.mark.parametrize(
    ("problems", "target", "says"),
    [
        (ROSENBROCK, math.nan, "--target nan is no loss: give a finite number"),
        (ROSENBROCK, math.inf, "--target inf is no loss"),
        (ROSENBROCK, -1.0, "--target -1.0 cannot be met: rosenbrock has no loss below 0"),
        (ROSENBROCK, 24.2, "--target 24.2 is met before the first step: of 3 runs on rosenbrock the lowest starts at"),
        (("styblinski-tang",), -78.4, "has no loss below -78.33233141"),
        (("factorisation",), 0.1, "--target 0.1 cannot be met: factorisation has no loss below 0.18045"),
        (("digits",), 2.5, "--target 2.5 is met before the first step: of 1 runs on digits"),
        (("digits",), -0.5, "digits has no loss below 0"),
        (("rosenbrock", "beale"), 0.1, "--target 0.1 is a loss of one problem, and here are 2: name one of them"),
        ((), 0.1, "here are 3"),
        (("mlp",), 0.1, "nothing to run"),
    ],
)
def test_a_target_that_cannot_be_met_ends_before_anything_runs(problems, target, says):
    with pytest.raises(BenchError) as caught:
        make(problems, target)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == Exit.USAGE == 2


def test_the_lowest_start_is_that_of_all_seeds_of_whoever_makes_most():
    """The published start of Rosenbrock is at 24.2; with 30 seeds one starts below 6."""
    function = FUNCTIONS["rosenbrock"]
    lowest = {seeds: starts.starts(function, 0, seeds).losses.min() for seeds in (1, 30)}
    assert lowest[30] < 6 < lowest[1]
    make(ROSENBROCK, 6.0, seeds=1)
    with pytest.raises(BenchError, match=f"starts at {lowest[30]:.6g}"):
        make(ROSENBROCK, 6.0, seeds=30)
    network, model = NETWORKS["digits"], None
    made = make(("digits",), 1.0)
    (cell,) = (one for one in made.cells if one.kind == "networks")
    data = network.data()
    model = network.build(networks_race.draw(network, data, cell, 0)[0])
    with torch.no_grad():
        start = network.loss(model, data.train_inputs, data.train_targets).item()
    make(("digits",), start * 0.999)
    with pytest.raises(BenchError, match="before the first step"):
        make(("digits",), start)


def test_whoever_stands_still_scores_0_and_a_minimum_may_be_the_target():
    begins = dataclasses.replace(starts.starts(FUNCTIONS["booth"], 0, 6), thresholds=hits.only(1.0, 6))
    for null in ("stands still", "sign flipped"):
        assert np.isinf(nulls.made(FUNCTIONS["booth"], null, begins, 1e-3, 20, "cpu")[0].hits).all()
    make(ROSENBROCK, 0.0)
    losses = np.array([[3.0] * 6, [1.0] * 6, [0.5] * 6])
    found = descents.judge(descents.Descent(losses, [], np.empty(0), 1.0), begins)
    assert (found.hits == 1).all()  # at the target counts
