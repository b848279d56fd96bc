"""Losses of a few sums over the elements of two or three vectors, in one pass over them: what such a loss is made of.

A member declares the terms of the sums, what the loss makes of the sums, and the gradients, each in the dialect
(`optimizers.dialect`). From those comes a compiled kernel for the CPU; everything else is torch's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dialect import maximum, minimum, sqrt, where
from ..executors.kernels import DTYPES
from .fused import MOST_SIZES, REDUCTIONS, Kernel, alike, by_kernel, on, on_cpu, unwatched, unwatched_pair

#: a function of one number, and its slope
Hinge = tuple[Callable[[Any], Any], Callable[[Any], Any]]


@dataclass(frozen=True, eq=False)
class OfVectors:
    """A loss of vectors `x`, `y`, ... ``(..., D)``, with constants, and perhaps with a label ``(...)`` for each row.

    terms(x, y, ..., *constants): what is added up over the elements of a row, `sums` numbers.
    loss(*sums, label, *constants): the loss of the row, and its derivative with respect to each sum.
    pulls: for each vector the derivative with respect to its element, of (x, y, ..., *those derivatives, *constants).
    """

    terms: Callable[..., tuple[Any, ...]]
    loss: Callable[..., tuple[Any, ...]]
    pulls: tuple[Callable[..., Any], ...]
    sums: int
    labelled: bool = False

    def fast(
        self,
        vectors: tuple[Tensor, ...],
        label: Tensor | None,
        reduction: str,
        constants: tuple[float, ...],
        plain: Callable[..., Callable[..., Tensor]],
    ) -> Tensor | None:
        """The loss by a kernel, or None where none fits.

        plain: makes the loss by torch, of (reduction, *constants), a function of the vectors and the label.
        """
        x, *others = vectors
        watched = not unwatched(x) if label is None else not unwatched_pair(x, label)
        if watched or not on_cpu(x) or reduction not in REDUCTIONS or not all([alike(x, other) for other in others]):
            return None
        labels = None if label is None else (label.shape, label.dtype)
        kernel = _kernel(self, plain, x.shape, x.dtype, labels, reduction, constants)
        if kernel is None:
            return None
        return by_kernel(kernel, *vectors) if label is None else by_kernel(kernel, *vectors, label)


@functools.lru_cache(MOST_SIZES)
def _kernel(
    loss: OfVectors,
    plain: Callable[..., Callable[..., Tensor]],
    shape: torch.Size,
    dtype: torch.dtype,
    labels: tuple[torch.Size, torch.dtype] | None,
    reduction: str,
    constants: tuple[float, ...],
) -> Kernel | None:
    """The kernel for vectors and labels of such shapes and dtypes with these options; None if there is none."""
    if dtype not in DTYPES or len(shape) != 2 or shape.numel() == 0:
        return None
    if labels is not None and (labels[0] != shape[:-1] or labels[1] not in (dtype, torch.int64)):
        return None
    # other kinds of numbers, such as tensors, may be others the next time they come
    if not all(isinstance(constant, (int, float)) for constant in constants):
        return None
    integers = labels is not None and labels[1] == torch.int64
    options = shape, dtype, reduction, constants, integers
    return on(torch.device("cpu"), "by_rows_").vectors(loss, plain(reduction, *constants), *options)


def cosine_terms(x, y, margin):
    return x * y, x * x, y * y


def cosine_loss(xy, xx, yy, label, margin):
    root = sqrt((xx + 1e-12) * (yy + 1e-12))
    cosine = xy / root
    apart = where(label == -1, maximum(cosine - margin, 0), 0)
    slope = where(label == 1, -1, where(label == -1, where(cosine - margin >= 0, 1, 0), 0))
    shrink = -0.5 * slope * cosine
    return where(label == 1, 1 - cosine, apart), slope / root, shrink / (xx + 1e-12), shrink / (yy + 1e-12)


def cosine_pull_x(x, y, xy, xx, yy, margin):
    return xy * y + 2 * xx * x


def cosine_pull_y(x, y, xy, xx, yy, margin):
    return xy * x + 2 * yy * y


def triplet_terms(a, p, n, margin, eps):
    near, far = a - p + eps, a - n + eps
    return near * near, far * far


def triplet_loss(near, far, label, margin, eps):
    value = margin + sqrt(near) - sqrt(far)
    half = where(value >= 0, 0.5, 0)
    # nan stays
    return maximum(value, 0), where(near == 0, 0, half / sqrt(near)), where(far == 0, 0, -half / sqrt(far))


def triplet_pull_anchor(a, p, n, near, far, margin, eps):
    return 2 * (near * (a - p + eps) + far * (a - n + eps))


def triplet_pull_positive(a, p, n, near, far, margin, eps):
    return -2 * near * (a - p + eps)


def triplet_pull_negative(a, p, n, near, far, margin, eps):
    return -2 * far * (a - n + eps)


def swapped_terms(a, p, n, margin, eps):
    near, far, across = a - p + eps, a - n + eps, p - n + eps
    return near * near, far * far, across * across


def swapped_loss(near, far, across, label, margin, eps):
    value = margin + sqrt(near) - sqrt(minimum(far, across))
    half = where(value >= 0, 0.5, 0)
    share = where(far < across, 1, where(far == across, 0.5, 0))  # of the two distances that are equal, as torch's
    by_far = where(far == 0, 0, -half * share / sqrt(far))
    by_across = where(across == 0, 0, -half * (1 - share) / sqrt(across))
    return maximum(value, 0), where(near == 0, 0, half / sqrt(near)), by_far, by_across


def swapped_pull_anchor(a, p, n, near, far, across, margin, eps):
    return 2 * (near * (a - p + eps) + far * (a - n + eps))


def swapped_pull_positive(a, p, n, near, far, across, margin, eps):
    return 2 * (across * (p - n + eps) - near * (a - p + eps))


def swapped_pull_negative(a, p, n, near, far, across, margin, eps):
    return -2 * (far * (a - n + eps) + across * (p - n + eps))


COSINE = OfVectors(cosine_terms, cosine_loss, (cosine_pull_x, cosine_pull_y), 3, labelled=True)
TRIPLET = OfVectors(triplet_terms, triplet_loss, (triplet_pull_anchor, triplet_pull_positive, triplet_pull_negative), 2)
SWAPPED_TRIPLET = OfVectors(
    swapped_terms, swapped_loss, (swapped_pull_anchor, swapped_pull_positive, swapped_pull_negative), 3
)
