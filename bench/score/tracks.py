"""The three tracks: whose learning rates are scored. Chosen by the area of one seed, which is then never scored."""

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

    `times` [problems, seeds, targets] without the tuning seed, `multiples` [problems] of its default learning rate that
    were chosen, `at_edge` of them the first or last tried, `tuning_runs` made to choose.
    """

    optimizer: str
    times: Array
    multiples: Array
    at_edge: int
    tuning_runs: int


def entry(runs: Runs, track: str, field: Field) -> Entry | None:
    """The entry of an optimizer in a track; None if the learning rate asked for was not tried everywhere."""
    chosen = choose(area(runs.times[:, :, 0], field.budget), runs, track)
    if chosen is None:
        return None
    problems = np.arange(len(chosen))
    times = runs.times[chosen, problems, 1:]
    first = runs.there.argmax(axis=0)
    last = len(runs.multiples) - 1 - runs.there[::-1].argmax(axis=0)
    tried = int(runs.there.sum())
    several = tried > len(chosen) and track != DEFAULT
    edge = int(((chosen == first) | (chosen == last)).sum()) if several else 0
    return Entry(runs.optimizer, times, runs.multiples[chosen], edge, tried if several else 0)


def choose(areas: Array, runs: Runs, track: str) -> NDArray[np.intp] | None:
    """Place of the learning rate for each problem, by the tuning seed's `areas` [learning rates, problems].

    Of equally good ones the nearest to the default, the smaller of two.
    """
    distance = np.abs(np.log(runs.multiples))
    everywhere = runs.there.all(axis=1)
    if track == TUNED:
        order = np.lexsort((runs.multiples, distance))
        possible = np.where(runs.there, areas, -1.0)[order]
        return order[possible.argmax(axis=0)]
    allowed = everywhere & (np.isclose(runs.multiples, 1) if track == DEFAULT else True)
    if not allowed.any():
        return None
    best = min(np.flatnonzero(allowed), key=lambda one: (-areas[one].mean(), distance[one], one))
    return np.full(areas.shape[1], best)
