"""The one autograd function of losses by kernel, and when a kernel may stand in for torch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import _reduction as _Reduction

from ..executors import kernels
from ..executors.tensors import PLAIN_TYPES

REDUCTIONS = ("none", "mean", "sum")

#: of how many sizes of inputs what was prepared is kept for their next loss
MOST_SIZES = 256

#: the names of the modules of kernels by type of device
DEVICES = {"cpu": "cpu", "cuda": "cuda"}


@functools.cache
def on(device: torch.device, loss: str = "") -> Any:
    """The module with the kernels of a loss for a device, imported when it is first used: ``cpu``, ``cuda``, ...

    loss: ``cross_entropy_`` and the like; elementwise ones have no name.
    """
    return importlib.import_module(f".{loss}{DEVICES[device.type]}", __package__)


def named(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    """The reduction that is meant: the older pair of options goes first, with torch's warning."""
    old = size_average is not None or reduce is not None
    return _Reduction.legacy_get_string(size_average, reduce) if old else reduction


class Kernel(Protocol):
    """A loss with its options, that can be computed in one pass.

    plain(tensors): the loss in plain torch.
    forward(tensors, wanted): the loss and, if any is wanted, gradients for an upstream gradient of 1, one for each of
        the tensors and None for those that want none; or None where gradients need the upstream gradient.
    backward(tensors, wanted, upstream): the gradients, made anew.
    """

    def plain(self, tensors: Sequence[Any]) -> Tensor: ...
    def forward(self, tensors: Sequence[Any], wanted: tuple[bool, ...]) -> tuple[Tensor, Gradients | None]: ...
    def backward(self, tensors: Sequence[Any], wanted: tuple[bool, ...], upstream: Tensor) -> Gradients: ...


Gradients = Sequence[Tensor | None]


class _Fused(torch.autograd.Function):
    """One pass forward, in which the gradients are made too; backward only scales them, where their scale is not 1."""

    @staticmethod
    def forward(ctx, kernel, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.kernel = kernel
        wanted = ctx.needs_input_grad[1:]
        # in float16 the gradient of a mean over many elements would be rounded to nothing before a large upstream
        # gradient, such as that of a GradScaler, could lift it
        if tensors[0].dtype is torch.float16:
            wanted = (False,) * len(wanted)
        value, gradients = kernel.forward(tensors, wanted)
        ctx.gradients = gradients if True in wanted else None
        return value

    @staticmethod
    def backward(ctx, upstream):
        # given away once: the next backward makes its own. They are right whatever became of the tensors since, so
        # that those are not looked at
        gradients, ctx.gradients = ctx.gradients, None
        if torch.is_grad_enabled():  # somebody wants the gradients' gradients
            wanted = ctx.needs_input_grad[1:]
            tensors = [t.view_as(t) if w else t for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
            value = ctx.kernel.plain(tensors)
            those = [t for t, w in zip(tensors, wanted, strict=True) if w]
            found = iter(torch.autograd.grad(value, those, upstream, create_graph=True))
            gradients = [next(found) if w else None for w in wanted]
        elif gradients is None:
            gradients = ctx.kernel.backward(ctx.saved_tensors, ctx.needs_input_grad[1:], upstream)
        elif not (upstream.is_cpu and upstream.item() == 1):  # a GPU is not waited for
            scaled = on(upstream.device).scaled
            gradients = [None if gradient is None else scaled(gradient, upstream) for gradient in gradients]
        return None, *gradients


#: without what `Function.apply` does for transforms, which do not come here
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Fused).apply  # type: ignore[misc]


def by_kernel(kernel: Kernel, *tensors: Tensor | None) -> Tensor:
    """The loss by its kernel. Within the autograd function nobody can tell that gradients are off."""
    if torch.is_grad_enabled():
        return _apply(kernel, *tensors)
    return kernel.forward(tensors, (False,) * len(tensors))[0]


def unwatched(input: Tensor, devices: Container[str] = ("cpu",)) -> bool:
    """Whether a prediction is a plain tensor that has kernels, outside of transforms, tracing and autocast.

    devices: the types of device that the loss has kernels for.
    """
    return (
        not torch.compiler.is_compiling()  # first, since what follows cannot be traced
        and type(input) in PLAIN_TYPES
        and (device := "cpu" if input.is_cpu else input.device.type) in devices
        and input.dtype in kernels.DTYPES
        and input.layout is torch.strided
        and input.is_contiguous()
        and not input.is_neg()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(device)
        and getattr(forward_ad, "_current_level", -1) < 0
        and not isinstance(kernels.executor(device), str)
    )


def on_cpu(input: Tensor) -> bool:
    """Whether a tensor is read by the kernels for CPUs: tests let CPU tensors stand for a GPU's."""
    return input.is_cpu and DEVICES["cpu"] == "cpu"


def unwatched_pair(input: Tensor, target: Tensor) -> bool:
    """The same, and a kernel may read the target too, which wants no gradient; of shapes and dtypes nothing is said.

    In one piece, without calls of others: it stands before every small loss.
    """
    return (
        not torch.compiler.is_compiling()
        and type(input) in PLAIN_TYPES
        and type(target) in PLAIN_TYPES
        and (device := "cpu" if input.is_cpu else input.device.type) in DEVICES
        and (target.is_cpu if device == "cpu" else target.device == input.device)
        and input.layout is torch.strided
        and target.layout is torch.strided
        and input.is_contiguous()
        and target.is_contiguous()
        and not input.is_neg()
        and not target.is_neg()
        and not target.requires_grad
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(device)
        and getattr(forward_ad, "_current_level", -1) < 0
        and not isinstance(kernels.executor(device), str)
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
