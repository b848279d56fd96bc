"""The race on small networks: same data for everybody, honest clock, divergence as rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time

import pytest
import torch

from bench import contenders, network_nulls, networks_race, plan, sweep
from bench.budgets import DEFAULT, FULL, SMOKE
from bench.cell import Cell
from bench.contenders import NULLS
from bench.problems import targets
from bench.problems.networks import NETWORKS
from bench.problems.stack import draw_picks
from bench.score import hits, measures
from bench.score.networks import TARGETS, rates

SMALL = dataclasses.replace(SMOKE, network_steps=40, network_learning_rates=3, network_seeds=2)


def cell(name: str, optimizer: str, budget=SMALL, seed: int = 0) -> Cell:
    return networks_race.cells(budget, "cpu", [optimizer], [name], seed)[0]


def without_seconds(rows):
    """Comparable: no times, and text for the accuracy, which is nan where there are no classes."""
    return [{key: str(value) for key, value in row.items() if key != "seconds"} for row in rows]


RACING = [
    name
    for name, traits in contenders.TRAITS.items()
    if traits.takes in (contenders.Takes.TENSORS, contenders.Takes.CLOSURE)
]


@pytest.mark.parametrize("optimizer", RACING)
def test_every_optimizer_lowers_the_regression_loss(optimizer):
    rows = networks_race.run(cell("regression", optimizer, SMOKE)).rows
    assert rows[-1]["evaluations"] == SMOKE.network_steps and rows[-1]["status"] == "ok"
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]


@pytest.mark.parametrize("optimizer", ["Muon", "SparseAdam"])
def test_who_cannot_race_is_skipped_with_a_sentence(optimizer):
    outcome = networks_race.run(cell("digits", optimizer))
    assert outcome.status == "skipped" and not outcome.rows and optimizer in outcome.reason


def test_lbfgs_spends_the_same_number_of_gradients_in_fewer_steps(monkeypatch):
    calls, real = [], networks_race.evaluation

    def evaluation(network, *arguments):
        closure = real(network, *arguments)
        return lambda: calls.append(network.name) or closure()

    monkeypatch.setattr(networks_race, "evaluation", evaluation)
    budget = dataclasses.replace(SMOKE, network_steps=70)
    rows = networks_race.run(cell("regression", "LBFGS", budget)).rows
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["evaluations"] for row in rows] == [0, 20, 40, 60, 70]  # the fourth step gets what is left
    assert len(calls) == 70 + 1  # and the one step of the network that is thrown away
    assert rows[0]["seconds"] == 0 and all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(rows))


@pytest.mark.parametrize("steps", [2, 7, 20, 21])
def test_lbfgs_spends_no_more_than_a_budget_shorter_than_its_step(steps):
    """Else the budget of the scores, which is the largest that anybody spent, would depend on who takes part."""
    budget = dataclasses.replace(SMOKE, network_steps=steps)
    rows = networks_race.run(cell("regression", "LBFGS", budget)).rows
    assert [row["evaluations"] for row in rows] == sorted({0, min(steps, 20), steps})


def test_lbfgs_has_a_batch_for_each_step():
    network, seen = NETWORKS["digits"], []
    data, model = network.data(), network.build(0)
    picks = draw_picks(len(data.train_inputs), 64, 60, sweep.generator(0))
    optimizer = contenders.build("ours", "LBFGS", model.parameters(), lr=0.1)

    model.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    with sweep.one_thread():
        points = list(networks_race.train_by_closure(network, model, optimizer, data, picks))
    evaluated = [inputs for inputs in seen if len(inputs) == 64]
    assert len(evaluated) == points[-1]["evaluations"] == 60
    for step in range(3):
        assert all(
            torch.equal(inputs, data.train_inputs[picks[step]]) for inputs in evaluated[20 * step : 20 * (step + 1)]
        )


def test_a_run_of_the_race_is_that_of_torch_by_hand():
    """Its last loss too: weights, batches and learning rate are those of its seed and place."""
    asked = cell("digits", "Adam")
    rows = networks_race.run(asked).rows
    network = NETWORKS["digits"]
    data = network.data()
    for seed in range(2):
        initial, picks = networks_race.draw(network, data, asked, seed)
        for multiple in sweep.lr_multiples(3):
            model = network.build(initial)
            adam = torch.optim.Adam(model.parameters(), lr=1e-3 * multiple, foreach=False)
            for some in picks:
                adam.zero_grad()
                network.loss(model, data.train_inputs[some], data.train_targets[some]).backward()
                adam.step()
            expected = network.loss(model, data.train_inputs, data.train_targets).item()
            own = [row for row in rows if row["seed"] == seed and row["lr_multiple"] == multiple]
            # batched products add up in another order, and Adam's step is not torch's to the last place
            assert own[-1]["loss"] == pytest.approx(expected, rel=1e-4) and own[-1]["step"] == len(picks) == 40


def test_rows():
    rows = networks_race.run(cell("logistic", "Adam")).rows
    runs = {(row["lr_multiple"], row["seed"]) for row in rows}
    assert runs == {(multiple, seed) for multiple in sweep.lr_multiples(3) for seed in range(2)}
    one = [row for row in rows if row["seed"] == 0 and row["lr_multiple"] == 1]
    assert [row["step"] for row in one] == [0, 1, *range(2, 41, 2)] == [row["evaluations"] for row in one]
    assert one[0]["seconds"] == 0 and all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(one))
    assert one[-1]["loss"] < one[0]["loss"] and one[-1]["accuracy"] > 0.8
    assert all(row["loss"] > row["minimum"] for row in rows)
    assert {row["executor"] for row in rows} == {"stacked"}
    assert {row["reference"] for row in rows} == {targets.reference("logistic")}
    assert all(("hits" in row) == (row["step"] == 40) for row in rows)
    assert json.loads(json.dumps(rows)) == rows


def test_a_seed_fixes_weights_and_data_for_every_optimizer_and_learning_rate():
    first, other = (networks_race.run(cell("regression", name)).rows for name in ("SGD", "Rprop"))
    starts = {(row["seed"], row["loss"]) for row in first + other if row["step"] == 0}
    assert len(starts) == 2  # one for each seed
    assert without_seconds(networks_race.run(cell("logistic", "SGD")).rows) == without_seconds(
        networks_race.run(cell("logistic", "SGD")).rows
    )


def test_the_runs_seed_changes_the_start():
    rows = [networks_race.run(cell("regression", "SGD", SMOKE, seed)).rows for seed in (0, 1)]
    assert rows[0][0]["loss"] != rows[1][0]["loss"]


def test_divergence_ends_the_run_with_a_row_that_says_so_and_leaves_the_others():
    asked = cell("regression", "SGD")
    asked.settings["lr_multiples"] = [1.0, 1e7]
    rows = networks_race.run(asked).rows
    for seed in range(2):
        good, bad = ([r for r in rows if r["seed"] == seed and r["lr_multiple"] == m] for m in (1.0, 1e7))
        assert [row["status"] for row in good] == ["ok"] * (1 + len(networks_race.looks(40))) and good[-1][
            "loss"
        ] < good[0]["loss"]
        assert [row["status"] for row in bad] == ["ok"] * (len(bad) - 1) + ["diverged"]
        assert 0 < bad[-1]["step"] < 40 and f"at step {bad[-1]['step']}" in bad[-1]["reason"]
        assert bad[-1]["hits"] == ""


def test_a_run_that_met_targets_and_diverged_has_met_none():
    points = [{"loss": loss, "evaluations": at, "status": "ok"} for at, loss in enumerate((11.0, 2.0, 2.0))]
    assert networks_race.scored(points, 1.0, [1, 2])[-1]["hits"] == "1 1 1 1"
    points.append({"loss": math.nan, "evaluations": 3, "status": "diverged"})
    assert networks_race.scored(points, 1.0, [1, 2, 3])[-1]["hits"] == ""


def test_a_cell_whose_runs_have_all_diverged_ends():
    asked = cell("regression", "SGD")
    asked.settings["lr_multiples"] = [1e7]
    assert max(row["step"] for row in networks_race.run(asked).rows) < 40


def test_lbfgs_that_diverges_ends():
    asked = cell("regression", "LBFGS")
    asked.settings["lr_multiples"] = [1e9]
    rows = [row for row in networks_race.run(asked).rows if row["seed"] == 0]
    assert [row["status"] for row in rows] == ["ok"] * (len(rows) - 1) + ["diverged"] and rows[-1]["executor"]
    assert rows[-1]["executor"] == "one at a time"


def test_hits_are_gradients_to_targets_below_the_start():
    """Standing still meets none; what comes down meets one after the other, and says after how many gradients."""
    rows = networks_race.run(cell("regression", "Rprop", dataclasses.replace(SMALL, network_steps=200))).rows
    met = [row["hits"].split() for row in rows if row["step"] == 200 and row["status"] == "ok"]
    assert max(map(len, met)) >= 3
    for one in met:
        counts = [int(hit) for hit in one]
        assert counts == sorted(counts) and set(counts) <= set(networks_race.looks(200))
    still = cell("regression", "SGD")
    still.settings["lr_multiples"] = [1e-30]
    assert {row["hits"] for row in networks_race.run(still).rows if row["step"] == 40} == {""}


def null_rows(name: str, null: str, steps: int = 200):
    budget = dataclasses.replace(SMALL, network_steps=steps)
    (asked,) = (one for one in network_nulls.cells(budget, "cpu", [], [name], 0) if one.optimizer == null)
    return network_nulls.run(asked).rows


@pytest.mark.parametrize("name", NETWORKS)
def test_standing_still_and_climbing_score_exactly_0(name):
    still, up = (null_rows(name, null) for null in ("stands still", "sign flipped"))
    for seed in range(2):
        losses = [[row["loss"] for row in rows if row["seed"] == seed] for rows in (still, up)]
        assert len(set(losses[0])) == 1 and losses[0][0] == losses[1][0] < losses[1][-1]
    for rate in rates(still + up):
        assert (measures.area(hits.decode(rate["_hits"], TARGETS), 200) == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_going_to_the_origin_scores_what_weights_of_0_are_worth(name):
    rows, network = null_rows(name, "to the origin", 20), NETWORKS[name]
    model, data = network.build(0), network.data()
    for parameter in model.parameters():
        parameter.data.zero_()
    worth = network.loss(model, data.train_inputs, data.train_targets).item()
    for seed in range(2):
        mine = [row for row in rows if row["seed"] == seed]
        # the race sums over copies side by side
        assert mine[0]["loss"] != worth and all(row["loss"] == pytest.approx(worth, rel=1e-6) for row in mine[1:])
        left = (worth - mine[0]["reference"]) / (mine[0]["loss"] - mine[0]["reference"])
        assert len(mine[-1]["hits"].split()) == sum(left <= one for one in targets.LEFT)


def test_null_competitors_always_run_on_networks_with_the_columns_of_the_others():
    made = plan.make("smoke", "cpu", ["Adam"], [], 0, ["networks", "network_nulls"])
    cells = [one for one in made.cells if one.kind == "network_nulls"]
    assert [(one.optimizer, one.settings["name"]) for one in cells] == [(null, "regression") for null in NULLS]
    (other,) = (one for one in made.cells if one.kind == "networks")
    assert network_nulls.run(cells[0]).rows[0].keys() == networks_race.run(other).rows[0].keys()
    assert not network_nulls.cells(SMOKE, "cpu", [], ["digits on huber_loss"], 0)  # it has no targets


def test_learning_rates_by_name_are_the_only_ones():
    """Standing nearly still is best at the edge of this grid, which would go on were it not asked for."""
    asked = cell("regression", "SGD", dataclasses.replace(DEFAULT, lr_multiples=(0.5, 1.0), network_steps=5))
    assert {row["lr_multiple"] for row in networks_race.run(asked).rows} == {0.5, 1.0}


@pytest.mark.parametrize(
    ("loss", "status", "words"),
    [(9.0, "ok", ""), (11.0, "diverged", "more than"), (math.nan, "diverged", "nan"), (math.inf, "diverged", "inf")],
)
def test_judge(loss, status, words):
    found, reason = networks_race.judge(loss, 10.0, 5)
    assert found == status and words in reason


def test_cells():
    assert len(networks_race.cells(DEFAULT, "cpu", ["SGD", "Adam"], None, 0)) == 2 * len(DEFAULT.network_names)
    assert len(networks_race.cells(FULL, "cpu", ["SGD"], None, 0)) == len(NETWORKS)
    assert [c.label for c in networks_race.cells(SMOKE, "cpu", ["SGD"], None, 0)] == ["SGD · regression · cpu"]
    assert [c.label for c in networks_race.cells(SMOKE, "cpu", ["SGD"], ["beale", "digits"], 0)] == [
        "SGD · digits · cpu"
    ]
    assert cell("digits", "SGD", seed=1).id != cell("digits", "SGD", seed=2).id


def test_compilation_is_off_the_clock(monkeypatch):
    real, compiled = contenders.build, []

    def build(contender, optimizer, params, **options):
        """As a kernel: the first step of all takes long."""
        built = real(contender, optimizer, params, **options)

        def compile_first(*_):
            if not compiled:
                compiled.append(True)
                time.sleep(0.3)

        built.register_step_pre_hook(compile_first)
        return built

    monkeypatch.setattr(contenders, "build", build)
    rows = networks_race.run(cell("regression", "SGD", SMOKE)).rows
    assert compiled and rows[-1]["seconds"] < 0.2
    monkeypatch.undo()
    assert without_seconds(rows) == without_seconds(networks_race.run(cell("regression", "SGD", SMOKE)).rows)


def test_early_looks_are_even_on_a_logarithmic_axis():
    assert networks_race.looks(1000)[:10] == [1, 2, 3, 4, 6, 10, 16, 25, 40, 50]
    assert networks_race.looks(1000)[9:] == list(range(50, 1001, 50))
    assert networks_race.looks(2) == [1, 2] and networks_race.looks(21) == list(range(1, 22))


def test_whoever_is_looked_at_more_often_meets_no_target_sooner():
    """L-BFGS is looked at after each of its steps, of some twenty gradients."""
    losses = {0: 10.0, 20: 1.0, 40: 5.0, 60: 1.0, 80: 1.0, 100: 1.0}
    points = [{"loss": loss, "evaluations": at, "status": "ok"} for at, loss in losses.items()]
    assert networks_race.scored(points, 1.0, [50, 100])[-1]["hits"] == "50 100 100 100 100 100 100 100 100"
    assert networks_race.scored(points, 1.0, list(losses)[1:])[-1]["hits"].split()[-1] == "60"


def test_a_run_s_seconds_do_not_depend_on_how_many_are_trained_together(monkeypatch):
    """Else whose grid goes on one learning rate at a time would look slower than the others."""
    monkeypatch.setattr(networks_race, "step_seconds", lambda cell, build, lr: 0.25)
    for seeds in (1, 3):
        rows = networks_race.run(cell("regression", "SGD", dataclasses.replace(SMALL, network_seeds=seeds))).rows
        assert all(row["seconds"] == 0.25 * row["step"] for row in rows)


def test_a_step_is_timed_with_the_gradient_and_the_optimizer(monkeypatch):
    steps = []

    class Slow:
        def step(self):
            steps.append(time.sleep(0.01))

    monkeypatch.setattr(networks_race, "evaluation", lambda *_: lambda: time.sleep(0.01))
    seconds = networks_race.step_seconds(cell("regression", "SGD", SMOKE), lambda groups: Slow(), 0.1)
    assert 0.02 < seconds < 0.2 and 4 <= len(steps) <= 11  # of two times ten milliseconds, in two tenths of a second


def test_another_loss_keeps_weights_and_batches():
    """What `digits on cross_entropy` says of itself, and its first and last row, are those of `digits`."""
    own, named = (networks_race.run(cell(name, "Adam", SMALL)) for name in ("digits", "digits on cross_entropy"))
    assert {row["network"] for row in named.rows} == {"digits on cross_entropy"}
    assert all(math.isnan(row["reference"]) and not row.get("hits") for row in named.rows)  # no targets of its own
    own_only = {"network": "", "reference": math.nan, "hits": ""}
    strip = [[{**row, **own_only} for row in outcome.rows] for outcome in (own, named)]
    assert without_seconds(strip[0]) == without_seconds(strip[1])
    other = networks_race.run(cell("digits on huber_loss", "Adam", SMALL)).rows
    assert other[0]["loss"] != own.rows[0]["loss"] and other[-1]["accuracy"] > 0.15


def test_a_learning_rate_is_judged_by_its_tuning_seed_and_one_that_diverged_has_no_loss():
    def run(status, hits, *losses):
        points = [{"loss": loss, "status": "ok", "hits": ""} for loss in losses]
        return [*points[:-1], {**points[-1], "status": status, "hits": hits}]

    other = run("ok", "1 1", 0.0, 0.0)
    assert networks_race.worth([run("ok", "", 3.0, 1.0, 2.0), other], 100, 2) == (0.0, 1.0)
    assert networks_race.worth([run("diverged", "", 3.0, 1.0, 9e9), other], 100, 2) == (0.0, math.inf)
    assert networks_race.worth([run("ok", "10", 3.0, 1.0), other], 100, 2) == (pytest.approx(0.25), 1.0)
