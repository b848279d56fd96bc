"""Binary cross-entropies: of probabilities, of logits, and of logits for many labels at once.

Arguments, shapes, dtypes, warnings, errors and values at the edges are those of `torch.nn.functional` and `torch.nn`;
what a kernel does not take goes to torch itself, as in `pointwise`. Weights that have one number for each element, or
are spread over them, are taken by a kernel too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..executors.tensors import PLAIN_TYPES
from .elementwise import reduced
from .family import (
    BCE,
    BCE_WITH_LOGITS,
    BCE_WITH_POS_WEIGHT,
    EXACT_BCE,
    EXACT_BCE_WITH_LOGITS,
    MULTILABEL_SOFT_MARGIN,
)
from .fused import named
from .triples import BCE_WITH_POS_WEIGHTS, WEIGHTED_BCE, WEIGHTED_BCE_WITH_LOGITS


def binary_cross_entropy(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", *, exact: bool = False
) -> Tensor:
    """``-y log p - (1 - y) log (1 - p)`` of probabilities: the negative log-likelihood of coins (Good 1952).

    Its minimiser is the share of ones. For probabilities that come from logits, `binary_cross_entropy_with_logits` is
    exact where a probability has been rounded to 0 or 1.

    exact: the true logarithms, so that a wrong certainty costs ``inf`` and has a gradient of ``-inf``, and the target 1
    at ``p = 1e-30`` a gradient of -1e30; torch stops logarithms at -100, and divides by 1e-12 at least.
    See `torch.nn.functional.binary_cross_entropy`; RuntimeError for what is not between 0 and 1.
    """
    if exact:
        return _exact_bce(input, target, weight, named(reduction, size_average, reduce))
    # a kernel tells of what is no probability by its sum (for which a GPU would have to be waited for); without one,
    # torch is one pass too
    fast = size_average is None and reduce is None and reduction in ("mean", "sum") and input.device.type == "cpu"
    if fast:
        value = _bce_by_kernel(input, target, weight, reduction)
        if value is not None and not math.isnan(value.item()):
            return value
    return F.binary_cross_entropy(input, target, weight, size_average, reduce, reduction)


def _bce_by_kernel(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor | None:
    if weight is None:
        return BCE.fast(input, target, reduction)
    spread = _spread(weight, input) if BCE.takes(input, target, reduction) else None
    return None if spread is None else WEIGHTED_BCE.by_kernel(input, (target, spread), reduction)


def _exact_bce(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    checked = (
        weight is None
        and reduction != "none"
        and input.device.type == "cpu"
        and EXACT_BCE.takes(input, target, reduction)
    )
    if not checked:  # torch refuses wrong shapes, numbers and reductions
        F.binary_cross_entropy(input.detach(), target.detach(), weight, reduction=reduction)
    if weight is not None:
        return reduced(EXACT_BCE(input, target, "none") * weight, reduction)
    value = EXACT_BCE(input, target, reduction)
    if checked and value.isnan():
        F.binary_cross_entropy(input.detach(), target)
    return value


def binary_cross_entropy_with_logits(
    input,
    target,
    weight=None,
    size_average=None,
    reduce=None,
    reduction="mean",
    pos_weight=None,
    *,
    exact: bool = False,
) -> Tensor:
    """``-y log s(x) - (1 - y) log (1 - s(x))`` with the logistic s, which cannot overflow at large logits (Cox 1958).

    `pos_weight` multiplies the first term, `weight` all of it.

    exact: an infinite logit of the right sign costs 0, where torch makes nan of it.
    See `torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    if exact:
        return _exact_with_logits(input, target, weight, named(reduction, size_average, reduce), pos_weight)
    if size_average is None and reduce is None:
        if weight is None and pos_weight is None:
            value = BCE_WITH_LOGITS.fast(input, target, reduction)
            if value is not None:
                return value
        found = _kernel_with_logits(input, target, weight, pos_weight, reduction)
        if found is not None:
            loss, others, constants = found
            return loss.by_kernel(input, others, reduction, constants)
    return F.binary_cross_entropy_with_logits(input, target, weight, size_average, reduce, reduction, pos_weight)


def _kernel_with_logits(input, target, weight, pos_weight, reduction) -> tuple[Any, Any, tuple[float, ...]] | None:
    """The loss, its tensors after the first, and its constants; None where torch is asked."""
    if (weight is None and pos_weight is None) or not BCE_WITH_LOGITS.takes(input, target, reduction):
        return None
    one = 1.0 if pos_weight is None else _one_number(pos_weight, input)
    if weight is None and one is not None:
        return BCE_WITH_POS_WEIGHT, target, (one,)
    if weight is None:
        spread = _spread(pos_weight, input)
        return None if spread is None else (BCE_WITH_POS_WEIGHTS, (target, spread), ())
    spread = _spread(weight, input)
    return None if spread is None or one is None else (WEIGHTED_BCE_WITH_LOGITS, (target, spread), (one,))


def _exact_with_logits(input, target, weight, reduction, pos_weight) -> Tensor:
    if target.shape != input.shape or reduction not in ("none", "mean", "sum"):  # torch says what is wrong
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)
    dtype = torch.promote_types(input.dtype, target.dtype)
    input, target = input.to(dtype), target.to(dtype)
    if weight is None and pos_weight is None:
        return EXACT_BCE_WITH_LOGITS(input, target, reduction)
    zero = torch.zeros_like(target)
    ones = torch.where(target == 0, zero, -target * F.logsigmoid(input))
    zeros = torch.where(target == 1, zero, (target - 1) * F.logsigmoid(-input))
    values = zeros + (ones if pos_weight is None else pos_weight * ones)
    return reduced(values if weight is None else weight * values, reduction)


def multilabel_soft_margin_loss(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", *, exact: bool = False
) -> Tensor:
    """Binary cross-entropy of logits ``(..., C)``, averaged over the C labels of an example, each of which is 0 or 1.

    exact: as in `binary_cross_entropy_with_logits`. See `torch.nn.functional.multilabel_soft_margin_loss`.
    """
    if exact:
        reduction = named(reduction, size_average, reduce)
        if input.dim() == 0 or reduction not in ("none", "mean", "sum"):  # torch says what is wrong
            return F.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)
        input, target = torch.broadcast_tensors(input, target)
        values = _exact_with_logits(input, target, weight, "none", None)
        return reduced(values.mean(-1), reduction)
    labels = input.shape[-1] if input.dim() else 0
    fast = weight is None and size_average is None and reduce is None and labels > 0
    value = MULTILABEL_SOFT_MARGIN.fast(input, target, reduction) if fast else None
    if value is not None:
        return value.mean(-1) if reduction == "none" else value / labels if reduction == "sum" else value
    return F.multilabel_soft_margin_loss(input, target, weight, size_average, reduce, reduction)


def _one_number(weight: Tensor, input: Tensor) -> float | None:
    """A weight for all elements, as a number."""
    return float(weight) if weight.numel() == 1 and _fits(weight, input) else None


def _spread(weight: Tensor, input: Tensor) -> Tensor | None:
    """A weight for each element; None where a weight does not fit, or wants a gradient."""
    return weight.expand_as(input).contiguous() if _fits(weight, input) else None


def _fits(weight: Tensor, input: Tensor) -> bool:
    sizes = zip(reversed(weight.shape), reversed(input.shape), strict=False)
    return (
        type(weight) in PLAIN_TYPES
        and weight.dtype == input.dtype
        and weight.device == input.device
        and weight.layout is torch.strided
        and not weight.requires_grad
        and not weight.is_neg()
        and weight.dim() <= input.dim()
        and all(w in (1, n) for w, n in sizes)
    )


class BCELoss(nn.BCELoss):
    """`binary_cross_entropy` as a module; `exact` as there.

    Example: the prediction walks to the share of ones among the targets::

        >>> loss, target = BCELoss(), torch.tensor([1.0, 1.0, 1.0, 0.0])
        >>> p = torch.tensor(0.5, requires_grad=True)
        >>> for _ in range(4):
        ...     error = loss(p.expand(4), target)
        ...     (gradient,) = torch.autograd.grad(error, p)
        ...     p = (p - 0.1 * gradient).detach().requires_grad_()
        ...     print(f"{p:.3f} {error:.4f}")
        0.600 0.6931
        0.663 0.6122
        0.702 0.5803
        0.725 0.5681
    """

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", *, exact: bool = False):
        super().__init__(weight, size_average, reduce, reduction)
        self.exact = exact

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction, exact=self.exact)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """`binary_cross_entropy_with_logits` as a module; `exact` as there."""

    def __init__(
        self, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None, *, exact: bool = False
    ):
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.exact = exact

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        weights = {"weight": self.weight, "pos_weight": self.pos_weight}
        return binary_cross_entropy_with_logits(input, target, reduction=self.reduction, exact=self.exact, **weights)


class MultiLabelSoftMarginLoss(nn.MultiLabelSoftMarginLoss):
    """`multilabel_soft_margin_loss` as a module; `exact` as there."""

    def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean", *, exact: bool = False):
        super().__init__(weight, size_average, reduce, reduction)
        self.exact = exact

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return multilabel_soft_margin_loss(input, target, self.weight, reduction=self.reduction, exact=self.exact)
