"""The grid of learning rates: around the default, and on from where the best is at its edge."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bench import descents, functions_race, sweep
from tests.bench.test_functions_race import SMALL, cell


def rates_that(area_of):
    """What makes rates whose every run meets so many of 200 targets with the first gradient, and notes them."""
    made = []

    def make(multiples):
        made.extend(multiples)
        times = [np.where(np.arange(200) < area_of(multiple), 1.0, np.inf) for multiple in multiples]
        runs = [
            descents.Runs(*(np.zeros(3),) * 3, np.full(3, -1), np.tile(one, (3, 1)), np.zeros(3, int), np.zeros(3))
            for one in times
        ]
        return [functions_race.Rate(one, lambda: None) for one in runs]

    return make, made


def widened(make, multiples, extra, tuning, steps):
    return sweep.widened(make, lambda rate: functions_race.worth(rate, tuning, steps), multiples, extra)


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (0, [-1, 0, 1]),  # in the middle: no more
        (1, [-1, 0, 1, 2]),  # one further, which is worse
        (3, [-1, 0, 1, 2, 3, 4]),
        (-3, [-4, -3, -2, -1, 0, 1]),
        (99, [-1, 0, 1, 2, 3, 4, 5, 6, 7]),  # at most six
    ],
)
def test_the_grid_goes_on_where_its_best_is_at_the_edge(best, expected):
    make, made = rates_that(lambda multiple: 120 - abs(round(2 * math.log10(multiple)) - best))
    rates = widened(make, sweep.lr_multiples(3), 6, 1, 100)
    assert [round(2 * math.log10(one)) for one in rates] == expected
    assert len(made) == len(set(made)) == len(rates)
    assert set(sweep.lr_multiples(15)) >= set(rates) or best == 99


@pytest.mark.parametrize(
    ("lowest", "expected"),
    [
        (0, [-1, 0, 1]),
        (3, [-1, 0, 1, 2, 3, 4]),
        (-2, [-2, -1, 0, 1]),
    ],
)
def test_where_nothing_is_met_the_grid_goes_on_to_where_losses_are_lowest(lowest, expected):
    """By the tuning seeds; a run that diverged has no loss, whatever it passed on its way."""

    def make(multiples):
        losses = [abs(round(2 * math.log10(multiple)) - lowest) for multiple in multiples]
        bad = [4 if loss == 0 and lowest == -2 else -1 for loss in losses]
        return [rate_without_hits([loss, -9.0], [step, -1]) for loss, step in zip(losses, bad, strict=True)]

    def rate_without_hits(losses, bad_steps):
        numbers, times = np.array(losses), np.full((2, 4), np.inf)
        made = descents.Runs(numbers, numbers, numbers, np.array(bad_steps), times, np.zeros(2, int), numbers)
        return functions_race.Rate(made, lambda: None)

    rates = widened(make, sweep.lr_multiples(3), 6, 1, 100)
    assert [round(2 * math.log10(one)) for one in rates] == expected


@pytest.mark.parametrize(("largest", "expected"), [(-4, [-6, -5, -4, -3, -2, -1, 0, 1]), (-99, [*range(-7, 2)])])
def test_where_all_diverge_the_grid_goes_down(largest, expected):
    """To where they do not, and one further, which is worse."""

    def worth(multiple):
        place = round(2 * math.log10(multiple))
        return 0.0, abs(place + 5.0) if place <= largest else math.inf

    rates = sweep.widened(lambda multiples: multiples, worth, sweep.lr_multiples(3), 6)
    assert [round(2 * math.log10(one)) for one in rates] == expected


def test_where_all_losses_are_alike_the_grid_stays():
    make, made = rates_that(lambda multiple: 0)
    widened(make, sweep.lr_multiples(3), 6, 1, 100)
    assert len(made) == 3


def test_the_edge_is_looked_at_by_the_tuning_seeds_alone():
    """Seed 0 is best in the middle, all others at the edge."""
    times = np.full((3, 3, 32), np.inf)
    times[1, 0] = times[2, 1:] = 1.0
    runs = descents.Runs(*(np.zeros(3),) * 3, np.full(3, -1), times[0], np.zeros(3, int), np.zeros(3))

    def make(multiples):
        places = {multiple: place for place, multiple in enumerate(sweep.lr_multiples(3))}
        return [
            functions_race.Rate(dataclasses.replace(runs, hits=times[places.get(one, 0)]), lambda: None)
            for one in multiples
        ]

    assert len(widened(make, sweep.lr_multiples(3), 6, 1, 100)) == 3
    assert len(widened(make, sweep.lr_multiples(3), 6, 3, 100)) == 4


def test_adams_grid_goes_on_upwards_on_rosenbrock():
    budget = dataclasses.replace(SMALL, function_steps=200, function_extra_rates=6)
    found = [row["lr_multiple"] for row in functions_race.run(cell("rosenbrock", "Adam", budget)).rows]
    assert found[:3] == sweep.lr_multiples(3) and found[-1] > 10


def test_learning_rates_are_centred_on_the_default():
    assert sweep.lr_multiples(1) == [1]
    assert sweep.lr_multiples(5) == pytest.approx([0.1, 10**-0.5, 1, 10**0.5, 10])
    with pytest.raises(ValueError, match="4 learning rates"):
        sweep.lr_multiples(4)
