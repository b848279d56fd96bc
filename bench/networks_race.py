"""The race on small networks: every optimizer over learning rates and seeds, the same mini-batches for everybody.

One cell is one network × one optimizer. All its runs are trained together (`bench.problems.stack`), with one parameter
group per learning rate; the column `executor` says so. A seed fixes the initial weights and the order of the data.
Every few steps, off the clock, the loss is evaluated on the full training set and the accuracy on the test set;
`seconds` is what a run takes by itself, forward pass, backward pass and optimizer step only: the time of all runs
together depends on how many there are. Weight decay is each optimizer's default.

The budget is the same number of gradients for everybody. L-BFGS evaluates the loss itself, several times a step and all
of them on the step's mini-batch, so it takes fewer steps and sees fewer batches, and it makes its runs one at a time.
Its last step has as many iterations as the budget has gradients left. One at a time are those of a user's own class too
that does not have the step of our base class: it may look at several parameters at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from bench import contenders, own, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import TRAITS, Takes
from bench.problems import targets
from bench.problems.data import Data
from bench.problems.networks import NETWORKS, ON, Network, named
from bench.problems.stack import Stack, Steps, draw_picks, train, wait
from bench.score import hits, measures
from bench.score.networks import TUNING_SEEDS

Point = dict[str, Any]  # the columns of one evaluation
Rate = list[list[Point]]  # the points of each seed, with one learning rate
Build = Callable[[list[dict[str, Any]]], Steps]  # of parameter groups
Trained = Callable[[Network, Data, Cell, list[float], list[tuple[int, Tensor]]], Rate]  # lr by lr, seed by seed
STACKED, ALONE = "stacked", "one at a time"

EVALUATIONS, EARLY = 20, 5  # in a run, evenly; and in each decade of steps before the first of those
TIMED_STEPS, TIMED_SECONDS = (4, 40), 0.2  # at least so many of them, and no more where they take so long
DIVERGED = 1e3  # times the initial loss
# of a run, evaluations included; measured, mean over networks and optimizers
STEP_SECONDS = {STACKED: 80e-6, ALONE: 250e-6}

# Why an optimizer does not race here.
ABSENT = {
    Takes.MATRICES: "Muon steps matrices only, and whatever steps the biases beside it makes it another contender",
    Takes.SPARSE: "the gradients of these networks are dense, and SparseAdam takes sparse ones only",
}


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each network × optimizer; `problems` replaces the budget's networks.

    ``digits on huber_loss`` is the network with another loss than its own.
    """
    names = problems if problems is not None else budget.network_names or NETWORKS
    runs = budget.network_learning_rates * budget.network_seeds
    return [
        Cell(
            kind="networks",
            device=device,
            optimizer=optimizer,
            settings=settings_of(name, budget, seed)
            | {
                "lr_multiples": list(budget.lr_multiples or sweep.lr_multiples(budget.network_learning_rates)),
                "extra_rates": 0 if budget.lr_multiples else budget.network_extra_rates,
            },
            expected_seconds=0.01
            if TRAITS[optimizer].takes in ABSENT
            else runs * budget.network_steps * STEP_SECONDS[executor_of(optimizer)] * named(name).cost,
        )
        for name in names
        if named(name)
        for optimizer in optimizers
    ]


def settings_of(name: str, budget: Budget, seed: int) -> dict[str, Any]:
    """What is the same for everybody who trains this network."""
    return {
        "name": name,
        "steps": budget.network_steps,
        "looks": looks(budget.network_steps),
        "seeds": budget.network_seeds,
        "seed": seed,
        "dtype": "float32",
    } | budget.own_target()


def looks(steps: int) -> list[int]:
    """After how many gradients a run is looked at: evenly, and early on evenly on a logarithmic axis, as scores are."""
    every = max(1, steps // EVALUATIONS)
    early = {round(10 ** (k / EARLY)) for k in range(int(EARLY * math.log10(every)) + 1)}
    return sorted({*early, *range(every, steps, every), steps})


@sweep.one_thread()
def run(cell: Cell) -> Outcome:
    """Train one network with one optimizer at every learning rate × seed: one row for each evaluation."""
    takes = TRAITS[cell.optimizer].takes
    if takes in ABSENT:
        return Outcome(status=Status.SKIPPED, reason=ABSENT[takes])
    executor = executor_of(cell.optimizer)
    build = partial(contenders.build, "ours", cell.optimizer)
    lr = sweep.default_lr(cell.optimizer)
    if takes is Takes.CLOSURE:
        trained: Trained = one_at_a_time
    else:
        trained = partial(apart if executor == ALONE else stacked, build=build, each=step_seconds(cell, build, lr))
    return Outcome(rows=rows_of(cell, lr, executor, trained))


def rows_of(cell: Cell, base: float, executor: str, trained: Trained) -> list[dict[str, Any]]:
    """The rows of all learning rates, which are multiples of `base`."""
    settings = cell.settings
    network = named(settings["name"])
    data = network.data().to(cell.device)
    seeds = [draw(network, data, cell, seed) for seed in range(settings["seeds"])]
    aim = settings.get("target", targets.reference(network.name))
    lefts = targets.ONLY if "target" in settings else targets.LEFT

    def make(multiples: list[float]) -> list[Rate]:
        runs = trained(network, data, cell, [base * multiple for multiple in multiples], seeds)
        runs = [scored(points, aim, settings["looks"], lefts) for points in runs]
        return [runs[at : at + len(seeds)] for at in range(0, len(runs), len(seeds))]

    judged_by = partial(worth, steps=settings["steps"], count=len(lefts))
    rates = sweep.widened(make, judged_by, settings["lr_multiples"], settings["extra_rates"])
    labels = {
        "network": network.name,
        "optimizer": cell.optimizer,
        "device": cell.device,
        "minimum": network.optimum() if network.optimum else math.nan,
        "reference": aim,
        "target": settings.get("target"),
        "executor": executor,
    }
    return [
        labels | {"lr": base * multiple, "lr_multiple": multiple, "seed": seed} | row
        for multiple, rate in rates.items()
        for seed, points in enumerate(rate)
        for row in points
    ]


def worth(rate: Rate, steps: int, count: int) -> sweep.Worth:
    """How good a learning rate is, by its tuning seeds and `count` targets."""
    runs = rate[:TUNING_SEEDS]
    area = measures.area(hits.decode([points[-1]["hits"] for points in runs], count), steps).mean()
    ok = [points[-1]["status"] == Status.OK for points in runs]
    lowest = [min(point["loss"] for point in points) for points in runs]
    return area, fmean(loss if there else math.inf for loss, there in zip(lowest, ok, strict=True))


def executor_of(optimizer: str) -> str:
    """How the runs of a cell are made."""
    return ALONE if TRAITS[optimizer].apart or TRAITS[optimizer].takes is Takes.CLOSURE else STACKED


def draw(network: Network, data: Data, cell: Cell, seed: int) -> tuple[int, Tensor]:
    """What a seed fixes: the seed of the initial weights, and the samples of each step [steps, batch]."""
    random_numbers = sweep.generator(cell.settings["seed"], network.name.partition(ON)[0], seed)
    initial = random_numbers.getrandbits(31)
    return initial, draw_picks(len(data.train_inputs), network.batch_size, cell.settings["steps"], random_numbers)


def scored(points: list[Point], aim: float, looks: Sequence[int], lefts: Sequence[float] = targets.LEFT) -> list[Point]:
    """The points of a run; the last one says after how many gradients the targets were met: none by one that diverged.

    All are judged after as many gradients: one that was looked at in between has there the last loss that it had. A
    network that is trained on another loss than its own has no targets, but for one that is given.
    """
    common = [0, *looks]
    losses = [next(one["loss"] for one in reversed(points) if one["evaluations"] <= count) for count in common]
    failed = points[-1]["status"] == Status.DIVERGED
    met = [] if failed else targets.first_hits(losses, common, aim, lefts)
    return [*points[:-1], points[-1] | {"hits": hits.encode(met)}]


def stacked(
    network: Network,
    data: Data,
    cell: Cell,
    lrs: list[float],
    seeds: list[tuple[int, Tensor]],
    build: Build,
    each: float,
) -> list[list[Point]]:
    """The points of all runs, lr by lr, trained together; `each` is the seconds a step of one by itself takes.

    `build` makes the optimizer of parameter groups, one for each learning rate. A run that diverges is stepped on with
    the others, and not looked at again.
    """
    models = [network.build(initial).to(cell.device) for _ in lrs for initial, _ in seeds]
    stack = Stack(network, models)
    groups = [
        {"params": [p for model in models[at : at + len(seeds)] for p in model.parameters()], "lr": lr}
        for lr, at in zip(lrs, range(0, len(models), len(seeds)), strict=True)
    ]
    optimizer = build(groups)
    picks = torch.stack([picks for _, picks in seeds], 1)
    runs: list[list[Point]] = [[] for _ in models]
    for step, _ in train(stack, optimizer, data, picks, cell.settings["looks"]):
        for model, points in zip(models, runs, strict=True):
            if not points or points[-1]["status"] == Status.OK:
                initial = points[0]["loss"] if points else None
                points.append(look(network, model, data, initial, step, step, step * each))
        if all(points[-1]["status"] == Status.DIVERGED for points in runs):
            break
    return runs


def apart(
    network: Network,
    data: Data,
    cell: Cell,
    lrs: list[float],
    seeds: list[tuple[int, Tensor]],
    build: Build,
    each: float,
) -> list[list[Point]]:
    """As `stacked`, with an optimizer of its own for each run."""

    def alone(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return own.anchored(build(groups))

    return [
        points for lr in lrs for seed in seeds for points in stacked(network, data, cell, [lr], [seed], alone, each)
    ]


def one_at_a_time(
    network: Network, data: Data, cell: Cell, lrs: list[float], seeds: list[tuple[int, Tensor]]
) -> list[list[Point]]:
    """As `stacked`, for an optimizer that evaluates the loss itself."""

    def train(lr: float, initial: int, picks: Tensor) -> list[Point]:
        model = network.build(initial).to(cell.device)
        optimizer = contenders.build("ours", cell.optimizer, model.parameters(), lr=lr)
        return list(train_by_closure(network, model, optimizer, data, picks))

    train(lrs[0], seeds[0][0], seeds[0][1][:1])  # thrown away: the first step may compile a kernel
    return [train(lr, *seed) for lr in lrs for seed in seeds]


def step_seconds(cell: Cell, build: Build, lr: float) -> float:
    """The median seconds of a step of one run by itself: a batch forward and backward, and the optimizer's step.

    The first step is not among them: it may compile a kernel, which is no training.
    """
    network = named(cell.settings["name"])
    data = network.data().to(cell.device)
    model = network.build(0).to(cell.device)
    optimizer = build([{"params": list(model.parameters()), "lr": lr}])
    size = network.batch_size
    closure = evaluation(network, model, data.train_inputs[:size], data.train_targets[:size])
    times: list[float] = []
    while len(times) < TIMED_STEPS[0] or (len(times) < TIMED_STEPS[1] and sum(times[1:]) < TIMED_SECONDS):
        wait(data)
        begin = time.perf_counter()
        closure()
        optimizer.step()
        wait(data)
        times.append(time.perf_counter() - begin)
    return median(times[1:])


def evaluation(network: Network, model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    """The closure of one batch: sets the gradients and returns the loss."""

    def closure() -> Tensor:
        model.zero_grad()
        loss = network.loss(model, inputs, targets)
        loss.backward()
        return loss

    return closure


def train_by_closure(
    network: Network,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    picks: Tensor,
) -> Iterator[Point]:
    """A point at the start and after each step, until as many gradients are evaluated as there are `picks`.

    Each step has a mini-batch and evaluates it as often as it likes, but for the last one, which gets what is left of
    the budget. Stops where the run has diverged, and says so in that last point.
    """
    (group,) = optimizer.param_groups
    usual = group["max_iter"]
    count, seconds, initial = 0, 0.0, None
    for step, some in enumerate([*picks.to(data.train_inputs.device), None]):
        point = look(network, model, data, initial, step, count, seconds)
        initial = point["loss"] if step == 0 else initial
        yield point
        if point["status"] == Status.DIVERGED or some is None or count == len(picks):
            return
        inputs, targets = data.train_inputs[some], data.train_targets[some]
        closure, calls = counted(evaluation(network, model, inputs, targets))
        group["max_iter"] = min(usual, len(picks) - count)  # without a line search as many evaluations
        wait(data)
        begin = time.perf_counter()
        optimizer.step(closure)
        wait(data)
        seconds += time.perf_counter() - begin
        count += calls()


def counted(closure: Callable[[], Tensor]) -> tuple[Callable[[], Tensor], Callable[[], int]]:
    """The same closure, and a function that says how often it was called."""
    calls = []

    def call() -> Tensor:
        calls.append(None)
        return closure()

    return call, lambda: len(calls)


def look(
    network: Network, model: nn.Module, data: Data, initial: float | None, step: int, count: int, seconds: float
) -> Point:
    """The columns of one evaluation: `loss` on the whole training set, `accuracy` on the test set, and the verdict.

    initial: the loss at the start; None for the point that is the start.
    """
    with torch.no_grad():
        loss = network.loss(model, data.train_inputs, data.train_targets).item()
        accuracy = network.accuracy(model, data.test_inputs, data.test_targets)
    status, reason = judge(loss, math.inf if initial is None else limit_of(initial), step)
    return {
        "step": step,
        "evaluations": count,
        "seconds": seconds,
        "loss": loss,
        "accuracy": accuracy,
        "status": str(status),
        "reason": reason,
    }


def limit_of(initial: float) -> float:
    """Above this loss a run has diverged."""
    return DIVERGED * max(1.0, initial)


def judge(loss: float, limit: float, step: int) -> tuple[Status, str]:
    if not math.isfinite(loss):
        return Status.DIVERGED, f"loss is {loss} at step {step}"
    if loss > limit:
        return Status.DIVERGED, f"loss is {loss:.3g} at step {step}, more than {DIVERGED:.0f} times the initial loss"
    return Status.OK, ""
