"""Competitors that optimize nothing, on test functions.

They always run, so that a score which they earn too is known to say nothing. Who stands still must score 0; who climbs
next to nothing, for on a function with many hills a step too far may end in a valley. Who goes straight to the origin
scores what lies there: on functions whose minimum is there everything, which is why none of the race's is. Where the
origin is still lower than the valley in which most runs begin it scores as well, and the page names those functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import optimizers as ours
from bench import descents, functions_race, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome
from bench.descents import Runs
from bench.problems.function import Function
from bench.problems.functions import FUNCTIONS, known, named
from bench.starts import Starts, starts

Move = Callable[[Tensor, float], Any]  # of a point with its gradient, by a learning rate

# Their steps. They have one learning rate each, SGD's default: there is nothing to tune.
MOVES: dict[str, Move] = {
    "stands still": lambda point, lr: None,
    "sign flipped": lambda point, lr: point.add_(point.grad, alpha=lr),
    "to the origin": lambda point, lr: point.zero_(),
}
RESTING = ("stands still", "to the origin")  # after their first step they move no more
SECONDS = 0.01  # measured, mean over functions and nulls


class Null:
    """What a race asks of an optimizer: made from groups of parameters, it steps them."""

    def __init__(self, move: Move, groups: list[dict[str, Any]]) -> None:
        self.move, self.groups = move, groups

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            for point in group["params"]:
                self.move(point, group["lr"])


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each function × null, whatever `optimizers` are asked for."""
    names = problems if problems is not None else budget.function_names or FUNCTIONS
    settings = {
        "steps": budget.function_steps,
        "seeds": budget.function_seeds,
        "tuning_seeds": budget.function_tuning_seeds,
        "seed": seed,
        "dtype": "float64",
    } | budget.own_target()
    return [
        Cell("nulls", device, null, settings={"name": name, **settings}, expected_seconds=SECONDS)
        for name in names
        if known(name)
        for null in MOVES
    ]


@sweep.one_thread()
def run(cell: Cell) -> Outcome:
    """The runs of one null on one function: one row, with the columns of the others."""
    settings, function = cell.settings, named(cell.settings["name"])
    steps, lr = settings["steps"], sweep.default_lr("SGD")
    begins = starts(function, settings["seed"], settings["seeds"], settings.get("target"))
    runs, executor = made(function, cell.optimizer, begins, lr, steps, cell.device)
    labels = {"function": function.name, "dimension": function.dimension, "optimizer": cell.optimizer}
    labels |= {"device": cell.device, "lr": lr, "lr_multiple": 1.0, "executor": executor}
    return Outcome(rows=[labels | functions_race.summary(function, begins, runs, settings)])


def made(function: Function, null: str, begins: Starts, lr: float, steps: int, device: str) -> tuple[Runs, str]:
    """The runs of a null, and how they were made: those that move in every step by compiled code, where there is."""
    if null not in RESTING and functions_race.compiles("SGD", device, function):
        runs = descents.compiled(function, ours.SGD, begins, [lr], steps, {"maximize": True})
        return runs, functions_race.COMPILED
    moving = function.disturbance is not None and function.disturbance.moves
    first = min(steps, 1) if null in RESTING and not moving else steps
    found = descents.batched(function, lambda groups: Null(MOVES[null], groups), begins, [lr], first, device)
    rested = found.losses[np.minimum(np.arange(steps + 1), first)]
    return descents.judge(replace(found, losses=rested), begins), functions_race.BATCHED
