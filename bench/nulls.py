"""Competitors that optimize nothing. They always run, so that a score which they earn too is known to say nothing.

Who stands still and who climbs must score 0. Who goes straight to the origin scores what lies there: on functions whose
minimum is there everything, which is why none of the race's is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import functions_race, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome
from bench.problems.catalogue import CATALOGUE

Move = Callable[[Tensor, float], Any]  # of a point with its gradient, by a learning rate

# Their steps. They have one learning rate each, SGD's default: there is nothing to tune.
MOVES: dict[str, Move] = {
    "stands still": lambda point, lr: None,
    "sign flipped": lambda point, lr: point.add_(point.grad, alpha=lr),
    "to the origin": lambda point, lr: point.zero_(),
}


class Null:
    """What `functions_race.descend` asks of an optimizer: made from groups of parameters, it steps them."""

    def __init__(self, move: Move, groups: list[dict[str, Any]]) -> None:
        self.move, self.groups = move, groups

    def step(self) -> None:
        for group in self.groups:
            for point in group["params"]:
                self.move(point, group["lr"])


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each function × null, whatever `optimizers` are asked for."""
    names = problems if problems is not None else budget.function_names or CATALOGUE
    settings = {"steps": budget.function_steps, "seeds": budget.function_seeds, "seed": seed, "dtype": "float64"}
    return [
        Cell(
            kind="nulls",
            device=device,
            optimizer=null,
            settings={"name": name, **settings},
            expected_seconds=budget.function_steps * functions_race.JOINT_STEP_SECONDS / 2,
        )
        for name in names
        if name in CATALOGUE
        for null in MOVES
    ]


@sweep.one_thread()
def run(cell: Cell) -> Outcome:
    """The runs of one null on one function, a row for each seed, with the columns of the others."""
    settings, function = cell.settings, CATALOGUE[cell.settings["name"]]
    seeds, lr = range(settings["seeds"]), sweep.default_lr("SGD")
    starts = torch.tensor(
        [functions_race.start(function, settings["seed"], seed) for seed in seeds],
        dtype=torch.float64,
        device=cell.device,
    )
    move = MOVES[cell.optimizer]
    found = functions_race.descend(function, lambda groups: Null(move, groups), starts, [lr], settings["steps"])
    labels = {"function": function.name, "dimension": function.dimension, "optimizer": cell.optimizer}
    labels |= {"device": cell.device, "lr": lr, "lr_multiple": 1.0, "executor": functions_race.BATCHED}
    return Outcome(rows=[{**labels, "seed": seed, **functions_race.judge(function, found, seed)} for seed in seeds])
