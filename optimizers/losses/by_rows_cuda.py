"""The CUDA kernels of losses over rows: one pass over the rows makes their values and, if wanted, the gradients.

Nothing waits for the device and no sum depends on the order in which programs run. A target that is no class makes its
row's loss and gradient nan, and is never used as an address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..executors.cuda import current
from .cross_entropy_cuda import weight_of_targets
from .cuda import finished, real

#: rows of a program
ROWS = 512


class Nll:
    """The negative log-likelihood with its options, as autograd takes it: of log-probabilities, classes and weights."""

    def __init__(self, plain: Callable[..., Tensor], reduction: str, ignore_index: int):
        self._plain, self.each, self.mean, self.ignore_index = (
            plain,
            reduction == "none",
            reduction == "mean",
            ignore_index,
        )

    def plain(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return self._plain(*tensors)

    def forward(self, tensors, wanted: Sequence[bool]):
        input, target, _ = tensors
        if self.each:
            values = input.new_empty(target.shape)
            self._run(tensors, values=values)
            return values, None
        out, n = torch.zeros_like(input) if wanted[0] else None, self._denominator(tensors)
        sums = input.new_empty(triton.cdiv(target.numel(), ROWS), dtype=torch.float64)
        self._run(tensors, denominator=n, out=out, sums=sums)
        return finished(sums, input, denominator=n), (out, None, None)

    def backward(self, tensors, wanted: Sequence[bool], upstream: Tensor):
        out = torch.zeros_like(tensors[0])
        self._run(tensors, denominator=self._denominator(tensors), upstream=upstream.contiguous(), out=out)
        return out, None, None

    def _denominator(self, tensors) -> Tensor | None:
        input, target, weight = tensors
        return weight_of_targets(input, target, weight, self.ignore_index) if self.mean else None

    def _run(self, tensors, denominator=None, upstream=None, out=None, values=None, sums=None) -> None:
        input, target, _ = tensors
        with current(input.device):
            _nll[(triton.cdiv(target.numel(), ROWS),)](
                *tensors,
                denominator,
                upstream,
                out,
                values,
                sums,
                target.numel(),
                input.shape[1],
                input.shape[2:].numel(),
                self.ignore_index,
                EACH=upstream is not None and upstream.dim() > 0,
                REAL=real(input),
                ROWS=ROWS,
            )


def nll(plain: Callable[..., Tensor], shape: torch.Size, dtype: torch.dtype, reduction: str, ignore_index: int) -> Nll:
    """Of log-probabilities ``(N, C, ...)``, classes, and weights of the classes."""
    return Nll(plain, reduction, ignore_index)


@triton.jit(do_not_specialize=["rows", "classes", "apart", "ignored"])
def _nll(
    input, target, weight, denominator, upstream, out, values, sums,
    rows, classes, apart, ignored,
    EACH: tl.constexpr, REAL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradient's other elements are 0 already; elements of one row are `apart`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    t = tl.load(target + row, there, other=0)
    live = there & (t != ignored)
    good = live & (t >= 0) & (t < classes)
    t = tl.where(good, t, 0)
    start = row // apart * classes * apart + row % apart
    w = tl.full((ROWS,), 1, REAL)
    if weight is not None:
        w = tl.load(weight + t, good, other=0.0).to(REAL)

    if values is not None or sums is not None:
        value = -w * tl.load(input + start + t * apart, good, other=0.0).to(REAL)
        value = tl.where(live, tl.where(good, value, float("nan")), 0)
        if values is not None:
            tl.store(values + row, value.to(values.dtype.element_ty), there)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value.to(tl.float64)))

    if out is not None:
        scale = tl.full((), 1, tl.float64)
        if denominator is not None:
            scale = scale / tl.load(denominator)
        here = tl.full((ROWS,), 1, REAL)
        if EACH:
            here = tl.load(upstream + row, there, other=0.0).to(REAL)
        elif upstream is not None:
            scale *= tl.load(upstream).to(tl.float64)
        g = -w * (here * scale.to(REAL))
        tl.store(out + start + t * apart, g.to(out.dtype.element_ty), good)
        bad = live & (good == 0)
        if tl.max(bad.to(tl.int32)) > 0:
            nan = tl.full((ROWS,), float("nan"), REAL).to(out.dtype.element_ty)
            for _ in range(0, classes):
                tl.store(out + start, nan, bad)
                start += apart
