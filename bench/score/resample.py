"""How sure a score is: bootstrap intervals stratified by problem, rank intervals, paired tests.

The problems are fixed, the seeds are drawn: so seeds are resampled within each problem, the same for all entrants who
have run from the same starts. Who has run from fewer of them has draws of its own, and what compares two is of the
starts that both have. The learning rates stay those that were chosen.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from bench.statistics import CONFIDENCE, RESAMPLES, Interval

Array = NDArray[np.float64]
SIGNIFICANT = 1 - CONFIDENCE


@cache
def weights(problems: int, seeds: int, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """What each run counts for in each resample: [resamples, problems, seeds], each of which sums to 1.

    Of n seeds n - 1 are drawn, with replacement. Then the variance over the resamples is that of the mean, s² / n, and
    not (n - 1) / n of it, which for four seeds is a quarter too small (McCarthy & Snowden 1985; Rao & Wu 1988). With
    one seed there is nothing to draw, and all is nan.
    """
    if seeds < 2:
        return np.full((resamples, problems, seeds), np.nan)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=(resamples, problems))
    return draws / ((seeds - 1) * problems)


def means(values: Array, weights: Array) -> Array:
    """The mean of `values` [..., problems, seeds] in each resample: [resamples, ...]."""
    flat = values.reshape(*values.shape[:-2], weights[0].size)
    return np.moveaxis(flat @ weights.reshape(len(weights), -1).T, -1, 0)


def bounds(samples: Array, freedom: int) -> tuple[Array, Array]:
    """The ends of the 95 % interval of `samples` [resamples, ...]; each is one of the samples. nan stays nan.

    The percentiles are those that leave as much outside of a normal distribution as Student's t with `freedom` degrees
    of freedom has beyond its 95 %: the spread is an estimate too, which matters for few seeds of one problem
    (Hesterberg 2015, expanded percentiles).
    """
    tail = 100 * ndtr(stdtrit(max(freedom, 1), (1 - CONFIDENCE) / 2))
    low = np.percentile(samples, tail, axis=0, method="lower")
    return low, np.percentile(samples, 100 - tail, axis=0, method="higher")


def interval(value: float, samples: Array, freedom: int) -> Interval:
    """`value` with the 95 % interval of its resamples [resamples]."""
    low, high = bounds(samples, freedom)
    return Interval(float(value), float(low), float(high))


def ranks(scores: Array) -> Array:
    """Rank along the last axis: 1 for the highest, equal scores share the better one."""
    return 1.0 + (scores[..., None, :] > scores[..., :, None]).sum(axis=-1)


def paired_p(differences: Array) -> float:
    """Two-sided p of the mean of `differences` [problems, seeds] being 0: Student's t, stratified by problem.

    The variance of the mean of the problems' means is the mean of theirs ÷ their number; its degrees of freedom are
    Satterthwaite's. A closed form, for a bootstrap of 2,000 cannot show the small p that many comparisons need.
    """
    problems, seeds = differences.shape
    if seeds < 2:
        return 1.0
    parts = differences.var(axis=1, ddof=1) / seeds / problems**2
    mean, variance = differences.mean(), parts.sum()
    if variance == 0:
        return float(mean == 0)
    freedom = variance**2 * (seeds - 1) / np.square(parts).sum()
    return float(2 * stdtr(freedom, -abs(mean) / np.sqrt(variance)))


def holm(p: Array) -> Array:
    """The p-values [tests] corrected for their number by Holm's step-down procedure (1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
