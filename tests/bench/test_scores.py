"""The statistics of the race: each by hand, against a naive loop, and with the properties that make it fair."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.score import hits, measures, resample
from bench.score.hits import EXPONENTS, TARGETS

BUDGET = 100
TIME = st.one_of(st.integers(1, BUDGET), st.just(math.inf))
NEVER = math.inf


def times_of(size):
    """Times to `size` nested targets: they ascend, and the late ones may never be met."""
    return st.lists(TIME, min_size=size, max_size=size).map(lambda found: np.array(sorted(found), dtype=float))


# first hits


def test_targets_are_quarter_decades_below_the_start():
    assert len(TARGETS) == 32 and TARGETS[0] == 10**-0.25 and TARGETS[-1] == 1e-8
    assert EXPONENTS[hits.DECADES].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def hits_of(losses, reference):
    """The times of one run that were met."""
    losses = np.array(losses, dtype=float)
    (times,) = hits.first_hits(losses[:, None], hits.thresholds(losses[:1], np.array([reference])))
    assert len(times) == 32
    return times[np.isfinite(times)].tolist()


def test_hits_by_hand():
    # f0 = 12 over a basin of 2: the targets are 2 + 10 · 10^-q, so 7.62, 5.16, 3.78, 3, 2.56 …
    assert hits_of([12.0, 13.0, 7.0, 9.0, 5.0, 3.0, 4.0], 2.0) == [2, 4, 5, 5]


def test_hits_come_back_from_their_text():
    times = np.array([[2.0, 4.0, 5.0, 5.0] + [NEVER] * 28, [NEVER] * 32, [1.0] * 32])
    texts = [hits.encode(one) for one in times]
    assert texts == ["2 4 5 5", "", " ".join(["1"] * 32)]
    np.testing.assert_array_equal(hits.decode(texts), times)
    assert hits.decode(["3", ""], targets=2).tolist() == [[3, NEVER], [NEVER, NEVER]]
    assert hits.decode([""]).tolist() == [[NEVER] * 32]


def test_standing_still_and_climbing_meet_nothing_and_arriving_meets_all():
    assert hits_of([3.0] * 9, 0.0) == []
    assert hits_of(np.arange(3.0, 9.0), 0.0) == []
    assert hits_of([3.0, 0.0, 5.0], 0.0) == [1] * 32
    assert hits_of([3.0, -1.0], 0.0) == [1] * 32
    assert hits_of([0.0, 0.0], 0.0) == []  # there is nothing to gain
    assert hits_of([1.0, math.nan, 0.4, math.inf], 0.0) == [2]


@given(st.lists(st.floats(-1, 9, allow_nan=False), min_size=1, max_size=20))
def test_hits_equal_a_naive_search(tail):
    losses = np.array([4.0, *tail])
    naive = []
    for target in TARGETS:
        place = next((place for place, loss in enumerate(losses) if loss <= 4.0 * target), None)
        if place is not None:
            naive.append(place)
    assert hits_of(losses, 0.0) == naive


# measures


def test_area_by_hand():
    # budget 100: met after 1, 10, 100 gradients and never is worth 1, 1/2, 0 and 0
    assert measures.area(np.array([1.0, 10.0, 100.0, NEVER]), 100) == pytest.approx(1.5 / 4)
    assert measures.area(np.full(32, NEVER), 100) == 0.0
    assert measures.area(np.ones(32), 100) == 1.0


@given(times_of(6))
def test_area_equals_the_integral_of_the_ecdf(times):
    """Between two whole budgets the share met does not change, so the sum over them is the integral."""
    whole = sum((times <= budget).mean() * math.log((budget + 1) / budget) for budget in range(1, BUDGET))
    assert measures.area(times, BUDGET) == pytest.approx(whole / math.log(BUDGET), abs=1e-12)
    assert 0 <= measures.area(times, BUDGET) <= 1
    budgets = np.array([1.0, 7.0, BUDGET])
    assert measures.met(times, budgets).tolist() == [(times <= budget).mean() for budget in budgets]


@given(times_of(6), st.integers(0, 5), st.floats(0.01, 1))
def test_a_faster_run_never_has_a_lower_area(times, target, factor):
    faster = times.copy()
    faster[target] = max(1.0, min(times[target], BUDGET) * factor)
    assert measures.area(faster, BUDGET) >= measures.area(times, BUDGET)
    assert measures.solved(times) in (0, 1)


def test_profile_by_hand():
    among = np.array([[10.0, 20.0, NEVER, NEVER], [20.0, 10.0, 30.0, NEVER]])
    first, second = (measures.ratios(times, among) for times in among)
    assert first.tolist() == [1, 2, NEVER, NEVER] and second.tolist() == [2, 1, 1, NEVER]
    # a ratio r is met from r to 4, of a length of 3
    assert measures.profile_area(first) == pytest.approx((1 + 2 / 3) / 4)
    assert measures.within_ratio(first, np.array([1.0, 1.9, 2.0, 4.0])).tolist() == [0.25, 0.25, 0.5, 0.5]


@given(st.lists(times_of(5), min_size=2, max_size=4))
def test_profile_area_is_the_integral_of_the_profile(found):
    among = np.array(found)
    ratios = measures.ratios(among, among)
    middles = 1 + 3 * (np.arange(3000) + 0.5) / 3000
    # the midpoint rule errs by at most half a cell at each of the five steps of size 1/5
    np.testing.assert_allclose(
        measures.profile_area(ratios), measures.within_ratio(ratios, middles).mean(axis=-1), atol=1 / 3000
    )
    for target in range(5):
        best = min(among[:, target])
        expected = [time / best if math.isfinite(time) else NEVER for time in among[:, target]]
        assert ratios[:, target].tolist() == expected


def test_speed_ups_by_hand():
    logs = measures.log2_speed_ups(np.array([10.0, 40.0, NEVER, 10.0, NEVER]), np.array([20.0, 10, 5, NEVER, NEVER]))
    assert logs.tolist() == pytest.approx([1, -2, -NEVER, NEVER, 0])


def iqm(values, weights=None):
    """Of one value a run; by default all runs count alike."""
    weights = np.atleast_2d(np.ones(len(values)) if weights is None else weights)
    found = measures.interquartile_mean(np.array(values)[:, None], weights / weights.sum(axis=1, keepdims=True))
    assert (found == found[0]).all() or np.isnan(found).all()
    return found[0]


def test_interquartile_mean_by_hand():
    assert iqm([9.0, 1, 2, 3, 4, 5, 6, -99]) == pytest.approx(3.5)
    # of five, 1.25 on either side are cut, so the outer two of the middle three count 3/4
    assert iqm([0.0, 1, 2, 3, 99]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)
    assert iqm([0.0, 1, 2, 7, 99]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 7) / 2.5)
    assert iqm([-NEVER, 1, 2, NEVER]) == 1.5
    assert iqm([1, 2, NEVER, NEVER]) == NEVER
    assert iqm([-NEVER, -NEVER, 3, 4]) == -NEVER
    assert math.isnan(iqm([-NEVER, -NEVER, NEVER, NEVER]))
    assert iqm([5.0]) == 5


@given(st.lists(st.floats(-9, 9), min_size=4, max_size=12), st.integers(0, 9))
def test_a_weighted_interquartile_mean_is_that_of_repeated_values(values, seed):
    """scipy's trimmed mean, of a number of values that 4 divides."""
    weights = np.random.default_rng(seed).integers(0, 4, len(values)) + np.eye(len(values), dtype=int)[0]
    expected = stats.trim_mean(np.repeat(values, 4 * weights), 0.25)
    np.testing.assert_allclose(iqm(values, np.array([weights, weights], dtype=float)), expected, atol=1e-9)


def test_interquartile_means_of_resamples_equal_a_naive_loop():
    values = np.random.default_rng(0).normal(size=(12, 8)).round(1)
    weights = resample.weights(3, 4, 40).reshape(40, 12)
    found = measures.interquartile_mean(values, weights)
    for row, one in zip(weights, found, strict=True):
        drawn = [value for run, weight in zip(values, row, strict=True) for value in np.repeat(run, round(weight * 9))]
        assert one == pytest.approx(stats.trim_mean(drawn, 0.25))  # of 72 values


def test_better_counts_ties_half():
    assert measures.better(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])).tolist() == [0, 0.5, 1]


def test_decades_of_good_learning_rates_by_hand():
    # half a decade apart; 40 is twice the best and counts, 41 does not
    multiples = 10 ** (np.arange(-2, 3) / 2)
    times = np.array([[NEVER, NEVER], [41.0, NEVER], [20.0, NEVER], [40.0, NEVER], [NEVER, NEVER]])
    assert measures.good_decades(times, multiples) == pytest.approx([1.0, 0.0])
    assert math.isnan(measures.good_decades(times[:1], multiples[:1])[0])


# intervals, ranks, tests


def test_weights_draw_one_seed_less_within_each_problem():
    weights = resample.weights(3, 5, 200)
    np.testing.assert_allclose(weights.sum(axis=2), 1 / 3)
    draws = weights * 3 * 4
    np.testing.assert_allclose(draws, draws.round(), atol=1e-9)
    assert np.isnan(resample.weights(3, 1, 2)).all()


def test_resampled_means_equal_a_naive_loop():
    values = np.random.default_rng(0).random((2, 3, 4))
    weights = resample.weights(3, 4, 50)
    found = resample.means(values, weights)
    assert found.shape == (50, 2)
    for resampled, entrant in itertools.product(range(50), range(2)):
        naive = 0.0
        for problem in range(3):
            drawn = [seed for seed in range(4) for _ in range(round(weights[resampled, problem, seed] * 9))]
            assert len(drawn) == 3
            naive += np.mean([values[entrant, problem, seed] for seed in drawn]) / 3
        assert found[resampled, entrant] == pytest.approx(naive)


def test_the_bootstrap_has_the_variance_of_the_mean():
    """s² / n, stratified; 20,000 resamples give a variance to about 1 %, and a full draw would be 25 % short."""
    values = np.random.default_rng(1).normal(size=(6, 4))
    samples = resample.means(values, resample.weights(6, 4, 20_000))
    assert samples.var() == pytest.approx((values.var(axis=1, ddof=1) / 4).sum() / 36, rel=0.05)


def covered(problems, seeds, rounds):
    """How often the interval holds the true mean of normal scores with a spread of its own for each problem."""
    generator = np.random.default_rng(3)
    weights = resample.weights(problems, seeds, 1000)
    spread = generator.uniform(0.5, 2, (problems, 1))
    inside = 0
    for _ in range(rounds):
        samples = resample.means(generator.normal(0, spread, (problems, seeds)), weights)
        low, high = resample.bounds(samples, problems * (seeds - 1))
        inside += low <= 0 <= high
    return inside / rounds


@pytest.mark.parametrize(("problems", "seeds"), [(20, 4), (10, 9), (20, 2), (3, 9)])
def test_intervals_hold_the_truth_95_times_in_100(problems, seeds):
    """Of 1,000 rounds the share has a standard error of 0.7 %, and unequal variances cost about 1 %."""
    assert 0.925 <= covered(problems, seeds, 1000) <= 0.975


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=6))
def test_ranks_equal_scipys(scores):
    expected = stats.rankdata([-score for score in scores], method="min")
    assert resample.ranks(np.array(scores)).tolist() == expected.tolist()


def test_paired_p_with_one_problem_is_scipys_paired_t_test():
    first, second = np.random.default_rng(2).random((2, 7))
    expected = stats.ttest_rel(first, second).pvalue
    assert resample.paired_p((first - second)[None]) == pytest.approx(expected, rel=1e-12)


def test_paired_p_of_several_problems_by_hand():
    differences = np.array([[1.0, 3.0], [4.0, 8.0]])  # means 2 and 6; variances of them 1 and 4
    freedom = (1 / 4 + 4 / 4) ** 2 / ((1 / 4) ** 2 + (4 / 4) ** 2)
    expected = 2 * stats.t.sf(4 / math.sqrt(5 / 4), freedom)
    assert resample.paired_p(differences) == pytest.approx(expected, rel=1e-12)
    assert resample.paired_p(np.zeros((2, 3))) == 1.0
    assert resample.paired_p(np.ones((2, 3))) == 0.0
    assert resample.paired_p(np.ones((2, 1))) == 1.0  # one seed proves nothing


def test_p_values_are_uniform_where_nothing_differs():
    """Of 2,000 tests at 5 %, about 100 err; three standard deviations are 29."""
    generator = np.random.default_rng(4)
    wrong = sum(resample.paired_p(generator.normal(size=(8, 4))) < 0.05 for _ in range(2000))
    assert 65 <= wrong <= 135


def test_holm_by_hand():
    assert resample.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert resample.holm(np.array([])).tolist() == []


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_its_definition_does(p):
    found = resample.holm(np.array(p))
    remaining, rejected = sorted(range(len(p)), key=lambda one: p[one]), set()
    for place, one in enumerate(remaining):  # step down until the first that stands
        if p[one] * (len(p) - place) >= 0.05:
            break
        rejected.add(one)
    assert {one for one in range(len(p)) if found[one] < 0.05} == rejected
