"""The intervals must hold the truth as often as they say, and the verdict must follow from them."""

import math

import numpy as np
import pytest

from bench.statistics import (
    geometric_mean,
    half_width,
    median_interval,
    quartiles,
    ratio_interval,
    resampled_medians,
    verdict,
)


def naive_medians(values, resamples, seed):
    generator = np.random.default_rng(seed)
    return np.median(generator.choice(values, (resamples, len(values))), axis=1)


@pytest.mark.parametrize("n", [5, 6, 20, 51])
def test_resampled_medians_are_distributed_as_those_of_the_naive_bootstrap(n):
    values = np.random.default_rng(n).normal(size=n)
    quick, naive = resampled_medians(values, 40_000, seed=1), naive_medians(values, 40_000, seed=2)
    for cut in values:  # 0.02 is eight standard errors of a difference of two such fractions
        assert abs((quick <= cut).mean() - (naive <= cut).mean()) < 0.02
    assert quick.mean() == pytest.approx(naive.mean(), abs=8 * naive.std() / 200)


@pytest.mark.parametrize("n", [5, 12, 25, 100])
@pytest.mark.parametrize("draw", ["normal", "laplace", "lognormal"])
def test_interval_holds_the_true_median_about_95_times_in_100(n, draw):
    generator = np.random.default_rng(7)
    truth = 1.0 if draw == "lognormal" else 0.0
    samples = getattr(generator, draw)(size=(1000, n))
    hits = 0
    for row in samples:
        interval = median_interval(row)
        hits += interval.low <= truth <= interval.high
    assert 0.91 <= hits / 1000 <= 0.985  # 0.94 is the most that five values can give


def test_interval_narrows_with_the_root_of_the_number_of_rounds():
    generator = np.random.default_rng(3)

    def width(n):
        intervals = [median_interval(generator.normal(size=n)) for _ in range(200)]
        return np.mean([interval.high - interval.low for interval in intervals])

    assert width(25) / width(400) == pytest.approx(4.0, rel=0.2)


def test_same_values_give_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert median_interval(values) == median_interval(values)


@pytest.mark.parametrize("values", [[2.0] * 5, [2.0] * 8])
def test_constant_values_have_no_width(values):
    assert median_interval(values) == (2.0, 2.0, 2.0)


def test_no_values_give_nan_and_no_verdict():
    interval = ratio_interval([])
    assert math.isnan(interval.value)
    assert verdict(interval.low, interval.high) == "inconclusive"


def test_ratio_interval_is_the_exponential_of_the_median_log_ratio():
    interval = ratio_interval(np.log([2.0, 3.0, 4.0, 5.0, 8.0]))
    assert interval.value == pytest.approx(4.0)
    assert 2.0 - 1e-12 <= interval.low < 4.0 < interval.high <= 8.0 + 1e-12


def test_a_few_values_that_agree_prove_nothing():
    interval = ratio_interval(np.log([4.0] * 4))
    assert interval == (pytest.approx(4.0), 0.0, math.inf)
    assert verdict(interval.low, interval.high) == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.01, 1.04, "faster"),
        (0.95, 0.99, "slower"),
        (0.98, 1.03, "no difference"),
        (1.0, 1.02, "no difference"),
        (0.9, 1.1, "inconclusive"),
        (3.0, 3.4, "inconclusive"),  # surely faster, but by how much nobody knows
        (3.0, 3.2, "faster"),
        (0.0, 1.0, "inconclusive"),
        (math.nan, math.nan, "inconclusive"),
        (1.0, math.inf, "inconclusive"),
    ],
)
def test_verdict(low, high, words):
    assert verdict(low, high) == words


def test_half_width_is_relative_to_the_middle():
    assert half_width(0.97, 0.97 * 1.05**2) == pytest.approx(0.05)


def test_quartiles():
    assert quartiles([1, 2, 3, 4, 5]) == (2.0, 3.0, 4.0)


def test_geometric_mean_of_cells():
    mean = geometric_mean([2.0, 8.0], [2.0, 8.0], [2.0, 8.0])
    assert mean == pytest.approx((4.0, 4.0, 4.0))


def test_geometric_mean_is_known_better_than_its_cells():
    n, width = 100, 1.1
    mean = geometric_mean([3.0] * n, [3.0 / width] * n, [3.0 * width] * n)
    assert mean.value == pytest.approx(3.0)
    assert mean.high == pytest.approx(3.0 * width ** (1 / math.sqrt(n)))
    assert mean.low == pytest.approx(3.0 / width ** (1 / math.sqrt(n)))


def test_geometric_mean_leaves_out_what_was_not_measured():
    assert geometric_mean([2.0, math.nan], [1.9, math.nan], [2.1, math.nan]).value == pytest.approx(2.0)
    assert math.isnan(geometric_mean([], [], []).value)
