"""The L-BFGS oracle against the definitions: secant equation, BFGS matrix, Wolfe conditions; and torch's counters."""

import numpy as np
import pytest
import torch

from bench import oracle_lbfgs
from bench.oracle_lbfgs import LineSearch, Memory, Trial, cubic, inverse_hessian, step

OPTIONS = {
    "lr": 1.0, "max_iter": 20, "max_eval": 25, "tolerance_grad": 1e-7, "tolerance_change": 1e-9, "history_size": 100,
    "line_search_fn": None,
}  # fmt: skip
CURVATURE = np.geomspace(1, 100, 12)


def closure(x):
    """A parabola with some coupling, so that no coordinate is alone."""
    apart = np.diff(x)
    gradient = CURVATURE * (x - 1)
    gradient[1:] += apart**3
    gradient[:-1] -= apart**3
    return float(0.5 * CURVATURE @ (x - 1) ** 2 + 0.25 * (apart**4).sum()), gradient


def rosenbrock(x):
    """Curved enough that a line search has something to search."""
    a, b = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[1:] += 200 * a
    gradient[:-1] -= 400 * a * x[:-1] + 2 * b
    return float((100 * a * a + b * b).sum()), gradient


def after(steps, closure=closure, **options):
    memory, x = Memory(), np.linspace(-1, 3, 12)
    for _ in range(steps):
        x = step(x, closure, memory, {**OPTIONS, **options})
    return memory, x


def bfgs_matrix(memory, size):
    """Formula 6.17 of Nocedal & Wright, as matrices."""
    h = memory.H_diag * np.eye(size)
    for y, s in zip(memory.old_dirs, memory.old_stps, strict=True):
        v = np.eye(size) - np.outer(y, s) / (y @ s)
        h = v.T @ h @ v + np.outer(s, s) / (y @ s)
    return h


@pytest.mark.parametrize("history_size", [100, 3])
def test_the_inverse_hessian_is_the_bfgs_matrix_and_satisfies_the_secant_equation(history_size):
    memory, x = after(2, max_iter=4, history_size=history_size)
    assert len(memory.old_dirs) == min(7, history_size)
    gradient = closure(x)[1]
    h = bfgs_matrix(memory, 12)
    np.testing.assert_allclose(inverse_hessian(memory, len(memory.ro), gradient), h @ gradient, rtol=1e-10, atol=1e-12)
    y, s = memory.old_dirs[-1], memory.old_stps[-1]
    np.testing.assert_allclose(inverse_hessian(memory, len(memory.ro), y), s, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(memory.d, -h @ memory.prev_flat_grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("guess", [1e-3, 0.1, 1.0, 30.0])
def test_the_line_search_ends_where_the_strong_wolfe_conditions_hold(guess):
    x = np.linspace(-1, 3, 12)
    value, gradient = closure(x)
    d = -gradient / CURVATURE[-1]
    slope = float(gradient @ d)
    search = LineSearch(closure, x, d, value, gradient, slope, 1e-9)
    found = search.run(guess, 25)
    assert found.value <= value + 1e-4 * found.t * slope
    assert abs(found.slope) <= 0.9 * abs(slope)
    assert 1 <= search.evaluations <= 26
    assert (found.value, found.slope) == (closure(x + found.t * d)[0], float(closure(x + found.t * d)[1] @ d))


def test_the_cubic_finds_the_minimum_of_a_cubic_and_stays_inside_its_bounds():
    def trial(t):
        return Trial(t, t**3 - 3 * t, np.zeros(1), 3 * t * t - 3)  # minimum at 1

    assert cubic(trial(0.0), trial(2.0), (0.0, 2.0)) == pytest.approx(1.0, rel=1e-14)
    assert cubic(trial(2.0), trial(0.0), (0.0, 2.0)) == pytest.approx(1.0, rel=1e-14)
    assert cubic(trial(0.0), trial(0.5), (0.0, 0.7)) == 0.7
    assert cubic(Trial(0, 0, np.zeros(1), 1.0), Trial(1, 9, np.zeros(1), 30.0), (0.0, 1.0)) == 0.5  # no minimum


SEARCHED = [{"lr": lr, "max_iter": 3, "max_eval": 40} for lr in (1.0, 7.0, 300.0, 0.02, 1e-4)]


@pytest.mark.parametrize(
    ("closure", "line_search", "options"),
    [
        *((closure, None, options) for options in ({"max_iter": 20}, {"max_iter": 4, "max_eval": 2})),
        *((closure, "strong_wolfe", options) for options in SEARCHED),
        # with shorter guesses than these, rounding decides whether the first cubic has a minimum
        *((rosenbrock, "strong_wolfe", options) for options in SEARCHED[:3]),
        (closure, "strong_wolfe", {"max_iter": 5, "history_size": 3, "lr": 0.6}),
        (closure, None, {"max_iter": 5, "history_size": 3, "lr": 0.6}),
    ],
)
def test_it_takes_the_iterations_and_evaluations_that_torch_takes(closure, line_search, options):
    memory, x = after(3, closure, line_search_fn=line_search, **{"max_eval": options["max_iter"] * 5 // 4, **options})
    point = torch.linspace(-1, 3, 12, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([point], line_search_fn=line_search, **options)

    def evaluate():
        value, gradient = closure(point.numpy().copy())
        point.grad = torch.from_numpy(gradient)
        return torch.tensor(value, dtype=torch.float64)

    for _ in range(3):
        optimizer.step(evaluate)
    state = optimizer.state[point]
    assert (state["n_iter"], state["func_evals"]) == (memory.n_iter, memory.func_evals)
    assert len(state["old_dirs"]) == len(memory.old_dirs)
    np.testing.assert_allclose(point.numpy(), x, rtol=1e-9)


def test_it_stops_where_the_gradient_or_the_change_is_small_enough():
    memory, x = after(1, tolerance_grad=1e9)
    assert memory.func_evals == 1 and memory.d is None and x.tolist() == np.linspace(-1, 3, 12).tolist()
    memory, _ = after(1, tolerance_change=1e9)
    assert (memory.n_iter, memory.func_evals) == (1, 1)
    memory, x = after(6)
    assert np.abs(closure(x)[1]).max() < 1e-4 and memory.func_evals < 6 * 20


def test_a_pair_without_curvature_is_not_kept():
    memory = Memory(n_iter=1, d=np.array([1.0, 0.0]), t=1.0, prev_flat_grad=np.array([1.0, 1.0]))
    oracle_lbfgs._remember(memory, np.array([1.0, 5.0]), 10)  # the gradient did not change along the step
    assert memory.old_dirs == [] and memory.H_diag == 1.0
