"""Losses that are a sum over elements: what such a loss is made of, and its one autograd function.

A member declares its value and its slope, each in a line of the dialect (`optimizers.dialect`), for one prediction and
one target. From those come a compiled kernel that reads both tensors once and leaves the sum, and the gradient if one
is wanted, and the plain torch that everything else falls back to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..executors import kernels
from .fused import DEVICES, REDUCTIONS, beside, by_kernel, on, unwatched

#: below this many elements the calls around a kernel take longer than the passes it saves, of torch's own losses and of
#: those that torch does not have
SMALL, SMALL_ALONE = 65_536, 4096


#: a reduction, and the constants of a loss
Options = tuple[str, tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A loss of one prediction `x` and one target `y`, with constants.

    value(x, y, *constants): the loss of an element.
    slope(x, y, *constants): its derivative with respect to x.
    """

    value: Callable[..., Any]
    slope: Callable[..., Any]

    def plain(self, input: Tensor, others: tuple[Any, ...], options: Options) -> Tensor:
        """The loss in plain torch; half types are worked in float32 and rounded once."""
        (target,), (reduction, constants) = others, options
        work = torch.float32 if input.dtype in kernels.HALF else input.dtype
        values = self.value(input.to(work), target.to(work), *constants)
        return reduced(values, reduction).to(input.dtype)

    def takes(self, input: Tensor, target: Tensor, reduction: str) -> bool:
        """Whether a kernel is safe, and faster than torch."""
        return input.numel() >= SMALL and reduction in REDUCTIONS and has_kernel(input, target)

    def by_kernel(self, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...] = ()) -> Tensor:
        """The loss by a kernel, for what it `takes`."""
        return by_kernel(self, input, (target,), (reduction, constants))

    def forward(self, input: Tensor, others: tuple[Any, ...], options: Options, wanted: bool):
        (target,), (reduction, constants) = others, options
        return on(input.device).forward(self, input, target, reduction, constants, wanted and reduction != "none")

    def backward(self, input: Tensor, others: tuple[Any, ...], options: Options, upstream: Tensor) -> Tensor:
        (target,), (reduction, constants) = others, options
        return on(input.device).backward(self, input, target, reduction, constants, upstream)

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", constants: tuple[float, ...] = ()
    ) -> Tensor:
        """The loss, by a kernel where one is safe and worth its call, or else in plain torch."""
        if input.numel() >= SMALL_ALONE and reduction in REDUCTIONS and has_kernel(input, target):
            return self.by_kernel(input, target, reduction, constants)
        return self.plain(input, (target,), (reduction, constants))


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Values as they are, their mean, or their sum."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def has_kernel(input: Tensor, target: Tensor) -> bool:
    """Whether a kernel may read both tensors element by element, and nothing watches or transforms what is computed."""
    return unwatched(input, DEVICES) and beside(input, target)
