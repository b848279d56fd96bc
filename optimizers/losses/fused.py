"""The one autograd function of losses by kernel, and when a kernel may stand in for torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import _reduction as _Reduction

from ..executors import kernels
from ..executors.tensors import PLAIN_TYPES

REDUCTIONS = ("none", "mean", "sum")


def named(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    """The reduction that is meant: the older pair of options goes first, with torch's warning."""
    old = size_average is not None or reduce is not None
    return _Reduction.legacy_get_string(size_average, reduce) if old else reduction


class Kernel(Protocol):
    """A loss that can be computed in one pass. `others` are tensors, and `options` what is not; both may be empty.

    plain(input, others, options): the loss in plain torch.
    forward(input, others, options, wanted): the loss and, if wanted, its gradient for an upstream gradient of 1, or
        None where that needs the upstream gradient.
    backward(input, others, options, upstream): the gradient, made anew.
    """

    def plain(self, input: Tensor, others: tuple[Any, ...], options: Any) -> Tensor: ...
    def forward(
        self, input: Tensor, others: tuple[Any, ...], options: Any, wanted: bool
    ) -> tuple[Tensor, Tensor | None]: ...
    def backward(self, input: Tensor, others: tuple[Any, ...], options: Any, upstream: Tensor) -> Tensor: ...


class KernelOfSeveral(Protocol):
    """The same for a loss of which any tensor may get a gradient; gradients are one for each of `tensors`.

    wanted: for each of the tensors whether it wants one; None stands for a gradient that is not wanted.
    """

    def plain(self, tensors: Sequence[Any], options: Any) -> Tensor: ...
    def forward(
        self, tensors: Sequence[Any], options: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor, Gradients | None]: ...
    def backward(
        self, tensors: Sequence[Any], options: Any, wanted: tuple[bool, ...], upstream: Tensor
    ) -> Gradients: ...


Gradients = Sequence[Tensor | None]


def by_kernel(kernel: Kernel, input: Tensor, others: tuple[Tensor | None, ...] = (), options: Any = ()) -> Tensor:
    """The loss by its kernel; only `input` gets a gradient."""
    return _Fused.apply(_OfFirst(kernel), options, input, *others)


def by_kernel_of_several(kernel: KernelOfSeveral, tensors: Sequence[Tensor], options: Any = ()) -> Tensor:
    """The loss by its kernel; each of the tensors may get a gradient."""
    return _Fused.apply(kernel, options, *tensors)


@dataclass(frozen=True)
class _OfFirst:
    """A kernel of one differentiable tensor as one of several, of which only the first is."""

    kernel: Kernel

    def plain(self, tensors: Sequence[Any], options: Any) -> Tensor:
        return self.kernel.plain(tensors[0], tuple(tensors[1:]), options)

    def forward(self, tensors: Sequence[Any], options: Any, wanted: tuple[bool, ...]):
        value, gradient = self.kernel.forward(tensors[0], tuple(tensors[1:]), options, wanted[0])
        return value, None if gradient is None else (gradient, *[None] * (len(tensors) - 1))

    def backward(self, tensors: Sequence[Any], options: Any, wanted: tuple[bool, ...], upstream: Tensor):
        gradient = self.kernel.backward(tensors[0], tuple(tensors[1:]), options, upstream)
        return gradient, *[None] * (len(tensors) - 1)


class _Fused(torch.autograd.Function):
    """One pass forward, in which the gradients are made too; backward only scales them, where their scale is not 1."""

    @staticmethod
    def forward(ctx, kernel, options, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.kernel, ctx.options = kernel, options
        value, ctx.gradients = kernel.forward(tensors, options, ctx.needs_input_grad[2:])
        return value

    @staticmethod
    def backward(ctx, upstream):
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # somebody wants the gradients' gradients
            tensors = [t.view_as(t) if w else t for t, w in zip(tensors, wanted, strict=True)]
            value = ctx.kernel.plain(tensors, ctx.options)
            those = [t for t, w in zip(tensors, wanted, strict=True) if w]
            found = iter(torch.autograd.grad(value, those, upstream, create_graph=True))
            gradients = [next(found) if w else None for w in wanted]
        else:
            gradients, ctx.gradients = ctx.gradients, None  # given away once: the next backward makes its own
            if gradients is None:
                gradients = ctx.kernel.backward(tensors, ctx.options, wanted, upstream)
            elif upstream.item() != 1:
                for gradient in gradients:
                    if gradient is not None:
                        gradient.mul_(upstream)
        return None, None, *gradients


def unwatched(input: Tensor) -> bool:
    """Whether a prediction is a plain tensor that has kernels, outside of transforms, tracing and autocast."""
    return (
        type(input) in PLAIN_TYPES
        and input.device.type == "cpu"
        and input.dtype in kernels.DTYPES
        and input.layout is torch.strided
        and input.is_contiguous()
        and not input.is_neg()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cpu")
        and getattr(forward_ad, "_current_level", -1) < 0
        and not isinstance(kernels.executor("cpu"), str)
    )


def beside(input: Tensor, other: Tensor) -> bool:
    """Whether a kernel may read another tensor, which wants no gradient, element by element with an `unwatched` one."""
    return alike(input, other) and not other.requires_grad


def alike(input: Tensor, other: Tensor) -> bool:
    """The same, whether or not it wants a gradient."""
    return (
        type(other) in PLAIN_TYPES
        and input.dtype == other.dtype
        and input.device == other.device
        and input.shape == other.shape
        and other.layout is torch.strided
        and other.is_contiguous()
        and not other.is_neg()
    )
