"""Cells and rows of the step-time table; how fast anything is, nothing here depends on."""

import json

import numpy as np
import pytest
import torch

from bench import contenders, in_training, step_time, stream
from bench.budgets import DEFAULT, FULL, SMOKE
from bench.cell import Status
from bench.contenders import OPTIMIZERS, TRAITS
from bench.problems.parameter_sets import elements, make
from bench.step_time import PARAMETER_SETS, Size, cells, failure, memory_shortage, run
from bench.subjects import unsuitable
from bench.tables import COLUMNS
from bench.timing import Timing


def cell_of(optimizer="Adam", parameter_set="mlp", **settings):
    (cell,) = cells(SMOKE, "cpu", [optimizer], [parameter_set], seed=0)
    cell.settings.update({"seconds": 0.05} | settings)
    return cell


def by_contender(outcome):
    return {row["contender"]: row for row in outcome.rows}


def test_one_cell_for_each_parameter_set_and_optimizer_that_can_step_it():
    made = cells(DEFAULT, "cpu", list(OPTIMIZERS), None, seed=3)
    pairs = {(cell.optimizer, cell.settings["parameter_set"]) for cell in made}
    assert len(made) == len({cell.id for cell in made}) == len(pairs)
    usual = {(name, one) for name in OPTIMIZERS[:12] for one in ("mlp", "many-small", "many-medium", "resnet18")}
    special = {("Adam", "many-groups"), ("Muon", "mlp"), ("Muon", "matrices-200x64"), ("SparseAdam", "embedding")}
    assert pairs == usual | special | {("LBFGS", "mlp")}
    assert {cell.kind for cell in made} == {"step_time"}
    json.dumps([cell.settings for cell in made])
    assert all(cell.expected_seconds > cell.settings["seconds"] for cell in made)


def test_seed_and_budget_are_part_of_a_cell():
    ids = {cells(budget, "cpu", ["Adam"], ["mlp"], seed)[0].id for budget in (DEFAULT, FULL) for seed in (0, 1)}
    assert len(ids) == 4


def test_problems_choose_parameter_sets_even_beyond_the_budget():
    assert [cell.settings["name"] for cell in cells(SMOKE, "cpu", ["SGD"], ["gpt2", "rosenbrock"], 0)] == ["gpt2"]
    assert cells(SMOKE, "cpu", ["SGD"], ["rosenbrock"], 0) == []


def test_large_sets_get_more_time_but_not_without_end():
    seconds = {cell.settings["name"]: cell.settings["seconds"] for cell in cells(FULL, "cpu", ["Adam"], None, 0)}
    assert seconds["mlp"] == FULL.cell_seconds
    assert FULL.cell_seconds < seconds["one-big"] <= 4 * FULL.cell_seconds


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "Rprop"])
def test_a_cell_measures_all_contenders(optimizer):
    rows = by_contender(run(cell_of(optimizer)))
    assert list(rows) == list(SMOKE.contenders)
    assert all((*row, "cell") == COLUMNS["step_time"] for row in rows.values())
    json.dumps(list(rows.values()))
    timed = {name: row for name, row in rows.items() if row["status"] in ("ok", "inconclusive")}
    assert set(timed) == {"ours", "loop", "foreach"} | ({"fused"} if optimizer != "Rprop" else set())
    for row in timed.values():
        assert 0 < row["min_us"] <= row["q1_us"] <= row["median_us"] <= row["q3_us"]
        assert row["rounds"] >= 1 and row["elements"] == elements("mlp") and row["tensors"] == 6
        assert row["gb_per_s"] == pytest.approx(row["bytes_per_step"] / row["median_us"] / 1e3)
        if row["ratio_low"] is not None:  # on a busy machine too few rounds may be left for an interval
            assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        else:
            assert (row["status"], row["verdict"], row["ratio_high"]) == ("inconclusive", "inconclusive", None)
        assert row["command"].startswith("python -m bench time --budget smoke --device cpu --optimizer " + optimizer)
    assert [row["best_of_torch"] for row in rows.values()].count(True) == 1
    (best,) = (row for row in rows.values() if row["best_of_torch"])
    assert best["median_us"] == min(row["median_us"] for name, row in timed.items() if name != "ours")
    assert [rows["ours"][key] for key in ("ratio", "ratio_low", "ratio_high", "verdict")] == [
        best[key] for key in ("ratio", "ratio_low", "ratio_high", "verdict")
    ]


@pytest.mark.parametrize(
    ("optimizer", "name", "tensors", "numbers"),
    [
        ("Muon", "mlp", 3, 64 * 128 + 128 * 128 + 128 * 10),  # its matrices alone
        ("SparseAdam", "embedding", 1, 6_400_000),
        ("LBFGS", "mlp", 6, elements("mlp")),
        ("Adafactor", "mlp", 6, elements("mlp")),
        ("Adam", "many-groups", 465, 465 * 64),
    ],
)
def test_each_optimizer_is_timed_on_what_it_can_step(optimizer, name, tensors, numbers):
    rows = by_contender(run(cell_of(optimizer, name, contenders=["ours", "loop", "foreach"])))
    for contender in ("ours", "loop"):
        row = rows[contender]
        assert (row["tensors"], row["elements"]) == (tensors, numbers), row["reason"]
        assert row["median_us"] > 0 and row["dropped_rounds"] < 1
        assert (row["bytes_per_step"] is None) == (row["gb_per_s"] is None) == (optimizer in ("Muon", "LBFGS"))
        assert (row["share_of_stream"] is None) == (optimizer in ("Muon", "LBFGS", "SparseAdam"))
    if not TRAITS[optimizer].foreach:
        assert (rows["foreach"]["status"], rows["foreach"]["reason"]) == (
            "skipped",
            f"torch has no foreach {optimizer}",
        )


def test_whoever_names_a_set_is_told_why_an_optimizer_cannot_step_it():
    outcome = run(cell_of("Muon", "one-big"))
    assert (outcome.status, outcome.reason) == (Status.SKIPPED, unsuitable("Muon", "one-big")) and not outcome.rows


def test_what_cannot_run_is_a_row_that_says_why(monkeypatch):
    def build(contender, *arguments, **options):
        if contender == "foreach":
            raise RuntimeError("no room\nfor details")
        return real(contender, *arguments, **options)

    real = contenders.build
    monkeypatch.setattr(contenders, "build", build)
    rows = by_contender(
        run(cell_of("Rprop", "many-small", contenders=["ours", "loop", "foreach", "fused", "compiled"]))
    )
    assert (rows["fused"]["status"], rows["fused"]["reason"]) == ("skipped", "torch has no fused Rprop on cpu")
    assert (rows["foreach"]["status"], rows["foreach"]["reason"]) == ("error", "RuntimeError: no room")
    assert rows["compiled"]["status"] == "skipped" and "takes minutes" in rows["compiled"]["reason"]
    assert rows["loop"]["best_of_torch"] and rows["foreach"]["median_us"] is None


def test_our_eager_fallback_is_never_timed_as_ours(monkeypatch):
    real = contenders.build

    def build(contender, *arguments, **options):
        return real(contender, *arguments, **options, **({"foreach": False} if contender == "ours" else {}))

    monkeypatch.setattr(contenders, "build", build)
    rows = by_contender(run(cell_of("Adam", contenders=["ours", "loop"])))
    assert rows["ours"]["status"] == "skipped" and rows["ours"]["median_us"] is None
    assert rows["ours"]["reason"] == "6 of 6 tensors would be stepped by the eager fallback: foreach=False"
    assert rows["loop"]["median_us"] > 0 and rows["loop"]["ratio"] is None


def test_without_ours_the_others_are_timed_and_nothing_is_said_of_ours(monkeypatch):
    monkeypatch.setattr(contenders, "unavailable", lambda contender, *_: "not built" if contender == "ours" else "")
    rows = by_contender(run(cell_of("Adam", contenders=["ours", "loop", "fused"])))
    assert rows["ours"]["reason"] == "not built"
    assert rows["loop"]["median_us"] > 0 and rows["loop"]["ratio"] is None and rows["loop"]["verdict"] == ""


def test_threads_are_set_and_given_back():
    seen = []
    before = torch.get_num_threads()
    with step_time.threads(1):
        seen.append(torch.get_num_threads())
    assert seen == [1] and torch.get_num_threads() == before


def test_what_does_not_fit_is_skipped_with_the_sizes(monkeypatch):
    monkeypatch.setattr(step_time, "free_memory", lambda device: 2**20)
    outcome = run(cell_of("Adam", "many-medium"))
    assert outcome.status is Status.SKIPPED and "GiB of memory" in outcome.reason and not outcome.rows
    monkeypatch.setattr(step_time, "free_memory", lambda device: None)
    assert memory_shortage(cell_of(), 10**15) == ""


def test_failures_are_told_apart():
    assert failure(torch.OutOfMemoryError("CUDA out of memory.\nTried")) == (
        Status.OOM,
        "OutOfMemoryError: CUDA out of memory.",
    )
    assert failure(ValueError("")) == (Status.ERROR, "ValueError: no message")


def test_traffic_is_that_of_the_published_table():
    vector, matrix = [torch.zeros(1)], [torch.zeros(300, 200)]
    per_parameter = {name: stream.bytes_per_step(name, vector) for name in OPTIMIZERS}
    assert [name for name, moved in per_parameter.items() if moved == 20] == ["SGD", "Adagrad", "ASGD"]
    assert [name for name, moved in per_parameter.items() if moved is None] == ["Muon", "LBFGS"]
    assert per_parameter["Adafactor"] == 32
    assert {per_parameter[name] for name in OPTIMIZERS} == {20, 28, 32, None}
    # Adafactor reads a matrix's gradient three times and the parameter twice, and writes that once: 24 bytes
    assert stream.bytes_per_step("Adafactor", matrix) == 24 * 60_000 + 8 * (300 + 200)
    assert stream.bytes_per_step("Adafactor", [torch.zeros(2, 5, 3, 4)]) == 24 * 120 + 8 * (2 * 5 * 3 + 2 * 5 * 4)


def test_traffic_of_a_sparse_gradient_is_that_of_its_rows():
    params = make("embedding", sparse_rows=10)
    assert stream.bytes_per_step("SparseAdam", params) == 10 * 64 * 28 + 10 * 8


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_traffic_counts_the_state_that_there_is(optimizer):
    shape = (5, 1) if optimizer == "Muon" else (5,)
    params = [torch.zeros(shape, requires_grad=True)]
    params[0].grad = torch.ones(shape).to_sparse(1) if optimizer == "SparseAdam" else torch.ones(shape)
    built = contenders.build("loop", optimizer, params, **TRAITS[optimizer].timed_with)
    built.step(*([lambda: params[0].detach().sum()] if optimizer == "LBFGS" else []))
    full_size = [name for name, value in built.state[params[0]].items() if getattr(value, "numel", int)() == 5]
    pairs = 2 * built.defaults["history_size"] + 2 if optimizer == "LBFGS" else 0  # a vector to move and one to come
    assert stream.tensors_kept(optimizer) == 1 + len(full_size) + pairs


@pytest.mark.slow
def test_step_in_training():
    rows = by_contender(run(cell_of("Adam", "in-training", contenders=["ours", "loop"])))
    assert rows["loop"]["tensors"] == 51 and rows["loop"]["elements"] == 858_880
    assert "in-training" in PARAMETER_SETS
    assert isinstance(rows["loop"]["median_us"], float)


def test_training_gives_new_gradients_of_the_same_network():
    (params, new_gradients), (again, _) = (in_training.make("cpu", torch.float32, seed=1) for _ in range(2))
    assert all(torch.equal(a, b) and torch.equal(a.grad, b.grad) for a, b in zip(params, again, strict=True))
    old = [param.grad for param in params]
    new_gradients()
    assert all(
        param.grad is not before and torch.equal(param.grad, before) for param, before in zip(params, old, strict=True)
    )
    torch.optim.SGD(params, lr=0.1).step()
    new_gradients()
    assert not torch.equal(params[0].grad, old[0])


def test_rows_of_cuda_have_its_three_times(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    cell = cell_of("Adam", contenders=["ours", "loop"])
    object.__setattr__(cell, "device", "cuda")
    times = np.full((10, 2, 3), [[10e3, 4e3, 9e3], [40e3, 39e3, 8e3]])
    timing = Timing(("ours", "loop"), ("end_to_end", "host", "device"), {"ours": 500, "loop": 125}, times, rounds=12)
    entrants = {
        name: step_time.Entrant(step_time.Arm(name, lambda: None), 0.1, peak_memory_mib=3.0) for name in timing.names
    }
    ours, loop = step_time._rows(cell, Size(2, 128, 3584), entrants, {}, timing)
    assert (loop["ratio"], loop["verdict"], loop["host_us"], loop["device_us"]) == (pytest.approx(4.0), "faster", 39, 8)
    assert (ours["end_to_end_us"], ours["peak_memory_mib"], ours["device_name"]) == (10, 3.0, "some GPU")
    assert ours["dropped_rounds"] == pytest.approx(1 / 6)


def test_too_few_rounds_give_times_but_no_interval():
    timing = Timing(("ours", "loop"), ("end_to_end",), {"ours": 1, "loop": 1}, np.full((4, 2, 1), 10e3), rounds=9)
    entrants = {name: step_time.Entrant(step_time.Arm(name, lambda: None), 0.1, None) for name in timing.names}
    _, loop = step_time._rows(cell_of("Adam", contenders=["ours", "loop"]), Size(1, 128, 3584), entrants, {}, timing)
    assert (loop["median_us"], loop["ratio"], loop["ratio_low"], loop["ratio_high"]) == (10, 1, None, None)
    assert (loop["verdict"], loop["status"]) == ("inconclusive", "inconclusive")
    assert loop["reason"] == "4 undisturbed rounds are too few for an interval, which takes 5"


def test_ours_with_nothing_to_compare_says_so():
    timing = Timing(("ours",), ("end_to_end",), {"ours": 1}, np.full((9, 1, 1), 10e3), rounds=9)
    entrants = {"ours": step_time.Entrant(step_time.Arm("ours", lambda: None), 0.1, None)}
    (ours,) = step_time._rows(cell_of("Adam", contenders=["ours"]), Size(1, 128, 3584), entrants, {}, timing)
    assert (ours["median_us"], ours["ratio"], ours["status"]) == (10, None, "inconclusive")
    assert ours["reason"] == "no mode of torch was timed beside it, so there is no ratio"


def test_a_wide_interval_says_that_it_is_wide():
    times = np.full((40, 2, 1), 10e3)
    times[::2, 1] = 20e3
    timing = Timing(("ours", "loop"), ("end_to_end",), {"ours": 1, "loop": 1}, times, rounds=40)
    entrants = {name: step_time.Entrant(step_time.Arm(name, lambda: None), 0.1, None) for name in timing.names}
    _, loop = step_time._rows(cell_of("Adam", contenders=["ours", "loop"]), Size(1, 128, 3584), entrants, {}, timing)
    assert loop["status"] == "inconclusive" and "wider than 5 %" in loop["reason"]
