"""The losses beyond torch's: their limits, what others compute, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from optimizers import losses

X, Y = torch.tensor([-30.0, -1.0, 0.0, 0.5, 2.0, 100.0]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 99.0])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def test_barrons_family_holds_the_others():
    def robust(shape):
        return losses.general_robust_loss(X, Y, shape, 1.5, reduction="none")

    d = (X - Y) / 1.5
    close(robust(2.0), d.square() / 2)
    close(robust(1.0), (d.square() + 1).sqrt() - 1)
    close(robust(0.0), losses.cauchy_loss(X, Y, 1.5, reduction="none"))
    close(robust(-2.0), losses.geman_mcclure_loss(X, Y, 1.5, reduction="none"))
    close(robust(-math.inf), losses.welsch_loss(X, Y, 1.5, reduction="none"))
    near = losses.general_robust_loss(X[1:5].double(), Y[1:5].double(), 1e-7, 1.5, reduction="none")
    torch.testing.assert_close(near, robust(0.0)[1:5].double(), rtol=1e-5, atol=1e-6)


def test_focal_loss_is_binary_cross_entropy_that_counts_easy_examples_less():
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    for y in (torch.zeros_like(x), torch.ones_like(x)):
        nll = functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        p = torch.where(y == 1, x.sigmoid(), 1 - x.sigmoid())
        for alpha, gamma in ((0.25, 2.0), (0.7, 0.5), (-1.0, 3.0), (0.5, 0.0)):
            weight = 1.0 if alpha < 0 else alpha * y + (1 - alpha) * (1 - y)
            goal = weight * (1 - p) ** gamma * nll
            torch.testing.assert_close(losses.sigmoid_focal_loss(x, y, alpha, gamma), goal, rtol=1e-9, atol=1e-12)


def test_focal_loss_is_finite_and_has_a_gradient_at_large_logits():
    x = torch.tensor([1e4, -1e4, 300.0, -300.0], requires_grad=True)
    y = torch.tensor([1.0, 1.0, 0.0, 0.0])
    value = losses.sigmoid_focal_loss(x, y, reduction="none")
    assert value.tolist() == [0.0, 2500.0, 225.0, 0.0]
    assert torch.autograd.grad(value.sum(), x)[0].tolist() == [0.0, -0.25, 0.75, 0.0]


def test_log_cosh_and_pinball_and_tukey_and_charbonnier_are_their_formulas():
    d = (X - Y).double()
    close(losses.log_cosh_loss(X, Y, reduction="none").double(), d.abs() + (-2 * d.abs()).exp().log1p() - math.log(2))
    close(losses.pinball_loss(X, Y, 0.2, reduction="none").double(), torch.where(d < 0, -0.2 * d, 0.8 * d))
    inside = 4.685**2 / 6 * (1 - (1 - (d / 4.685).square()) ** 3)
    close(losses.tukey_loss(X, Y, reduction="none").double(), torch.where(d.abs() < 4.685, inside, 4.685**2 / 6))
    close(losses.charbonnier_loss(X, Y, 0.5, reduction="none").double(), (d.square() + 0.25).sqrt())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: losses.pinball_loss(X, Y, 1.5), ValueError, "quantile must lie between 0 and 1.*is 1.5"),
        (lambda: losses.cauchy_loss(X, Y, 0.0), ValueError, "scale must be positive, and is 0.0"),
        (lambda: losses.welsch_loss(X, Y[:2]), ValueError, r"one shape, and have \(6,\) and \(2,\)"),
        (lambda: losses.log_cosh_loss(X.int(), Y.int()), TypeError, "convert it with .float()"),
        (lambda: losses.tukey_loss(X, Y, reduction="avg"), ValueError, "avg is not a valid value for reduction"),
        (lambda: losses.general_robust_loss(X, Y, math.inf), ValueError, "shape must be a number or -inf"),
        (lambda: losses.sigmoid_focal_loss(X, Y, gamma=-1.0), ValueError, "gamma must not be negative, and is -1.0"),
        (lambda: losses.PinballLoss(quantile=2.0), ValueError, "is 2.0"),
    ],
)
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_modules_have_their_functions_options():
    module = losses.PinballLoss(quantile=0.9, reduction="sum")
    assert repr(module) == "PinballLoss(quantile=0.9, reduction='sum')"
    close(module(X, Y), losses.pinball_loss(X, Y, 0.9, reduction="sum"))
    close(losses.SigmoidFocalLoss()(X, Y), losses.sigmoid_focal_loss(X, Y))
