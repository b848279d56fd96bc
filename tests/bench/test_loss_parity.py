"""Verification of losses: ours pass, and a loss that is broken on purpose does not."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from bench import loss_parity, run
from bench.budgets import DEFAULT, FULL
from bench.cell import Status
from bench.loss_parity import BOUNDS, Errors, cells, distance, judge, verify
from bench.losses import LOSSES
from bench.tables import COLUMNS

DTYPES = tuple(BOUNDS)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name, loss in LOSSES.items() for dtype in ("float32", "bfloat16") if dtype in loss.dtypes],
)
def test_ours_are_right_and_plain_tensors_of_this_size_are_the_kernels(name, dtype):
    loss = LOSSES[name]
    for reduction in loss.reductions:
        row = verify(loss, dtype, reduction, "cpu", seed=1)
        assert row["status"] == "ok", row["reason"]
        assert row["executor"] == ("cpu" if reduction in loss.by_kernel else "eager")
        assert {*row, "cell"} == set(COLUMNS["loss_parity"])


def broken(name, function):
    return dataclasses.replace(LOSSES[name], function=function)


def through(value, gradient):
    """What `function` computes, with its value and its gradient changed."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return value(values.clone())

        @staticmethod
        def backward(ctx, upstream):
            return gradient(upstream.clone())

    return Changed.apply


def same(tensor):
    return tensor


def scaled(tensor):
    return tensor * (1 + 1e-3)


def one_element(tensor):
    """Off by a ten-thousandth in one element only."""
    tensor.view(-1)[tensor.numel() // 2] *= 1 + 1e-4
    return tensor


MUTANTS = {
    "the value is off": (scaled, same),
    "the gradient is off": (same, scaled),
    "the gradient has the wrong sign": (same, torch.neg),
    "the upstream gradient is ignored": (same, torch.ones_like),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ["mse_loss", "log_cosh_loss", "cross_entropy"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_loss_broken_on_purpose_is_wrong(mutant, name, reduction):
    change = through(*MUTANTS[mutant])
    loss = broken(name, lambda *inputs, reduction: change(LOSSES[name].function(*inputs, reduction=reduction)))
    row = verify(loss, "float32", reduction, "cpu", seed=0)
    assert row["status"] == "wrong"
    assert ("value" if "value" in mutant else "gradient") in row["reason"]


@pytest.mark.parametrize("name", ["huber_loss", "cross_entropy", "sigmoid_focal_loss"])
@pytest.mark.parametrize("what", ["values", "gradients"])
def test_one_wrong_element_is_found(name, what):
    def function(input, target, reduction):
        if what == "gradients":
            input = through(same, one_element)(input)
        found = LOSSES[name].function(input, target, reduction=reduction)
        return through(one_element, same)(found) if what == "values" else found

    assert verify(broken(name, function), "float32", "none", "cpu", seed=0)["status"] == "wrong"


def test_a_gradient_that_is_missing_off_target_is_found():
    """In the mean over many rows those gradients are below any absolute tolerance."""

    def only_hits(input, target, reduction):
        mask = torch.nn.functional.one_hot(target, input.shape[1])
        return LOSSES["cross_entropy"].function(through(same, lambda gradient: gradient * mask)(input), target)

    row = verify(broken("cross_entropy", only_hits), "float32", "mean", "cpu", seed=0)
    assert row["status"] == "wrong" and "gradient" in row["reason"] and "value" not in row["reason"]


def test_a_loss_that_raises_is_an_error_with_its_message():
    def raises(*_, **__):
        raise ValueError("no such thing")

    row = verify(broken("mse_loss", raises), "float32", "mean", "cpu", seed=0)
    assert (row["status"], row["reason"]) == ("error", "ValueError: no such thing")


def test_the_cell_of_a_broken_loss_is_wrong_and_is_not_timed(monkeypatch):
    monkeypatch.setitem(
        LOSSES,
        "mse_loss",
        broken("mse_loss", lambda *a, reduction: 1.01 * LOSSES["l1_loss"].function(*a, reduction=reduction)),
    )
    cell = dataclasses.replace(
        cells(DEFAULT, "cpu", ["mse_loss"], None, 0)[0], settings={"dtypes": ["float32"], "seed": 0}
    )
    outcome = loss_parity.run(cell)
    assert outcome.status is Status.WRONG and outcome.reason.startswith("3 of 3 rows; first: the value is off by")
    json.dumps(outcome.rows)
    record = run.Record(cell, outcome, 1.0, "here")
    assert run.faults(record)
    timed = run.Cell("loss_time", "cpu", "mse_loss", {"name": "64Ki"})
    assert run.why_not_timed(timed, [record]).startswith("not timed, because mse_loss · loss_parity · cpu failed")
    assert not run.why_not_timed(dataclasses.replace(timed, optimizer="l1_loss"), [record])
    assert not run.why_not_timed(dataclasses.replace(timed, device="cuda"), [record])


def test_cells_have_the_dtypes_of_their_budget():
    made = cells(FULL, "cpu", list(LOSSES), None, 0)
    assert [cell.optimizer for cell in made] == list(LOSSES)
    for cell in made:
        assert tuple(cell.settings["dtypes"]) == tuple(
            d for d in FULL.loss_dtypes if d in LOSSES[cell.optimizer].dtypes
        )
    assert [len(cell.settings["dtypes"]) for cell in made].count(4) == len(made) - 3  # torch has three in no half type


def test_distances_are_in_last_places_of_each_number_or_of_the_largest():
    exact = np.array([1.0, 1024.0, 3.0])
    found = exact + np.array([2.0**-23, 0.0, 0.0])
    own, all_of_them = np.zeros(3, bool), np.ones(3, bool)
    assert distance(found, exact, "float32", own) == 1
    assert distance(found, exact, "float32", all_of_them) == 2.0**-10
    assert distance(np.array([np.inf]), np.array([1e5]), "float16", np.zeros(1, bool)) == 0  # overflows, as it has to
    assert distance(np.array([np.inf]), np.array([1e4]), "float16", np.zeros(1, bool)) == math.inf
    tiny, nothing = np.array([1e-38]), np.array([0.0])
    assert distance(nothing, tiny, "float32", np.zeros(1, bool)) < 1 < distance(nothing, 1e6 * tiny, "float32", own[:1])
    assert math.isnan(distance(np.array([np.nan]), np.array([1.0]), "float32", np.zeros(1, bool)))


@pytest.mark.parametrize(
    ("ours", "torchs", "status"),
    [
        (Errors(1.0, 64.0), Errors(0.0, 0.0), "ok"),
        (Errors(1.0, 64.5), Errors(0.0, 0.0), "wrong"),
        (Errors(1.0, 124.0), Errors(0.0, 100.0), "ok"),
        (Errors(126.0, 1.0), Errors(100.0, 0.0), "wrong"),
        (Errors(math.nan, 1.0), Errors(0.0, 0.0), "wrong"),
        (Errors(1.0, 1e9), Errors(0.0, math.inf), "wrong"),  # that torch overflows is no licence
        (Errors(1.0, 1.0), Errors(math.nan, math.inf), "ok"),
    ],
)
def test_the_verdict(ours, torchs, status):
    found = judge(ours, torchs, "float32")
    assert found["status"] == status and bool(found["reason"]) == (status == "wrong")


def test_the_worst_of_several_shapes_is_kept():
    assert loss_parity.worst([Errors(1.0, 5.0), Errors(2.0, 4.0)]) == Errors(2.0, 5.0)
    assert math.isnan(loss_parity.worst([Errors(1.0, 5.0), Errors(math.nan, 4.0), Errors(3.0, 4.0)]).value)


def test_plain_torch_is_not_taken_for_a_kernel():
    x = torch.ones(3, requires_grad=True)
    assert loss_parity.ran_on((x * x).sum()) == "eager"
    assert loss_parity.ran_on(LOSSES["mse_loss"].function(x, torch.zeros(3), reduction="mean")) == "eager"
