"""The losses beyond torch's: their limits, what others compute, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from optimizers import losses

from .agreement import assert_agree, normal

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


WIDE = (normal(200, scale=3.0), normal(200, seed=1, scale=3.0))


def test_kornias_robust_losses():
    kornia = pytest.importorskip("kornia.losses")
    x, y = WIDE
    for ours, theirs in (
        (losses.cauchy_loss, kornia.cauchy_loss),
        (losses.geman_mcclure_loss, kornia.geman_mcclure_loss),
        (losses.welsch_loss, kornia.welsch_loss),
        (lambda a, b, **o: losses.charbonnier_loss(a, b, 1.0, **o) - 1, kornia.charbonnier_loss),
        (lambda a, b, **o: losses.general_robust_loss(a, b, 1.0, **o), kornia.charbonnier_loss),
        (lambda a, b, **o: losses.general_robust_loss(a, b, -2.0, **o), kornia.geman_mcclure_loss),
    ):
        assert_agree(
            lambda a, ours=ours: ours(a, y, reduction="none"),
            lambda a, theirs=theirs: theirs(a, y, reduction="none"),
            x,
            rtol=1e-8,
        )


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scipys_least_squares_costs(scale):
    """It has half of scale² rho(r²/scale²), in which rho of Cauchy's is log(1 + z) and of soft L1 2(√(1 + z) - 1)."""
    optimize = pytest.importorskip("scipy.optimize")
    x, y = WIDE

    def cost(loss, f_scale):
        residuals = (x - y).numpy()
        return optimize.least_squares(lambda p: residuals + 0 * p, [0.0], loss=loss, f_scale=f_scale, max_nfev=1).cost

    ours = losses.cauchy_loss(x, y, scale, reduction="sum") * scale**2
    assert ours.item() == pytest.approx(cost("cauchy", scale * 2**0.5), rel=1e-12)
    ours = (losses.charbonnier_loss(x, y, scale, reduction="none") - scale).sum() * scale
    assert ours.item() == pytest.approx(cost("soft_l1", scale), rel=1e-12)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.85])
def test_sklearns_pinball_loss(quantile):
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = WIDE
    goal = metrics.mean_pinball_loss(y.numpy(), x.numpy(), alpha=quantile)
    assert losses.pinball_loss(x, y, quantile).item() == pytest.approx(goal, rel=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.7, 0.5), (-1.0, 1.5)])
def test_kornias_sigmoid_focal_loss(alpha, gamma):
    kornia = pytest.importorskip("kornia.losses")
    x, y = WIDE[0][:, None], (WIDE[1] > 0).double()[:, None]
    assert_agree(
        lambda a: losses.sigmoid_focal_loss(a, y, alpha, gamma),
        lambda a: kornia.binary_focal_loss_with_logits(a, y, alpha=None if alpha < 0 else alpha, gamma=gamma),
        x,
    )


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
