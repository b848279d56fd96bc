"""The plane of two hyper-parameters on a small network: one training for each pair, many of them together.

All runs start from the same weights and see the same batches. The loss on the full training set is looked at a few
times on the way, so that a run which has diverged is one even if it comes back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench import own, sweep
from bench.networks_race import judge, limit_of
from bench.problems.data import Data
from bench.problems.networks import Network
from bench.problems.stack import Stack, draw_picks, train
from bench.sweeps.plane import Axis, Plane, options

TOGETHER = 64  # runs; more gain nothing, and the memory does not grow with the plane
LOOKS = 4  # at a run's loss, after the one at its start

Report = Callable[[int, int], None]  # told of the runs that are done, and of all; none are when the clock starts


def plane(
    network: Network,
    cls: type,
    x: Axis,
    y: Axis,
    steps: int,
    seed: int = 0,
    report: Report = lambda done, all: None,
    together: int = TOGETHER,
) -> Plane:
    """Trains with each pair of values; the plane's gaps are losses, minus the least one where that is known.

    together: runs that share an optimizer; 1 for one that does not step each parameter by itself.

    Raises ValueError for values that the optimizer refuses, before anything runs.
    """
    pairs = [{y.name: float(down), x.name: float(across)} for down in y.values for across in x.values]
    defaults = cls([torch.zeros(1, 1)]).param_groups[0]
    groups = [options(pair, defaults) for pair in pairs]
    for axis in (x, y):
        for value in axis.values:
            cls([torch.zeros(1, 1)], **options({axis.name: float(value)}, defaults))
    data = network.data()
    random_numbers = sweep.generator(seed, network.name, 0)
    initial = random_numbers.getrandbits(31)
    picks = draw_picks(len(data.train_inputs), network.batch_size, steps, random_numbers)
    minimum = network.optimum() if network.optimum else 0.0
    losses, bad_steps = [], []
    ends(network, cls, data, initial, picks[:1], groups[:1])  # it may compile, ahead of the clock
    report(0, len(groups))
    begin = time.perf_counter()
    for first in range(0, len(groups), together):
        found = ends(network, cls, data, initial, picks, groups[first : first + together])
        losses += [loss for loss, _ in found]
        bad_steps += [bad for _, bad in found]
        report(len(losses), len(groups))
    seconds = time.perf_counter() - begin
    shape, values, bad = (len(y.values), len(x.values)), np.array(losses), np.array(bad_steps)
    gaps = np.where(bad < 0, values - minimum, np.inf).reshape(shape)
    what = "loss − minimum" if network.optimum else "loss on the full set"
    return Plane(cls.__name__, network.title, x, y, steps, gaps, bad.reshape(shape), seconds, what)


def ends(
    network: Network, cls: type, data: Data, initial: int, picks: torch.Tensor, groups: list[dict[str, Any]]
) -> list[tuple[float, int]]:
    """Of a run with each of `groups`: the last loss, and the step at which it was seen to have diverged, or -1."""
    models = [network.build(initial) for _ in groups]
    stack = Stack(network, models)
    optimizer = cls(
        [{"params": list(model.parameters()), **group} for model, group in zip(models, groups, strict=True)]
    )
    if len(models) == 1:  # it may be a user's
        optimizer = own.anchored(optimizer)
    every = max(1, math.ceil(len(picks) / LOOKS))
    limit, last, bad = math.inf, [math.nan] * len(models), [-1] * len(models)
    for step, _ in train(stack, optimizer, data, picks[:, None], range(every, len(picks), every)):
        for place, model in enumerate(models):
            if bad[place] >= 0 or (step == 0 and place > 0):  # all start alike
                continue
            with torch.no_grad():
                last[place] = network.loss(model, data.train_inputs, data.train_targets).item()
            limit = limit_of(last[0]) if step == 0 else limit
            if judge(last[place], limit, step)[1]:
                bad[place] = step
    return list(zip(last, bad, strict=True))
