"""Verify: does every contender follow the textbook, with every option, on every awkward tensor?

One cell is one optimizer on one device; one row is one option set, contender and dtype. `parity` measures, this module
holds what was measured against the tolerances. Ours outside of them is "wrong"; torch outside is a "reference fault",
which fails nothing: it is shown beside ours.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch

from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import build, unavailable
from bench.options import OPTION_SETS, OptionSet, option_sets
from bench.oracle import ORACLES
from bench.parity import FREE_TOLERANCE, Build, Measured, Stats, side_by_side
from bench.workload import make_workload

KIND = "verify"
BIG_STEPS = 2  # of a million elements, in float32: enough for the remainder of a chunk, and short enough to wait for
LAYOUT_STEPS = 20
LOW_PRECISION_STEPS = 12  # one aligned step is like another: more of them add samples, not coverage
LOW_PRECISION = ("bfloat16", "float16")

# float32: equal means that no more is lost than torch's own for-loop loses in the same step from the same state.
MEAN_FACTOR = 1.05
# The largest of few errors is a matter of luck on both sides: below this many steps it gets more room.
MANY_STEPS = 100
MAX_MANY, MAX_FEW = (1.25, 1.0), (2.0, 2.0)  # a factor of the for-loop's largest error, and ulp on top
# Two ways of rounding that are equally good differ in the mean of a finite sample (by about 0.3 ulp / sqrt(elements)),
# and where the loop is exact (a copied gradient, a sum of representable numbers) a factor of nothing allows nothing.
MEAN_SLACK = 0.01
# bfloat16, float16: float32 arithmetic rounded once is within half an ulp and a little.
LOW_PRECISION_LIMIT = 1.0

# Some of torch's modes round every intermediate to the 16-bit type: reported. Elements left out or garbled are a fault.
GROSS_FACTOR = 4.0

ILL_WORDS = (
    "ulp of the larger of |old| and |new|, or the move that one float32 rounding of the gradient causes where larger"
)
FREE_WORDS = (
    f"free run, after every step |a - b| <= {FREE_TOLERANCE:g} (1 + |b|) for parameters and state; "
    "b: torch's for-loop, or the oracle from where the for-loop leaves it"
)
FLOAT32_WORDS = (
    f"one step from the same state: mean error <= {MEAN_FACTOR} x the for-loop's + {MEAN_SLACK} ulp, "
    f"largest <= {{}} x the for-loop's + {{:g}} ulp, for parameter and each state tensor; {ILL_WORDS}"
)
LOW_PRECISION_WORDS = (
    f"one step from the same state: error <= {LOW_PRECISION_LIMIT:g} ulp of the storage type; {ILL_WORDS}"
)
GROSS_WORDS = f"one step from the same state: largest error <= {GROSS_FACTOR:g} x the for-loop's + {GROSS_FACTOR:g} ulp"
FINITE_WORDS = "free run: finite wherever the oracle is, whose variance is clamped at zero"
REPORTED_WORDS = "reported, not judged"

OURS = ("eager", "cpu", "cuda")
EXPECTED_SECONDS_PER_STEP = 0.004  # of one option set and dtype, all contenders together, on two cores


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each optimizer; `problems` has no meaning here."""
    made = []
    for optimizer in optimizers:
        chosen = option_sets(optimizer, budget.verify_all_options)
        settings = {
            "name": "verify",
            "options": [option_set.label for option_set in chosen],
            "low_precision_options": [one.label for one in option_sets(optimizer, budget.verify_low_precision)],
            "dtypes": list(budget.verify_dtypes),
            "steps": budget.verify_steps,
            "seed": seed,
        }
        low = settings["low_precision_options"]
        steps = sum(
            _steps(each, dtype, budget.verify_steps)
            for dtype in budget.verify_dtypes
            for each in chosen
            if dtype not in LOW_PRECISION or each.label in low
        )
        made.append(Cell(KIND, device, optimizer, settings, 0.5 + EXPECTED_SECONDS_PER_STEP * steps))
    return made


def run(cell: Cell) -> Outcome:
    """Verify one optimizer; the outcome is wrong if any row of ours is."""
    chosen = [sets for sets in OPTION_SETS[cell.optimizer] if sets.label in cell.settings["options"]]
    builds = contenders(cell.optimizer, cell.device)
    rows = []
    for option_set in chosen:
        for dtype in cell.settings["dtypes"]:
            if dtype in LOW_PRECISION and option_set.label not in cell.settings["low_precision_options"]:
                continue
            rows += verify(
                cell.optimizer, option_set, dtype, cell.settings["steps"], cell.settings["seed"], builds, cell.device
            )
    for name in ("eager", cell.device, "fused"):
        reason = unavailable("ours" if name in OURS else name, cell.optimizer, cell.device)
        if reason:
            rows.append(
                {**_blank(cell.optimizer, "", name, cell.device, ""), "status": Status.SKIPPED, "reason": reason}
            )
    wrong = [row for row in rows if row["status"] in (Status.WRONG, Status.ERROR)]
    reason = f"{len(wrong)} of {len(rows)} rows; first: {wrong[0]['options']}: {wrong[0]['reason']}" if wrong else ""
    return Outcome(rows, Status.WRONG if wrong else Status.OK, reason)


def contenders(optimizer: str, device: str) -> dict[str, Build]:
    """How to build each contender there is: torch's for-loop first, then our executors, then torch's other modes."""

    def builder(contender: str, **mode: Any) -> Build:
        return lambda groups, options: build(contender, optimizer, groups, **mode, **options)

    builds = {"loop": builder("loop")}
    if not unavailable("ours", optimizer, device):
        builds["eager"] = builder("ours", foreach=False)
        builds[device] = builder("ours")
    for mode in ("foreach", "fused"):
        if not unavailable(mode, optimizer, device):
            builds[mode] = builder(mode)
    return builds


def _steps(option_set: OptionSet, dtype: str, steps: int) -> int:
    """How many steps this set is run for in this dtype; 0: not at all."""
    if option_set.tensors == "big":
        return min(steps, BIG_STEPS) if dtype == "float32" else 0
    if option_set.gradients == "constant" and dtype in LOW_PRECISION:
        return 0  # without alignment the 16-bit types say nothing about an implementation
    if option_set.tensors == "layouts":
        steps = min(steps, LAYOUT_STEPS)
    return min(steps, LOW_PRECISION_STEPS) if dtype in LOW_PRECISION else steps


def verify(
    optimizer: str,
    option_set: OptionSet,
    dtype: str,
    steps: int,
    seed: int,
    builds: dict[str, Build],
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """The rows of one option set in one dtype, one for each contender of `builds` ("loop" among them, first)."""
    constant = option_set.gradients == "constant"
    steps = _steps(option_set, dtype, steps)
    if not steps:
        return []
    workload = make_workload(option_set, dtype, steps, seed)
    aligned = dtype != "float64" and not constant
    measured = side_by_side(ORACLES[optimizer], builds, option_set, workload, steps, aligned, device)
    rows = []
    for name, result in measured.items():
        row = _blank(optimizer, option_set.label, name, device, dtype)
        row.update(steps=steps, elements=int(workload.params.size))
        judge = _judge_finite if constant else _judge_aligned if aligned else _judge_free
        row.update(judge(name, result, measured["loop"], dtype, steps))
        trouble = _trouble(name, result, device, option_set)
        if trouble:
            row["status"], row["reason"] = trouble
        rows.append(row)
    return rows


def _blank(optimizer: str, options: str, contender: str, device: str, dtype: str) -> dict[str, Any]:
    numbers = ("max_difference", "mean_ulp", "max_ulp", "loop_mean_ulp", "loop_max_ulp")
    return {
        "optimizer": optimizer,
        "options": options,
        "contender": contender,
        "device": device,
        "dtype": dtype,
        "steps": 0,
        "elements": 0,
        **dict.fromkeys(numbers, math.nan),
        "tolerance": "",
        "worst": "",
        "status": Status.OK,
        "reason": "",
    }


def _verdict(name: str, fine: bool, reason: str) -> dict[str, Any]:
    """A contender outside its tolerance is wrong if it is ours, and a fault of the reference if it is torch's."""
    bad = Status.WRONG if name in OURS else Status.REFERENCE_FAULT
    return {"status": Status.OK if fine else bad, "reason": "" if fine else reason}


def _judge_free(name: str, result: Measured, loop: Measured, dtype: str, steps: int) -> dict[str, Any]:
    if not result.errors:
        return {"tolerance": FREE_WORDS}
    worst = max(result.errors.values(), key=lambda stats: stats.largest)
    loop_error = max((stats.largest for stats in loop.errors.values()), default=0.0)
    fine = worst.largest <= FREE_TOLERANCE
    verdict = _verdict(name, fine, f"differs by {worst.largest:.3g} at {worst.where}")
    if fine and loop_error > FREE_TOLERANCE:
        verdict["reason"] = f"compared with the oracle: torch's for-loop is {loop_error:.3g} away from it"
    return {"max_difference": worst.largest, "tolerance": FREE_WORDS, "worst": worst.where, **verdict}


def _judge_finite(name: str, result: Measured, loop: Measured, dtype: str, steps: int) -> dict[str, Any]:
    fine = result.not_finite == 0
    verdict = _verdict(name, fine, f"{result.not_finite} elements are nan or infinite: the root of a negative variance")
    if fine and loop.not_finite:
        verdict["reason"] = f"torch's for-loop has {loop.not_finite} elements nan or infinite here"
    return {"tolerance": FINITE_WORDS, **verdict}


def _excess(mine: Stats, loop: Stats, dtype: str, largest: tuple[float, float]) -> float:
    """Above 1: more error than allowed beside the for-loop."""
    if dtype == "float32":
        in_mean = mine.mean / (MEAN_FACTOR * loop.mean + MEAN_SLACK)
        factor, slack = largest
        in_largest = mine.largest / (factor * loop.largest + slack)
    else:
        in_mean, in_largest = 0.0, mine.largest / (GROSS_FACTOR * loop.largest + GROSS_FACTOR)
    return math.inf if math.isnan(in_mean + in_largest) else max(in_mean, in_largest)


def _judge_aligned(name: str, result: Measured, loop: Measured, dtype: str, steps: int) -> dict[str, Any]:
    absolute = name in OURS and dtype in LOW_PRECISION
    largest = MAX_MANY if steps >= MANY_STEPS else MAX_FEW
    if name == "loop":
        words, limit = REPORTED_WORDS, math.inf
    elif absolute:
        words, limit = LOW_PRECISION_WORDS, LOW_PRECISION_LIMIT
    else:
        words, limit = FLOAT32_WORDS.format(*largest) if dtype == "float32" else GROSS_WORDS, 1.0
    if not result.errors:
        return {"tolerance": words}
    none = Stats()

    def score(key: str) -> float:
        mine = result.errors[key]
        return mine.largest if absolute or name == "loop" else _excess(mine, loop.errors.get(key, none), dtype, largest)

    key = max(result.errors, key=score)
    mine, theirs = result.errors[key], loop.errors.get(key, none)
    fine = result.not_finite == 0 if name == "loop" else score(key) <= limit
    reason = f"{mine.mean:.3g} ulp in the mean and {mine.largest:.3g} at {mine.where}"
    if name == "loop":
        reason = f"{result.not_finite} elements are nan or infinite where the oracle is not"
    elif not absolute:
        reason += f"; for-loop: {theirs.mean:.3g} and {theirs.largest:.3g}"
    return {
        "mean_ulp": mine.mean,
        "max_ulp": mine.largest,
        "loop_mean_ulp": theirs.mean,
        "loop_max_ulp": theirs.largest,
        "tolerance": words,
        "worst": mine.where,
        **_verdict(name, fine, reason),
    }


def _trouble(name: str, result: Measured, device: str, option_set: OptionSet) -> tuple[Status, str] | None:
    """What overrides the numbers: it raised, it did what no optimizer may do, or another executor ran."""
    ours = name in OURS
    if result.raised.startswith("refused: "):
        return Status.ERROR if ours else Status.SKIPPED, result.raised
    if result.raised:
        return Status.ERROR if ours else Status.REFERENCE_FAULT, result.raised
    if result.fault:
        return Status.WRONG if ours else Status.REFERENCE_FAULT, result.fault
    if not ours or result.runner is None or option_set.tensors == "layouts":
        return None
    # a kernel may leave tensors of one element or none to eager
    ran = [entry for entry in result.runner.optimizer.executors() if entry[0].numel() > 1]
    others = [(executor, reason) for _, executor, reason in ran if executor != name]
    if not others:
        return None
    executor, reason = others[0]
    words = f"{len(others)} of {len(ran)} tensors ran on {executor}: {reason}"
    # The tensors here are plain: where a kernel can run, it must take them.
    excused = len(others) == len(ran) and reason and not installed_kernel(device)
    return Status.SKIPPED if excused else Status.WRONG, words


def installed_kernel(device: str) -> bool:
    """Whether our compiled executor for this device should run here."""
    needs = {"cpu": "numba", "cuda": "triton"}[device]
    there = importlib.util.find_spec(needs) is not None
    return there and (device == "cpu" or torch.cuda.is_available())
