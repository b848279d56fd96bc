"""The race on test functions: every optimizer over a grid of learning rates and seeds, all runs of a cell together.

One cell is one function × one optimizer. Where an optimizer steps each element by a rule of its own, all steps of all
its runs are one call of compiled code (`bench.sweeps`), which does what the class does to the last bits; on CUDA, a
kernel in which each thread makes a run. Else the class steps all runs as parameters of their own, which is exact too,
because it treats every parameter by itself. Runs cannot disturb each other, not even with nan. So a run that diverges
is simply stepped on, and counts as one that met no target. The column `executor` says how: compiled, batched, or one at
a time.

Of a user's own class only the step of our base class is known to look at one parameter at a time; with another one
the runs are made one after the other. So are those of L-BFGS, which evaluates the loss itself. The budget is
the same number of gradients for everybody: what the others do in a step, L-BFGS does in an evaluation, however many of
them its steps take. Without a line search, its default, each evaluation is at the next point of its path.

Seed 0 starts at the published start, seed k at a point with normal noise added, 5 % of the domain's width in each
coordinate. Where a function's gradient is disturbed, each seed has its noise, the same for everybody, and all that is
judged is the true value. Who is not compiled makes fewer seeds, the first ones. The grid is the same for everybody,
around each one's default; where the best of it, on the tuning seeds, is the first or the last, it goes on from there.
Where no run of it meets any target, the best is the one that came down furthest; where all diverge, the smallest.
Rprop's learning rate is only the size of its first step. Weight decay is each optimizer's default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import contenders, descents, starts, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import TRAITS, Takes
from bench.descents import Descent, Runs
from bench.problems.disturbance import Evaluate
from bench.problems.function import Function
from bench.problems.functions import FUNCTIONS, known, named
from bench.score import hits, measures
from bench.starts import DIVERGED, Starts
from bench.statistics import measured_quartiles
from optimizers.executors import kernels

Array = NDArray[np.float64]
JOINT_STEP_SECONDS = 60e-6  # measured, mean over functions
COMPILED_SECONDS = 0.06  # nearly all of it the compilation, shared by the cells of a first run
EVALUATION_SECONDS = 70e-6  # of a run on its own

# Why an optimizer does not race here.
ABSENT = {
    Takes.MATRICES: "a point of a test function is a vector, and Muon steps matrices only",
    Takes.SPARSE: "the gradient of a test function is dense, and SparseAdam takes sparse ones only",
}

COMPILED, BATCHED, ALONE = "compiled", "batched", "one at a time"
TOLD = (2, 4, 8)  # the targets 10^-2 … whose gradients are columns


@dataclass(frozen=True)
class Rate:
    """The runs of one learning rate, and how that of seed 0 is seen step by step."""

    runs: Runs
    curve: Callable[[], tuple[Array, Array, list[int]]]  # losses [steps + 1], points [kept, dimension], kept


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each function × optimizer; `problems` replaces the budget's functions."""
    names = problems if problems is not None else budget.function_names or FUNCTIONS
    return [
        Cell(
            kind="functions",
            device=device,
            optimizer=optimizer,
            settings={
                "name": name,
                "steps": budget.function_steps,
                "lr_multiples": list(budget.lr_multiples or sweep.lr_multiples(budget.function_learning_rates)),
                "extra_rates": 0 if budget.lr_multiples else budget.function_extra_rates,
                "seeds": seeds_of(budget, optimizer, device, named(name)),
                "tuning_seeds": budget.function_tuning_seeds,
                "seed": seed,
                "dtype": "float64",
            }
            | budget.own_target(),
            expected_seconds=expected_seconds(budget, optimizer, device, named(name)),
        )
        for name in names
        if known(name)
        for optimizer in optimizers
    ]


def seeds_of(budget: Budget, optimizer: str, device: str, function: Function) -> int:
    """As many as there is time for: who is not compiled makes fewer."""
    fast = TRAITS[optimizer].takes not in ABSENT and executor_of(optimizer, device, function) == COMPILED
    return budget.function_seeds if fast else min(budget.function_seeds, budget.function_slow_seeds)


def expected_seconds(budget: Budget, optimizer: str, device: str, function: Function) -> float:
    takes = TRAITS[optimizer].takes
    if takes in ABSENT:
        return 0.01
    executor = executor_of(optimizer, device, function)
    if executor == ALONE:
        steps = min(budget.function_steps, 200) if takes is Takes.CLOSURE else budget.function_steps  # most end early
        runs = budget.function_learning_rates * seeds_of(budget, optimizer, device, function)
        return runs * steps * EVALUATION_SECONDS
    if executor == COMPILED:
        return COMPILED_SECONDS
    return budget.function_steps * JOINT_STEP_SECONDS


def run(cell: Cell) -> Outcome:
    """The runs of one optimizer on one function: one row for each learning rate."""
    settings, takes = cell.settings, TRAITS[cell.optimizer].takes
    if takes in ABSENT:
        return Outcome(status=Status.SKIPPED, reason=ABSENT[takes])
    function = named(settings["name"])
    begins = starts.starts(function, settings["seed"], settings["seeds"], settings.get("target"))
    executor = executor_of(cell.optimizer, cell.device, function)
    base = sweep.default_lr(cell.optimizer)

    def make(multiples: list[float]) -> list[Rate]:
        lrs = [base * multiple for multiple in multiples]
        return MAKERS[executor](function, cell.optimizer, begins, lrs, settings["steps"], cell.device)

    judged_by = partial(worth, tuning=settings["tuning_seeds"], steps=settings["steps"])
    rates = sweep.widened(make, judged_by, settings["lr_multiples"], settings["extra_rates"])
    labels = {"function": function.name, "dimension": function.dimension, "device": cell.device}
    labels |= {"optimizer": cell.optimizer, "executor": executor}
    rows = [
        {**labels, "lr": base * multiple, "lr_multiple": multiple} | summary(function, begins, rate.runs, settings)
        for multiple, rate in rates.items()
    ]
    keep_curve(rows, list(rates.values()), function)
    return Outcome(rows=rows)


def executor_of(optimizer: str, device: str, function: Function) -> str:
    """How the runs of a cell are made: the fastest way that is exact."""
    if TRAITS[optimizer].takes is Takes.CLOSURE:
        return ALONE
    if compiles(optimizer, device, function):
        return COMPILED
    return ALONE if TRAITS[optimizer].apart else BATCHED


def compiles(optimizer: str, device: str, function: Function) -> bool:
    """Whether a sweep of this optimizer on this function can be compiled here."""
    # the text of a sweep on CUDA is made of that on the CPU
    if any(isinstance(kernels.executor(one), str) for one in {"cpu", device}):  # it says why there is no compiler
        return False
    from bench.sweeps import cuda_source, engine

    if TRAITS[optimizer].apart or not engine.elementwise(contenders.class_of(optimizer)):
        return False
    return device == "cpu" or not cuda_source.refusal(function)


def make_compiled(
    function: Function, optimizer: str, begins: Starts, lrs: list[float], steps: int, device: str
) -> list[Rate]:
    cls = contenders.class_of(optimizer)
    runs = descents.compiled(function, cls, begins, lrs, steps, device=device)

    def curve(lr: float) -> tuple[Array, Array, list[int]]:  # made again, alone: kept for all it would be large
        return of_run(descents.recorded(function, cls, begins.take(slice(1)), [lr], steps, device), 0)

    return [Rate(one, lambda lr=lr: curve(lr)) for one, lr in zip(split(runs, len(lrs)), lrs, strict=True)]


@sweep.one_thread()
def make_batched(
    function: Function, optimizer: str, begins: Starts, lrs: list[float], steps: int, device: str
) -> list[Rate]:
    found = descents.batched(
        function,
        lambda groups: contenders.build("ours", optimizer, groups),
        begins,
        lrs,
        steps,
        device,
        evaluator(function, device),
    )
    return judged(found, begins, len(lrs))


@sweep.one_thread()
def make_alone(
    function: Function, optimizer: str, begins: Starts, lrs: list[float], steps: int, device: str
) -> list[Rate]:
    # One step instead of many: the path is the same, for without a line search a step ends ahead of an evaluation that
    # the next one makes; but each step looks at all of its history first.
    long = {"max_iter": steps + 1, "max_eval": steps + 2}
    closure = TRAITS[optimizer].takes is Takes.CLOSURE
    build = partial(contenders.build, "ours", optimizer, **(long if closure else {}))
    if closure:
        found = descents.one_at_a_time(function, build, begins, lrs, steps, evaluator(function, "cpu"))
    else:
        found = descents.apart(function, build, begins, lrs, steps, device, evaluator(function, device))
    return judged(found, begins, len(lrs))


def evaluator(function: Function, device: str) -> Evaluate | None:
    """The compiled value and gradient where there is a compiler: twenty times as fast for a few points."""
    if device != "cpu" or isinstance(kernels.executor("cpu"), str):
        return None
    from bench.sweeps import engine

    return engine.evaluator(function)


MAKERS = {COMPILED: make_compiled, BATCHED: make_batched, ALONE: make_alone}


def judged(found: Descent, begins: Starts, rates: int) -> list[Rate]:
    runs, seeds = split(descents.judge(found, begins), rates), len(begins.losses)
    return [Rate(one, lambda run=place * seeds: of_run(found, run)) for place, one in enumerate(runs)]


def of_run(found: Descent, run: int) -> tuple[Array, Array, list[int]]:
    return found.losses[:, run], found.points[:, run], found.kept


def split(runs: Runs, rates: int) -> list[Runs]:
    """The runs of each learning rate."""
    seeds = len(runs.initial) // rates
    return [runs.take(slice(place * seeds, (place + 1) * seeds)) for place in range(rates)]


def worth(rate: Rate, tuning: int, steps: int) -> sweep.Worth:
    """How good a learning rate is, by its first `tuning` seeds."""
    runs = rate.runs.take(slice(tuning))
    return measures.area(runs.hits, steps).mean(), np.where(runs.ok, runs.best, np.inf).mean()


def summary(function: Function, begins: Starts, runs: Runs, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that say how the runs of one learning rate went; a run that diverged has infinite gaps.

    `settings`: those of the cell.
    """
    ok = runs.ok
    gaps = measured_quartiles(np.where(ok, runs.best - function.minimum, np.inf))
    final = measured_quartiles(np.where(ok, runs.final - function.minimum, np.inf))
    row: dict[str, Any] = {
        "runs": len(ok),
        "tuning_seeds": min(settings["tuning_seeds"], len(ok)),
        "steps": settings["steps"],
        "status": str(Status.OK if ok.any() else Status.DIVERGED),
        "reason": reason(runs, begins),
        "diverged": int((~ok).sum()),
        "minimum": function.minimum,
        "basin": float(begins.basins[0]),
        "other_basins": int((np.abs(begins.basins - begins.basins[0]) > 1e-6 * np.abs(begins.losses)).sum()),
    }
    row |= dict(zip(("gap_q1", "gap_median", "gap_q3"), gaps, strict=True))
    row |= dict(zip(("final_gap_q1", "final_gap_median", "final_gap_q3"), final, strict=True))
    row["target"] = settings.get("target")
    for name, place in told(runs.hits.shape[1]).items():
        times = runs.hits[:, place]
        row[f"gradients_{name}"] = measured_quartiles(times)[1]
        row[f"met_{name}"] = float(np.isfinite(times).mean())
    row |= {"evaluations": int(runs.evaluations.sum()), "seconds": float(runs.seconds.sum())}
    return row | {"_hits": [hits.encode(times) for times in runs.hits.tolist()]}


def told(targets: int) -> dict[str, int]:
    """The places of the targets, of so many, whose gradients are columns, by the columns' names."""
    if targets == 1:
        return {"target": 0}
    return {str(decade): hits.EXPONENTS.tolist().index(decade) for decade in TOLD}


def reason(runs: Runs, begins: Starts) -> str:
    """How many runs diverged, and in which way most of them; "" if none."""
    bad = ~runs.ok
    if not bad.any():
        return ""
    values, lowest = runs.final[bad], begins.lowest[bad]
    ways = {
        "the loss became nan": np.isnan(values),
        "the loss became infinite": np.isinf(values),
        "the loss fell below the minimum, so outside the domain": np.isfinite(values) & (values < lowest),
        f"the loss rose above {DIVERGED:.0f} times the initial gap": np.isfinite(values) & (values >= lowest),
    }
    way = max(ways, key=lambda one: ways[one].sum())
    return (
        f"{bad.sum()} of {len(bad)} runs diverged, the first at step {runs.bad_step[bad].min()}, mostly because {way}"
    )


def keep_curve(rows: list[dict[str, Any]], rates: list[Rate], function: Function) -> None:
    """Add `_losses`, `_curve_status` and, in two dimensions, `_trace` of seed 0 to the rate where it ended lowest."""
    # Where it ended, not the best it passed: a run that only jumps about passes good points by luck.
    ends = [rate.runs.final[0] if rate.runs.ok[0] else math.inf for rate in rates]
    best = int(np.argmin(ends))
    losses, points, kept = rates[best].curve()
    bad = int(rates[best].runs.bad_step[0])
    shown = [(place, step) for place, step in enumerate(kept) if bad < 0 or step < bad]
    rows[best]["_losses"] = [[step, float(losses[step])] for _, step in shown]  # whole: the minimum is taken off
    rows[best]["_curve_status"] = str(Status.OK if bad < 0 else Status.DIVERGED)
    if function.dimension == 2:
        rows[best]["_trace"] = [[short(x) for x in points[place]] for place, _ in shown]


def short(number: float) -> float:
    """Seven digits: enough for a place on a map, half the size in the journal."""
    return float(f"{number:.7g}")
