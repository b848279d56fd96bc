"""The one autograd function of losses by kernel, and when a kernel may stand in for torch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Container
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..executors import kernels
from ..executors.tensors import PLAIN_TYPES

REDUCTIONS = ("none", "mean", "sum")

#: the names of the modules of kernels by type of device
DEVICES = {"cpu": "cpu", "cuda": "cuda"}


def on(device: torch.device, loss: str = "") -> Any:
    """The module with the kernels of a loss for a device, imported when it is first used: ``cpu``, ``cuda``, ...

    loss: ``cross_entropy_`` and the like; elementwise ones have no name.
    """
    return _module(loss + DEVICES[device.type])


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


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


def by_kernel(kernel: Kernel, input: Tensor, others: tuple[Tensor | None, ...] = (), options: Any = ()) -> Tensor:
    """The loss by its kernel; only `input` gets a gradient."""
    return _apply(kernel, options, input, *others)


class _Fused(torch.autograd.Function):
    """One pass forward, in which the gradient is made too; backward only scales it, where its scale is not 1."""

    @staticmethod
    def forward(ctx, kernel, options, input, *others):
        ctx.save_for_backward(input, *others)
        ctx.kernel, ctx.options, ctx.others = kernel, options, len(others)
        value, ctx.gradient = kernel.forward(input, others, options, ctx.needs_input_grad[2])
        return value

    @staticmethod
    def backward(ctx, upstream):
        # given away once: the next backward makes its own. It is right whatever became of the input since, so that
        # saved tensors are not looked at
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():  # somebody wants the gradient's gradient
            input, *others = ctx.saved_tensors
            x = input.view_as(input)
            value = ctx.kernel.plain(x, others, ctx.options)
            (gradient,) = torch.autograd.grad(value, x, upstream, create_graph=True)
        elif gradient is None:
            input, *others = ctx.saved_tensors
            gradient = ctx.kernel.backward(input, others, ctx.options, upstream)
        else:
            gradient = on(gradient.device).scaled(gradient, upstream)
        return None, None, gradient, *[None] * ctx.others


# without what `Function.apply` does for transforms, which do not come here
_apply = super(torch.autograd.Function, _Fused).apply  # type: ignore[misc]


def unwatched(input: Tensor, devices: Container[str] = ("cpu",)) -> bool:
    """Whether a prediction is a plain tensor that has kernels, outside of transforms, tracing and autocast.

    devices: the types of device that the loss has kernels for.
    """
    return (
        type(input) in PLAIN_TYPES
        and input.device.type in devices
        and input.dtype in kernels.DTYPES
        and input.layout is torch.strided
        and input.is_contiguous()
        and not input.is_neg()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(input.device.type)
        and getattr(forward_ad, "_current_level", -1) < 0
        and not isinstance(kernels.executor(input.device.type), str)
    )


def beside(input: Tensor, other: Tensor) -> bool:
    """Whether a kernel may read another tensor element by element with an `unwatched` prediction."""
    return (
        type(other) in PLAIN_TYPES
        and input.dtype == other.dtype
        and input.device == other.device
        and input.shape == other.shape
        and other.layout is torch.strided
        and other.is_contiguous()
        and not other.requires_grad
        and not other.is_neg()
    )
