"""A target of one's own, ``race --target``: a loss of one problem that its runs are to come down to.

It takes the place of the list of targets, and its runs have cells of their own, so no score mixes the two. It must lie
below where every run starts, or standing still would meet it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bench import networks_race, starts, sweep
from bench.cell import Cell
from bench.errors import BenchError, Exit
from bench.problems import functions
from bench.problems.networks import named


def check(target: float, cells: Sequence[Cell]) -> None:
    """Raises `BenchError` (exit 2) for a target that the runs of `cells` cannot meet, or all meet at their start."""
    if not math.isfinite(target):
        raise BenchError(f"--target {target} is no loss: give a finite number, such as 1e-3.", Exit.USAGE)
    problems = sorted({cell.settings["name"] for cell in cells})
    if len(problems) > 1:
        raise BenchError(
            f"--target {target!r} is a loss of one problem, and here are {len(problems)}: name one of them, as "
            f"--problem {problems[0].partition(' ')[0]}.",
            Exit.USAGE,
        )
    problem, seeds = cells[0].settings["name"], max(cell.settings["seeds"] for cell in cells)
    least, start = bounds(problem, cells[0], seeds)
    if target < least:
        raise BenchError(
            f"--target {target!r} cannot be met: {problem} has no loss below {least:.10g}; give one between that and "
            f"{start:.6g}, the lowest start.",
            Exit.USAGE,
        )
    if target >= start:
        raise BenchError(
            f"--target {target!r} is met before the first step: of {seeds} runs on {problem} the lowest starts at "
            f"{start:.6g}; give a loss below that, and not below {least:.10g}.",
            Exit.USAGE,
        )


@sweep.one_thread()
def bounds(problem: str, cell: Cell, seeds: int) -> tuple[float, float]:
    """The least loss that a problem has, as far as that is known, and the lowest at which one of its runs starts."""
    if functions.known(problem):
        function = functions.named(problem)
        points = starts.points_of(function, cell.settings["seed"], seeds)
        return function.minimum, function(torch.from_numpy(points)).min().item()
    network = named(problem)
    data = network.data()
    models = [network.build(networks_race.draw(network, data, cell, seed)[0]) for seed in range(seeds)]
    with torch.no_grad():
        losses = [network.loss(model, data.train_inputs, data.train_targets).item() for model in models]
    return network.optimum() if network.optimum else 0.0, min(losses)  # no loss of theirs is negative
