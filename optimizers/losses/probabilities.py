"""Negative log-likelihoods: of classes, and of normal variables.

Arguments, shapes, dtypes, warnings, errors and values at the edges are those of `torch.nn.functional` and `torch.nn`.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..executors.kernels import DTYPES
from .cross_entropy import check_class_indices, is_weight
from .fused import MOST_SIZES, REDUCTIONS, Kernel, by_kernel, on, unwatched_pair
from .triples import GAUSSIAN_NLL

#: below this many rows torch's own loops take less time than the calls around a kernel, and below this many
#: log-probabilities, which take 32 MB, the memory of the last gradient is at hand and no fresh pages have to be cleared
FEW, SMALL = 16_384, 1 << 23


def nll_loss(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    *,
    check_targets: bool = False,
) -> Tensor:
    """``-input[target]`` of log-probabilities ``(N, C)`` or ``(N, C, d1, ...)``: cross-entropy after its log-softmax.

    Only one number of each row is read, and `cross_entropy` of the logits is the pass that pays. `weight` is one number
    for each class, and the mean is divided by their sum over the targets. Kernels of many rows fill the gradient where
    they gather the values. See `torch.nn.functional.nll_loss`.

    check_targets: on a GPU, raise the IndexError that a CPU raises for a class index that is none. Without it nothing
    waits for the GPU: the loss and the gradient of that row are nan (where torch is asked, the GPU stops the program).
    """
    if check_targets:
        check_class_indices(input, target, ignore_index)
    if (
        (input.numel() >= SMALL or target.numel() >= FEW)
        and size_average is None
        and reduce is None
        and reduction in REDUCTIONS
        and unwatched_pair(input, target)
        and (weight is None or is_weight(weight, input))
    ):
        kernel = _nll(input.device, input.shape, input.dtype, target.shape, target.dtype, ignore_index, reduction)
        if kernel is not None:
            return by_kernel(kernel, input, target, weight)
    return F.nll_loss(input, target, weight, size_average, ignore_index, reduce, reduction)


@functools.lru_cache(MOST_SIZES)
def _nll(
    device: torch.device,
    shape: torch.Size,
    dtype: torch.dtype,
    target_shape: torch.Size,
    target_dtype: torch.dtype,
    ignore_index: int,
    reduction: str,
) -> Kernel | None:
    """The kernel for tensors of such shapes and dtypes with these options; None where torch is asked."""
    if len(shape) < 2 or shape.numel() == 0 or dtype not in DTYPES or type(ignore_index) is not int:
        return None
    if (target_shape, target_dtype) != (shape[:1] + shape[2:], torch.int64):
        return None
    plain = functools.partial(F.nll_loss, ignore_index=ignore_index, reduction=reduction)
    return on(device, "by_rows_").nll(plain, shape, dtype, reduction, ignore_index)


def gaussian_nll_loss(input, target, var, full=False, eps=1e-6, reduction="mean") -> Tensor:
    """``(log var + (input - target)² / var) / 2``: of a normal variable of which the mean and the variance are guessed.

    Its minimisers are the conditional mean and the conditional variance, which counts a large error less where it was
    foreseen. `var` is at least `eps`, which its gradient does not notice; `full` adds ``log(2 pi) / 2``. One pass makes
    the gradients of all three tensors. Raises ValueError for a negative variance. Source: Nix and Weigend, "Estimating
    the mean and variance of the target probability distribution", ICNN 1994. See
    `torch.nn.functional.gaussian_nll_loss`.
    """
    # a kernel tells of a negative variance by its sum, for which a GPU would have to be waited for
    fast = reduction in ("mean", "sum") and isinstance(var, Tensor) and input.device.type == "cpu"
    if fast and GAUSSIAN_NLL.takes(input, (target, var), reduction):
        constant = 0.5 * math.log(2 * math.pi) if full else 0.0
        value = GAUSSIAN_NLL.by_kernel(input, (target, var), reduction, (eps, constant))
        if not value.isnan():
            return value
    return F.gaussian_nll_loss(input, target, var, full, eps, reduction)


class NLLLoss(nn.NLLLoss):
    """`nll_loss` as a module; `check_targets` as there."""

    def __init__(
        self,
        weight=None,
        size_average=None,
        ignore_index=-100,
        reduce=None,
        reduction="mean",
        *,
        check_targets: bool = False,
    ):
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self.check_targets = check_targets

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nll_loss(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            check_targets=self.check_targets,
        )


class GaussianNLLLoss(nn.GaussianNLLLoss):
    """`gaussian_nll_loss` as a module.

    Example: where the mean is known, the variance walks to that of the errors, here 4::

        >>> loss, target = GaussianNLLLoss(), torch.tensor([2.0, -2.0, 2.0, -2.0])
        >>> var = torch.tensor(1.0, requires_grad=True)
        >>> for _ in range(4):
        ...     error = loss(torch.zeros(4), target, var.expand(4))
        ...     (gradient,) = torch.autograd.grad(error, var)
        ...     var = (var - gradient).detach().requires_grad_()
        ...     print(f"{var:.2f} {error:.4f}")
        2.50 2.0000
        2.62 1.2581
        2.72 1.2449
        2.81 1.2356
    """

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        return gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)
