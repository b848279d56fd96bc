"""Jensen and Shannon's divergence, with any weights, and the I-divergence: against loops and other people's."""

from __future__ import annotations

import math

import pytest
import torch

from optimizers import losses

from .agreement import assert_agree, normal, value_and_gradients


def looped(beta):
    def kl(p, q):
        return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))

    def value(x, y):
        values = []
        for a, b in zip(x, y, strict=True):
            q, p = a.exp() / a.exp().sum(), b.exp() / b.exp().sum()
            m = [beta * s + (1 - beta) * t for s, t in zip(p, q, strict=True)]
            values.append(beta * kl(p, m) + (1 - beta) * kl(q, m))
        return torch.stack(values)

    return value


@pytest.mark.parametrize("beta", [0.5, 0.1, 0.95])
def test_jensen_shannon_is_its_formula(beta):
    assert_agree(
        lambda x, y: losses.jensen_shannon_div(x, y, beta, reduction="none"),
        looped(beta),
        normal(6, 5, scale=2.0),
        normal(6, 5, seed=1, scale=2.0),
    )


def test_log_probabilities_are_logits_and_any_dimension_will_do():
    x, y = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    goal = losses.jensen_shannon_div(x, y, dim=1, reduction="none")
    assert goal.shape == (3, 5)
    got = losses.jensen_shannon_div(x.log_softmax(1), y.log_softmax(1) + 3, dim=1, reduction="none")
    torch.testing.assert_close(got, goal)
    moved = losses.jensen_shannon_div(x.movedim(1, -1), y.movedim(1, -1), reduction="none")
    torch.testing.assert_close(moved, goal)
    torch.testing.assert_close(losses.jensen_shannon_div(x, y, dim=1), goal.mean())
    torch.testing.assert_close(losses.jensen_shannon_div(x, y, dim=1, reduction="sum"), goal.sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_probabilities_of_0_cost_what_they_should(dtype):
    """Also where both are 0, and where nothing is shared: then it is log 2."""
    inf = math.inf
    x = torch.tensor([[0.0, -inf, -inf], [0.0, 0.0, -inf], [0.0, 1.0, 2.0]], dtype=dtype)
    y = torch.tensor([[-inf, 0.0, -inf], [0.0, 0.0, -inf], [0.0, 1.0, 2.0]], dtype=dtype)
    value, *gradients = value_and_gradients(lambda *a: losses.jensen_shannon_div(*a, reduction="none"), x, y)
    goal = torch.tensor([math.log(2), 0.0, 0.0], dtype=dtype)
    torch.testing.assert_close(value, goal, rtol=torch.finfo(dtype).eps, atol=1e-6 if dtype != torch.float64 else 1e-15)
    assert all(g.isfinite().all() for g in gradients)


def test_scipys_jensen_shannon():
    distance = pytest.importorskip("scipy.spatial.distance")
    x, y = normal(6, 5), normal(6, 5, seed=1)
    goal = distance.jensenshannon(x.softmax(1).numpy(), y.softmax(1).numpy(), axis=1) ** 2
    torch.testing.assert_close(losses.jensen_shannon_div(x, y, reduction="none"), torch.from_numpy(goal))


def test_kornias_jensen_shannon():
    kornia = pytest.importorskip("kornia.losses")
    x, y = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)

    def theirs(a, b):
        a, b = (t.flatten(2).softmax(-1).view_as(t) for t in (a, b))
        return kornia.js_div_loss_2d(a, b, reduction="none")

    def ours(a, b):
        return losses.jensen_shannon_div(a.flatten(2), b.flatten(2), reduction="none")

    assert_agree(ours, theirs, x, y)


def test_the_ends_of_beta_are_kullback_and_leiblers():
    """Divided by beta, the limit is KL(P‖Q): an error of the order of beta."""
    x, y = normal(4, 5), normal(4, 5, seed=1)
    p, q = y.softmax(1), x.softmax(1)
    forward, backward = (p * (p / q).log()).sum(1), (q * (q / p).log()).sum(1)
    got = losses.jensen_shannon_div(x, y, 1e-6, reduction="none") / 1e-6
    torch.testing.assert_close(got, forward, rtol=1e-4, atol=0)
    got = losses.jensen_shannon_div(x, y, 1 - 1e-6, reduction="none") / 1e-6
    torch.testing.assert_close(got, backward, rtol=1e-4, atol=0)


@pytest.mark.parametrize("n", [50, 5000])  # in plain torch, and by a kernel
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_generalized_kl_is_its_formula(n, reduction):
    y = normal(n).abs()
    y[::5] = 0

    def theirs(x):
        terms = [b * math.log(b / a) - b + a if b else a for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        values = torch.tensor(terms, dtype=x.dtype) + (1 - y / x) * (x - x.detach())  # by its slope at x
        return {"none": values, "mean": values.mean(), "sum": values.sum()}[reduction]

    assert_agree(lambda x: losses.generalized_kl_div(x, y, reduction=reduction), theirs, normal(n, seed=1).abs() + 0.01)


def test_generalized_kl_of_equals_and_scipys():
    special = pytest.importorskip("scipy.special")
    x, y = normal(30).abs(), normal(30, seed=1).abs()
    y[0] = 0
    goal = torch.from_numpy(special.kl_div(y.numpy(), x.numpy()))
    torch.testing.assert_close(losses.generalized_kl_div(x, y, reduction="none"), goal, rtol=1e-9, atol=1e-12)
    assert losses.generalized_kl_div(y + 1, y + 1) == 0
    zero = torch.zeros(1)
    assert losses.generalized_kl_div(zero, zero) == 0
    assert losses.generalized_kl_div(zero, zero + 1) == math.inf
    assert losses.generalized_kl_div(zero - 1, zero + 1).isnan()


def test_generalized_kl_of_distributions_is_kullback_and_leiblers():
    p, q = normal(7).softmax(0), normal(7, seed=1).softmax(0)
    goal = torch.nn.functional.kl_div(q.log(), p, reduction="sum")
    torch.testing.assert_close(losses.generalized_kl_div(q, p, reduction="sum"), goal)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: losses.jensen_shannon_div(x, x, 0.0), ValueError, "beta must lie between.*is 0.0.*use kl_div"),
        (lambda x: losses.jensen_shannon_div(x, x[:1]), ValueError, r"one shape, and have \(2, 3\) and \(1, 3\)"),
        (
            lambda x: losses.jensen_shannon_div(x, x, reduction="batchmean"),
            ValueError,
            "batchmean is not a valid",
        ),
        (lambda x: losses.jensen_shannon_div(x.int(), x), TypeError, r"convert it with .float\(\)"),
        (lambda x: losses.generalized_kl_div(x, x[0]), ValueError, r"one shape, and have \(2, 3\) and \(3,\)"),
        (lambda x: losses.generalized_kl_div(x, x, reduction="avg"), ValueError, "avg is not a valid value"),
        (lambda x: losses.JensenShannonDiv(beta=1.0), ValueError, "is 1.0"),
    ],
)
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.ones(2, 3))
