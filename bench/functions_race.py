"""The race on test functions: every optimizer over a grid of learning rates and seeds, all runs of a cell at once.

One cell is one function × one optimizer. All its runs are rows of one float64 tensor, each row a parameter of its own,
with one parameter group per learning rate. A step is then one batched gradient and one `optimizer.step()`. That is
exact for these optimizers, because each treats every parameter by itself; runs cannot disturb each other, not even with
nan. So a run that diverges is simply stepped on, and what it did from its first bad step on is not counted.

Where an optimizer steps each element by a rule of its own, all steps of all runs are one call of compiled code instead
(`bench.sweeps`), which does what the class does to the last bits. The column `executor` says which it was: compiled,
batched, or one run at a time.

L-BFGS, which evaluates the loss itself and has one parameter group, makes its runs one after the other. The budget is
the same number of gradients for everybody: what the others do in a step, L-BFGS does in an evaluation, however many of
them its steps take. Without a line search, its default, each evaluation is at the next point of its path.

Seed 0 starts at the published start, seed k at a point with normal noise added, 5 % of the domain's width in each
coordinate. Rprop's learning rate is only the size of its first step. Weight decay is each optimizer's default.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import optimizers
from bench import contenders, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import TRAITS, Takes
from bench.problems.catalogue import CATALOGUE
from bench.problems.disturbance import SEED_BITS, Oracle
from bench.problems.function import Function
from bench.score import hits
from optimizers.executors import kernels

NOISE = 0.05  # of the domain's width
DIVERGED = 1e3  # times the initial gap
JOINT_STEP_SECONDS = 80e-6  # measured, mean over functions and optimizers
COMPILED_SECONDS = 0.07  # nearly all of it the compilation, shared by the cells of a first run
EVALUATION_SECONDS = 100e-6  # of a run on its own

# Why an optimizer does not race here.
ABSENT = {
    Takes.MATRICES: "a point of a test function is a vector, and Muon steps matrices only",
    Takes.SPARSE: "the gradient of a test function is dense, and SparseAdam takes sparse ones only",
}

COMPILED, BATCHED, ALONE = "compiled", "batched", "one at a time"

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Descent:
    """What a sweep did: losses [steps + 1, runs], points [kept, runs, dimension], seconds for all of it.

    `evaluations`: the gradients that each run took, where they are not as many as there were steps.
    """

    losses: Tensor
    kept: list[int]
    points: Tensor
    seconds: float
    evaluations: list[int] | None = None


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each function × optimizer; `problems` replaces the budget's functions."""
    names = problems if problems is not None else budget.function_names or CATALOGUE
    return [
        Cell(
            kind="functions",
            device=device,
            optimizer=optimizer,
            settings={
                "name": name,
                "steps": budget.function_steps,
                "lr_multiples": sweep.lr_multiples(budget.function_learning_rates),
                "seeds": budget.function_seeds,
                "seed": seed,
                "dtype": "float64",
            },
            expected_seconds=expected_seconds(budget, optimizer, device),
        )
        for name in names
        if name in CATALOGUE
        for optimizer in optimizers
    ]


def expected_seconds(budget: Budget, optimizer: str, device: str) -> float:
    takes = TRAITS[optimizer].takes
    if takes in ABSENT:
        return 0.01
    if takes is Takes.CLOSURE:  # most of its runs end early
        runs = budget.function_learning_rates * budget.function_seeds
        return runs * min(budget.function_steps, 200) * EVALUATION_SECONDS
    if executor_of(optimizer, device) == COMPILED:
        return COMPILED_SECONDS
    return budget.function_steps * JOINT_STEP_SECONDS


@sweep.one_thread()
def run(cell: Cell) -> Outcome:
    """The sweep of one optimizer on one function: one row for each learning rate × seed."""
    settings, takes = cell.settings, TRAITS[cell.optimizer].takes
    if takes in ABSENT:
        return Outcome(status=Status.SKIPPED, reason=ABSENT[takes])
    function = CATALOGUE[settings["name"]]
    multiples = settings["lr_multiples"]
    base = sweep.default_lr(cell.optimizer)
    starts = torch.tensor(
        [start(function, settings["seed"], seed) for seed in range(settings["seeds"])],
        dtype=torch.float64,
        device=cell.device,
    )
    noise = [noise_seed(function, settings["seed"], seed) for seed in range(settings["seeds"])]
    lrs = [base * multiple for multiple in multiples]
    executor = executor_of(cell.optimizer, cell.device)
    if executor == COMPILED and function.rotation is not None:
        executor = BATCHED
    if executor == COMPILED:
        found = descend_compiled(function, cell.optimizer, starts, lrs, settings["steps"], noise)
    else:
        found = (descend_by_closure if executor == ALONE else descend)(
            function,
            lambda groups: contenders.build("ours", cell.optimizer, groups),
            starts,
            lrs,
            settings["steps"],
            noise,
        )
    labels = {"function": function.name, "dimension": function.dimension, "optimizer": cell.optimizer}
    labels["executor"] = executor
    rows = [
        {**labels, "device": cell.device, "lr": base * multiple, "lr_multiple": multiple, "seed": seed}
        | judge(function, found, place * len(starts) + seed)
        for place, multiple in enumerate(multiples)
        for seed in range(len(starts))
    ]
    keep_curves(rows, function, found)
    return Outcome(rows=rows)


def executor_of(optimizer: str, device: str) -> str:
    """How the runs of a cell are made: the fastest way that is exact."""
    if TRAITS[optimizer].takes is Takes.CLOSURE:
        return ALONE
    if device != "cpu" or isinstance(kernels.executor("cpu"), str):  # the latter says why there is no compiler
        return BATCHED
    from bench.sweeps import engine

    return COMPILED if engine.elementwise(getattr(optimizers, optimizer)) else BATCHED


def start(function: Function, run_seed: int, seed: int) -> list[float]:
    """Where the run of `seed` begins: the published start, or noise around it kept inside the domain."""
    if seed == 0:
        return list(function.start)
    noise = sweep.generator(run_seed, function.name, seed)
    return [
        min(max(x + noise.gauss(0, NOISE * (high - low)), low), high)
        for x, (low, high) in zip(function.start, function.domain, strict=True)
    ]


def noise_seed(function: Function, run_seed: int, seed: int) -> int:
    """What the noise of the run of `seed` is drawn from, the same for all optimizers and learning rates."""
    return sweep.generator(run_seed, function.name, seed, "noise").getrandbits(SEED_BITS)


def descend(
    function: Function,
    make_optimizer: MakeOptimizer,
    starts: Tensor,
    lrs: list[float],
    steps: int,
    noise: Sequence[int] | None = None,
) -> Descent:
    """Minimise from all `starts` [seeds, dimension] with all `lrs` at once; the runs are ordered lr by lr.

    `make_optimizer` gets one parameter group per learning rate, with one parameter per seed. `noise` has a noise seed
    for each start, None: 0 for all.
    """
    oracle = Oracle(function, [*(noise or [0] * len(starts))] * len(lrs))
    points = starts.repeat(len(lrs), 1)
    gradients = torch.zeros_like(points)
    make_optimizer(groups_of(points.clone(), gradients, lrs)).step()  # untimed and thrown away: it may compile a kernel
    optimizer = make_optimizer(groups_of(points, gradients, lrs))
    kept = sweep.kept_steps(steps)
    keep = set(kept)
    losses, path = [], []
    begin = time.perf_counter()
    for step in range(steps + 1):
        if step in keep:
            path.append(points.clone())
        if step < steps:
            values, gradient = oracle.ask(points)
            gradients.copy_(gradient)
            optimizer.step()
        else:
            values = oracle.values(points)
        losses.append(values)
    history = torch.stack(losses).cpu()  # waits for the device
    return Descent(history, kept, torch.stack(path).cpu(), time.perf_counter() - begin)


def descend_compiled(
    function: Function,
    optimizer: str,
    starts: Tensor,
    lrs: list[float],
    steps: int,
    noise: Sequence[int] | None = None,
) -> Descent:
    """As `descend`, for an elementwise optimizer of ours."""
    from bench.sweeps import engine

    cls, points = getattr(optimizers, optimizer), starts.repeat(len(lrs), 1).numpy()
    options = {"lr": np.repeat(lrs, len(starts))}
    seeds = np.tile(noise, len(lrs)) if noise else 0
    engine.sweep(function, cls, options, points, 0)  # untimed: it may compile
    begin = time.perf_counter()
    found = engine.sweep(function, cls, options, points, steps, every=1, seeds=seeds)
    seconds = time.perf_counter() - begin
    kept = sweep.kept_steps(steps)
    return Descent(
        torch.from_numpy(found.recorded_values), kept, torch.from_numpy(found.recorded_points[kept]), seconds
    )


def descend_by_closure(
    function: Function,
    make_optimizer: MakeOptimizer,
    starts: Tensor,
    lrs: list[float],
    steps: int,
    noise: Sequence[int] | None = None,
) -> Descent:
    """As `descend`, for an optimizer that evaluates the loss itself: row k of the losses is its evaluation k.

    A run ends early where a step moves nothing any more, and where it has diverged: then its last loss is repeated.
    """
    kept = sweep.kept_steps(steps)
    points = starts.repeat(len(lrs), 1)
    make_optimizer([{"params": [starts[0].clone()], "lr": lrs[0]}]).step(lambda: torch.zeros(()))  # as in `descend`
    losses = torch.empty(steps + 1, len(points), dtype=points.dtype, device=points.device)
    path = torch.empty(len(kept), *points.shape, dtype=points.dtype, device=points.device)
    evaluations = []
    begin = time.perf_counter()
    for run, start in enumerate(points):
        oracle = Oracle(function, [noise[run % len(starts)] if noise else 0])
        seen, places = follow(oracle, make_optimizer, start.clone(), lrs[run // len(starts)], steps)
        evaluations.append(min(len(seen), steps))
        last = len(seen) - 1
        losses[:, run] = torch.stack([seen[min(step, last)] for step in range(steps + 1)])
        path[:, run] = torch.stack([places[min(step, last)] for step in kept])
    return Descent(losses.cpu(), kept, path.cpu(), time.perf_counter() - begin, evaluations)


def follow(
    oracle: Oracle, make_optimizer: MakeOptimizer, point: Tensor, lr: float, steps: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The losses and the points of one run's evaluations: those of `steps` gradients, and where the last one led.

    The optimizer gets the true value with a gradient that may be disturbed.
    """
    function = oracle.function
    optimizer = make_optimizer([{"params": [point], "lr": lr}])
    losses: list[Tensor] = []
    points: list[Tensor] = []

    def closure() -> Tensor:
        values, gradients = oracle.ask(point[None])
        point.grad = gradients[0]
        losses.append(values[0])
        points.append(point.clone())
        return values[0]

    while len(losses) <= steps:
        before = point.clone()
        optimizer.step(closure)
        gap = losses[-1].item() - function.minimum
        stuck = function.disturbance is None and torch.equal(before, point)  # what is told may move it again
        if stuck or not gap <= diverging_gap(function, losses[0].item()):
            break
    return losses[: steps + 1], points[: steps + 1]


def groups_of(points: Tensor, gradients: Tensor, lrs: list[float]) -> list[dict[str, Any]]:
    """One parameter group for each learning rate, whose parameters are rows of `points`, lr by lr."""
    parameters = [row.detach() for row in points]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient  # a view: filled in place in every step, assigned once
    seeds = len(points) // len(lrs)
    return [{"params": parameters[i * seeds : (i + 1) * seeds], "lr": lr} for i, lr in enumerate(lrs)]


def judge(function: Function, found: Descent, run: int) -> dict[str, Any]:
    """The columns that say how one run went; `gap` is inf for a run that diverged, whatever it passed on its way."""
    losses = found.losses[:, run]
    steps = len(losses) - 1
    bad, reason = first_bad_step(function, losses)
    good = losses[:bad]
    best = good.min().item() if len(good) else math.nan
    aim = hits.reference(losses[0].item(), function.basin, function.minimum)
    return {
        "steps": steps,
        "status": str(Status.OK if bad is None else Status.DIVERGED),
        "reason": reason,
        "first_bad_step": bad,
        "initial_loss": losses[0].item(),
        "final_loss": losses[steps if bad is None else bad].item(),
        "best_loss": best,
        "minimum": function.minimum,
        "reference": aim,
        "gap": best - function.minimum if bad is None else math.inf,
        "hits": hits.encode(hits.first_hits(losses.numpy(), aim)) if bad is None else "",
        # of a run that diverged too: it was stepped on with its sweep
        "evaluations": found.evaluations[run] if found.evaluations else steps,
        "seconds": found.seconds / found.losses.shape[1],
    }


def first_bad_step(function: Function, losses: Tensor) -> tuple[int | None, str]:
    """The first step at which a run has diverged, and in which way; None and "" if it never has."""
    gaps = losses - function.minimum
    limit = diverging_gap(function, losses[0].item())
    below = gaps < -1e-9 * max(1.0, abs(function.minimum))  # possible only outside the domain
    bad = ~(gaps <= limit) | below
    if not bad.any():
        return None, ""
    step = int(bad.int().argmax())
    if below[step]:
        return step, f"fell below the minimum at step {step}, so it has left the domain"
    value = losses[step].item()
    if not math.isfinite(value):
        return step, f"loss is {value} at step {step}"
    return step, f"loss is {value:.3g} at step {step}, more than {DIVERGED:.0f} times the initial gap"


def diverging_gap(function: Function, initial_loss: float) -> float:
    """Above this gap a run has diverged."""
    return DIVERGED * max(1.0, initial_loss - function.minimum)


def keep_curves(rows: list[dict[str, Any]], function: Function, found: Descent) -> None:
    """Add `_losses` and, in two dimensions, `_trace` to the run of seed 0 that ended lowest: what the charts show."""
    published = [run for run, row in enumerate(rows) if row["seed"] == 0]
    # Where it ended, not the best it passed: a run that only jumps about passes good points by luck.
    best = min(published, key=lambda run: rows[run]["final_loss"] if rows[run]["status"] == Status.OK else math.inf)
    kept = [(place, step) for place, step in enumerate(found.kept) if counts(rows[best], step)]
    rows[best]["_losses"] = [[step, short(found.losses[step, best].item())] for _, step in kept]
    if function.dimension == 2:
        rows[best]["_trace"] = [[short(x) for x in found.points[place, best].tolist()] for place, _ in kept]


def short(number: float) -> float:
    """Seven digits: enough for a chart, half the size in the journal."""
    return float(f"{number:.7g}")


def counts(row: dict[str, Any], step: int) -> bool:
    """Whether the run had not diverged yet at `step`."""
    return row["first_bad_step"] is None or step < row["first_bad_step"]
