"""The CUDA kernels of elementwise losses: generated from a member's value and slope, as those of the CPU are.

Nothing waits for the device and no sum depends on the order in which programs run: each leaves the sum of its piece in
a buffer (of a few numbers a lane in the working type, of the lanes in float64), which one more program adds in order.

The gradient is made in the forward pass, of what is read there anyway. The backward pass looks at the upstream gradient
on the device and leaves at once where it is 1: 12 bytes an element of float32 then, and 20 otherwise, which is what
saving the inputs and making the gradient in the backward pass would always take.
"""

import functools
import inspect
import math
import textwrap
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..executors import generate, triton_dialect, triton_math
from ..executors.cuda import current
from ..executors.sources import exactly_divided, storage

if TYPE_CHECKING:
    from .elementwise import Elementwise

#: elements of a program, in blocks of so many; programs that scale a gradient; and partial sums that are added at once
PIECE, BLOCK, WARPS = 8192, 2048, 8
SCALERS, ADDED = 1024, 8192


Outs = tuple[Tensor | None, ...]


def forward(
    loss: "Elementwise",
    tensors: Sequence[Tensor],
    reduction: str,
    constants: tuple[float, ...],
    wanted: tuple[bool, ...],
) -> tuple[Tensor, Outs | None]:
    """The loss and, of the mean and the sum, the gradients that are wanted for an upstream gradient of 1."""
    input = tensors[0]
    if reduction == "none":
        values = torch.empty_like(input)
        _run(loss, tensors, constants, (None,) * len(tensors), values=values)
        return values, None
    outs = _outs(input, wanted)
    sums = input.new_empty(_programs(input), dtype=torch.float64)
    scale = _scale(input, reduction)
    _run(loss, tensors, constants, outs, sums=sums, scale=scale)
    return finished(sums, input, scale), outs


def backward(
    loss: "Elementwise",
    tensors: Sequence[Tensor],
    reduction: str,
    constants: tuple[float, ...],
    wanted: tuple[bool, ...],
    upstream: Tensor,
) -> Outs:
    """The gradients, made anew."""
    outs = _outs(tensors[0], wanted)
    _run(loss, tensors, constants, outs, upstream=upstream.contiguous(), scale=_scale(tensors[0], reduction))
    return outs


def _outs(like: Tensor, wanted: tuple[bool, ...]) -> Outs:
    return tuple([torch.empty_like(like) if w else None for w in wanted])


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """A gradient for an upstream gradient of 1, made one for another in place."""
    programs = min(triton.cdiv(gradient.numel(), BLOCK), SCALERS)
    with current(gradient.device):
        _scale_by[(programs,)](gradient, upstream, gradient.numel(), REAL=real(gradient), BLOCK=BLOCK, num_warps=WARPS)
    return gradient


def finished(sums: Tensor, like: Tensor, scale: float = 1.0, denominator: Tensor | None = None) -> Tensor:
    """The sum of `sums`, added in order, times `scale` and over `denominator`, in the dtype of `like`."""
    value = like.new_empty(())
    with current(like.device):
        _add[(1,)](sums, denominator, value, len(sums), scale, REAL=real(like), BLOCK=ADDED, num_warps=16)
    return value


def real(t: Tensor) -> tl.dtype:
    """The type of the arithmetic."""
    return tl.float64 if t.dtype == torch.float64 else tl.float32


def _programs(input: Tensor) -> int:
    return triton.cdiv(input.numel(), PIECE)


def _scale(input: Tensor, reduction: str) -> float:
    if reduction != "mean":
        return 1.0
    return 1 / input.numel() if input.numel() else math.nan


def _run(loss, tensors, constants, outs, values=None, sums=None, upstream=None, scale=1.0) -> None:
    input = tensors[0]
    slopes = tuple(slope for slope in loss.slopes if slope is not None)  # those that have none come last
    kernel = _kernel(loss.value, slopes, input.dtype, len(constants), len(tensors))
    with current(input.device):
        kernel[(_programs(input),)](
            *tensors,
            *outs[: len(slopes)],
            values,
            sums,
            upstream,
            input.numel(),
            scale,
            *constants,
            EACH=upstream is not None and upstream.dim() > 0,
            PIECE=PIECE,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )


@functools.cache
def _kernel(value, slopes, dtype: torch.dtype, constants: int, tensors: int) -> Any:
    """The kernel of a loss of `tensors` tensors, of which the first have slopes."""
    kind = generate.name(dtype)
    names = storage(kind)
    xs, cs = [f"x{k}" for k in range(tensors)], [f"c{i}" for i in range(constants)]
    written = [f"to{k}" for k in range(len(slopes))]
    call = ", ".join(xs + cs)

    def body(mask: str) -> str:
        masked = f", {mask}" if mask else ""
        lines = [f"{x} = tl.load({x}_at + at{masked}).to(tl.{names['REAL']})" for x in xs]
        lines += ["if values is not None:", f"    tl.store(values + at, value({call}).to(tl.{kind}){masked})"]
        one = f"tl.where({mask}, value({call}), 0)" if mask else f"value({call})"
        lines += ["if sums is not None:", f"    total += {one}"]
        lines += ["share = factor", "if EACH:", f"    share = tl.load(upstream + at{masked}).to(tl.{names['REAL']})"]
        for k, to in enumerate(written):
            lines += [f"if {to} is not None:"]
            lines += [f"    tl.store({to} + at, (share * slope{k}({call})).to(tl.{kind}){masked})"]
        return textwrap.indent("\n".join(lines), " " * 12).lstrip()

    names |= {
        "FUNCTIONS": "\n\n\n".join(
            f"@triton.jit\n{exactly_divided(function, name)}"
            for function, name in [(value, "value"), *[(slope, f"slope{k}") for k, slope in enumerate(slopes)]]
        ),
        "TENSORS": ", ".join([f"{x}_at" for x in xs] + written),
        "CONSTANTS": "".join(f', {c}: "{names["REAL"]}"' for c in cs).replace("float", "fp"),
        "NUMBERS": "\n    ".join(f"{c} = tl.full((), {c}, tl.{names['REAL']})" for c in cs) or "pass",
        "BODY": body(""),
        "MASKED": body("inside"),
    }
    text = Template(_SOURCE).substitute(names)
    dialect = [inspect.getsource(module) for module in (triton_dialect, triton_math)]
    return generate.load(text, "loss_kernel", triton.__version__, *dialect).kernel


_SOURCE = """import triton
import triton.language as tl
from optimizers.executors.triton_dialect import *
from optimizers.executors.triton_math import *


${FUNCTIONS}


@triton.jit(do_not_specialize=["n"])
def kernel(
    ${TENSORS}, values, sums, upstream, n, scale: "fp64"${CONSTANTS},
    EACH: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr,
):
    ${NUMBERS}
    factor = tl.full((), scale, tl.${REAL})
    if upstream is not None and not EACH:
        factor = tl.full((), tl.load(upstream).to(tl.float64) * scale, tl.${REAL})
    start = tl.program_id(0).to(tl.int64) * PIECE
    total = tl.zeros((BLOCK,), tl.${REAL})
    for base in range(start, tl.minimum(start + PIECE, n), BLOCK):
        base = tl.multiple_of(base, BLOCK)
        at = base + tl.arange(0, BLOCK)
        if base + BLOCK <= n:
            ${BODY}
        else:
            inside = at < n
            ${MASKED}
    if sums is not None:
        tl.store(sums + tl.program_id(0), tl.sum(total.to(tl.float64)))
"""


@triton.jit(do_not_specialize=["n"])
def _add(sums, denominator, out, n, scale: tl.float64, REAL: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    for base in range(0, n, BLOCK):
        total += tl.load(sums + base + at, base + at < n, other=0.0)
    s = tl.sum(total) * scale
    if denominator is not None:
        s = s / tl.load(denominator)
    tl.store(out, s.to(REAL).to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["n"])
def _scale_by(gradient, upstream, n, REAL: tl.constexpr, BLOCK: tl.constexpr):
    factor = tl.load(upstream).to(REAL)
    if factor != 1:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for base in range(tl.program_id(0).to(tl.int64) * BLOCK, n, step):
            at = tl.multiple_of(base, BLOCK) + tl.arange(0, BLOCK)
            if base + BLOCK <= n:  # without a mask the compiler can move 128 bits at a time
                g = tl.load(gradient + at).to(REAL)
                tl.store(gradient + at, (g * factor).to(gradient.dtype.element_ty))
            else:
                g = tl.load(gradient + at, at < n).to(REAL)
                tl.store(gradient + at, (g * factor).to(gradient.dtype.element_ty), at < n)
