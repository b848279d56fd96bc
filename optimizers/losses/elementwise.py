"""Losses that are a sum over elements: what such a loss is made of, and its one autograd function.

A member declares its value and its slope, each in a line of the dialect (`optimizers.dialect`), for one prediction and
one target, or more tensors. From those come a compiled kernel that reads each tensor once and leaves the sum, and the
gradients that are wanted, and the plain torch that everything else falls back to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..executors import kernels
from .fused import DEVICES, REDUCTIONS, alike, beside, by_kernel, on, unwatched

#: below this many elements the calls around a kernel take longer than the passes it saves, of torch's own losses and of
#: those that torch does not have
SMALL, SMALL_ALONE = 32_768, 512


#: a reduction, and the constants of a loss
Options = tuple[str, tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A loss of one prediction `x`, one target `y` and whatever further tensors, with constants.

    value(x, y, ..., *constants): the loss of an element.
    slope(x, y, ..., *constants): its derivative with respect to x.
    others: the derivatives with respect to y and what follows, None for a tensor that gets no gradient by the kernel.
    original(x, y, ..., reduction, *constants): the same loss by torch, where autograd of `value` is not what torch
        makes of it: where something is clamped.
    """

    value: Callable[..., Any]
    slope: Callable[..., Any]
    others: tuple[Callable[..., Any] | None, ...] = (None,)
    original: Callable[..., Tensor] | None = None

    @property
    def slopes(self) -> tuple[Callable[..., Any] | None, ...]:
        """For each tensor the derivative with respect to it."""
        return self.slope, *self.others

    @functools.cached_property
    def fits(self) -> tuple[Callable[[Tensor, Any], bool], ...]:
        """For each tensor after the first what says whether a kernel may read it."""
        return tuple(beside if slope is None else alike for slope in self.others)

    def plain(self, tensors: Sequence[Tensor], options: Options) -> Tensor:
        """The loss in plain torch; half types are worked in float32 and rounded once."""
        reduction, constants = options
        if self.original is not None:
            return self.original(*tensors, reduction, *constants)
        dtype = tensors[0].dtype
        work = torch.float32 if dtype in kernels.HALF else dtype
        return reduced(self.value(*[t.to(work) for t in tensors], *constants), reduction).to(dtype)

    def takes(self, input: Tensor, others: Tensor | tuple[Tensor, ...], reduction: str) -> bool:
        """Whether a kernel is safe, and faster than torch."""
        return input.numel() >= SMALL and reduction in REDUCTIONS and self.has_kernel(input, others)

    def has_kernel(self, input: Tensor, others: Tensor | tuple[Tensor, ...]) -> bool:
        """Whether a kernel may read all tensors element by element, and nothing watches what is computed."""
        if not unwatched(input, DEVICES):
            return False
        if type(others) is not tuple:
            return self.fits[0](input, others)
        return all(fit(input, other) for fit, other in zip(self.fits, others, strict=True))

    def by_kernel(
        self,
        input: Tensor,
        others: Tensor | tuple[Tensor, ...],
        reduction: str,
        constants: tuple[float, ...] = (),
    ) -> Tensor:
        """The loss by a kernel, for what it `takes`."""
        return by_kernel(Bound(self, reduction, constants), input, *_tuple(others))

    def __call__(
        self,
        input: Tensor,
        others: Tensor | tuple[Tensor, ...],
        reduction: str = "mean",
        constants: tuple[float, ...] = (),
    ) -> Tensor:
        """The loss, by a kernel where one is safe and worth its call, or else in plain torch."""
        if input.numel() >= SMALL_ALONE and reduction in REDUCTIONS and self.has_kernel(input, others):
            return self.by_kernel(input, others, reduction, constants)
        return self.plain((input, *_tuple(others)), (reduction, constants))


class Bound:
    """A loss with its options, as autograd takes it."""

    def __init__(self, loss: Elementwise, reduction: str, constants: tuple[float, ...]):
        self.loss, self.options = loss, (reduction, constants)

    def plain(self, tensors: Sequence[Tensor]) -> Tensor:
        return self.loss.plain(tensors, self.options)

    def forward(self, tensors: Sequence[Tensor], wanted: tuple[bool, ...]):
        return on(tensors[0].device).forward(self.loss, tensors, *self.options, wanted)

    def backward(self, tensors: Sequence[Tensor], wanted: tuple[bool, ...], upstream: Tensor):
        return on(tensors[0].device).backward(self.loss, tensors, *self.options, wanted, upstream)


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Values as they are, their mean, or their sum."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def _tuple(others: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return others if isinstance(others, tuple) else (others,)
