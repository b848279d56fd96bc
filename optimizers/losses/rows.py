"""Losses that are arithmetic on the cross-entropy of a row of logits and its log-sum-exp, in one pass over the logits.

A member declares the loss of a row and its slopes, each in a line of the dialect (`optimizers.dialect`); the kernels of
cross-entropy work them in float64, once a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dialect import exp_negative, expm1, maximum, minimum
from ..executors.kernels import DTYPES
from .checks import class_dim, working
from .cross_entropy import Kernel, cross_entropy, ready
from .fused import MOST_SIZES, by_kernel, on_cpu, unwatched_pair


@dataclass(frozen=True, eq=False)
class OfRow:
    """A loss of a row's cross-entropy `nll` and its log-sum-exp `lse`, with constants.

    value(nll, lse, *constants): the loss of the row.
    slope(nll, lse, *constants): its derivative with respect to `nll`.
    pull(nll, lse, *constants): its derivative with respect to `lse`; None where that is 0.
    """

    value: Callable[..., Any]
    slope: Callable[..., Any]
    pull: Callable[..., Any] | None = None

    def plain(
        self,
        input: Tensor,
        target: Tensor,
        ignore_index: int,
        reduction: str,
        smoothing: float,
        constants: tuple[float, ...],
    ) -> Tensor:
        """The loss in plain torch after the cross-entropy; half types are worked in float32 and rounded once."""
        logits, kept = input.to(working(input)), target != ignore_index
        nll = cross_entropy(logits, target, ignore_index=ignore_index, reduction="none", label_smoothing=smoothing)
        lse = None if self.pull is None else logits.logsumexp(class_dim(logits)).masked_fill(~kept, 0)
        return reduced(self.value(nll, lse, *constants), kept, reduction).to(input.dtype)

    def fast(self, input: Tensor, target: Tensor, *options: Any) -> Tensor | None:
        """The loss by a kernel, of the options of `plain`, or None where none fits."""
        if not on_cpu(input) or not unwatched_pair(input, target):
            return None
        kernel = _kernel(self, input.shape, input.dtype, target.shape, target.dtype, *options)
        return None if kernel is None else by_kernel(kernel, input, target, None)

    def __call__(self, input: Tensor, target: Tensor, *options: Any) -> Tensor:
        """The loss, of the options of `plain`."""
        value = self.fast(input, target, *options)
        return self.plain(input, target, *options) if value is None else value


class _Kernel(Kernel):
    """A loss of rows with its options, as autograd takes it."""

    def __init__(self, loss: OfRow, ignore_index: int, reduction: str, smoothing: float, constants: tuple[float, ...]):
        super().__init__(ignore_index, reduction, smoothing)
        self.loss, self.more = loss, (loss, constants)

    def plain(self, tensors):
        input, target, _ = tensors
        return self.loss.plain(input, target, self.ignore_index, self.reduction, self.smoothing, self.more[1])


@functools.lru_cache(MOST_SIZES)
def _kernel(
    loss: OfRow,
    shape: torch.Size,
    dtype: torch.dtype,
    target_shape: torch.Size,
    target_dtype: torch.dtype,
    ignore_index: int,
    reduction: str,
    smoothing: float,
    constants: tuple[float, ...],
) -> _Kernel | None:
    """The kernel for tensors of such shapes and dtypes with these options; None if there is none."""
    fits = len(shape) == 2 and shape.numel() > 0 and target_shape == shape[:1]
    if not fits or dtype not in DTYPES or target_dtype != torch.int64:
        return None
    # other kinds of numbers, such as tensors, may be others the next time they come
    if type(ignore_index) is not int or not all(isinstance(c, (int, float)) for c in (smoothing, *constants)):
        return None
    return ready(_Kernel(loss, ignore_index, reduction, smoothing, constants), shape, dtype, target_dtype)


def reduced(values: Tensor, kept: Tensor, reduction: str) -> Tensor:
    """Values of rows as they are, their mean over those that are kept, or their sum."""
    if reduction == "none":
        return values
    return values.sum() if reduction == "sum" else values.sum() / kept.sum()


# a loss of 0 has a slope of 0, but the power of 0 has an infinite one where gamma is below 1: hence `least`
def focal(nll, lse, gamma, least):
    return maximum(-expm1(-nll), least) ** gamma * nll


def focal_slope(nll, lse, gamma, least):
    wrong = maximum(-expm1(-nll), least)
    return wrong**gamma * (1 + gamma * minimum(nll, 1000) * exp_negative(-nll) / wrong)


def z(nll, lse, weight):
    return nll + weight * lse * lse


def z_slope(nll, lse, weight):
    return 1 + 0 * nll


def z_pull(nll, lse, weight):
    return 2 * weight * lse


def poly1(nll, lse, epsilon):
    return nll - epsilon * expm1(-nll)


def poly1_slope(nll, lse, epsilon):
    return 1 + epsilon * exp_negative(-nll)


FOCAL = OfRow(focal, focal_slope)
Z = OfRow(z, z_slope, z_pull)
POLY1 = OfRow(poly1, poly1_slope)
