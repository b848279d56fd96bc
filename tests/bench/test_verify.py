"""Verify must see what is wrong: broken optimizers turn its rows red, right ones do not."""

import dataclasses
import math

import pytest
import torch

from bench import verify
from bench.budgets import DEFAULT, SMOKE
from bench.cell import Status
from bench.contenders import TORCH_MODES
from bench.options import OPTION_SETS, OptionSet
from bench.verify import contenders

DECAY = OptionSet({"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True})
PLAIN = OptionSet({"lr": 0.05, "eps": 1e-2})


class Right(torch.optim.Adam):
    """torch's own loop, posing as ours."""

    executor = "eager"

    def executors(self):
        return [(p, self.executor, "") for group in self.param_groups for p in group["params"]]


class FlippedSign(Right):
    def step(self, closure=None):
        for group in self.param_groups:
            group["maximize"] = not group["maximize"]
        super().step()
        for group in self.param_groups:
            group["maximize"] = not group["maximize"]


class DroppedDecay(Right):
    def __init__(self, params, **options):
        super().__init__(params, **{**options, "weight_decay": 0.0})


class ByHand(Right):
    """Adam on one's own, with a knob for each mistake."""

    corrected, eps_inside = True, False

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                t = state["step"].item() if self.corrected else math.inf
                v = state["exp_avg_sq"] / (1 - beta2**t)
                denominator = (v + group["eps"]).sqrt() if self.eps_inside else v.sqrt() + group["eps"]
                p.sub_(group["lr"] / (1 - beta1**t) * state["exp_avg"] / denominator)


class MissingBiasCorrection(ByHand):
    corrected = False


class EpsInsideTheRoot(ByHand):
    eps_inside = True


class ForgetsTheLastElement(Right):
    """As a kernel that stops at a multiple of its block."""

    @torch.no_grad()
    def step(self, closure=None):
        tensors = [p for group in self.param_groups for p in group["params"] if p.dim() == 1 and p.numel() % 8 == 1]
        last = [p[-1].clone() for p in tensors]
        super().step()
        for p, value in zip(tensors, last, strict=True):
            p[-1] = value


class TouchesGradients(Right):
    def step(self, closure=None):
        super().step()
        self.param_groups[0]["params"][0].grad.add_(1)


class KeepsTheFirstLr(Right):
    """As an executor that caches its coefficients."""

    def step(self, closure=None):
        self.first = getattr(self, "first", self.param_groups[0]["lr"])
        now = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = self.first
        super().step()
        for group, lr in zip(self.param_groups, now, strict=True):
            group["lr"] = lr


class StepsWithoutGradient(Right):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        super().step()


class CountsInFloat64(Right):
    def step(self, closure=None):
        super().step()
        for state in self.state.values():
            state["step"] += 1e-5


class Crashes(Right):
    def step(self, closure=None):
        raise RuntimeError("no luck")


class CrashesWithoutAWord(Right):
    def step(self, closure=None):
        raise AssertionError


def one_row(cls, options=DECAY, dtype="float64", steps=12, contender="eager"):
    builds = {
        "loop": contenders("Adam", "cpu")["loop"],
        contender: lambda groups, chosen: cls(groups, foreach=False, **chosen),
    }
    rows = verify.verify("Adam", options, dtype, steps, 0, builds)
    assert [row["contender"] for row in rows] == ["loop", contender]
    return rows[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [DECAY, PLAIN], ids=["decay", "plain"])
def test_the_right_one_passes(dtype, options):
    row = one_row(Right, options, dtype)
    assert row["status"] == Status.OK and row["reason"] == "" and row["tolerance"] and row["worst"]
    assert (row["max_difference"] == 0.0) if dtype == "float64" else (row["mean_ulp"] == row["loop_mean_ulp"] > 0)


def test_adam_by_hand_passes():
    assert one_row(ByHand, PLAIN)["status"] == Status.OK


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("mutant", "options"),
    [
        (FlippedSign, DECAY),
        (DroppedDecay, DECAY),
        (MissingBiasCorrection, PLAIN),
        (EpsInsideTheRoot, PLAIN),
        (ForgetsTheLastElement, DECAY),
        (TouchesGradients, DECAY),
        (KeepsTheFirstLr, DECAY),
        (StepsWithoutGradient, DECAY),
        (CountsInFloat64, DECAY),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_one_is_wrong(mutant, options, dtype):
    row = one_row(mutant, options, dtype)
    assert row["status"] == Status.WRONG and row["reason"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_every_intermediate_is_wrong_in_16_bits(dtype):
    assert one_row(Right, DECAY, dtype)["status"] == Status.WRONG


def test_a_crash_is_an_error_that_names_itself():
    row = one_row(Crashes)
    assert row["status"] == Status.ERROR and "RuntimeError in step 1: no luck" in row["reason"]
    row = one_row(CrashesWithoutAWord)
    assert row["status"] == Status.ERROR and "AssertionError in step 1: no message" in row["reason"]


def test_another_executor_than_asked_for_is_wrong():
    row = one_row(Right, contender="cpu")  # every tensor ran on eager, and no reason was given
    assert row["status"] == Status.WRONG and "ran on eager" in row["reason"]


@pytest.mark.parametrize(("installed", "status"), [(False, Status.SKIPPED), (True, Status.WRONG)])
def test_no_kernel_for_a_reason_is_skipped_only_where_there_can_be_none(monkeypatch, installed, status):
    class WithoutKernel(Right):
        def executors(self):
            return [(p, "eager", "for some reason") for p, *_ in super().executors()]

    monkeypatch.setattr(verify, "installed_kernel", lambda device: installed)
    row = one_row(WithoutKernel, contender="cpu")
    assert row["status"] == status and "for some reason" in row["reason"]


def test_the_worst_place_is_named():
    row = one_row(ForgetsTheLastElement)
    assert "param of tensor" in row["worst"] and "step" in row["worst"]


def rows_of_torch(optimizer, options, dtype, steps=12):
    builds = {name: build for name, build in contenders(optimizer, "cpu").items() if name in TORCH_MODES}
    return {row["contender"]: row for row in verify.verify(optimizer, options, dtype, steps, 0, builds)}


def test_torchs_faults_are_shown_as_such_and_fail_nothing():
    """T6, T7, T8, T11 of torch 2.13: late gradients, written gradients, ignored group option, negative variance."""
    momentum = rows_of_torch("SGD", OptionSet({"momentum": 0.9, "nesterov": True}), "float64")
    assert (
        momentum["fused"]["status"] == Status.REFERENCE_FAULT and "TypeError in step 3" in momentum["fused"]["reason"]
    )
    assert (
        momentum["foreach"]["status"] == Status.REFERENCE_FAULT and "wrote into .grad" in momentum["foreach"]["reason"]
    )
    assert momentum["loop"]["status"] == Status.OK
    per_group = OptionSet({"initial_accumulator_value": 0.1}, ({"initial_accumulator_value": 5.0},))
    assert rows_of_torch("Adagrad", per_group, "float64")["loop"]["status"] == Status.REFERENCE_FAULT
    constant = next(sets for sets in OPTION_SETS["RMSprop"] if sets.gradients == "constant")
    assert rows_of_torch("RMSprop", constant, "float64", 100)["loop"]["status"] == Status.REFERENCE_FAULT


def test_cells_name_their_work_and_run_gives_the_rows():
    (cell,) = verify.cells(SMOKE, "cpu", ["Rprop"], None, 7)
    assert cell.kind == "verify" and cell.settings["options"] == ["defaults", OPTION_SETS["Rprop"][5].label]
    assert cell.settings["seed"] == 7 and cell.expected_seconds > 0
    (everything,) = verify.cells(DEFAULT, "cpu", ["Rprop"], None, 7)
    assert len(everything.settings["options"]) == len(OPTION_SETS["Rprop"]) and everything.id != cell.id
    outcome = verify.run(dataclasses.replace(cell, settings={**cell.settings, "steps": 6}))
    assert outcome.status == Status.OK and outcome.reason == ""
    assert {row["contender"] for row in outcome.rows} == {"loop", "eager", "cpu", "foreach", "fused"}
    (fused,) = [row for row in outcome.rows if row["contender"] == "fused"]
    assert fused["status"] == Status.SKIPPED and fused["reason"] == "torch has no fused Rprop on cpu"
    keys = {
        "optimizer", "options", "contender", "device", "dtype", "steps", "elements", "max_difference",
        "update_distance", "mean_ulp", "max_ulp", "loop_mean_ulp", "loop_max_ulp", "tolerance", "worst", "status",
        "reason",
    }  # fmt: skip
    assert all(set(row) == keys for row in outcome.rows)
