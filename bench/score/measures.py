"""What runs are worth: numbers made of the gradients to each target. inf is a target that was never met.

`times` is [..., targets]; every measure but the interquartile mean gives one number per run [...], so that a score is a
mean over seeds and problems, and its uncertainty that of a mean.
"""

from __future__ import annotations

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
    """Mean of the middle half of `values` [n] by each row of `weights` [..., n] (Agarwal et al., arXiv 2108.13264).

    Infinite where an infinite value is in the middle half, nan where one of each sign is.
    """
    order = np.argsort(values, kind="stable")
    values = values[order]
    passed = np.cumsum(weights[..., order], axis=-1)
    passed = np.clip(passed / passed[..., -1:], 0.25, 0.75)
    share = np.diff(passed, axis=-1, prepend=0.25) * 2
    finite = np.isfinite(values)
    result = share[..., finite] @ values[finite]
    up, down = ((share[..., values == end] > SHARE).any(axis=-1) for end in (np.inf, -np.inf))
    return np.select([up & down, up, down], [np.nan, np.inf, -np.inf], np.round(result, 12))  # 0 is 0 in any order


SHARE = 1e-12  # below it a share is rounding


def better(scores: Array, base: Array) -> Array:
    """1 where a run scores more than the `base` run of the same seed, 1/2 where as much, else 0."""
    return (np.sign(scores - base) + 1) / 2


def good_decades(times: Array, multiples: Array) -> Array:
    """Decades of learning rate whose time to one target is within `WITHIN` times the best one's.

    `times` is [learning rates, ...]. A learning rate stands for half the way to its neighbours on either side.
    """
    if len(multiples) < 2:
        return np.full(times.shape[1:], np.nan)
    logs = np.log10(multiples)
    widths = np.gradient(logs)
    best = times.min(axis=0)
    near = np.isfinite(times) & (times <= WITHIN * best)
    return np.tensordot(widths, near, axes=1)
