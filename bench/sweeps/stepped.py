"""Many runs of an optimizer that has no rule to compile: the class itself, with one of its own for each run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bench.problems.disturbance import Oracle
from bench.problems.function import Function
from bench.sweeps import engine
from bench.sweeps.plane import options


def sweep(
    function: Function,
    cls: type,
    given: Mapping[str, np.ndarray],
    starts: np.ndarray,
    steps: int,
    *,
    dtype: str,
    bounds: tuple[float, float],
) -> engine.Sweep:
    """What `engine.sweep` makes of columns [runs] by `plane.names`, nothing recorded, on the CPU.

    Raises ValueError for options the optimizer refuses.
    """
    defaults = cls([torch.zeros(1)]).param_groups[0]
    points = torch.tensor(starts, dtype=getattr(torch, dtype))
    losses = np.empty((steps + 1, len(points)))
    evaluate = engine.evaluator(function)
    for run, point in enumerate(points):
        pair = {name: float(column[run]) for name, column in given.items()}
        optimizer = cls([point], **options(pair, defaults))
        oracle = Oracle(function, [0], evaluate)
        for step in range(steps):
            values, gradients = oracle.ask(point[None])
            losses[step, run], point.grad = values.item(), gradients[0]
            optimizer.step()
        losses[steps, run] = oracle.values(point[None]).item()
    bad = ~((losses >= bounds[0]) & (losses <= bounds[1]))
    bad_step = np.where(bad.any(axis=0), bad.argmax(axis=0), -1)
    counted = np.arange(steps + 1)[:, None] < np.where(bad_step < 0, steps + 1, bad_step)
    nothing = np.empty((0, len(points)))
    return engine.Sweep(
        values=losses[-1],
        points=points.numpy(),
        best=np.where(counted, losses, np.inf).min(axis=0),
        bad_step=bad_step,
        bad_values=losses[bad_step, np.arange(len(points))],
        recorded_values=nothing,
        recorded_points=nothing[..., None],
        hits=nothing.T,
    )
