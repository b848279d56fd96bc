"""Adafactor and Muon by hand, on matrices small enough to see; and what the rules must not depend on."""

import numpy as np
import pytest

from bench.oracle_matrices import adafactor, adjusted_lr, muon, newton_schulz

ADAFACTOR = {
    "lr": 0.5, "beta2_decay": -0.8, "eps": (0.0, 1e-3), "d": 1.0, "weight_decay": 0.0, "maximize": False,
    "dtype": "float64",
}  # fmt: skip
MUON = {
    "lr": 0.1, "weight_decay": 0.5, "momentum": 0.8, "nesterov": True, "ns_coefficients": (3.4445, -4.775, 2.0315),
    "eps": 1e-7, "ns_steps": 5, "adjust_lr_fn": None,
}  # fmt: skip


def test_first_step_of_adafactor_on_a_matrix_of_rank_one():
    """Then the factored moment is exact, the update is the gradient's sign, and its size that of the parameter."""
    g = np.outer([1.0, -2.0, 3.0], [0.5, 4.0])
    p = np.full((3, 2), 2.0)
    new, state = adafactor(p, g, {}, ADAFACTOR)
    assert new == pytest.approx(p - 0.5 * 2.0 * np.sign(g), rel=1e-14)
    assert state["row_var"] == pytest.approx((g * g).mean(1, keepdims=True))
    assert state["col_var"] == pytest.approx((g * g).mean(0, keepdims=True))


def test_adafactor_clips_the_update_and_bounds_both_sizes_from_below():
    p, g = np.array([1e-6, 1e-6]), np.array([1.0, 0.0])
    new, _ = adafactor(p, g, {}, {**ADAFACTOR, "eps": (1e-3, 0.1), "d": 1.0})
    assert p - new == pytest.approx([0.5 * 0.1 * 1.0, 0.0])  # RMS of the update is 0.7: not clipped
    state = {"step": 1.0, "variance": np.zeros(2)}
    new, _ = adafactor(p, g, state, {**ADAFACTOR, "eps": (1e-3, 0.1), "d": 1.0})
    update = 1 / np.sqrt(2**-0.8)
    assert p - new == pytest.approx([0.5 * 0.1 * update / max(1.0, update / np.sqrt(2)), 0.0])


def test_the_first_epsilon_bounds_the_mean_of_the_rows_too():
    g = np.array([[0.5, 0.5], [0.7, 0.7]])
    new, _ = adafactor(np.ones((2, 2)), g, {}, {**ADAFACTOR, "eps": (0.4, 1e-3), "d": 10.0})
    rows = g[:, :1] ** 2
    v = rows * rows.mean() / 0.4  # both columns have the mean of the rows, which is 0.37
    assert 1 - new == pytest.approx(0.5 * g / np.maximum(np.sqrt(v), 0.4), rel=1e-14)


@pytest.mark.parametrize(("dtype", "eps"), [("float32", 2.0**-23), ("bfloat16", 2.0**-7), ("float16", 2.0**-10)])
def test_the_first_epsilon_is_that_of_the_parameters_own_dtype(dtype, eps):
    g = np.full(4, eps / 8)  # the root of the moment is below the bound
    new, _ = adafactor(np.ones(4), g, {}, {**ADAFACTOR, "eps": (None, 1e-3), "dtype": dtype})
    assert 1 - new == pytest.approx(np.full(4, 0.5 * 1 / 8), rel=1e-9)


def test_adafactor_steps_several_gradients_beside_each_other_as_it_would_alone():
    random = np.random.default_rng(0)
    for shape in ((), (4,), (3, 5), (2, 3, 4)):
        p, g = random.standard_normal(shape), random.standard_normal((3, *shape))
        new, state = adafactor(p, g, {}, {**ADAFACTOR, "d": 1.3})
        for i in range(3):
            alone, its = adafactor(p, g[i], {}, {**ADAFACTOR, "d": 1.3})
            np.testing.assert_allclose(new[i], alone, rtol=1e-14)
            for key in its.keys() - {"step"}:
                np.testing.assert_allclose(state[key][i], its[key], rtol=1e-14)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_newton_schulz_keeps_the_singular_vectors_and_moves_the_values_as_the_polynomial_says(shape):
    random = np.random.default_rng(1)
    matrix = random.standard_normal(shape)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s)
    a, b, c = MUON["ns_coefficients"]
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    np.testing.assert_allclose(newton_schulz(matrix, MUON), u * s @ v, atol=1e-12)


def test_muon_by_hand():
    p, g = np.full((1, 4), 2.0), np.array([[3.0, 0.0, -4.0, 0.0]])
    new, state = muon(p, g, {"momentum_buffer": np.full((1, 4), 1.0)}, MUON)
    buffer = 0.8 * 1.0 + 0.2 * g
    assert state["momentum_buffer"] == pytest.approx(buffer)
    direction = 0.2 * g + 0.8 * buffer
    size = 1.0  # of a vector the only singular value is its norm, which is divided out
    for _ in range(5):
        size = 3.4445 * size - 4.775 * size**3 + 2.0315 * size**5
    expected = p * (1 - 0.1 * 0.5) - 0.1 * size * direction / np.linalg.norm(direction)
    np.testing.assert_allclose(new, expected, rtol=1e-12)


def test_the_learning_rate_is_adjusted_to_the_shape():
    assert adjusted_lr(MUON, (9, 4)) == pytest.approx(0.1 * 1.5)
    assert adjusted_lr(MUON, (4, 9)) == adjusted_lr({**MUON, "adjust_lr_fn": "original"}, (4, 9)) == 0.1
    assert adjusted_lr({**MUON, "adjust_lr_fn": "match_rms_adamw"}, (4, 9)) == pytest.approx(0.1 * 0.2 * 3)
