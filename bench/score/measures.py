"""What runs are worth: numbers made of the gradients to each target. inf is a target that was never met.

`times` is [..., targets]; every measure but the interquartile mean gives one number per run [...], so that a score is a
mean over seeds and problems, and its uncertainty that of a mean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LARGEST_RATIO = 4.0  # where the integral of a performance profile ends, as in AlgoPerf (arXiv 2306.07179)
WITHIN = 2.0  # times the best learning rate's time to target


def area(times: Array, budget: int) -> Array:
    """Area under the ECDF of run time to target over log10 of the budget, from 1 to `budget`, as a share: 0 to 1.

    A target met after t gradients is met on the part of the axis from t to the end; so the area is a mean over targets.
    """
    left = 1 - np.log(np.clip(times, 1, budget)) / np.log(budget)
    return left.mean(axis=-1)


def met(times: Array, budgets: Array) -> Array:
    """Share of the targets met within each of `budgets`: [..., budgets]."""
    return (times[..., None, :] <= budgets[:, None]).mean(axis=-1)


def solved(times: Array) -> Array:
    """1 where the last target was met, else 0."""
    return np.isfinite(times[..., -1]).astype(np.float64)


def ratios(times: Array, among: Array) -> Array:
    """Time to each target ÷ the least of `among` [entrants, ...]; inf where `times` never met it."""
    best = among.min(axis=0)
    return np.divide(times, best, out=np.full(times.shape, np.inf), where=np.isfinite(times))


def within_ratio(ratios: Array, taus: Array) -> Array:
    """Dolan & Moré's performance profile (cs/0102001) of each run: share of targets within `taus` times the best."""
    return (ratios[..., None, :] <= taus[:, None]).mean(axis=-1)


def profile_area(ratios: Array) -> Array:
    """Integral of the profile from 1 to `LARGEST_RATIO`, ÷ its length: exact, for a step at r leaves what is beyond."""
    return (np.clip(LARGEST_RATIO - ratios, 0, None) / (LARGEST_RATIO - 1)).mean(axis=-1)


def log2_speed_ups(times: Array, base: Array) -> Array:
    """log2 of `base` ÷ `times`, target by target: +inf and -inf where one alone never met it, 0 where neither did."""
    neither = np.isinf(base) & np.isinf(times)
    return np.log2(np.where(neither, 1.0, base)) - np.log2(np.where(neither, 1.0, times))


def interquartile_mean(values: Array, weights: Array) -> Array:
    """Mean of the middle half of `values` [runs, n] for each row of `weights` [resamples, runs], which sums to 1.

    The n values of a run share its weight (Agarwal et al., arXiv 2108.13264). Infinite where an infinite value is in
    the middle half, nan where one of each sign is. The sorted values are cut into blocks, so that only the two blocks
    with the quartiles are looked at value by value: a naive sum over thousands of values takes twenty times as long.
    """
    runs, n = values.shape
    weights = weights / n
    order = np.argsort(values, axis=None, kind="stable")
    run, ordered = order // n, values.ravel()[order]
    finite = np.where(np.isfinite(ordered), ordered, 0.0)
    size = math.isqrt(len(order) - 1) + 1
    cell = np.arange(len(order)) // size * runs + run  # block × run
    shape = (-(-len(order) // size), runs)
    counts, sums = (np.bincount(cell, each, shape[0] * runs).reshape(shape) for each in (np.ones(len(order)), finite))
    mass, total = (np.cumsum(weights @ each.T, axis=1) for each in (counts, sums))
    rows = np.arange(len(weights))

    def sum_below(quantile: float) -> Array:
        block = np.minimum((mass < quantile).sum(axis=1), shape[0] - 1)
        passed, below = (np.where(block > 0, each[rows, block - 1], 0.0) for each in (mass, total))
        inside = block[:, None] * size + np.arange(size)
        there, inside = inside < len(order), np.minimum(inside, len(order) - 1)
        here = weights[rows[:, None], run[inside]] * there
        before = passed[:, None] + np.cumsum(here, axis=1) - here
        return below + (np.clip(quantile - before, 0, here) * finite[inside]).sum(axis=1)

    mean = np.round(2 * (sum_below(0.75) - sum_below(0.25)), 12)  # 0 is 0 in any order
    up, down = (weights @ (values == end).sum(axis=1) > 0.25 + 1e-12 for end in (np.inf, -np.inf))
    return np.select([up & down, up, down], [np.nan, np.inf, -np.inf], mean)


def better(scores: Array, base: Array) -> Array:
    """1 where a run scores more than the `base` run of the same seed, 1/2 where as much, else 0."""
    return (np.sign(scores - base) + 1) / 2


def good_decades(times: Array, multiples: Array) -> Array:
    """Decades of learning rate whose time to one target is within `WITHIN` times the best one's.

    `times` is [learning rates, ...]. A learning rate stands for half the way to its neighbours on either side,
    the first and the last for as much beyond the grid.
    """
    if len(multiples) < 2:
        return np.full(times.shape[1:], np.nan)
    logs = np.log10(multiples)
    widths = np.gradient(logs)
    best = times.min(axis=0)
    near = np.isfinite(times) & (times <= WITHIN * best)
    return np.tensordot(widths, near, axes=1)
