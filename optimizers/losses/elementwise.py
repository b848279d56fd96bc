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
from .fused import DEVICES, MOST_SIZES, REDUCTIONS, alike, beside, by_kernel, on, on_cpu, unwatched, unwatched_pair

#: below this many elements torch's own losses are as fast as the calls around a kernel, and below this many formulas
#: are, where torch has no such loss; and on a GPU torch's own
SMALL, SMALL_ALONE, SMALL_ON_GPU = 1024, 64, 32_768


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
    reductions: those that a kernel on a CPU may be asked for.
    """

    value: Callable[..., Any]
    slope: Callable[..., Any]
    others: tuple[Callable[..., Any] | None, ...] = (None,)
    original: Callable[..., Tensor] | None = None
    reductions: tuple[str, ...] = REDUCTIONS

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
        least = SMALL if input.is_cpu else SMALL_ON_GPU
        return input.numel() >= least and reduction in REDUCTIONS and self.has_kernel(input, others)

    def fast(
        self,
        input: Tensor,
        target: Tensor,
        reduction: str,
        constants: tuple[float, ...] = (),
        least: int | None = None,
    ) -> Tensor | None:
        """The loss of a prediction and a target that wants no gradient by a kernel; None where none is safe or faster.

        least: of how many elements one is faster.
        """
        if (
            input.numel() < ((SMALL if input.is_cpu else SMALL_ON_GPU) if least is None else least)
            or reduction not in self.reductions
            or not unwatched_pair(input, target)
        ):
            return None
        kernel = _kernel(
            self, input.shape, input.dtype, target.shape, target.dtype, on_cpu(input), reduction, constants
        )
        return None if kernel is None else by_kernel(kernel, input, target)

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
        value = None
        if not isinstance(others, tuple):
            value = self.fast(input, others, reduction, constants, SMALL_ALONE)
        elif input.numel() >= SMALL_ALONE and reduction in REDUCTIONS and self.has_kernel(input, others):
            value = self.by_kernel(input, others, reduction, constants)
        return self.plain((input, *_tuple(others)), (reduction, constants)) if value is None else value


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


class _Ready(Bound):
    """The same on a CPU, of a mean or a sum of one number of elements, for which all is made beforehand that can be."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, *options: Any):
        super().__init__(*options)
        self.forward = on(torch.device("cpu")).Loss(shape, dtype, *options).forward  # type: ignore[method-assign]


@functools.lru_cache(MOST_SIZES)
def _kernel(
    loss: Elementwise,
    shape: torch.Size,
    dtype: torch.dtype,
    target_shape: torch.Size,
    target_dtype: torch.dtype,
    cpu: bool,
    reduction: str,
    constants: tuple[float, ...],
) -> Bound | None:
    """The kernel for a prediction and a target of such shapes and dtypes with these options; None if there is none."""
    if dtype not in kernels.DTYPES or (shape, dtype) != (target_shape, target_dtype):
        return None
    # other kinds of numbers, such as tensors, may be others the next time they come
    if not all(isinstance(constant, (int, float)) for constant in constants):
        return None
    options = loss, reduction, constants
    return Bound(*options) if reduction == "none" or not cpu else _Ready(shape, dtype, *options)


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Values as they are, their mean, their sum, or that over the number of examples."""
    if reduction == "none":
        return values
    if reduction == "batchmean" and values.dim():
        return values.sum() / values.shape[0]
    return values.mean() if reduction == "mean" else values.sum()


def _tuple(others: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return others if isinstance(others, tuple) else (others,)
