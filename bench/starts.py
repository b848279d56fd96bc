"""Where the runs on a test function begin, what their noise is drawn from, and what is judged: targets, divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bench import sweep
from bench.problems.basins import basins
from bench.problems.disturbance import SEED_BITS
from bench.problems.function import Function
from bench.score import hits

Array = NDArray[np.float64]
NOISE = 0.05  # of the domain's width
DIVERGED = 1e3  # times the initial gap


@dataclass(frozen=True)
class Starts:
    """The starts of a function's runs, one for each seed.

    points [seeds, dimension]; losses [seeds] there; basins [seeds]: the value of the local minimum that each flows to,
    which its gaps are relative to; thresholds [seeds, targets]. A run has diverged below `lowest` [seeds], where only
    what is outside the domain lies, and above `highest` [seeds]. noise [seeds]: what the random numbers of a
    disturbance are drawn from, the same for all optimizers and learning rates.
    """

    points: Array
    losses: Array
    basins: Array
    thresholds: Array
    lowest: Array
    highest: Array
    noise: NDArray[np.int64]

    def take(self, seeds: NDArray[np.intp] | slice) -> Starts:
        """Those of `seeds`, in that order."""
        return Starts(*(getattr(self, one.name)[seeds] for one in fields(self)))


@sweep.one_thread()  # or torch's second thread spins where those of numpy's small matrices want to work
def of_points(function: Function, points: Array, noise: Sequence[int] | None = None) -> Starts:
    """Starts at `points` [seeds, dimension]; `noise` has a noise seed for each, None: 0 for all."""
    losses = function(torch.from_numpy(points)).numpy()
    aims = basins(function, points)
    aims = np.where(losses > aims, aims, function.minimum)  # a start below the basin it is said to flow to
    lowest = function.minimum - 1e-9 * max(1.0, abs(function.minimum))
    highest = function.minimum + diverging_gap(function, losses)
    seeds = np.zeros(len(losses), np.int64) if noise is None else np.array(noise, np.int64)
    return Starts(points, losses, aims, hits.thresholds(losses, aims), np.full(len(losses), lowest), highest, seeds)


def diverging_gap(function: Function, losses: Array) -> Array:
    """Above this gap a run that began at a loss of `losses` has diverged."""
    return DIVERGED * np.maximum(1.0, losses - function.minimum)


_made: dict[tuple[Function, int], Starts] = {}


def starts(function: Function, run_seed: int, seeds: int, target: float | None = None) -> Starts:
    """The starts of the seeds 0 … `seeds` - 1, kept for the next optimizer.

    `target`: a loss that takes the place of the list of targets.
    """
    key = function, run_seed
    if key not in _made or len(_made[key].losses) < seeds:
        points = points_of(function, run_seed, seeds)
        _made[key] = of_points(function, points, [noise_seed(function, run_seed, seed) for seed in range(seeds)])
    found = _made[key].take(slice(seeds))
    return found if target is None else replace(found, thresholds=hits.only(target, seeds))


def points_of(function: Function, run_seed: int, seeds: int) -> Array:
    """Where the runs of the seeds begin [seeds, dimension]."""
    return np.array([start(function, run_seed, seed) for seed in range(seeds)])


def noise_seed(function: Function, run_seed: int, seed: int) -> int:
    """What the noise of the run of `seed` is drawn from."""
    return sweep.generator(run_seed, function.name, seed, "noise").getrandbits(SEED_BITS)


def start(function: Function, run_seed: int, seed: int) -> list[float]:
    """Where the run of `seed` begins: the published start, or noise around it kept inside the domain."""
    if seed == 0:
        return list(function.start)
    noise = sweep.generator(run_seed, function.name, seed)
    return [
        min(max(x + noise.gauss(0, NOISE * (high - low)), low), high)
        for x, (low, high) in zip(function.start, function.domain, strict=True)
    ]
