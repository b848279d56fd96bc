"""Losses that stop at a margin: of two scores, of scores for classes, and of distances between embeddings.

Arguments, shapes, dtypes, warnings, errors and values at the edges are those of `torch.nn.functional` and `torch.nn`.
Ranking is elementwise, with kernels for CPUs and GPUs. The others have kernels for CPUs, which take contiguous scores
``(N, C)`` and vectors ``(N, D)`` of one shape, and work sums in float64; the rest, and a GPU, is left to torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..dialect import where
from ..executors.kernels import SINGLE_AND_DOUBLE
from .cross_entropy import is_weight
from .fused import MOST_SIZES, REDUCTIONS, Kernel, by_kernel, on, on_cpu, unwatched_pair
from .triples import MARGIN_RANKING
from .vectors import COSINE, SWAPPED_TRIPLET, TRIPLET

#: below this many scores, or in rows of fewer, torch's own loops over them take less time than a kernel and its call
SMALL, SHORT = 4096, 8


def margin_ranking_loss(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean") -> Tensor:
    """``max(0, -target (input1 - input2) + margin)``: which of two scores is the larger one, by a margin.

    A target of 1 wants the first above the second, -1 the second above the first. One pass makes the gradients of both
    scores. Source: Herbrich, Graepel and Obermayer, "Large margin rank boundaries for ordinal regression" (2000). See
    `torch.nn.functional.margin_ranking_loss`.
    """
    fast = size_average is None and reduce is None
    if fast and MARGIN_RANKING.takes(input1, (input2, target), reduction):
        return MARGIN_RANKING.by_kernel(input1, (input2, target), reduction, (margin,))
    return F.margin_ranking_loss(input1, input2, target, margin, size_average, reduce, reduction)


def cosine_embedding_loss(input1, input2, target, margin=0, size_average=None, reduce=None, reduction="mean") -> Tensor:
    """``1 - cos`` of two vectors where the target is 1, and ``max(0, cos - margin)`` where it is -1.

    Directions count, and lengths do not. torch adds 1e-12 to squared lengths, so that a zero vector has a cosine of 0,
    but a gradient of the order of 1e6. One pass makes the gradients of both vectors. See
    `torch.nn.functional.cosine_embedding_loss`.
    """
    if size_average is None and reduce is None:
        value = COSINE.fast((input1, input2), target, reduction, (margin,), _cosine)
        if value is not None:
            return value
    return F.cosine_embedding_loss(input1, input2, target, margin, size_average, reduce, reduction)


def multi_margin_loss(
    input, target, p=1, margin=1.0, weight=None, size_average=None, reduce=None, reduction="mean"
) -> Tensor:
    """The sum over wrong classes of ``max(0, margin - x_t + x_j)^p``, divided by the number of classes; p is 1 or 2.

    Source: Weston and Watkins, "Support vector machines for multi-class pattern recognition", ESANN 1999. See
    `torch.nn.functional.multi_margin_loss`.
    """
    if (
        input.numel() >= SMALL
        and size_average is None
        and reduce is None
        and _takes(input, target, reduction)
        and (weight is None or is_weight(weight, input))
    ):
        kernel = _multi_margin(input.shape, input.dtype, target.shape, target.dtype, reduction, p, margin)
        if kernel is not None:
            return by_kernel(kernel, input, target, weight)
    return F.multi_margin_loss(input, target, p, margin, weight, size_average, reduce, reduction)


def multilabel_margin_loss(input, target, size_average=None, reduce=None, reduction="mean") -> Tensor:
    """The sum of ``max(0, 1 - x_j + x_i)`` over right labels j and wrong ones i, divided by the number of classes.

    `target` names the right labels in its first places, and ends them with -1. Source: Crammer and Singer, "A family of
    additive online algorithms for category ranking", JMLR 3 (2003). See `torch.nn.functional.multilabel_margin_loss`.
    """
    if input.numel() >= SMALL and size_average is None and reduce is None and _takes(input, target, reduction):
        kernel = _multilabel_margin(input.shape, input.dtype, target.shape, target.dtype, reduction)
        if kernel is not None:
            return by_kernel(kernel, input, target)
    return F.multilabel_margin_loss(input, target, size_average, reduce, reduction)


def triplet_margin_loss(
    anchor,
    positive,
    negative,
    margin=1.0,
    p=2,
    eps=1e-6,
    swap=False,
    size_average=None,
    reduce=None,
    reduction="mean",
) -> Tensor:
    """``max(0, d(a, p) - d(a, n) + margin)``, d the p-norm of the difference, to which `eps` is added.

    An embedding is to be nearer to its like than to a stranger. With `swap` the stranger's distance is the smaller of
    those to the anchor and to the positive. Source: Balntas et al., "Learning local feature descriptors with triplets
    and shallow convolutional neural networks", BMVC 2016. One pass makes the gradients of all three; norms other than
    `p` of 2 are torch's own. See `torch.nn.functional.triplet_margin_loss`.
    """
    if size_average is None and reduce is None and p == 2:
        value = _triplet(anchor, positive, negative, margin, eps, swap, reduction)
        if value is not None:
            return value
    return F.triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, size_average, reduce, reduction)


def triplet_margin_with_distance_loss(
    anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False, reduction="mean"
) -> Tensor:
    """`triplet_margin_loss` with any distance of two batches of vectors, by default that of Euclid.

    With the default it is one pass as well. See `torch.nn.functional.triplet_margin_with_distance_loss`.
    """
    if distance_function is None:
        value = _triplet(anchor, positive, negative, margin, 1e-6, swap, reduction)
        if value is not None:
            return value
    options = {"distance_function": distance_function, "margin": margin, "swap": swap, "reduction": reduction}
    return F.triplet_margin_with_distance_loss(anchor, positive, negative, **options)


def hinge(z):
    return where(z > 0, z, 0)


def hinge_slope(z):
    return where(z > 0, 1, 0)


def squared_hinge(z):
    return where(z > 0, z * z, 0)


def squared_hinge_slope(z):
    return where(z > 0, 2 * z, 0)


HINGES = {1: (hinge, hinge_slope), 2: (squared_hinge, squared_hinge_slope)}


def _takes(input: Tensor, target: Tensor, reduction: str) -> bool:
    """Whether a kernel may read scores and classes."""
    return reduction in REDUCTIONS and unwatched_pair(input, target) and on_cpu(input)


def _is_scores(shape: torch.Size, dtype: torch.dtype) -> bool:
    return dtype in SINGLE_AND_DOUBLE and len(shape) == 2 and shape[0] > 0 and shape[1] >= SHORT


@functools.lru_cache(MOST_SIZES)
def _multi_margin(
    shape: torch.Size,
    dtype: torch.dtype,
    target_shape: torch.Size,
    target_dtype: torch.dtype,
    reduction: str,
    p: int,
    margin: float,
) -> Kernel | None:
    """The kernel for tensors of such shapes and dtypes with these options; None where torch is asked."""
    if not _is_scores(shape, dtype) or (target_shape, target_dtype) != (shape[:1], torch.int64):
        return None
    if p not in HINGES or not isinstance(margin, (int, float)):
        return None

    def plain(input, target, weight):
        return F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)

    return on(torch.device("cpu"), "by_rows_").multi_margin(plain, shape, dtype, reduction, HINGES[p], margin)


@functools.lru_cache(MOST_SIZES)
def _multilabel_margin(
    shape: torch.Size, dtype: torch.dtype, target_shape: torch.Size, target_dtype: torch.dtype, reduction: str
) -> Kernel | None:
    """The same."""
    if not _is_scores(shape, dtype) or (target_shape, target_dtype) != (shape, torch.int64):
        return None
    plain = functools.partial(F.multilabel_margin_loss, reduction=reduction)
    return on(torch.device("cpu"), "by_rows_").multilabel_margin(plain, shape, dtype, reduction, HINGES[1])


def _cosine(reduction: str, margin: float) -> Callable[..., Tensor]:
    return functools.partial(F.cosine_embedding_loss, margin=margin, reduction=reduction)


def _triplet(anchor, positive, negative, margin, eps, swap, reduction) -> Tensor | None:
    """The loss with Euclid's distance by a kernel; None where torch is asked, which refuses a margin of 0 and less."""
    if not margin > 0:
        return None
    loss, plain = (SWAPPED_TRIPLET, _swapped) if swap else (TRIPLET, _unswapped)
    return loss.fast((anchor, positive, negative), None, reduction, (margin, eps), plain)


def _unswapped(reduction: str, margin: float, eps: float) -> Callable[..., Tensor]:
    return functools.partial(F.triplet_margin_loss, margin=margin, eps=eps, reduction=reduction)


def _swapped(reduction: str, margin: float, eps: float) -> Callable[..., Tensor]:
    return functools.partial(F.triplet_margin_loss, margin=margin, eps=eps, swap=True, reduction=reduction)


class MarginRankingLoss(nn.MarginRankingLoss):
    """`margin_ranking_loss` as a module.

    Example: the second score overtakes the first, by the margin::

        >>> loss = MarginRankingLoss(margin=0.5)
        >>> first, second = torch.tensor([1.0], requires_grad=True), torch.tensor([0.6], requires_grad=True)
        >>> for _ in range(3):
        ...     error = loss(first, second, torch.tensor([-1.0]))
        ...     slopes = torch.autograd.grad(error, (first, second))
        ...     first, second = [(x - 0.25 * g).detach().requires_grad_() for x, g in zip((first, second), slopes)]
        ...     print(f"{error:.2f} {first.item():.2f} {second.item():.2f}")
        0.90 0.75 0.85
        0.40 0.50 1.10
        0.00 0.50 1.10
    """

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(nn.CosineEmbeddingLoss):
    """`cosine_embedding_loss` as a module."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class MultiMarginLoss(nn.MultiMarginLoss):
    """`multi_margin_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        options = {"p": self.p, "margin": self.margin, "weight": self.weight, "reduction": self.reduction}
        return multi_margin_loss(input, target, **options)


class MultiLabelMarginLoss(nn.MultiLabelMarginLoss):
    """`multilabel_margin_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return multilabel_margin_loss(input, target, reduction=self.reduction)


class TripletMarginLoss(nn.TripletMarginLoss):
    """`triplet_margin_loss` as a module."""

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        options = {"margin": self.margin, "p": self.p, "eps": self.eps, "swap": self.swap}
        return triplet_margin_loss(anchor, positive, negative, reduction=self.reduction, **options)


class TripletMarginWithDistanceLoss(nn.TripletMarginWithDistanceLoss):
    """`triplet_margin_with_distance_loss` as a module."""

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        options = {"distance_function": self.distance_function, "margin": self.margin, "swap": self.swap}
        return triplet_margin_with_distance_loss(anchor, positive, negative, reduction=self.reduction, **options)
