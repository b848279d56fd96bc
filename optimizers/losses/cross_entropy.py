"""Cross-entropy of logits and classes, or probabilities of classes, in one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fused import DEVICES, REDUCTIONS, beside, by_kernel, on, unwatched

#: below this many logits in fewer than so many rows torch's own chain of passes takes less time than the calls around a
#: kernel: its loop over rows is the slowest part of it
SMALL, FEW = 65_536, 256


def cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
    *,
    check_targets: bool = False,
) -> Tensor:
    r"""The negative log-probability of the right class: :math:`\log\sum_j e^{x_j} - x_t`.

    Its gradient is the predicted probabilities minus the right ones. Arguments, shapes, values at the edges and errors
    are those of `torch.nn.functional.cross_entropy`. Kernels take contiguous logits ``(N, C, ...)`` with int64 class
    indices ``(N, ...)``, and logits ``(N, C)`` with as many probabilities, with any of the options; the rest (other
    layouts, small inputs, on a GPU all but rows with a class each) goes to torch. Sums are taken in float64, so means
    in half precision do not overflow, as torch's do.

    check_targets: on a GPU, raise the IndexError that a CPU raises for a class index that is none. Without it nothing
    waits for the GPU: the loss and the gradient of that row are nan (where torch is asked, the GPU stops the program).
    """
    if check_targets:
        _check_targets(input, target, ignore_index)
    if (
        (input.numel() >= SMALL or target.numel() >= FEW)
        and size_average is None
        and reduce is None
        and reduction in REDUCTIONS
        and 0 <= label_smoothing <= 1
        and _has_kernel(input, target, weight, ignore_index)
    ):
        return by_kernel(KERNEL, (input, target, weight), (ignore_index, reduction, float(label_smoothing)))
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def _check_targets(input: Tensor, target: Tensor, ignore_index: int) -> None:
    """Waits for the device. Probabilities are no indices, and shapes and dtypes are left to the loss to refuse."""
    if input.dim() == 0 or target.is_floating_point():
        return
    classes = input.shape[min(1, input.dim() - 1)]
    bad = target[(target != ignore_index) & ((target < 0) | (target >= classes))]
    if bad.numel():
        raise IndexError(f"Target {int(bad[0])} is out of bounds.")


def _has_kernel(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> bool:
    if input.dim() < 2 or input.numel() == 0 or not unwatched(input, DEVICES):
        return False
    if DEVICES[input.device.type] == "cuda" and (input.dim() > 2 or target.dtype != torch.int64):
        return False
    if target.dtype == torch.int64:
        if type(target) is not Tensor or target.device != input.device or not target.is_contiguous():
            return False
        if target.shape != (input.shape[:1] + input.shape[2:] if input.dim() > 2 else input.shape[:1]):
            return False
    elif input.dim() > 2 or ignore_index >= 0 or not beside(input, target):
        return False
    if weight is None:
        return True
    fits = weight.dtype == input.dtype and weight.shape == input.shape[1:2] and weight.device == input.device
    return fits and weight.is_contiguous() and not weight.requires_grad


class _Kernel:
    """Over rows of logits; after them the classes and their weights; `options` are the last three arguments."""

    def plain(self, tensors, options):
        (input, target, weight), (ignore_index, reduction, smoothing) = tensors, options
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=smoothing
        )

    def forward(self, tensors, options, wanted):
        (input, target, weight), (ignore_index, reduction, smoothing) = tensors, options
        kernels = on(input.device, "cross_entropy_")
        if reduction == "none":
            return kernels.each(input, target, weight, ignore_index, smoothing), None
        mean = reduction == "mean"
        value, gradient = kernels.loss(input, target, weight, ignore_index, smoothing, mean, wanted[0])
        return value, (gradient, None, None)

    def backward(self, tensors, options, wanted, upstream):
        (input, target, weight), (ignore_index, reduction, smoothing) = tensors, options
        kernels, mean = on(input.device, "cross_entropy_"), reduction == "mean"
        return kernels.gradient(input, target, weight, ignore_index, smoothing, mean, upstream), None, None


KERNEL = _Kernel()


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`cross_entropy` as a module; `check_targets` as there.

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

    def __init__(
        self,
        weight=None,
        size_average=None,
        ignore_index=-100,
        reduce=None,
        reduction="mean",
        label_smoothing=0.0,
        *,
        check_targets: bool = False,
    ):
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.check_targets = check_targets

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            check_targets=self.check_targets,
        )
