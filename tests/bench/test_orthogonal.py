"""How far an update is: in the Frobenius norm, in its singular values, and beyond the rounding of what is stored."""

import numpy as np
import pytest

from bench import orthogonal

OPTIONS = {"lr": 0.5, "weight_decay": 0.2, "adjust_lr_fn": None}
EXACT = 0.5 * np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]


def test_the_limits_are_those_that_the_text_derives():
    assert (orthogonal.LARGEST_DISTANCE, orthogonal.LARGEST_SHIFT) == (0.05, 0.1)
    assert "5%" in orthogonal.WORDS and "0.1" in orthogonal.WORDS


def test_the_update_is_what_was_subtracted_after_weight_decay():
    before = np.full((2, 2), 3.0)
    after = before * 0.9 - EXACT[:2, :2]
    np.testing.assert_allclose(orthogonal.updates(before, after, OPTIONS), EXACT[:2, :2], rtol=1e-14)


def test_the_distance_is_relative_and_forgives_rounding():
    error = np.zeros((8, 8))
    error[0, 0] = 0.1
    size = np.linalg.norm(EXACT)
    assert orthogonal.distance(EXACT + error, EXACT, 0.0) == pytest.approx(0.1 / size)
    assert orthogonal.distance(EXACT + error, EXACT, 0.06) == pytest.approx(0.04 / size)
    assert orthogonal.distance(EXACT + error, EXACT, 0.2) == 0.0
    assert orthogonal.distance(EXACT * np.nan, EXACT, 0.2) == np.inf
    assert orthogonal.distance(EXACT * 0, EXACT * 0, 0.0) == 0.0


@pytest.mark.parametrize("shape", [(8, 8), (8, 3), (3, 8)])
def test_no_singular_value_moves_by_more_than_the_shift(shape):
    random = np.random.default_rng(1)
    exact = 0.5 * random.standard_normal(shape)
    mine = exact + 0.05 * random.standard_normal(shape)
    lr = 0.5 * max(1.0, shape[0] / shape[1]) ** 0.5
    moved = np.abs(np.linalg.svd(mine, compute_uv=False) - np.linalg.svd(exact, compute_uv=False)).max() / lr
    shift = orthogonal.shift(mine, exact, 0.0, OPTIONS)
    assert moved <= shift == pytest.approx(np.linalg.norm(mine - exact, 2) / lr)
    assert orthogonal.shift(mine, exact, 1e9, OPTIONS) == 0.0
    assert orthogonal.shift(mine * np.inf, exact, 0.0, OPTIONS) == np.inf


def test_rounding_is_an_ulp_in_each_element():
    assert orthogonal.rounding(np.full((2, 2), 1.0), "bfloat16") == pytest.approx(2 * 2.0**-7)
    assert orthogonal.rounding(np.full((2, 2), 3.0), "float32") == pytest.approx(2 * 2.0**-22)
