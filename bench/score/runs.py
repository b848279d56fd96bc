"""The runs of the race as arrays: gradients to each target by learning rate, problem and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.score.hits import TARGETS, decode

Array = NDArray[np.float64]
FEWEST_STEPS = 2  # the area is over the log of the budget, and that of 1 is 0
COUNTED = ("ok", "diverged")  # runs that were made; whatever else has a row was tried and failed


@dataclass(frozen=True)
class Runs:
    """All runs of one optimizer.

    `times` [learning rates, problems, seeds, targets] is inf where a target was never met, by a run that diverged or
    crashed too. `there` [learning rates, problems]: whether that was tried.
    """

    optimizer: str
    multiples: Array
    times: Array
    there: NDArray[np.bool_]


@dataclass(frozen=True)
class Field:
    """All entrants of a race on the same problems and budget; `incomplete` says who is missing runs.

    Every entrant has made the first seeds, all of them the first `tuning_seeds`, and some have made more than others.
    """

    problems: list[str]
    tuning_seeds: int
    budget: int
    entrants: list[Runs]
    incomplete: dict[str, str]


def field(table: pd.DataFrame, targets: int = len(TARGETS)) -> Field | None:
    """The race in a table of learning rates of one device, whose runs have so many `targets`.

    None where there is nothing to score. A cell that crashed as a whole is one row without runs: all its runs count as
    failed. An optimizer with runs missing, because the race was interrupted, is not scored: what was not tried is no
    failure, and no mean is made without it. Nor is one who has no seed left after tuning.
    """
    raced = table[table["status"].ne("skipped") & table["function"].notna()]
    made = raced[raced["status"].isin(COUNTED) & raced["_hits"].map(is_list).astype(bool)]
    if made.empty or int(made["steps"].max()) < FEWEST_STEPS:
        return None
    problems = list(dict.fromkeys(raced["function"]))
    tuning, most = int(made["tuning_seeds"].max()), int(made["_hits"].map(len).max())
    if tuning < 1 or most <= tuning:
        return None
    entrants, incomplete = [], {}
    for name in dict.fromkeys(raced["optimizer"]):
        mine = made[made["optimizer"] == name]
        crashed = raced[raced["optimizer"].eq(name) & ~raced["status"].isin(COUNTED)]["function"].tolist()
        runs = runs_of(name, mine, crashed, problems, most, targets)
        missing = [problem for place, problem in enumerate(problems) if not runs.there[:, place].any()]
        if missing:
            incomplete[name] = f"{len(missing)} of {len(problems)} problems not measured: {', '.join(missing[:3])}"
        elif runs.times.shape[2] <= tuning:
            incomplete[name] = f"no seed is left to score: {runs.times.shape[2]} made, {tuning} for tuning"
        else:
            entrants.append(runs)
    return Field(problems, tuning, int(made["steps"].max()), entrants, incomplete)


def is_list(value: object) -> bool:
    return isinstance(value, list)


def runs_of(name: str, made: pd.DataFrame, crashed: list[str], problems: list[str], most: int, targets: int) -> Runs:
    """The runs of one optimizer; its seeds are as many as in each of its rows, or `most` for one that only crashed."""
    multiples = sorted(set(made["lr_multiple"].astype(float))) or [1.0]
    seeds = int(made["_hits"].map(len).min()) if len(made) else most
    times = np.full((len(multiples), len(problems), seeds, targets), np.inf)
    there = np.zeros(times.shape[:2], dtype=bool)
    rates, places = ({key: place for place, key in enumerate(keys)} for keys in (multiples, problems))
    columns = (made["lr_multiple"].astype(float), made["function"], made["_hits"])
    for multiple, problem, hits in zip(*columns, strict=True):
        place = rates[multiple], places[problem]
        times[place], there[place] = decode(hits[:seeds], targets), True
    for problem in crashed:
        there[:, places[problem]] = True
    return Runs(name, np.array(multiples), times, there)
