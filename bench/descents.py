"""The runs of one optimizer from many starts with many learning rates: three ways to make them, one way to judge them.

`compiled`: all steps of all runs in one call (`bench.sweeps`), which judges on the way and keeps no losses. `batched`:
one `step()` of the class for all runs, each a parameter of its own. `one at a time`: for an optimizer that evaluates
the loss itself, or may look at more than one parameter. All runs are ordered learning rate by learning rate. Losses are
true ones; a gradient is what the function's disturbance tells of it, by the noise seed of the run's start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import own, sweep
from bench.problems.disturbance import Evaluate, Oracle
from bench.problems.function import Function
from bench.score import hits
from bench.starts import Starts

Array = NDArray[np.float64]
MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Runs:
    """What runs came to, arrays [runs].

    initial, final and best loss; of a run that diverged, at `bad_step` (-1 for none) and before it. hits
    [runs, targets]: the gradients to each target, inf for never and for all of a run that diverged. evaluations: the
    gradients evaluated. seconds: each run's share of the whole.
    """

    initial: Array
    final: Array
    best: Array
    bad_step: NDArray[np.int64]
    hits: Array
    evaluations: NDArray[np.int64]
    seconds: Array

    @property
    def ok(self) -> NDArray[np.bool_]:
        return self.bad_step < 0

    def take(self, runs: slice) -> Runs:
        return Runs(*(getattr(self, one.name)[runs] for one in fields(self)))


@dataclass(frozen=True)
class Descent:
    """Every loss of runs [steps + 1, runs], and their points at the `kept` steps [kept, runs, dimension].

    `evaluations` [runs]: the gradients that each took, where they are not as many as there were steps.
    """

    losses: Array
    kept: list[int]
    points: Array
    seconds: float
    evaluations: list[int] | None = None


def sweeper(device: str) -> Callable[..., Any]:
    """What makes compiled sweeps on a device: `engine.sweep`, or its like on CUDA."""
    from bench.sweeps import engine

    if device == "cpu":
        return engine.sweep
    from bench.sweeps import cuda

    return partial(cuda.sweep, device=device)


def compiled(
    function: Function,
    cls: type,
    starts: Starts,
    lrs: list[float],
    steps: int,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
) -> Runs:
    """Runs of an elementwise optimizer of ours; `options` beside the learning rate."""
    make = sweeper(device)
    all_starts = starts.take(np.tile(np.arange(len(starts.losses)), len(lrs)))
    given = {**(options or {}), "lr": np.repeat(lrs, len(starts.losses))}
    judged = {"bounds": (all_starts.lowest, all_starts.highest), "targets": all_starts.thresholds}
    if function.disturbance is not None:
        judged["seeds"] = all_starts.noise
    make(function, cls, given, all_starts.points, 0, **judged)  # untimed: it may compile
    begin = time.perf_counter()
    found = make(function, cls, given, all_starts.points, steps, **judged)
    seconds = time.perf_counter() - begin
    diverged, count = found.bad_step >= 0, len(all_starts.losses)
    times = np.where((found.hits < 0) | diverged[:, None], np.inf, found.hits)
    return Runs(
        initial=all_starts.losses,
        final=np.where(diverged, found.bad_values, found.values),
        best=np.where(found.bad_step == 0, np.nan, found.best),
        bad_step=found.bad_step,
        hits=times,
        evaluations=np.full(count, steps),
        seconds=np.full(count, seconds / count),
    )


def recorded(
    function: Function,
    cls: type,
    starts: Starts,
    lrs: list[float],
    steps: int,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
) -> Descent:
    """Runs of `compiled` with all their losses."""
    make = sweeper(device)
    given = {**(options or {}), "lr": np.repeat(lrs, len(starts.points))}
    begins, noise = np.tile(starts.points, (len(lrs), 1)), np.tile(starts.noise, len(lrs))
    more = {} if function.disturbance is None else {"seeds": noise}
    make(function, cls, given, begins, 0, every=1, **more)  # untimed: it may compile
    begin = time.perf_counter()
    found = make(function, cls, given, begins, steps, every=1, **more)
    kept = sweep.kept_steps(steps)
    return Descent(found.recorded_values, kept, found.recorded_points[kept], time.perf_counter() - begin)


def judge(found: Descent, starts: Starts) -> Runs:
    """What runs with these losses came to; `starts` are those of one learning rate."""
    losses, steps, count = found.losses, len(found.losses) - 1, found.losses.shape[1]
    all_starts = starts.take(np.tile(np.arange(len(starts.losses)), count // len(starts.losses)))
    bad = ~((losses <= all_starts.highest) & (losses >= all_starts.lowest))
    diverged = bad.any(axis=0)
    bad_step = np.where(diverged, bad.argmax(axis=0), -1)
    counted = np.arange(steps + 1)[:, None] < np.where(diverged, bad_step, steps + 1)
    best = np.where(counted, losses, np.inf).min(axis=0)
    times = hits.first_hits(losses, all_starts.thresholds)
    return Runs(
        initial=losses[0],
        final=losses[bad_step, np.arange(count)],  # -1 is the last one
        best=np.where(bad_step == 0, np.nan, best),
        bad_step=bad_step,
        hits=np.where(diverged[:, None], np.inf, times),
        evaluations=np.array(found.evaluations or [steps] * count),
        seconds=np.full(count, found.seconds / count),
    )


def batched(
    function: Function,
    make_optimizer: MakeOptimizer,
    starts: Starts,
    lrs: list[float],
    steps: int,
    device: str = "cpu",
    evaluate: Evaluate | None = None,
) -> Descent:
    """Minimise from all `starts` with all `lrs` at once.

    `make_optimizer` gets one parameter group per learning rate, with one parameter per seed. `evaluate`: value and
    gradient at points, if there is a faster way than the function's own.
    """
    oracle = Oracle(function, np.tile(starts.noise, len(lrs)), evaluate)
    points = torch.tensor(starts.points, dtype=torch.float64, device=device).repeat(len(lrs), 1)
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
    seconds = time.perf_counter() - begin
    return Descent(history.numpy(), kept, torch.stack(path).cpu().numpy(), seconds)


def apart(
    function: Function,
    make_optimizer: MakeOptimizer,
    starts: Starts,
    lrs: list[float],
    steps: int,
    device: str = "cpu",
    evaluate: Evaluate | None = None,
) -> Descent:
    """As `batched`, with an optimizer of its own for each run."""

    def alone(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return own.anchored(make_optimizer(groups))

    runs = [
        batched(function, alone, starts.take(slice(seed, seed + 1)), [lr], steps, device, evaluate)
        for lr in lrs
        for seed in range(len(starts.losses))
    ]
    losses, points = (np.concatenate([getattr(run, name) for run in runs], axis=1) for name in ("losses", "points"))
    return Descent(losses, runs[0].kept, points, sum(run.seconds for run in runs))


def groups_of(points: Tensor, gradients: Tensor, lrs: list[float]) -> list[dict[str, Any]]:
    """One parameter group for each learning rate, whose parameters are rows of `points`, lr by lr."""
    parameters = [row.detach() for row in points]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient  # a view: filled in place in every step, assigned once
    seeds = len(points) // len(lrs)
    return [{"params": parameters[i * seeds : (i + 1) * seeds], "lr": lr} for i, lr in enumerate(lrs)]


def one_at_a_time(
    function: Function,
    make_optimizer: MakeOptimizer,
    starts: Starts,
    lrs: list[float],
    steps: int,
    evaluate: Evaluate | None = None,
) -> Descent:
    """As `batched`, for an optimizer that evaluates the loss itself: row k of the losses is its evaluation k.

    A run ends early where a step moves nothing any more, unless a disturbance may move it again, and where it has
    diverged: then its last loss is repeated.
    `evaluate`: as in `batched`.
    """
    kept, runs = sweep.kept_steps(steps), len(lrs) * len(starts.points)
    points = torch.from_numpy(starts.points)
    make_optimizer([{"params": [points[0].clone()], "lr": lrs[0]}]).step(lambda: torch.zeros(()))  # as in `batched`
    losses, path = np.empty((steps + 1, runs)), np.empty((len(kept), runs, function.dimension))
    evaluations = []
    begin = time.perf_counter()
    for run in range(runs):
        seed = run % len(points)
        oracle = Oracle(function, starts.noise[[seed]], evaluate)
        optimizer_of = make_optimizer, points[seed].clone(), lrs[run // len(points)]
        seen, places = follow(oracle, *optimizer_of, steps, starts.highest[seed])
        last = len(seen) - 1
        evaluations.append(min(len(seen), steps))
        losses[:, run] = seen[np.minimum(np.arange(steps + 1), last)]
        path[:, run] = places[np.minimum(kept, last)]
    return Descent(losses, kept, path, time.perf_counter() - begin, evaluations)


def follow(
    oracle: Oracle, make_optimizer: MakeOptimizer, point: Tensor, lr: float, steps: int, highest: float
) -> tuple[Array, Array]:
    """The losses and the points of one run's evaluations: those of `steps` gradients, and where the last one led.

    The optimizer gets the true value with a gradient that may be disturbed.
    """
    optimizer = make_optimizer([{"params": [point], "lr": lr}])
    losses: list[float] = []
    points: list[Array] = []

    def closure() -> Tensor:
        values, gradients = oracle.ask(point[None])
        point.grad = gradients[0]
        losses.append(values.item())
        points.append(point.numpy().copy())
        if len(losses) > steps or not losses[-1] <= highest:
            raise _EndedError
        return values[0]

    with contextlib.suppress(_EndedError):
        before = np.full(len(point), np.nan)
        while oracle.disturbance is not None or (before != point.numpy()).any():
            before = point.numpy().copy()
            optimizer.step(closure)
    return np.array(losses), np.array(points)


class _EndedError(Exception):
    """A run has spent its gradients or diverged, in the midst of a step."""
