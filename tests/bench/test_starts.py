"""Where the runs on a test function begin, and what is judged from there."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from bench import descents, functions_race, starts
from bench.problems.functions import FUNCTIONS
from bench.score import hits
from tests.bench.test_functions_race import ours


@pytest.mark.parametrize(
    ("losses", "step", "words"),
    [
        ([5.0, 3.0, 4.0, 2.0], -1, ""),
        ([5.0, math.nan, 4.0, 2.0], 1, "became nan"),
        ([5.0, 3.0, math.inf, 2.0], 2, "became infinite"),
        ([5.0, 4999.0, 5001.0, 2.0], 2, "above 1000 times"),
        ([0.1, 999.0, 4.0, 1001.0], 3, "above 1000 times"),  # the gap counts as at least 1
        ([5.0, 3.0, -1.0, 2.0], 2, "below the minimum"),
        ([math.nan, 3.0, 1.0, 2.0], 0, "became nan"),
    ],
)
def test_the_first_bad_step(losses, step, words):
    begins = judged_from(losses[0])
    found = descents.judge(descents.Descent(np.array([losses]).T, [], np.empty(0), 1.0), begins)
    assert found.bad_step.tolist() == [step]
    assert words in functions_race.reason(found, begins)
    np.testing.assert_array_equal(found.best, [min(losses[:step] if step >= 0 else losses, default=math.nan)])
    np.testing.assert_array_equal(found.final, [losses[step]])


def judged_from(loss: float) -> starts.Starts:
    """A start on a function with minimum 0 whose loss is `loss`."""
    one = np.array([loss])
    targets, noise = hits.thresholds(one, np.zeros(1)), np.zeros(1, int)
    return starts.Starts(np.zeros((1, 2)), one, np.zeros(1), targets, np.array([-1e-9]), 1e3 * np.fmax(one, 1.0), noise)


def test_a_run_that_leaves_mccormicks_domain_has_diverged_not_won():
    begins = starts.of_points(FUNCTIONS["mccormick"], np.array([[-9.0, -9.0]]))
    found = descents.batched(FUNCTIONS["mccormick"], ours("SGD"), begins, [1.0], 10)
    assert not descents.judge(found, begins).ok.any()


def test_seed_zero_is_the_published_start_and_others_depend_on_the_runs_seed():
    function = FUNCTIONS["branin"]
    assert starts.start(function, 3, 0) == list(function.start)
    assert starts.start(function, 3, 1) == starts.start(function, 3, 1)
    assert starts.start(function, 3, 1) != starts.start(function, 4, 1)
    noise = torch.tensor([starts.start(function, 0, seed) for seed in range(1, 400)]) - torch.tensor(function.start)
    torch.testing.assert_close(noise.std(0) / 15, torch.tensor([0.05, 0.05]), rtol=0.1, atol=0)


def test_noise_never_leaves_the_domain():
    edge = dataclasses.replace(FUNCTIONS["booth"], start=(10.0, -10.0))
    for seed in range(1, 20):
        assert all(-10 <= x <= 10 for x in starts.start(edge, 0, seed))


def test_each_run_is_judged_by_the_basin_of_its_own_start():
    function = FUNCTIONS["six-hump-camel"]
    found = starts.starts(function, 0, 32)
    assert found.basins[0] == pytest.approx(function.basin, abs=1e-7)
    low = np.isclose(found.basins, function.minimum)
    assert 0 < low.sum() < 32 and np.isclose(found.basins[~low], function.basin).all()
    gains = found.losses - found.basins
    np.testing.assert_allclose(found.thresholds[:, 7], found.basins + 1e-2 * gains, rtol=1e-12)
    again = starts.starts(function, 0, 4)  # the first of them
    np.testing.assert_array_equal(again.basins, found.basins[:4])
