"""Losses beyond torch's that are a sum over elements: robust ones, quantiles, and focal loss.

Each takes predictions and targets of one shape and a `reduction` ("mean", "sum" or "none"), and returns the dtype of
the prediction. Half precision is worked in float32 and rounded once. The modules have the functions' names and options.
"""

from __future__ import annotations

import math

from torch import Tensor

from .checks import check_floating, check_one_shape, check_reduction, not_negative, positive
from .elementwise import Elementwise
from .family import (
    BARRON,
    CAUCHY,
    CHARBONNIER,
    FOCAL,
    GEMAN_MCCLURE,
    LOG_COSH,
    MSE,
    PINBALL,
    TUKEY,
    WELSCH,
)
from .module import FunctionLoss


def log_cosh_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    r""":math:`\log\cosh(x - y)`: half the squared error near 0, the absolute error less log 2 far away.

    Source: Chen et al., "Log hyperbolic cosine loss improves variational auto-encoder" (2018).
    """
    return _loss(LOG_COSH, input, target, reduction)


def pinball_loss(input: Tensor, target: Tensor, quantile: float = 0.5, *, reduction: str = "mean") -> Tensor:
    """``quantile (y - x)`` below the target and ``(1 - quantile)(x - y)`` above: its minimiser is that quantile.

    Where prediction and target are equal, the slope is that of predictions below. Raises ValueError for a quantile
    outside of (0, 1). Source: Koenker and Bassett, "Regression quantiles", Econometrica 46 (1978).
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, both excluded, and is {quantile}")
    return _loss(PINBALL, input, target, reduction, quantile)


def charbonnier_loss(input: Tensor, target: Tensor, eps: float = 1e-3, *, reduction: str = "mean") -> Tensor:
    r""":math:`\sqrt{(x-y)^2 + \epsilon^2}`: the absolute error, rounded off at 0, where it is `eps` and not 0.

    Barron's and kornia's subtract `eps`. Source: Charbonnier et al., ICIP 1994.
    """
    return _loss(CHARBONNIER, input, target, reduction, positive("eps", eps))


def cauchy_loss(input: Tensor, target: Tensor, scale: float = 1.0, *, reduction: str = "mean") -> Tensor:
    r""":math:`\log(1 + r^2/2)` with :math:`r = (x-y)/\text{scale}`: the log-likelihood of a heavy-tailed error.

    As in Barron, arXiv 1701.03077, table 1; scipy's is twice that, of :math:`r^2` without the half. Source: Black and
    Anandan (1996).
    """
    return _loss(CAUCHY, input, target, reduction, positive("scale", scale))


def geman_mcclure_loss(input: Tensor, target: Tensor, scale: float = 1.0, *, reduction: str = "mean") -> Tensor:
    r""":math:`2r^2/(r^2 + 4)` with :math:`r = (x-y)/\text{scale}`: an error of any size costs less than 2.

    As in Barron, arXiv 1701.03077, equation 6. Source: Geman and McClure (1985).
    """
    return _loss(GEMAN_MCCLURE, input, target, reduction, positive("scale", scale))


def welsch_loss(input: Tensor, target: Tensor, scale: float = 1.0, *, reduction: str = "mean") -> Tensor:
    r""":math:`1 - e^{-r^2/2}` with :math:`r = (x-y)/\text{scale}` (Dennis and Welsch 1978; Leclerc's loss)."""
    return _loss(WELSCH, input, target, reduction, positive("scale", scale))


def tukey_loss(input: Tensor, target: Tensor, c: float = 4.685, *, reduction: str = "mean") -> Tensor:
    r"""Tukey's biweight, :math:`\frac{c^2}{6}(1 - (1 - r^2)^3)` with :math:`r = \min(|x-y|/c, 1)`.

    Errors above `c` pull no longer. The default is 95 % efficient for normal errors of variance 1. Source: Beaton and
    Tukey, Technometrics 16 (1974).
    """
    return _loss(TUKEY, input, target, reduction, positive("c", c))


def general_robust_loss(
    input: Tensor, target: Tensor, shape: float = 1.0, scale: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    r"""Barron's family: :math:`\frac{|a-2|}{a}((r^2/|a-2| + 1)^{a/2} - 1)` with :math:`r = (x-y)/\text{scale}`.

    `shape` a of 2 is half the squared error, 1 a smoothed absolute error (Charbonnier's less its value at 0), 0
    Cauchy's, -2 Geman and McClure's, ``-inf`` Welsch's; the limits are taken exactly. Source: Barron, "A general and
    adaptive robust loss function", CVPR 2019, arXiv 1701.03077, equations 1 and 8.
    """
    positive("scale", scale)
    if shape == 0:
        return cauchy_loss(input, target, scale, reduction=reduction)
    if shape == -math.inf:
        return welsch_loss(input, target, scale, reduction=reduction)
    if shape == 2:
        return _loss(MSE, input, target, reduction) * (0.5 / scale**2)
    if not math.isfinite(shape):
        raise ValueError(f"shape must be a number or -inf, and is {shape}")
    return _loss(BARRON, input, target, reduction, shape, scale)


def sigmoid_focal_loss(
    input: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0, *, reduction: str = "none"
) -> Tensor:
    r""":math:`-\alpha_t (1 - p_t)^\gamma \log p_t` of logits: binary cross-entropy in which easy examples count less.

    `target` is 1 or 0; `alpha` weighs the ones and ``1 - alpha`` the zeros, and a negative one weighs nothing.
    Arguments and the default reduction are torchvision's. Exact for logits of any size. Source: Lin et al., "Focal loss
    for dense object detection", arXiv 1708.02002, equations 4 and 5.
    """
    not_negative("gamma", gamma)
    return _loss(FOCAL, input, target.to(input.dtype), reduction, alpha, gamma)


def _loss(loss: Elementwise, input: Tensor, target: Tensor, reduction: str, *constants: float) -> Tensor:
    check_reduction(reduction)
    check_one_shape(input, target)
    check_floating(input)
    return loss(input, target, reduction, tuple(map(float, constants)))


class LogCoshLoss(FunctionLoss):
    """`log_cosh_loss` as a module."""

    function = staticmethod(log_cosh_loss)


class PinballLoss(FunctionLoss):
    """`pinball_loss` as a module, ``PinballLoss(quantile=0.9)``.

    Example: the prediction walks to the quantile of the targets::

        >>> target = torch.arange(1.0, 11.0)
        >>> prediction = torch.zeros((), requires_grad=True)
        >>> loss = PinballLoss(quantile=0.85)
        >>> for _ in range(40):
        ...     error = loss(prediction.expand(10), target)
        ...     (gradient,) = torch.autograd.grad(error, prediction)
        ...     prediction = (prediction - gradient).detach().requires_grad_()
        >>> 8 < prediction.item() < 10
        True
    """

    function = staticmethod(pinball_loss)


class CharbonnierLoss(FunctionLoss):
    """`charbonnier_loss` as a module."""

    function = staticmethod(charbonnier_loss)


class CauchyLoss(FunctionLoss):
    """`cauchy_loss` as a module."""

    function = staticmethod(cauchy_loss)


class GemanMcClureLoss(FunctionLoss):
    """`geman_mcclure_loss` as a module."""

    function = staticmethod(geman_mcclure_loss)


class WelschLoss(FunctionLoss):
    """`welsch_loss` as a module."""

    function = staticmethod(welsch_loss)


class TukeyLoss(FunctionLoss):
    """`tukey_loss` as a module."""

    function = staticmethod(tukey_loss)


class GeneralRobustLoss(FunctionLoss):
    """`general_robust_loss` as a module."""

    function = staticmethod(general_robust_loss)


class SigmoidFocalLoss(FunctionLoss):
    """`sigmoid_focal_loss` as a module."""

    function = staticmethod(sigmoid_focal_loss)
