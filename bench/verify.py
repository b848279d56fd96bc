"""Verify: does every contender follow the textbook, with every option, on every awkward tensor?

One cell is one optimizer on one device; one row is one option set, contender and dtype. `parity` measures, `judge`
holds what was measured against the tolerances.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch

from bench import judge, parity_lbfgs
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import TRAITS, build, unavailable
from bench.deviation import FREE_TOLERANCE, Measured
from bench.judge import LOW_PRECISION, OURS
from bench.options import OPTION_SETS, OptionSet, option_sets
from bench.oracle import ELEMENTWISE, Rule
from bench.oracle_matrices import WHOLE
from bench.parity import compare, side_by_side
from bench.runner import Build, Runner
from bench.workload import make_workload

KIND = "verify"
ORACLES: dict[str, Rule] = ELEMENTWISE | WHOLE  # LBFGS has its own, see `bench.oracle_lbfgs`
MATRIX_STEPS = 8  # of products in bfloat16, which take some processors milliseconds each
BIG_STEPS = 2  # of a million elements, in float32: enough for the remainder of a chunk, and short enough to wait for
LAYOUT_STEPS = 20
LOW_PRECISION_STEPS = 12  # one aligned step is like another: more of them add samples, not coverage

NO_REFERENCE = "and there is no reference to compare it with"
OWN_WORDS = (
    f"free run, after every step |a - b| <= {FREE_TOLERANCE:g} (1 + |b|) for parameters and state; b: the same rule as "
    "plain torch, which says nothing about the rule itself"
)
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
            steps_of(each, dtype, budget.verify_steps)
            for dtype in budget.verify_dtypes
            for each in chosen
            if dtype not in LOW_PRECISION or each.label in low
        )
        made.append(Cell(KIND, device, optimizer, settings, 0.5 + EXPECTED_SECONDS_PER_STEP * steps))
    return made


def run(cell: Cell) -> Outcome:
    """Verify one optimizer; the outcome is wrong if any row of ours is."""
    if TRAITS[cell.optimizer].own:
        return run_own(cell)
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
    for name in ("eager", cell.device, "foreach", "fused"):
        if reason := why_absent(name, cell.optimizer, cell.device):
            rows.append(
                {**_blank(cell.optimizer, "", name, cell.device, ""), "status": Status.SKIPPED, "reason": reason}
            )
    return outcome(rows)


def outcome(rows: list[dict[str, Any]]) -> Outcome:
    """Wrong if any of the rows is."""
    wrong = [row for row in rows if row["status"] in (Status.WRONG, Status.ERROR)]
    reason = f"{len(wrong)} of {len(rows)} rows; first: {wrong[0]['options']}: {wrong[0]['reason']}" if wrong else ""
    return Outcome(rows, Status.WRONG if wrong else Status.OK, reason)


def run_own(cell: Cell) -> Outcome:
    """Compare the kernel of a user's optimizer with the same rule as plain torch, in float64: there is nothing else."""
    if TRAITS[cell.optimizer].apart:
        return Outcome(status=Status.SKIPPED, reason=f"{cell.optimizer} is a class of your own, {NO_REFERENCE}")
    if cell.device not in TRAITS[cell.optimizer].kernels or not installed_kernel(cell.device):
        return Outcome(status=Status.SKIPPED, reason=f"there is no kernel of {cell.optimizer} on {cell.device}")

    def plain(groups: list[dict[str, Any]], options: dict[str, Any]) -> torch.optim.Optimizer:
        made = build("ours", cell.optimizer, groups, **options)
        for group in made.param_groups:
            group["foreach"] = False
        return made

    option_set, steps = OptionSet(), cell.settings["steps"]
    workload = make_workload(option_set, "float64", steps, cell.settings["seed"])
    builds = {"eager": plain, cell.device: lambda groups, options: build("ours", cell.optimizer, groups, **options)}
    reference, runner = (Runner(name, make, workload, option_set, cell.device) for name, make in builds.items())
    measured = compare(runner, reference, workload, steps)
    row = _blank(cell.optimizer, option_set.label, cell.device, cell.device, "float64")
    row.update(steps=steps, elements=int(workload.params.size), **judge.free(cell.device, measured, Measured()))
    row["tolerance"] = OWN_WORDS
    if trouble := _trouble(cell.device, measured, cell.device, option_set):
        row["status"], row["reason"] = trouble
    return outcome([row])


def contenders(optimizer: str, device: str) -> dict[str, Build]:
    """How to build each contender there is: torch's for-loop first, then our executors, then torch's other modes."""

    def builder(contender: str, **mode: Any) -> Build:
        return lambda groups, options: build(contender, optimizer, groups, **mode, **options)

    builds = {"loop": builder("loop")}
    traits = TRAITS[optimizer]
    if not unavailable("ours", optimizer, device):
        if traits.eager is not None:
            builds["eager"] = builder("ours", **traits.eager)
        builds[device if device in traits.kernels else "eager"] = builder("ours")
    for mode in ("foreach", "fused"):
        if not unavailable(mode, optimizer, device):
            builds[mode] = builder(mode)
    return builds


def why_absent(name: str, optimizer: str, device: str) -> str:
    """Why `contenders` has no such one, or why another stands in its row."""
    if name not in OURS:
        return unavailable(name, optimizer, device)
    if missing := unavailable("ours", optimizer, device):
        return missing
    if name == "eager" and TRAITS[optimizer].eager is None:
        return f"our {optimizer} has no option that leaves its kernel out"
    if name != "eager" and name not in TRAITS[optimizer].kernels:
        return f"our {optimizer} has no kernel on {name}: it is plain torch there"
    return ""


def steps_of(option_set: OptionSet, dtype: str, steps: int) -> int:
    """How many steps this set is run for in this dtype; 0: not at all."""
    if option_set.sees == "everything":  # L-BFGS: its sums of products say nothing in 16 bits
        iterations = option_set.options.get("max_iter", 20)
        free = parity_lbfgs.FREE_ITERATIONS // iterations
        steps = {"float64": min(steps, free), "float32": min(steps, LAYOUT_STEPS)}.get(dtype, 0)
    if option_set.sees == "matrices":
        steps = min(steps, MATRIX_STEPS)
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
    steps = steps_of(option_set, dtype, steps)
    if not steps:
        return []
    if dtype in LOW_PRECISION and not TRAITS[optimizer].half_kernels:
        builds = {name: build for name, build in builds.items() if name != device}
    workload = make_workload(option_set, dtype, steps, seed)
    aligned = dtype != "float64" and not constant
    closure = option_set.sees == "everything"
    if closure:
        measured = parity_lbfgs.side_by_side(builds, option_set, workload, steps, aligned, device)
    else:
        measured = side_by_side(ORACLES[optimizer], builds, option_set, workload, steps, aligned, device)
    rows = []
    for name, result in measured.items():
        row = _blank(optimizer, option_set.label, name, device, dtype)
        row.update(steps=steps, elements=int(workload.params.size))
        pair = (name, result, measured["loop"])
        if constant:
            row.update(judge.finite(*pair))
        else:
            row.update(judge.aligned(*pair, dtype, steps, closure) if aligned else judge.free(*pair, closure))
        if option_set.sees == "matrices":
            judge.update(name, result, row)
        trouble = _trouble(name, result, device, option_set)
        if trouble:
            row["status"], row["reason"] = trouble
        rows.append(row)
    return rows


def _blank(optimizer: str, options: str, contender: str, device: str, dtype: str) -> dict[str, Any]:
    numbers = ("max_difference", "update_distance", "mean_ulp", "max_ulp", "loop_mean_ulp", "loop_max_ulp")
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
