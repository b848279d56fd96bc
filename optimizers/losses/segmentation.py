"""Losses of overlap between regions, for segmentation: dice and its relatives, and Lovász's.

`input` is logits ``(N, C, ...)``. A `target` of the same shape holds masks, one for each channel (0 and 1, or anything
between for dice and its relatives), and probabilities are the sigmoid; a target ``(N, ...)`` of integers holds class
indices, and probabilities are the softmax over the channels. A mask without a channel needs ``.unsqueeze(1)``.

Sums are over the pixels of each sample and channel, or with ``batch=True`` over those of all samples. Pixels whose
target is `ignore_index` are left out. Half precision is worked in float32 and rounded once, so that the sums of large
images do not overflow. Plain torch: differentiable as often as you like, on any device.

All raise ValueError for shapes that do not fit and class indices outside of [0, C).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_classes, check_floating, check_one_of, check_reduction, not_negative, positive, working
from .elementwise import reduced
from .module import FunctionLoss

CLASSES = ("present", "all")


def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1e-5,
    squared: bool = False,
    batch: bool = False,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`1 - \frac{2\sum py + s}{\sum p + \sum y + s}`: one less the share of two regions that overlaps.

    p are the probabilities and y the target. With `squared` the denominator is :math:`\sum p^2 + \sum y^2 + s`, as in
    the paper. The result has a value for each sample and channel, ``(N, C)``, or with `batch` for each channel
    ``(C,)``, which `reduction` "mean" averages.

    Libraries differ in s, `smooth`: here, as in monai, it is in numerator and denominator, so that an absent class that
    is not predicted costs nothing; segmentation-models-pytorch's is half of it, and kornia has it in the denominator
    only and leaves absent classes out of its mean. With a `smooth` of 0 such a class is nan. Where targets lie
    between 0 and 1 this loss, as its relatives, is least not at p = y but at a p of 0 or 1; monai (``soft_label``) and
    segmentation-models-pytorch take :math:`\min(p, y)` for the product.

    Source: Milletari et al., "V-Net", arXiv 1606.04797, section 3.
    """
    not_negative("smooth", smooth)
    check_reduction(reduction)
    p, y = _regions(input, target, ignore_index)
    overlap = _total(p * y, batch)
    sizes = _total(p.square(), batch) + _total(y.square(), batch) if squared else _total(p, batch) + _total(y, batch)
    return reduced(1 - (2 * overlap + smooth) / (sizes + smooth), reduction).to(input.dtype)


def generalized_dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1e-5,
    batch: bool = False,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`1 - \frac{2\sum_c w_c\sum py + s}{\sum_c w_c(\sum p + \sum y) + s}`, :math:`w_c \propto 1/(\sum y)^2`.

    Small classes count as much as large ones. The result has a value for each sample, ``(N,)``, or with `batch` one.
    Weights are relative to that of the smallest class that is present, which is 1, so that `smooth` means the same at
    every size of image; in monai it outweighs large regions. An absent class has weight 1 too, as in monai.

    Source: Sudre et al., "Generalised Dice overlap", arXiv 1707.03237, equation 3.
    """
    not_negative("smooth", smooth)
    check_reduction(reduction)
    p, y = _regions(input, target, ignore_index)
    overlap, size = _total(p * y, batch), _total(y, batch)
    least = size.masked_fill(size == 0, torch.inf).amin(-1, keepdim=True)
    weight = (least / size.maximum(least)).square().masked_fill(torch.isinf(least), 1)
    top = 2 * (weight * overlap).sum(-1) + smooth
    bottom = (weight * (_total(p, batch) + size)).sum(-1) + smooth
    return reduced(1 - top / bottom, reduction).to(input.dtype)


def tversky_loss(
    input: Tensor,
    target: Tensor,
    alpha: float = 0.5,
    beta: float = 0.5,
    *,
    smooth: float = 1e-5,
    batch: bool = False,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`1 - \frac{TP + s}{TP + \alpha FP + \beta FN + s}`: dice that weighs the two kinds of error.

    `alpha` weighs false positives :math:`\sum p(1-y)` and `beta` false negatives :math:`\sum (1-p)y`, as in the paper,
    whose best are 0.3 and 0.7, and as in monai and kornia; Abraham and Khan have them the other way round. One half for
    both is `dice_loss` with twice the `smooth`, and 1 for both Jaccard's index. Values are as many as `dice_loss` has.

    Source: Salehi et al., "Tversky loss function", arXiv 1706.05721, equation 3.
    """
    check_reduction(reduction)
    return reduced(_tversky(input, target, alpha, beta, smooth, batch, ignore_index), reduction).to(input.dtype)


def focal_tversky_loss(
    input: Tensor,
    target: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    *,
    smooth: float = 1e-5,
    batch: bool = False,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""`tversky_loss` to the power of :math:`1/\gamma`: with a `gamma` above 1, classes done well still count.

    The power is the paper's; segmentation-models-pytorch raises to `gamma` itself. `alpha` weighs false positives and
    `beta` false negatives, as in `tversky_loss`; the paper's alpha is this beta, and the defaults are its values. The
    paper sums over classes: ``reduction="sum"``. A loss of 0 has a gradient of 0.

    Source: Abraham and Khan, "A novel focal Tversky loss function", arXiv 1810.07842, equation 4.
    """
    check_reduction(reduction)
    positive("gamma", gamma)
    values = _tversky(input, target, alpha, beta, smooth, batch, ignore_index)
    # at 0 the slope of the power is infinite
    powers = values.clamp_min(torch.finfo(values.dtype).eps ** 2) ** (1 / gamma)
    return reduced(powers, reduction).to(input.dtype)


def lovasz_hinge_loss(
    input: Tensor, target: Tensor, *, batch: bool = False, ignore_index: int | None = None, reduction: str = "mean"
) -> Tensor:
    """Lovász's extension of Jaccard's loss, of the errors ``max(0, 1 - x)`` of ones, ``max(0, 1 + x)`` of zeros.

    `input` are logits and `target` masks of 0 and 1 of the same shape, ``(N, ...)``; all dimensions but the first are
    pixels. The result has a value for each sample, ``(N,)``, or with `batch` one over all pixels. A sample without
    pixels costs 0, and one without ones its largest error.

    Source: Berman et al., "The Lovász-Softmax loss", arXiv 1705.08790, section 3.1.
    """
    check_reduction(reduction)
    check_floating(input)
    if target.shape != input.shape or input.dim() == 0:
        raise ValueError(
            f"input and target must have one shape (N, ...), and have {tuple(input.shape)} and {tuple(target.shape)}; "
            "for class indices, use lovasz_softmax_loss"
        )
    x = input.to(working(input))
    ones = (target != 0) if ignore_index is None else (target != 0) & (target != ignore_index)
    errors = (1 - torch.where(ones, x, -x)).relu()
    if ignore_index is not None:
        errors = errors.masked_fill(target == ignore_index, 0)
    shape = (1, x.numel()) if batch else (len(x), math.prod(x.shape[1:]))
    value = _lovasz(errors.reshape(shape), ones.reshape(shape))
    return reduced(value[0] if batch else value, reduction).to(input.dtype)


def lovasz_softmax_loss(
    input: Tensor,
    target: Tensor,
    *,
    classes: str = "present",
    batch: bool = False,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Lovász's extension of Jaccard's loss, of the errors of the probabilities, and averaged over the classes.

    `input` are logits ``(N, C, ...)`` and `target` class indices ``(N, ...)``. The result has a value for each sample,
    ``(N,)``, or with `batch` one over all pixels, the default of the authors' code. `classes` "present" averages over
    the classes that the target has, as that code does (and costs 0 where it has none); "all" over all of them, as
    kornia does.

    Source: Berman et al., "The Lovász-Softmax loss", arXiv 1705.08790, equations 8 to 12.
    """
    check_reduction(reduction)
    check_one_of("classes", classes, CLASSES)
    check_classes(input, target)
    p, y = _regions(input, target, ignore_index)  # what is ignored has an error of 0, and comes last
    if batch:
        p, y = (t.transpose(0, 1).flatten(1).unsqueeze(0) for t in (p, y))
    ones = y.bool()
    value = _lovasz(torch.where(ones, 1 - p, p), ones)
    counted = ones.any(-1) if classes == "present" else torch.ones_like(value, dtype=torch.bool)
    value = (value * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    return reduced(value[0] if batch else value, reduction).to(input.dtype)


def _lovasz(errors: Tensor, ones: Tensor) -> Tensor:
    """The extension, over the last dimension: each error times what its pixel adds to Jaccard's loss, when the pixels
    go wrong one by one, those of the largest errors first.

    The steps are written out, not taken as differences of neighbours, which float32 loses among 10⁶ pixels.
    """
    errors, permutation = errors.sort(dim=-1, descending=True, stable=True)
    ones = ones.gather(-1, permutation)
    total = ones.sum(-1, keepdim=True)
    intersection = total - ones.cumsum(-1)
    union = (total + (~ones).cumsum(-1)).to(errors.dtype)
    # a one leaves the intersection; a zero joins the union, and is all of it where there is no one
    of_zero = torch.where(union == 1, 1.0, intersection / (union * (union - 1)).clamp_min(1))
    steps = torch.where(ones, 1 / union, of_zero)
    return (errors * steps).sum(-1)


def _tversky(
    input: Tensor, target: Tensor, alpha: float, beta: float, smooth: float, batch: bool, ignore_index: int | None
) -> Tensor:
    not_negative("alpha", alpha)
    not_negative("beta", beta)
    not_negative("smooth", smooth)
    p, y = _regions(input, target, ignore_index)
    both = _total(p * y, batch)
    wrong = alpha * (_total(p, batch) - both) + beta * (_total(y, batch) - both)
    return 1 - (both + smooth) / (both + wrong + smooth)


def _total(values: Tensor, batch: bool) -> Tensor:
    """Sums of (N, C, pixels) over the pixels, and over the samples if wanted."""
    return values.sum((0, 2) if batch else 2)


def _regions(input: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Probabilities and targets, both (N, C, pixels) in the working dtype, and 0 where they are ignored."""
    check_floating(input)
    work = working(input)
    if input.dim() > 1 and target.shape == input.shape:
        p, y = input.to(work).sigmoid(), target.to(work)
    else:
        check_classes(input, target)
        if input.dim() < 2 or input.shape[1] < 2:
            raise ValueError(
                f"class indices need logits (N, C, ...) of 2 classes or more, and input has {tuple(input.shape)}; "
                "for one mask, give target the shape of input"
            )
        _check_range(target, input.shape[1], ignore_index)
        p, target = input.softmax(1, dtype=work), target.unsqueeze(1)
        numbers = torch.arange(input.shape[1], device=input.device).view(1, -1, *[1] * (input.dim() - 2))
        y = (target == numbers).to(work)
    if ignore_index is not None:
        ignored = target == ignore_index
        p, y = p.masked_fill(ignored, 0), y.masked_fill(ignored, 0)
    shape = (*input.shape[:2], math.prod(input.shape[2:]))
    return p.reshape(shape), y.reshape(shape)


def _check_range(target: Tensor, classes: int, ignore_index: int | None) -> None:
    """Refuses class indices that are none: where looking at them does not wait, and outside of transforms."""
    if target.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    wrong = (target < 0) | (target >= classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        raise ValueError(
            f"target has class {target[wrong][0].item()}, and input {classes} classes; "
            "a label for pixels to leave out is given as ignore_index"
        )


class _Segmentation(FunctionLoss):
    def trial(self) -> tuple[Tensor, ...]:
        return torch.zeros(1, 2, 1), torch.zeros(1, 1, dtype=torch.int64)


class DiceLoss(_Segmentation):
    """`dice_loss` as a module, ``DiceLoss(smooth=1.0, batch=True)``.

    Example: of four pixels, a mask of two is found::

        >>> logits, mask = torch.zeros(1, 1, 4, requires_grad=True), torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
        >>> loss = DiceLoss()
        >>> for _ in range(3):
        ...     error = loss(logits, mask)
        ...     (gradient,) = torch.autograd.grad(error, logits)
        ...     logits = (logits - 20 * gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        0.50
        0.22
        0.13
    """

    function = staticmethod(dice_loss)


class GeneralizedDiceLoss(_Segmentation):
    """`generalized_dice_loss` as a module."""

    function = staticmethod(generalized_dice_loss)


class TverskyLoss(_Segmentation):
    """`tversky_loss` as a module, ``TverskyLoss(alpha=0.3, beta=0.7)``.

    Example: with a `beta` above `alpha`, a pixel missed costs more than one too many::

        >>> mask = torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
        >>> missed, too_many = (torch.tensor([[[-9.0, 9.0, x, y]]]) for x, y in ((-9.0, -9.0), (9.0, 9.0)))
        >>> loss = TverskyLoss(alpha=0.3, beta=0.7)
        >>> f"{loss(missed, mask):.2f} {loss(too_many, mask):.2f}"
        '0.41 0.13'
    """

    function = staticmethod(tversky_loss)


class FocalTverskyLoss(_Segmentation):
    """`focal_tversky_loss` as a module."""

    function = staticmethod(focal_tversky_loss)


class LovaszHingeLoss(FunctionLoss):
    """`lovasz_hinge_loss` as a module.

    Example::

        >>> logits, mask = torch.zeros(1, 4, requires_grad=True), torch.tensor([[0, 1, 1, 0]])
        >>> loss = LovaszHingeLoss()
        >>> for _ in range(3):
        ...     error = loss(logits, mask)
        ...     (gradient,) = torch.autograd.grad(error, logits)
        ...     logits = (logits - gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        1.00
        0.78
        0.51
    """

    function = staticmethod(lovasz_hinge_loss)

    def trial(self) -> tuple[Tensor, ...]:
        return torch.zeros(1, 1), torch.zeros(1, 1)


class LovaszSoftmaxLoss(_Segmentation):
    """`lovasz_softmax_loss` as a module, ``LovaszSoftmaxLoss(classes="all")``."""

    function = staticmethod(lovasz_softmax_loss)
