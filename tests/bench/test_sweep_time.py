"""Cells and rows of the sweep-time table; how fast anything is, nothing here depends on."""

from __future__ import annotations

import json
import types

import numpy as np
import pandas as pd
import pytest
import torch

from bench import plan, sweep_contenders, sweep_time, verdict
from bench.budgets import BUDGETS, DEFAULT, FULL, SMOKE
from bench.sweep_contenders import CONTENDERS, DIMENSIONS, OPTIONS, RATES, SUBJECTS
from bench.tables import COLUMNS
from bench.timing import Timing
from tests.bench.example_tables import sweep_time as example


def cell_of(function="rosenbrock-2d", optimizer="Adam", **settings):
    (cell,) = sweep_time.cells(SMOKE, "cpu", [optimizer], [function], seed=0)
    cell.settings.update(
        {"seconds": 0.02, "runs": 64, "steps": 5, "contenders": ["ours", "batched", "alone"]} | settings
    )
    return cell


def by_name(outcome):
    return {row["contender"]: row for row in outcome.rows}


def test_the_full_budget_times_ten_functions_in_two_and_ten_dimensions():
    made = sweep_time.cells(FULL, "cpu", ["Adam", "SGD", "Muon"], None, seed=3)
    assert len(SUBJECTS) == 10 * len(DIMENSIONS) and {one.dimension for one in SUBJECTS.values()} == {2, 10}
    assert {(cell.optimizer, cell.settings["name"], cell.settings["dtype"]) for cell in made} == {
        (optimizer, name, dtype) for optimizer in OPTIONS for name in SUBJECTS for dtype in ("float64", "float32")
    }
    assert len({cell.id for cell in made}) == len(made)
    json.dumps([cell.settings for cell in made])


def test_functions_by_name_replace_those_of_the_budget():
    chosen = sweep_time.cells(DEFAULT, "cpu", ["Adam"], ["ackley-10d", "mlp"], 0)
    assert [cell.settings["name"] for cell in chosen] == ["ackley-10d"]
    assert sweep_time.cells(DEFAULT, "cpu", ["Adam"], ["mlp"], 0) == []
    asked = plan.make("default", "cpu", ("Adam",), ("ackley-10d",), 0, plan.PARTS["time"])
    assert [cell.kind for cell in asked.cells] == ["sweep_time"]


@pytest.mark.parametrize(("budget", "most"), [("smoke", 1.0), ("default", 3.0)])
def test_it_is_a_small_part_of_a_short_run(budget, most):
    made = plan.make(budget, "cpu", (), (), 0, ("sweep_time",))
    assert sum(cell.expected_seconds for cell in made.cells) <= most


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_torch_makes_the_steps_that_ours_makes(name, optimizer):
    """In float64 from the same starts, with one learning rate; the last bits of a gradient differ."""
    function, runs, steps = SUBJECTS[name], 5, 10
    starts = np.random.default_rng(0).uniform(-2, 2, (runs, function.dimension))
    rates = np.full(runs, RATES[optimizer][1])
    ends = {
        one: CONTENDERS[one](function, optimizer, starts, steps, "cpu", "float64")(rates)
        for one in ("ours", "batched", "alone")
    }
    np.testing.assert_allclose(ends["batched"], ends["ours"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ends["alone"], ends["ours"][:1], rtol=1e-9, atol=1e-12)
    assert (ends["ours"] != starts).any()


def test_float32_is_float32():
    function = SUBJECTS["sum-squares-10d"]
    starts = np.random.default_rng(0).uniform(-2, 2, (3, 10))
    for one in ("ours", "batched"):
        ends = CONTENDERS[one](function, "Adam", starts, 5, "cpu", "float32")(np.full(3, 1e-2))
        np.testing.assert_array_equal(ends, ends.astype(np.float32))
    maths = sweep_contenders.TypedTorch(torch.zeros(1, dtype=torch.float32))
    assert maths.vector((1.0, 2.0)).dtype == torch.float32


def test_a_cell_times_every_contender():
    cell = cell_of()
    rows = by_name(sweep_time.run(cell))
    assert list(rows) == ["ours", "batched", "alone"]
    json.dumps(list(rows.values()))
    for row in rows.values():
        assert (*row, "cell") == COLUMNS["sweep_time"]
        assert (row["function"], row["dimension"], row["runs"], row["steps"]) == ("rosenbrock-2d", 2, 64, 5)
        if row["median_ns"] is None:
            assert row["reason"] == "every round was disturbed"
            continue
        assert 0 < row["min_ns"] <= row["q1_ns"] <= row["median_ns"] <= row["q3_ns"]
        assert row["difference"] <= 1e-9 and row["first_call_s"] > 0
    assert rows["ours"]["ratio"] == rows["batched"]["ratio"]


def test_times_are_those_of_one_step_of_one_run():
    """A call of 640 steps in 1280 ns and one of 10 in 1000: 2 ns and 100 ns a step, 50 times as much."""
    times = np.array([[[1280.0], [1000.0]]] * 6)
    whole = Timing(("ours", "alone"), ("end_to_end",), {"ours": 1, "alone": 1}, times, 6)
    made = sweep_time.per_step(whole, [640, 10])
    assert made.of("ours").tolist() == [2.0] * 6 and made.of("alone").tolist() == [100.0] * 6
    assert np.exp(made.log_ratios("alone", "ours")) == pytest.approx([50.0] * 6)
    entrants = {
        name: sweep_time.Entrant(lambda rates: rates, runs, 0.0, 0.1) for name, runs in (("ours", 64), ("alone", 1))
    }
    rows = {
        row["contender"]: row for row in sweep_time._rows(cell_of(contenders=["ours", "alone"]), entrants, {}, made)
    }
    assert (rows["ours"]["median_ns"], rows["alone"]["median_ns"]) == (pytest.approx(2.0), pytest.approx(100.0))
    assert rows["alone"]["ratio"] == pytest.approx(50.0)


def test_who_ends_elsewhere_is_wrong_and_not_timed(monkeypatch):
    def drifts(*given):
        run = CONTENDERS["ours"](*given)
        return lambda rates: run(rates) + 1e-3

    monkeypatch.setitem(CONTENDERS, "batched", drifts)
    rows = by_name(sweep_time.run(cell_of()))
    assert rows["batched"]["status"] == "wrong" and "end 0.00" in rows["batched"]["reason"]
    assert rows["batched"]["median_ns"] is None and rows["alone"]["difference"] <= 1e-9
    monkeypatch.setitem(CONTENDERS, "batched", lambda *given: lambda rates: np.full((64, 2), np.nan))
    assert by_name(sweep_time.run(cell_of()))["batched"]["status"] == "wrong"


def test_one_run_in_ten_may_end_elsewhere():
    ends = np.ones((100, 2))
    some, many = ends.copy(), ends.copy()
    some[:8, 1] += 1.0
    many[:12, 1] += 1.0
    assert sweep_time.apart(some, ends) == 0.0 and sweep_time.apart(many, ends) == pytest.approx(0.5)
    some[50] = np.nan
    assert np.isnan(sweep_time.apart(some, ends))


def test_a_contender_that_raises_is_a_row_and_the_others_are_timed(monkeypatch):
    def raises(*given):
        raise RuntimeError("no\nway")

    monkeypatch.setitem(CONTENDERS, "batched", raises)
    rows = by_name(sweep_time.run(cell_of()))
    assert (rows["batched"]["status"], rows["batched"]["reason"]) == ("error", "RuntimeError: no")
    assert rows["ours"]["rounds"] is None or rows["ours"]["rounds"] >= 1


def test_optax_is_skipped_with_the_remedy_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(sweep_contenders.importlib.util, "find_spec", lambda name: None)
    (row,) = sweep_time.run(cell_of(contenders=["optax"])).rows
    assert row["status"] == "skipped" and "jax is not installed: pip install" in row["reason"]
    assert "CPU only" in sweep_contenders.unavailable("optax", "cuda")
    assert not sweep_contenders.unavailable("batched", "cuda")


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("name", ["levy-2d", "zakharov-10d", "griewank-10d"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of JAX itself
def test_optax_makes_the_steps_that_ours_makes(name, optimizer):
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    function = SUBJECTS[name]
    starts = np.random.default_rng(0).uniform(-2, 2, (4, function.dimension))
    rates = np.geomspace(*RATES[optimizer], 4)
    ours, optax = (
        CONTENDERS[one](function, optimizer, starts, 10, "cpu", "float64")(rates) for one in ("ours", "optax")
    )
    np.testing.assert_allclose(optax, ours, rtol=1e-9, atol=1e-12)


def test_the_definitions_need_no_more_of_jax_than_its_mathematics():
    """numpy in the place of ``jax.numpy``: each definition takes one point, and what is constant has its type."""
    jnp = types.SimpleNamespace(**{name: getattr(np, name) for name in ("sin", "cos", "exp", "sqrt", "sum", "prod")})
    jnp.asarray = np.asarray
    maths = sweep_contenders.JaxMath(jnp, "float64")
    for name, function in SUBJECTS.items():
        point = np.random.default_rng(0).uniform(-2, 2, function.dimension)
        assert function.definition(point, maths) == pytest.approx(function(torch.from_numpy(point)).item()), name
    assert sweep_contenders.JaxMath(jnp, "float32").vector((1.0,)).dtype == np.float32


def test_the_page_says_how_much_faster_a_sweep_is():
    (found,) = verdict.sweep_speed({"sweep_time": pd.DataFrame(example())})
    assert "torch over a batch 100× " in found.text and "optax 8.0× " in found.text and "cpu in float64" in found.text
    assert "left out" not in found.text
    rows = pd.DataFrame(example())
    rows.loc[rows["contender"].eq("optax") & rows["function"].eq("ackley-10d"), "ratio_low"] = np.nan
    (found,) = verdict.sweep_speed({"sweep_time": rows})
    assert found.text.count("left out") == 1 and "; 2 cells without an interval are left out" in found.text
    assert verdict.sweep_speed({}) == []


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_every_contender_of_a_budget_is_there(budget):
    assert set(budget.sweep_contenders) <= set(CONTENDERS) == set(sweep_time.SETTING_UP)
    assert budget.sweep_contenders[0] == "ours"  # what the others have to agree with
