"""The race on small networks: every optimizer over learning rates and seeds, the same mini-batches for everybody.

One cell is one network × one optimizer. A seed fixes the initial weights and the order of the data. Every few steps,
off the clock, the loss is evaluated on the full training set and the accuracy on the test set; `seconds` holds forward
pass, backward pass and optimizer step only. Weight decay is each optimizer's default.

The budget is the same number of gradients for everybody. L-BFGS evaluates the loss itself, several times a step and all
of them on the step's mini-batch, so it takes fewer steps and sees fewer batches.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench import contenders, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import TRAITS, Takes
from bench.problems.data import Data
from bench.problems.networks import NETWORKS, ON, Network, named

EVALUATIONS = 20  # per run, after the one of the start
DIVERGED = 1e3  # times the initial loss
STEP_SECONDS = 250e-6  # measured, mean over networks and optimizers

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
            settings={
                "name": name,
                "steps": budget.network_steps,
                "evaluate_every": max(1, budget.network_steps // EVALUATIONS),
                "lr_multiples": list(budget.lr_multiples or sweep.lr_multiples(budget.network_learning_rates)),
                "seeds": budget.network_seeds,
                "seed": seed,
                "dtype": "float32",
            },
            expected_seconds=0.01 if TRAITS[optimizer].takes in ABSENT else runs * budget.network_steps * STEP_SECONDS,
        )
        for name in names
        if named(name)
        for optimizer in optimizers
    ]


@sweep.one_thread()
def run(cell: Cell) -> Outcome:
    """Train one network with one optimizer at every learning rate × seed: one row for each evaluation."""
    settings, takes = cell.settings, TRAITS[cell.optimizer].takes
    if takes in ABSENT:
        return Outcome(status=Status.SKIPPED, reason=ABSENT[takes])
    trained = train_by_closure if takes is Takes.CLOSURE else train
    network = named(settings["name"])
    data = network.data().to(cell.device)
    labels = {"network": network.name, "optimizer": cell.optimizer, "device": cell.device}
    minimum = network.optimum() if network.optimum else math.nan
    base = sweep.default_lr(cell.optimizer)
    rows = []
    warm_up(network, data, cell)
    for seed in range(settings["seeds"]):
        random_numbers = sweep.generator(settings["seed"], network.name.partition(ON)[0], seed)
        initial = random_numbers.getrandbits(31)
        batches = draw_batches(data, network.batch_size, settings["steps"], random_numbers)
        for multiple in settings["lr_multiples"]:
            lr = base * multiple
            model = network.build(initial).to(cell.device)
            optimizer = contenders.build("ours", cell.optimizer, model.parameters(), lr=lr)
            run_labels = labels | {"lr": lr, "lr_multiple": multiple, "seed": seed, "minimum": minimum}
            for point in trained(network, model, optimizer, data, batches, settings["evaluate_every"]):
                rows.append(run_labels | point)
    return Outcome(rows=rows)


def warm_up(network: Network, data: Data, cell: Cell) -> None:
    """Take one step of a network that is thrown away: the first step may compile a kernel, which is no training."""
    model = network.build(0).to(cell.device)
    optimizer = contenders.build("ours", cell.optimizer, model.parameters(), lr=sweep.default_lr(cell.optimizer))
    optimizer.step(evaluation(network, model, optimizer, data.train_inputs, data.train_targets))


def evaluation(
    network: Network, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> Callable[[], Tensor]:
    """The closure of one batch: sets the gradients and returns the loss."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = network.loss(model, inputs, targets)
        loss.backward()
        return loss

    return closure


def draw_batches(data: Data, size: int, steps: int, random_numbers: random.Random) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of each step: epochs in fresh order, the incomplete batch at an epoch's end left out."""
    samples = len(data.train_inputs)
    picks: list[list[int]] = []
    while len(picks) < steps:
        order = random_numbers.sample(range(samples), samples)
        picks += [order[at : at + size] for at in range(0, samples - size + 1, size)]
    picked = torch.tensor(picks[:steps], device=data.train_inputs.device)
    return list(zip(data.train_inputs[picked], data.train_targets[picked], strict=True))


def train(
    network: Network,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    batches: list[tuple[Tensor, Tensor]],
    evaluate_every: int,
) -> Iterator[dict[str, Any]]:
    """One step per batch; yields the columns of an evaluation at the start, every few steps and at the end.

    Stops at the first evaluation that shows divergence, and says so in that last row.
    """
    parameters = list(model.parameters())
    seconds, limit, step = 0.0, math.inf, 0
    while True:
        point = evaluate(network, model, data)
        if step == 0:
            limit = DIVERGED * max(1.0, point["loss"])
        status, reason = judge(point["loss"], limit, step)
        yield {"step": step, "evaluations": step, "seconds": seconds, **point, "status": str(status), "reason": reason}
        if status is Status.DIVERGED or step == len(batches):
            return
        some = batches[step : step + evaluate_every]
        _wait(data)
        begin = time.perf_counter()
        for inputs, targets in some:
            network.loss(model, inputs, targets).backward()
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
        _wait(data)
        seconds += time.perf_counter() - begin
        step += len(some)


def train_by_closure(
    network: Network,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    batches: list[tuple[Tensor, Tensor]],
    evaluate_every: int,
) -> Iterator[dict[str, Any]]:
    """As `train`, until as many gradients are evaluated as there are batches; a point after each step.

    Each step has a mini-batch and evaluates it as often as it likes, so one that would go beyond the budget is not
    taken, but for the first. `evaluate_every` has no meaning here: a step takes that many evaluations or more.
    """
    count, seconds, limit, longest = 0, 0.0, math.inf, 0
    for step in range(len(batches) + 1):
        point = evaluate(network, model, data)
        if step == 0:
            limit = DIVERGED * max(1.0, point["loss"])
        status, reason = judge(point["loss"], limit, step)
        yield {"step": step, "evaluations": count, "seconds": seconds, **point, "status": str(status), "reason": reason}
        if status is Status.DIVERGED or step == len(batches) or count + longest > len(batches):
            return
        closure, calls = counted(evaluation(network, model, optimizer, *batches[step]))
        _wait(data)
        begin = time.perf_counter()
        optimizer.step(closure)
        _wait(data)
        seconds += time.perf_counter() - begin
        count += calls()
        longest = max(longest, calls())


def counted(closure: Callable[[], Tensor]) -> tuple[Callable[[], Tensor], Callable[[], int]]:
    """The same closure, and a function that says how often it was called."""
    calls = []

    def call() -> Tensor:
        calls.append(None)
        return closure()

    return call, lambda: len(calls)


def evaluate(network: Network, model: nn.Module, data: Data) -> dict[str, float]:
    """`loss` on the whole training set and `accuracy` on the test set."""
    with torch.no_grad():
        loss = network.loss(model, data.train_inputs, data.train_targets).item()
        return {"loss": loss, "accuracy": network.accuracy(model, data.test_inputs, data.test_targets)}


def judge(loss: float, limit: float, step: int) -> tuple[Status, str]:
    if not math.isfinite(loss):
        return Status.DIVERGED, f"loss is {loss} at step {step}"
    if loss > limit:
        return Status.DIVERGED, f"loss is {loss:.3g} at step {step}, more than {DIVERGED:.0f} times the initial loss"
    return Status.OK, ""


def _wait(data: Data) -> None:
    """Let the GPU finish what is queued, so that the clock sees it."""
    if data.train_inputs.is_cuda:
        torch.cuda.synchronize(data.train_inputs.device)
