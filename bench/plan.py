"""What a run measures: a budget, devices and filters become a list of cells."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench import (
    functions_race,
    loss_parity,
    loss_time,
    network_nulls,
    networks_race,
    nulls,
    own,
    own_target,
    step_time,
    sweep_time,
    verify,
)
from bench.budgets import BUDGETS, Budget
from bench.cell import Cell
from bench.contenders import OPTIMIZERS, TRAITS
from bench.errors import BenchError, Exit, unknown
from bench.losses import LOSSES, SIZES, short
from bench.problems.functions import NAMES, known, named, unknown_name
from bench.problems.networks import NETWORKS, variants
from bench.score.runs import FEWEST_STEPS
from bench.step_time import PARAMETER_SETS
from bench.sweep_contenders import SUBJECTS

# The kinds of cells in the order in which they run: first proven right, then timed, then raced.
KINDS = {
    "verify": verify,
    "loss_parity": loss_parity,
    "step_time": step_time,
    "loss_time": loss_time,
    "sweep_time": sweep_time,
    "functions": functions_race,
    "nulls": nulls,
    "networks": networks_race,
    "network_nulls": network_nulls,
}
OF_LOSSES = ("loss_parity", "loss_time")  # the others measure optimizers
# The commands and the kinds each one runs.
PARTS = {
    "run": tuple(KINDS),
    "verify": ("verify",),
    "time": ("step_time", "sweep_time"),
    "sweeps": ("sweep_time",),
    "losses": OF_LOSSES,
    "race": ("functions", "nulls", "networks", "network_nulls"),
}
PROBLEMS = tuple(dict.fromkeys((*PARAMETER_SETS, *SIZES, *NAMES, *NETWORKS, *SUBJECTS)))
ALL = "all"  # optimizers; so that one's own can be put beside them
DEVICES = ("cpu", "cuda", "all")
MOST_SEEDS, MOST_STEPS = 100_000, 10_000_000  # of a race; more would fill the memory, or take days
LARGEST_SEED = 2**32 - 1  # what NumPy and torch both take


@dataclass(frozen=True)
class Plan:
    """The cells of a run in order, and what they were made from."""

    cells: tuple[Cell, ...]
    budget: Budget
    devices: tuple[str, ...]
    seed: int

    @property
    def id(self) -> str:
        """The same exactly for the same cells."""
        return hashlib.sha256(" ".join(cell.id for cell in self.cells).encode()).hexdigest()[:16]

    def without(self, done: set[str]) -> list[Cell]:
        """The cells whose id is not in `done`."""
        return [cell for cell in self.cells if cell.id not in done]


def make(
    budget: str,
    device: str,
    optimizers: Sequence[str],
    problems: Sequence[str],
    seed: int,
    kinds: Sequence[str],
    losses: Sequence[str] = (),
    race: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan for what was asked. No `optimizers`, `problems` or `losses` means all of them, or those of the budget.

    `race`: what `raced` puts in place of the budget's.

    Whoever names optimizers gets no measurement of losses, and whoever names losses none of optimizers, but for the
    networks, which can be trained on a loss by name.

    Raises `BenchError` (exit 2) with the nearest right name for an unknown one, and if there is nothing to run.
    """
    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    chosen = raced(BUDGETS[budget], **(race or {}))
    if not 0 <= seed <= LARGEST_SEED:
        raise BenchError(f"--seed {seed} is out of range: give a whole number from 0 to {LARGEST_SEED}.", Exit.USAGE)
    chosen_optimizers = [one for name in optimizers or [ALL] for one in optimizers_named(name)]
    chosen_problems = [problem_named(name) for name in problems] or None
    chosen_losses = [loss_named(name) for name in losses]
    about_losses = not optimizers and (chosen_problems is None or any(name in SIZES for name in chosen_problems))
    about_optimizers = not losses and (chosen_problems is None or any(name not in SIZES for name in chosen_problems))
    about = {kind: about_losses if kind in OF_LOSSES else about_optimizers for kind in KINDS}
    about["networks"] = about_optimizers or bool(losses)
    if problems and tuple(kinds) == PARTS["verify"]:
        raise BenchError(
            "verify takes no --problem: it checks every optimizer on tensors of its own; leave --problem out.",
            Exit.USAGE,
        )
    devices = devices_of(device)
    measured_losses = chosen_losses or list(chosen.loss_names or LOSSES)
    found = [
        with_source(cell)
        for kind in kinds
        if about[kind]
        for one in devices
        for cell in KINDS[kind].cells(
            chosen,
            one,
            measured_losses if kind in OF_LOSSES else chosen_optimizers,
            variants(chosen_problems, chosen_losses) if kind == "networks" and chosen_losses else chosen_problems,
            seed,
        )
    ]
    cells = {cell.id: cell for cell in found}
    if not cells:
        asked = "problems, optimizers and losses" if losses else "problems and optimizers"
        raise BenchError(
            f"nothing to run: no part of {', '.join(kinds)} at budget {budget} has these {asked}. "
            "`python -m bench list` shows which there are.",
            Exit.USAGE,
        )
    if chosen.target is not None:
        own_target.check(chosen.target, list(cells.values()))
    return Plan(tuple(cells.values()), chosen, devices, seed)


def with_source(cell: Cell) -> Cell:
    """The cell; of a user's optimizer with a hash of its source, so that an edited one is measured again."""
    source = TRAITS[cell.optimizer].source if cell.optimizer in TRAITS else ""
    return replace(cell, settings=cell.settings | {"source": source}) if source else cell


def raced(
    budget: Budget,
    seeds: int | None = None,
    steps: int | None = None,
    lrs: str | None = None,
    target: float | None = None,
) -> Budget:
    """`budget` with so many seeds and steps in its races, the learning rates `lrs`, as ``0.1,1,10``, and one `target`.

    The rates are multiples of each optimizer's default. Raises `BenchError` (exit 2) for what cannot be raced.
    """
    if steps is not None and steps in range(1, FEWEST_STEPS):
        raise BenchError(
            f"--steps {steps} cannot be scored: a score says how early in a run targets are met, and one of a single "
            f"step has no early and late; give {FEWEST_STEPS} or more.",
            Exit.USAGE,
        )
    for name, number, least, most in (("seeds", seeds, 1, MOST_SEEDS), ("steps", steps, FEWEST_STEPS, MOST_STEPS)):
        if number is not None and not least <= number <= most:
            raise BenchError(
                f"--{name} {number} is out of range: give a whole number from {least} to {most}.", Exit.USAGE
            )
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes |= dict.fromkeys(("function_seeds", "function_slow_seeds", "network_seeds"), seeds)
        changes["function_tuning_seeds"] = min(budget.function_tuning_seeds, max(1, seeds - 1))
    if steps is not None:
        changes |= dict.fromkeys(("function_steps", "network_steps"), steps)
    if lrs is not None:
        changes["lr_multiples"] = multiples(lrs)
    return replace(budget, **changes, target=target)


def multiples(text: str) -> tuple[float, ...]:
    """The learning rates in ``0.1,1,10``, from the smallest to the largest."""
    found = []
    for word in text.split(","):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise BenchError(
                f"--lrs {text}: {word.strip() or 'nothing'!r} is no learning rate; give multiples of the default above "
                "0, such as 0.1,1,10.",
                Exit.USAGE,
            )
        found.append(number)
    return tuple(sorted(set(found)))


def canonical(what: str, name: str, known: Sequence[str]) -> str:
    """`name` as it is spelled in `known`, whatever its case."""
    for candidate in known:
        if candidate.lower() == name.lower():
            return candidate
    raise unknown(what, name, known)


def optimizers_named(name: str) -> tuple[str, ...]:
    """The optimizers that a name means; of those of the user's own ``all`` has none."""
    return OPTIMIZERS if name.lower() == ALL else (own.named(name),)


def problem_named(name: str) -> str:
    """The problem of that name; of a test function also one of other dimensions, shifted or rotated."""
    if known(name):
        return named(name).name
    if name.lower() in map(str.lower, PROBLEMS):
        return canonical("problem", name, PROBLEMS)
    raise unknown_name("problem", name, PROBLEMS)


def loss_named(name: str) -> str:
    """The loss of that name, which charts show without its ending: ``mse`` is ``mse_loss``."""
    known = {short(loss): loss for loss in LOSSES}
    return known.get(name.lower()) or canonical("loss", name, LOSSES)


def devices_of(device: str) -> tuple[str, ...]:
    """The devices to measure; ``all`` means those that are there."""
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if device == "cpu":
        return ("cpu",)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if device == "all":
        return ("cpu", "cuda") if there else ("cpu",)
    if not there:
        why = f" ({str(caught[0].message).splitlines()[0]})" if caught else ""
        raise BenchError(
            f"--device cuda: torch {torch.__version__} sees no CUDA device{why}; leave --device out or give cpu.",
            Exit.USAGE,
        )
    return ("cuda",)


def describe(plan: Plan, done: set[str], machine: str, folder: Path) -> list[str]:
    """The lines shown before anything starts."""
    left = plan.without(done)
    no_cuda = "" if torch.cuda.is_available() else "; there is no CUDA device here"
    lines = [f"machine       {machine}", f"device        {', '.join(plan.devices)}{no_cuda}"]
    for kind in KINDS:
        cells = [cell for cell in plan.cells if cell.kind == kind]
        if cells:
            seconds = sum(cell.expected_seconds for cell in cells if cell.id not in done)
            lines.append(f"{kind:<13} {len(cells):>4} cells, about {clock(seconds)}")
    whole = f"{len(left)} of {len(plan.cells)} cells left" if done else f"{len(plan.cells)} cells"
    total = clock(sum(cell.expected_seconds for cell in left))
    return [*lines, f"budget        {plan.budget.name}: {whole}, about {total}", f"results       {folder}"]


def clock(seconds: float) -> str:
    """``03:10``, or ``1:03:10`` from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
