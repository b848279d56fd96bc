"""The three tracks: whose learning rates are scored. Chosen by the area of the tuning seeds, which are never scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.score.measures import area
from bench.score.runs import Field, Runs

Array = NDArray[np.float64]
DEFAULT, ONE, TUNED = "default", "one lr", "tuned"
TRACKS = (DEFAULT, ONE, TUNED)


@dataclass(frozen=True)
class Entry:
    """What an optimizer is scored on in one track.

    `times` [problems, seeds, targets] without the tuning seeds, `multiples` [problems] of its default learning rate
    that were chosen, `at_edge` of them the first or last tried, `tuning_runs` made to choose.
    """

    optimizer: str
    times: Array
    multiples: Array
    at_edge: int
    tuning_runs: int


def entry(runs: Runs, track: str, field: Field) -> Entry | None:
    """The entry of an optimizer in a track; None if the learning rate asked for was not tried everywhere."""
    tuning = field.tuning_seeds
    areas = area(runs.times[:, :, :tuning], field.budget).mean(axis=2)
    chosen = choose(areas, runs, track)
    if chosen is None:
        return None
    problems = np.arange(len(chosen))
    times = runs.times[chosen, problems, tuning:]
    first = runs.there.argmax(axis=0)
    last = len(runs.multiples) - 1 - runs.there[::-1].argmax(axis=0)
    tried = int(runs.there.sum())
    several = tried > len(chosen) and track != DEFAULT
    edge = int(((chosen == first) | (chosen == last)).sum()) if several else 0
    return Entry(runs.optimizer, times, runs.multiples[chosen], edge, tuning * tried if several else 0)


def preferred(areas: Array, multiples: Array) -> NDArray[np.intp]:
    """Place of the best learning rate by `areas` [learning rates, ...].

    Of equally good ones the nearest to the default, the smaller of two.
    """
    order = np.lexsort((multiples, np.abs(np.log(multiples))))
    return order[areas[order].argmax(axis=0)]


def choose(areas: Array, runs: Runs, track: str) -> NDArray[np.intp] | None:
    """Place of the learning rate for each problem, by the tuning seeds' `areas` [learning rates, problems]."""
    if track == TUNED:
        return preferred(np.where(runs.there, areas, -1.0), runs.multiples)
    allowed = runs.there.all(axis=1) & (np.isclose(runs.multiples, 1) if track == DEFAULT else True)
    if not allowed.any():
        return None
    best = preferred(np.where(allowed, areas.mean(axis=1), -1.0), runs.multiples)
    return np.full(areas.shape[1], best)
