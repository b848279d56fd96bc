"""What repeated measurements say: medians of paired log ratios, their intervals, and the verdict in words."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
TOO_WIDE = 0.05  # an interval with a larger half-width than 5 % says nothing
FEWEST_ROUNDS = 5  # below this even the extremes hold the median less than 94 times in 100
TARGET = 0.03  # measuring goes on until the half-width is at most 3 %


class Interval(NamedTuple):
    """An estimate and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def resampled_medians(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Medians of ``resamples`` bootstrap samples of ``values``.

    The median of a bootstrap sample is an order statistic of n draws from n sorted values, and the order statistics
    of uniform draws are beta-distributed. So the two middle draws are drawn directly, which gives the distribution
    of the naive bootstrap in O(resamples) instead of O(resamples x n).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    generator = np.random.default_rng(seed)
    rank = (n + 1) // 2  # of the lower of the two middle draws, counted from 1
    lower = generator.beta(rank, n + 1 - rank, resamples)
    if n % 2:
        return ordered[_position(lower, n)]
    # Given the lower one, the n - rank draws above it are uniform in (lower, 1); the upper middle is their minimum.
    upper = lower + (1.0 - lower) * generator.beta(1, n - rank, resamples)
    return 0.5 * (ordered[_position(lower, n)] + ordered[_position(upper, n)])


def _position(quantile: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    return np.minimum((quantile * n).astype(np.intp), n - 1)


def median_interval(values: ArrayLike, seed: int = 0) -> Interval:
    """Median of ``values`` with a percentile-bootstrap 95 % interval.

    All nan without values; fewer than `FEWEST_ROUNDS` bound nothing, so the bounds are infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return NOTHING
    if len(values) < FEWEST_ROUNDS:
        return Interval(float(np.median(values)), -math.inf, math.inf)
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(resampled_medians(values, seed=seed), [tail, 100.0 - tail])
    return Interval(float(np.median(values)), float(low), float(high))


def ratio_interval(log_ratios: ArrayLike, seed: int = 0) -> Interval:
    """Median ratio with its 95 % interval, from one log ratio for each round."""
    return Interval(*(math.exp(bound) for bound in median_interval(log_ratios, seed=seed)))


def half_width(low: float, high: float) -> float:
    """Half-width of the interval of a ratio, relative to its middle: 0.03 is 3 %."""
    return math.sqrt(high / low) - 1.0 if low > 0 else math.inf


def verdict(low: float, high: float) -> str:
    """``faster``, ``slower``, ``no difference`` or ``inconclusive``, of ours; ``low``, ``high`` bound theirs / ours."""
    if not half_width(low, high) <= TOO_WIDE:  # so that nan is inconclusive too
        return "inconclusive"
    if low > 1.0:
        return "faster"
    return "slower" if high < 1.0 else "no difference"


def quartiles(values: ArrayLike) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    first, median, third = np.percentile(np.asarray(values, dtype=np.float64), [25, 50, 75])
    return float(first), float(median), float(third)


def measured_quartiles(values: ArrayLike) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, each a value that was measured.

    Between two values median and upper quartile are the larger one: of two seeds of which one failed (inf), the median
    is that of a failure.
    """
    low = np.quantile(values, 0.25, method="lower")
    median, high = np.quantile(values, (0.5, 0.75), method="higher")
    return float(low), float(median), float(high)


def geometric_mean(ratios: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> Interval:
    """Geometric mean of the ratios of independent cells; their half-widths add in quadrature on the log scale.

    Rows with a nan are left out. The interval is of the mean over *these* cells, not over cells one might have chosen.
    """
    logs = np.log(np.stack([np.asarray(column, dtype=np.float64) for column in (ratios, lows, highs)]))
    logs = logs[:, np.isfinite(logs).all(axis=0)]
    if not logs.shape[1]:
        return NOTHING
    middle, low, high = logs
    mean = middle.mean()
    down, up = (np.sqrt(np.square(side).sum()) / len(middle) for side in (middle - low, high - middle))
    return Interval(*(float(np.exp(bound)) for bound in (mean, mean - down, mean + up)))
