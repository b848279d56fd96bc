"""torch's losses that are a sum over elements: the same functions and modules, each in one pass over memory.

Arguments, shapes, dtypes, warnings and errors are those of `torch.nn.functional` and `torch.nn`; what a kernel does not
take (other layouts, broadcasting, weights, targets that want a gradient, small tensors) goes to torch itself.
Sums are taken in float64 and rounded once, so half-precision means do not overflow. Gradients are made in the forward
pass, of the mean and the sum, and scaled in the backward pass unless the scale is 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .family import (
    EXACT_KL_DIV,
    EXACT_SOFT_MARGIN,
    HINGE_EMBEDDING,
    HUBER,
    KL_DIV,
    KL_DIV_LOG,
    L1,
    MSE,
    POISSON_NLL,
    POISSON_NLL_LOG,
    SMOOTH_L1,
    SOFT_MARGIN,
)
from .fused import named, on_cpu


def mse_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None) -> Tensor:
    """The squared error ``(input - target)²``, whose minimiser is the mean (Legendre 1805, Gauss 1809).

    Large errors count more than small ones, and the gradient shrinks as the prediction comes closer, so that gradient
    descent slows down by itself near the target. See `torch.nn.functional.mse_loss`.
    """
    if weight is None and size_average is None and reduce is None:
        value = MSE.fast(input, target, reduction)
        if value is not None:
            return value
    return F.mse_loss(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg]


def l1_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None) -> Tensor:
    """The absolute error, whose minimiser is the median. See `torch.nn.functional.l1_loss`."""
    if weight is None and size_average is None and reduce is None:
        value = L1.fast(input, target, reduction)
        if value is not None:
            return value
    return F.l1_loss(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg]


def smooth_l1_loss(input, target, size_average=None, reduce=None, reduction="mean", beta=1.0) -> Tensor:
    """Squared error over ``2 beta`` below `beta`, absolute above (Girshick, arXiv 1504.08083, equation 3).

    See `torch.nn.functional.smooth_l1_loss`.
    """
    if beta > 0 and size_average is None and reduce is None:
        value = SMOOTH_L1.fast(input, target, reduction, (beta,))
        if value is not None:
            return value
    return F.smooth_l1_loss(input, target, size_average, reduce, reduction, beta)


def huber_loss(input, target, reduction="mean", delta=1.0, weight=None) -> Tensor:
    """Half the squared error up to `delta`, and a straight line on (Huber 1964): outliers pull no harder than `delta`.

    See `torch.nn.functional.huber_loss`.
    """
    if weight is None and delta > 0:
        value = HUBER.fast(input, target, reduction, (delta,))
        if value is not None:
            return value
    return F.huber_loss(input, target, reduction, delta, weight)  # type: ignore[call-arg]


def kl_div(
    input, target, size_average=None, reduce=None, reduction="mean", log_target=False, *, exact: bool = False
) -> Tensor:
    """``target (log target - input)``, `input` being log-probabilities (Kullback and Leibler 1951).

    exact: a target of 0 costs 0 even where the prediction is ``-inf``; torch makes nan of that product.
    See `torch.nn.functional.kl_div` for the rest, "batchmean" and the warning about "mean" among it.
    """
    loss = KL_DIV_LOG if log_target else EXACT_KL_DIV if exact else KL_DIV
    if exact:
        size_average, reduce, reduction = None, None, named(reduction, size_average, reduce)
    within = "sum" if reduction == "batchmean" and not on_cpu(input) else reduction
    value = loss.fast(input, target, within) if size_average is None and reduce is None else None
    if value is None and not (exact and not log_target):
        return F.kl_div(input, target, size_average, reduce, reduction, log_target)
    if reduction == "mean":
        F.kl_div(input.detach().reshape(-1)[:0], target.reshape(-1)[:0])  # gives the warning
    if value is None:
        within = "sum" if reduction == "batchmean" else reduction
        value = loss(input, target, within)
    return value / input.shape[0] if within != reduction and input.dim() else value


def poisson_nll_loss(
    input, target, log_input=True, full=False, size_average=None, eps=1e-8, reduce=None, reduction="mean"
) -> Tensor:
    """``exp(input) - target input``, or without `log_input` ``input - target log(input + eps)``.

    See `torch.nn.functional.poisson_nll_loss`; with `full`, torch computes it.
    """
    loss, constants = (POISSON_NLL_LOG, ()) if log_input else (POISSON_NLL, (eps,))
    if not full and size_average is None and reduce is None:
        value = loss.fast(input, target, reduction, constants)
        if value is not None:
            return value
    return F.poisson_nll_loss(input, target, log_input, full, size_average, eps, reduce, reduction)


def soft_margin_loss(input, target, size_average=None, reduce=None, reduction="mean", *, exact: bool = False) -> Tensor:
    """``log(1 + exp(-target input))`` for targets of 1 and -1.

    exact: right for large margins too; torch's overflows, to inf and a gradient of nan, where ``-target input`` is
    above 88 in float32 and above 11 in float16. See `torch.nn.functional.soft_margin_loss`.
    """
    if exact:
        return EXACT_SOFT_MARGIN(input, target, named(reduction, size_average, reduce))
    if size_average is None and reduce is None:
        value = SOFT_MARGIN.fast(input, target, reduction)
        if value is not None:
            return value
    return F.soft_margin_loss(input, target, size_average, reduce, reduction)


def hinge_embedding_loss(input, target, margin=1.0, size_average=None, reduce=None, reduction="mean") -> Tensor:
    """`input` where the target is 1, and ``max(0, margin - input)`` where it is -1.

    See `torch.nn.functional.hinge_embedding_loss`.
    """
    if size_average is None and reduce is None:
        value = HINGE_EMBEDDING.fast(input, target, reduction, (margin,))
        if value is not None:
            return value
    return F.hinge_embedding_loss(input, target, margin, size_average, reduce, reduction)


class MSELoss(nn.MSELoss):
    """`mse_loss` as a module.

    Example: four steps against the gradient, each of which makes the error smaller::

        >>> loss = MSELoss()
        >>> target = torch.tensor([1.0, 2.0])
        >>> prediction = torch.zeros(2, requires_grad=True)
        >>> for _ in range(4):
        ...     error = loss(prediction, target)
        ...     (gradient,) = torch.autograd.grad(error, prediction)
        ...     prediction = (prediction - 0.25 * gradient).detach().requires_grad_()
        ...     print(f"{error:.4f}")
        2.5000
        1.4062
        0.7910
        0.4449
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, reduction=self.reduction)


class L1Loss(nn.L1Loss):
    """`l1_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(nn.SmoothL1Loss):
    """`smooth_l1_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(nn.HuberLoss):
    """`huber_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class KLDivLoss(nn.KLDivLoss):
    """`kl_div` as a module; `exact` as there."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", log_target=False, *, exact: bool = False):
        super().__init__(size_average, reduce, reduction, log_target)
        self.exact = exact

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return kl_div(input, target, reduction=self.reduction, log_target=self.log_target, exact=self.exact)


class PoissonNLLLoss(nn.PoissonNLLLoss):
    """`poisson_nll_loss` as a module."""

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        options = {"log_input": self.log_input, "full": self.full, "eps": self.eps}
        return poisson_nll_loss(log_input, target, reduction=self.reduction, **options)


class SoftMarginLoss(nn.SoftMarginLoss):
    """`soft_margin_loss` as a module; `exact` as there."""

    def __init__(self, size_average=None, reduce=None, reduction="mean", *, exact: bool = False):
        super().__init__(size_average, reduce, reduction)
        self.exact = exact

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return soft_margin_loss(input, target, reduction=self.reduction, exact=self.exact)


class HingeEmbeddingLoss(nn.HingeEmbeddingLoss):
    """`hinge_embedding_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)
