"""Losses that are a sum over elements: what such a loss is made of, and its one autograd function.

A member declares its value and its slope, each in a line of the dialect (`optimizers.dialect`), for one prediction and
one target. From those come a compiled kernel that reads both tensors once and leaves the sum, and the gradient if one
is wanted, and the plain torch that everything else falls back to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..executors.tensors import PLAIN_TYPES

REDUCTIONS = ("none", "mean", "sum")
#: below this many elements the calls around a kernel take longer than the passes it saves, of torch's own losses and of
#: those that torch does not have
SMALL, SMALL_ALONE = 65_536, 4096
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A loss of one prediction `x` and one target `y`, with constants.

    value(x, y, *constants): the loss of an element.
    slope(x, y, *constants): its derivative with respect to x.
    """

    value: Callable[..., Any]
    slope: Callable[..., Any]

    def plain(self, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...]) -> Tensor:
        """The loss in plain torch; half types are worked in float32 and rounded once."""
        work = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
        values = self.value(input.to(work), target.to(work), *constants)
        return reduced(values, reduction).to(input.dtype)

    def takes(self, input: Tensor, target: Tensor, reduction: str) -> bool:
        """Whether a kernel is safe, and faster than torch."""
        return input.numel() >= SMALL and reduction in REDUCTIONS and has_kernel(input, target)

    def by_kernel(self, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...] = ()) -> Tensor:
        """The loss by a kernel, for what it `takes`."""
        return _Loss.apply(input, target, self, reduction, constants)

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", constants: tuple[float, ...] = ()
    ) -> Tensor:
        """The loss, by a kernel where one is safe and worth its call, or else in plain torch."""
        if input.numel() >= SMALL_ALONE and reduction in REDUCTIONS and has_kernel(input, target):
            return self.by_kernel(input, target, reduction, constants)
        return self.plain(input, target, reduction, constants)


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Values as they are, their mean, or their sum."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def has_kernel(input: Tensor, target: Tensor) -> bool:
    """Whether a kernel may read both tensors element by element, and nothing watches or transforms what is computed."""
    return (
        unwatched(input)
        and type(target) in PLAIN_TYPES
        and input.dtype == target.dtype
        and input.device == target.device
        and input.shape == target.shape
        and target.layout is torch.strided
        and target.is_contiguous()
        and not target.requires_grad
        and not target.is_neg()
    )


def unwatched(input: Tensor) -> bool:
    """Whether a prediction is a plain tensor that has kernels, outside of transforms, tracing and autocast."""
    return (
        type(input) in PLAIN_TYPES
        and input.dtype in _DTYPES
        and input.layout is torch.strided
        and input.is_contiguous()
        and not input.is_neg()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(input.device.type)
        and getattr(forward_ad, "_current_level", -1) < 0
        and executor(input.device.type) is not None
    )


@functools.cache
def executor(device_type: str) -> Any:
    """The module with the kernels for a type of device, or None."""
    if device_type != "cpu":
        return None
    try:
        from . import cpu
    except Exception:  # without Numba, plain torch
        return None
    return cpu


class _Loss(torch.autograd.Function):
    """One pass forward, in which the gradient is made too; backward only scales it, where its scale is not 1."""

    @staticmethod
    def forward(ctx, input, target, loss, reduction, constants):
        ctx.save_for_backward(input, target)
        ctx.what = loss, reduction, constants
        kernels = executor(input.device.type)
        wanted = ctx.needs_input_grad[0] and reduction != "none"
        value, ctx.gradient = kernels.forward(loss, input, target, reduction, constants, wanted)
        return value

    @staticmethod
    def backward(ctx, upstream):
        input, target = ctx.saved_tensors
        loss, reduction, constants = ctx.what
        if torch.is_grad_enabled():  # somebody wants the gradient's gradient
            x = input.view_as(input)
            value = loss.plain(x, target, reduction, constants)
            (gradient,) = torch.autograd.grad(value, x, upstream, create_graph=True)
            return gradient, None, None, None, None
        gradient, ctx.gradient = ctx.gradient, None  # given away once: the next backward makes its own
        kernels = executor(input.device.type)
        if gradient is None:
            gradient = kernels.backward(loss, input, target, reduction, constants, upstream)
        else:
            kernels.scale(gradient, upstream)
        return gradient, None, None, None, None
