"""Cross-entropy of logits and classes, or probabilities of classes, in one pass over the logits."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..executors.kernels import DTYPES
from ..executors.tensors import PLAIN_TYPES
from .fused import MOST_SIZES, REDUCTIONS, by_kernel, on, on_cpu, unwatched_pair

#: below this many logits in fewer than so many rows torch's own chain of passes takes less time than the calls around a
#: kernel: its loop over rows is the slowest part of it. On a CPU they are fewer, and fewer still in rows of up to
#: `SHORT` classes, which torch works number by number
SMALL, FEW = 65_536, 256
SMALL_ON_CPU, SHORT, SMALL_OF_SHORT = 8192, 16, 320


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
    layouts, on a GPU small inputs and all but rows with a class each) goes to torch. Sums are taken in float64, so that
    means in half precision do not overflow, as torch's do.

    check_targets: on a GPU, raise the IndexError that a CPU raises for a class index that is none. Without it nothing
    waits for the GPU: the loss and the gradient of that row are nan (where torch is asked, the GPU stops the program).
    """
    if check_targets:
        check_class_indices(input, target, ignore_index)
    if (
        size_average is None
        and reduce is None
        and reduction in REDUCTIONS
        and unwatched_pair(input, target)
        and ((cpu := on_cpu(input)) or input.numel() >= SMALL or target.numel() >= FEW)
        and (weight is None or is_weight(weight, input))
    ):
        kernel = _kernel(
            input.shape, input.dtype, target.shape, target.dtype, cpu, ignore_index, reduction, label_smoothing
        )
        if kernel is not None:
            return by_kernel(kernel, input, target, weight)
    return F.cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def check_class_indices(input: Tensor, target: Tensor, ignore_index: int) -> None:
    """Waits for the device. Probabilities are no indices, and shapes and dtypes are left to the loss to refuse."""
    if input.dim() == 0 or target.is_floating_point():
        return
    classes = input.shape[min(1, input.dim() - 1)]
    bad = target[(target != ignore_index) & ((target < 0) | (target >= classes))]
    if bad.numel():
        raise IndexError(f"Target {int(bad[0])} is out of bounds.")


def is_weight(weight: Tensor, input: Tensor) -> bool:
    """Whether a kernel may read the weights of the classes of an input."""
    return (
        type(weight) in PLAIN_TYPES
        and weight.device == input.device
        and weight.dtype == input.dtype
        and weight.shape == input.shape[1:2]
        and weight.layout is torch.strided
        and weight.is_contiguous()
        and not weight.requires_grad
        and not weight.is_neg()
    )


@functools.lru_cache(MOST_SIZES)
def _kernel(
    shape: torch.Size,
    dtype: torch.dtype,
    target_shape: torch.Size,
    target_dtype: torch.dtype,
    cpu: bool,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Kernel | None:
    """The kernel for tensors of such shapes and dtypes with these options; None where torch is asked."""
    if len(shape) < 2 or shape.numel() == 0 or dtype not in DTYPES:
        return None
    # other kinds of numbers, such as tensors, may be others the next time they come
    if type(ignore_index) is not int or not isinstance(smoothing, (int, float)) or not 0 <= smoothing <= 1:
        return None
    if target_dtype == torch.int64:
        if target_shape != shape[:1] + shape[2:] or (len(shape) > 2 and not cpu):
            return None
    elif not cpu or len(shape) > 2 or ignore_index >= 0 or (target_shape, target_dtype) != (shape, dtype):
        return None
    if cpu and not _pays(shape, target_dtype, smoothing):
        return None
    options = ignore_index, reduction, float(smoothing)
    return ready(Kernel(*options), shape, dtype, target_dtype) if cpu else Kernel(*options)


def _pays(shape: torch.Size, target_dtype: torch.dtype, smoothing: float) -> bool:
    """Whether on a CPU a kernel takes less time than torch, whose passes for mixtures and smoothing are many."""
    n, classes = shape.numel(), shape[1]
    least = SMALL_OF_SHORT if len(shape) == 2 and classes <= SHORT else SMALL_ON_CPU
    return n >= least or n >= FEW * classes or smoothing > 0 or target_dtype != torch.int64


class Kernel:
    """Over rows of logits; after them the classes and their weights."""

    def __init__(self, ignore_index: int, reduction: str, smoothing: float):
        self.ignore_index, self.reduction, self.smoothing = ignore_index, reduction, smoothing
        self.mean = reduction == "mean"
        self.more: tuple[Any, ...] = ()  # what is made of the cross-entropy of a row, and with which constants

    def plain(self, tensors):
        input, target, weight = tensors
        return F.cross_entropy(
            input,
            target,
            weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.smoothing,
        )

    def forward(self, tensors, wanted):
        kernels = on(tensors[0].device, "cross_entropy_")
        if self.reduction == "none":
            return kernels.each(*tensors, self.ignore_index, self.smoothing, *self.more), None
        value, gradient = kernels.loss(*tensors, self.ignore_index, self.smoothing, self.mean, wanted[0])
        return value, (gradient, None, None)

    def backward(self, tensors, wanted, upstream):
        kernels = on(tensors[0].device, "cross_entropy_")
        gradient = kernels.gradient(*tensors, self.ignore_index, self.smoothing, self.mean, upstream, *self.more)
        return gradient, None, None


K = TypeVar("K", bound=Kernel)


def ready(kernel: K, shape: torch.Size, dtype: torch.dtype, target_dtype: torch.dtype) -> K:
    """A kernel on a CPU, with all that can be made beforehand for a mean or a sum over logits of one shape."""
    if kernel.reduction != "none":
        kernels, options = on(torch.device("cpu"), "cross_entropy_"), (kernel.ignore_index, kernel.smoothing)
        loss = kernels.Loss(shape, dtype, target_dtype, *options, kernel.mean, *kernel.more)
        kernel.forward = loss.forward  # type: ignore[method-assign]
    return kernel


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
