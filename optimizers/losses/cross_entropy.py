"""Cross-entropy of logits and class indices, in one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .elementwise import executor, unwatched

#: below this many logits torch's own chain of passes takes less time than the calls around a kernel
SMALL = 8192


def cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
) -> Tensor:
    r"""The negative log-probability of the right class: :math:`\log\sum_j e^{x_j} - x_t`.

    Its gradient is the predicted probabilities minus the right ones. Arguments, shapes, values at the edges and errors
    are those of `torch.nn.functional.cross_entropy`. A kernel takes contiguous logits ``(N, C)`` with int64 class
    indices ``(N,)``, with any of the options; the rest (probabilities as targets, further dimensions, small inputs)
    goes to torch. Sums are taken in float64, so means in half precision do not overflow, as torch's do.
    """
    if (
        input.numel() >= SMALL
        and size_average is None
        and reduce is None
        and reduction in ("mean", "sum", "none")
        and 0 <= label_smoothing <= 1
        and _has_kernel(input, target, weight)
    ):
        return _CrossEntropy.apply(input, target, weight, ignore_index, reduction, float(label_smoothing))
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def _has_kernel(input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    if input.dim() != 2 or not unwatched(input):
        return False
    if target.dim() != 1 or target.dtype != torch.int64 or len(target) != len(input) or not target.is_contiguous():
        return False
    if type(target) is not Tensor or target.device != input.device:
        return False
    if weight is None:
        return True
    fits = weight.dtype == input.dtype and weight.shape == input.shape[1:] and weight.device == input.device
    return fits and weight.is_contiguous() and not weight.requires_grad


class _CrossEntropy(torch.autograd.Function):
    """One pass forward, in which the gradient is made too; backward only scales it, where its scale is not 1."""

    @staticmethod
    def forward(ctx, input, target, weight, ignore_index, reduction, label_smoothing):
        from .cross_entropy_cpu import Rows

        ctx.save_for_backward(input, target, weight)
        ctx.options = ignore_index, reduction, label_smoothing
        rows = Rows(input, target, weight, ignore_index, label_smoothing)
        denominator = rows.denominator()
        ctx.gradient = None
        if reduction == "none":
            return rows.each()
        scale = 1.0 if reduction == "sum" else float("nan") if denominator == 0 else 1 / denominator
        ctx.scale = 1.0 if reduction == "sum" else 0.0 if denominator == 0 else scale  # all ignored: nan, gradient 0
        total, ctx.gradient = rows.losses(ctx.needs_input_grad[0], ctx.scale)
        return torch.full((), total * scale, dtype=input.dtype)

    @staticmethod
    def backward(ctx, upstream):
        input, target, weight = ctx.saved_tensors
        ignore_index, reduction, label_smoothing = ctx.options
        if torch.is_grad_enabled():  # somebody wants the gradient's gradient
            x = input.view_as(input)
            value = F.cross_entropy(
                x, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
            )
            (gradient,) = torch.autograd.grad(value, x, upstream, create_graph=True)
            return gradient, *[None] * 5
        gradient, ctx.gradient = ctx.gradient, None  # given away once: the next backward makes its own
        if gradient is not None:
            executor(input.device.type).scale(gradient, upstream)
            return gradient, *[None] * 5
        from .cross_entropy_cpu import Rows

        rows = Rows(input, target, weight, ignore_index, label_smoothing)
        if reduction == "none":
            return rows.gradient(1.0, upstream.contiguous()), *[None] * 5
        return rows.gradient(ctx.scale * upstream.item(), None), *[None] * 5


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`cross_entropy` as a module.

    Example::

        >>> loss = CrossEntropyLoss()
        >>> logits, target = torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 2])
        >>> for _ in range(3):
        ...     error = loss(logits, target)
        ...     (gradient,) = torch.autograd.grad(error, logits)
        ...     logits = (logits - 2 * gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        1.10
        0.55
        0.33
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
