"""Competitors that optimize nothing, on small networks: the moves of `bench.nulls`, trained and judged as the others.

Who stands still and who climbs must score 0. Who goes to the origin gets a network whose weights are all 0, so one that
says the same of every input, and scores what that is worth.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from bench import networks_race, sweep
from bench.budgets import Budget
from bench.cell import Cell, Outcome
from bench.networks_race import STACKED, STEP_SECONDS
from bench.nulls import MOVES, Null
from bench.problems import targets
from bench.problems.networks import NETWORKS, named


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each network that has targets × null, whatever `optimizers` are asked for."""
    names = problems if problems is not None else budget.network_names or NETWORKS
    one_rate = {"lr_multiples": [1.0], "extra_rates": 0}
    seconds = budget.network_seeds * budget.network_steps * STEP_SECONDS[STACKED]  # times the network's cost
    return [
        Cell(
            "network_nulls",
            device,
            null,
            networks_race.settings_of(name, budget, seed) | one_rate,
            seconds * named(name).cost,
        )
        for name in names
        if named(name) and (budget.target is not None or math.isfinite(targets.reference(name)))
        for null in MOVES
    ]


@sweep.one_thread()
def run(cell: Cell) -> Outcome:
    """The runs of one null on one network, with the rows and columns of the others."""

    def build(groups: list[dict[str, Any]]) -> Null:
        return Null(MOVES[cell.optimizer], groups)

    lr = sweep.default_lr("SGD")
    trained = partial(networks_race.stacked, build=build, each=networks_race.step_seconds(cell, build, lr))
    return Outcome(rows=networks_race.rows_of(cell, lr, STACKED, trained))
