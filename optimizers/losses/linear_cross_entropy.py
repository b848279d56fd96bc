"""Cross-entropy of the logits that a linear layer makes, without ever holding all of them. For torch from 2.13 on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fused import REDUCTIONS, by_kernel, unwatched

#: logits that are held at a time, and the fewest rows that keep matrix products efficient
CHUNK, FEWEST_ROWS = 1 << 24, 128
#: below this many logits one chunk is all of them, and torch's own chain of passes no slower
SMALL = 1 << 16


def linear_cross_entropy(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
) -> Tensor:
    """``cross_entropy(input @ linear_weight.T + linear_bias, target)``, in memory for a small part of the logits.

    `input` is ``(N, D)`` and `linear_weight` ``(C, D)``. On the CPU the logits are made chunk by chunk of rows, turned
    into their gradient, and that into the gradients of input, weight and bias, which the backward pass only scales.
    Arguments, other shapes, values and errors are those of `torch.nn.functional.linear_cross_entropy`, which is called
    for what no kernel takes and where `options` ask for torch's own chunks. Gradients of gradients make all logits.

    Source: Wijmans et al., "Cut your losses in large-vocabulary language models", arXiv 2411.09009 (who also leave the
    logits in the registers of a GPU).
    """
    ignored = -100 if ignore_index is None else ignore_index
    if (
        options is None
        and reduction in REDUCTIONS
        and 0 <= label_smoothing <= 1
        and _has_kernel(input, linear_weight, target, linear_bias, weight)
    ):
        tensors = (input, linear_weight, linear_bias, target, weight)
        return by_kernel(_Kernel(ignored, reduction, float(label_smoothing)), *tensors)
    return F.linear_cross_entropy(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        options=options,
    )


def _has_kernel(input, linear_weight, target, linear_bias, weight) -> bool:
    if input.dim() != 2 or linear_weight.dim() != 2 or input.size(1) != linear_weight.size(1) or not unwatched(input):
        return False
    rows, classes = len(input), len(linear_weight)
    if input.device.type != "cpu" or rows * classes < SMALL or target.shape != (rows,) or target.dtype != torch.int64:
        return False
    if linear_bias is not None and linear_bias.shape != (classes,):
        return False
    if weight is not None and (weight.shape != (classes,) or weight.requires_grad or not weight.is_contiguous()):
        return False
    floats = [t for t in (linear_weight, linear_bias, weight) if t is not None]
    return (
        type(target) is Tensor
        and target.is_contiguous()
        and target.device == input.device
        and all(t.dtype == input.dtype and t.device == input.device for t in floats)
        and linear_weight.layout is torch.strided
    )


class _Kernel:
    """Of input, weight and bias of the layer, targets and class weights."""

    def __init__(self, ignored: int, reduction: str, smoothing: float):
        self.options = ignored, reduction, smoothing

    def plain(self, tensors: Sequence[Any]) -> Tensor:
        input, linear_weight, linear_bias, target, weight = tensors
        ignored, reduction, smoothing = self.options
        logits = F.linear(input, linear_weight, linear_bias)
        return F.cross_entropy(
            logits, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=smoothing
        )

    def forward(self, tensors: Sequence[Any], wanted: Sequence[bool]):
        input, _, _, target, weight = tensors
        ignored, reduction, _ = self.options
        if reduction == "none":
            losses, _ = _chunks(tensors, self.options, (False,) * 3, 1.0, None)
            return losses, None
        denominator = _denominator(target, weight, ignored) if reduction == "mean" else 1.0
        scale = 0.0 if denominator == 0 else 1 / denominator  # all ignored: nan, with a gradient of 0
        losses, gradients = _chunks(tensors, self.options, wanted[:3], scale, None)
        total = losses.double().sum()
        value = (total / denominator).to(input.dtype)
        return value, (*gradients, None, None) if any(wanted) else None

    def backward(self, tensors: Sequence[Any], wanted: Sequence[bool], upstream: Tensor):
        _, _, _, target, weight = tensors
        ignored, reduction, _ = self.options
        if reduction == "none":
            _, gradients = _chunks(tensors, self.options, wanted[:3], 1.0, upstream.contiguous())
        else:
            denominator = _denominator(target, weight, ignored) if reduction == "mean" else 1.0
            scale = 0.0 if denominator == 0 else upstream.item() / denominator
            _, gradients = _chunks(tensors, self.options, wanted[:3], scale, None)
        return *gradients, None, None


def _denominator(target: Tensor, weight: Tensor | None, ignored: int) -> float:
    """The number, or the weight, of the targets that are not ignored; those that are no class are found later."""
    counted = target[target != ignored]
    if weight is None:
        return float(len(counted))
    return float(weight.double()[counted.clamp(0, len(weight) - 1)].sum())


def _chunks(tensors: Sequence[Any], options: Any, wanted: Sequence[bool], scale: float, upstream: Tensor | None):
    """The loss of every row and, where wanted, the gradients of input, weight and bias, times `scale` and `upstream`.

    Raises IndexError, with the value, for a target that is no class.
    """
    from .cross_entropy_cpu import EACH, run_kernel

    input, linear_weight, linear_bias, target, weight = tensors
    ignored, _, smoothing = options
    losses = input.new_empty(len(input))
    gradients = [
        torch.empty_like(input) if wanted[0] else None,
        torch.zeros_like(linear_weight) if wanted[1] else None,
        torch.zeros_like(linear_bias) if wanted[2] else None,
    ]
    by_input, by_weight, by_bias = gradients
    turned = linear_weight.t()
    for rows, logits, change in _buffers(len(input), len(linear_weight), input, any(wanted)):
        if linear_bias is None:
            torch.mm(input[rows], turned, out=logits)
        else:
            torch.addmm(linear_bias, input[rows], turned, out=logits)
        up = None if upstream is None else upstream[rows]
        run_kernel(EACH, logits, target[rows], weight, ignored, smoothing, losses[rows], change, scale, up)
        if by_input is not None:
            torch.mm(change, linear_weight, out=by_input[rows])
        if by_weight is not None:
            by_weight.addmm_(change.t(), input[rows])
        if by_bias is not None:
            by_bias += change.sum(0)
    return losses, gradients


def _buffers(rows: int, classes: int, like: Tensor, gradient: bool) -> Iterator[tuple[slice, Tensor, Any]]:
    """The rows of each chunk, and memory for their logits and, if wanted, for the gradient of those."""
    from . import memory

    step = max(1, min(rows, max(FEWEST_ROWS, CHUNK // classes)))
    logits = memory.fresh(like.new_empty((), dtype=like.dtype).expand(step, classes))
    change = memory.fresh(logits) if gradient else None
    for begin in range(0, rows, step):
        n = min(step, rows - begin)
        yield slice(begin, begin + n), logits[:n], None if change is None else change[:n]


class LinearCrossEntropyLoss(nn.LinearCrossEntropyLoss):
    """`linear_cross_entropy` as a module that owns the linear layer."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        layer, shape = self.linear, (self.num_classes, *self.out_features)
        return linear_cross_entropy(
            input,
            layer.weight.reshape(*shape, layer.in_features),
            target,
            linear_bias=None if layer.bias is None else layer.bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )
