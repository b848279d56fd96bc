"""The runs of the race as arrays: gradients to each target by learning rate, problem and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.score.hits import TARGETS, decode

Array = NDArray[np.float64]
TUNING_SEED = 0
COUNTED = ("ok", "diverged")  # a run that was made; whatever else has a row was tried and failed


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
    """All entrants of a race on the same problems, seeds and budget; `incomplete` says who is missing runs."""

    problems: list[str]
    seeds: list[int]
    budget: int
    entrants: list[Runs]
    incomplete: dict[str, str]


def field(table: pd.DataFrame) -> Field | None:
    """The race in a table of runs of one device (`functions.csv`); None where there is nothing to score.

    A cell that crashed as a whole is one row without a seed: all its runs count as failed. An optimizer with runs
    missing, because the race was interrupted, is not scored: what was not tried is no failure, and no mean is made
    without it.
    """
    raced = table[table["status"].ne("skipped") & table["function"].notna()]
    made = raced[raced["status"].isin(COUNTED) & raced["seed"].notna() & raced["hits"].map(is_text).astype(bool)]
    if made.empty or int(made["steps"].max()) < 2:
        return None
    problems = list(dict.fromkeys(raced["function"]))
    seeds = sorted(set(made["seed"].astype(int)))
    if len(seeds) < 2 or seeds[0] != TUNING_SEED:
        return None
    entrants, incomplete = [], {}
    for name in dict.fromkeys(raced["optimizer"]):
        mine = made[made["optimizer"] == name]
        crashed = raced[raced["optimizer"].eq(name) & ~raced["status"].isin(COUNTED)]["function"].tolist()
        runs = runs_of(name, mine, crashed, problems, seeds)
        missing = [problem for place, problem in enumerate(problems) if not runs.there[:, place].any()]
        if missing:
            incomplete[name] = f"{len(missing)} of {len(problems)} problems not measured: {', '.join(missing[:3])}"
        else:
            entrants.append(runs)
    return Field(problems, seeds, int(made["steps"].max()), entrants, incomplete)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def runs_of(name: str, made: pd.DataFrame, crashed: list[str], problems: list[str], seeds: list[int]) -> Runs:
    """The runs of one optimizer; each of its learning rates is there for a problem if all seeds are."""
    multiples = sorted(set(made["lr_multiple"].astype(float))) or [1.0]
    shape = (len(multiples), len(problems), len(seeds))
    times, seen = np.full((*shape, len(TARGETS)), np.inf), np.zeros(shape, dtype=bool)
    places = [{key: place for place, key in enumerate(keys)} for keys in (multiples, problems, seeds)]
    columns = (made["lr_multiple"].astype(float), made["function"], made["seed"].astype(int), made["hits"])
    for multiple, problem, seed, hits in zip(*columns, strict=True):
        place = places[0][multiple], places[1][problem], places[2][seed]
        times[place], seen[place] = decode(hits), True
    there = seen.all(axis=2)
    for problem in crashed:
        there[:, places[1][problem]] = True
    return Runs(name, np.array(multiples), times, there)
