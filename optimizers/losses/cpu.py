"""The CPU kernels of elementwise losses: generated from a member's value and slope, run over pieces on all threads."""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..executors import cpu, generate, threads
from ..executors.sources import ELEMENTS, IMPORTS, storage, typed
from . import memory

if TYPE_CHECKING:
    from .elementwise import Elementwise

#: elements of a piece, and below how many a second thread costs more than it saves
PIECE, SERIAL_BELOW = 16_384, 32_768

driver = generate.compiled("reduce")
_drive = cpu.callable_address(driver.drive.address)

#: what the source of a loss begins with
HEAD = IMPORTS + "from optimizers.executors.numba_math import exp, expm1, log, log1p, tanh\n" + ELEMENTS

#: what a block does
SUM, SUM_AND_GRADIENT, VALUES, GRADIENTS, GRADIENT = range(5)


def forward(
    loss: Elementwise, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...], gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss and, if wanted, its gradient for an upstream gradient of 1."""
    if reduction == "none":
        values = memory.fresh(input)
        _run(loss, VALUES, input, target, constants, values)
        return values, None
    n = input.numel()
    out = memory.fresh(input) if gradient else None
    scale = 1.0 if reduction == "sum" else 1.0 / n if n else float("nan")
    total = _run(loss, SUM_AND_GRADIENT if gradient else SUM, input, target, constants, out, scale)
    return torch.full((), total * scale, dtype=input.dtype), out


def backward(
    loss: Elementwise, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...], upstream: Tensor
) -> Tensor:
    """The gradient, made anew."""
    out = memory.fresh(input)
    if reduction == "none":
        upstream = upstream.contiguous()
        _run(loss, GRADIENTS, input, target, constants, out, 1.0, upstream)
    else:
        scale = upstream.item() / (input.numel() if reduction == "mean" else 1)
        _run(loss, GRADIENT, input, target, constants, out, scale)
    return out


def run(block: Any, args: np.ndarray, n: int, piece: int, unit: int, width: int = 1) -> np.ndarray:
    """Calls a block over `n` units of `unit` elements; the `width` sums that its pieces leave, added up."""
    pieces = -(-n // piece)
    sums = np.empty((pieces + 1, width))
    job = np.array(
        [
            block.address,
            args.ctypes.data,
            n,
            piece,
            unit,
            width,
            sums.ctypes.data,
            sums.ctypes.data + 8 * width * pieces,
            threads.count(),
            SERIAL_BELOW,
            0,
            (threads.openmp() or (0,))[0],
            driver.openmp_body.address,
        ],
        np.int64,
    )
    _drive(job.ctypes.data)
    return sums[-1]


def _run(
    loss: Elementwise,
    what: int,
    input: Tensor,
    target: Tensor,
    constants: tuple[float, ...],
    out: Tensor | None,
    scale: float = 1.0,
    upstream: Tensor | None = None,
) -> float:
    numbers = np.array([scale, *constants], np.float64)
    tensors = (input, target, out, upstream)
    args = np.array([what, numbers.ctypes.data, *[0 if t is None else t.data_ptr() for t in tensors]], np.int64)
    return float(run(_block(loss, input.dtype, len(constants)), args, input.numel(), PIECE, 1)[0])


@functools.cache
def _block(loss: Elementwise, dtype: torch.dtype, constants: int) -> Any:
    """The compiled block of one loss and dtype."""
    kind = generate.name(dtype)
    names = storage(kind)
    real = names["REAL"]
    names |= {
        "VALUE": typed(loss.value, "value", real),
        "SLOPE": typed(loss.slope, "slope", real),
        "C": "".join(f", c{i}" for i in range(constants)),
    }
    loads = "\n".join(f"c{i} = {real}(get_float64(numbers, {i + 1}))" for i in range(constants))
    text = Template(HEAD + _SOURCE).substitute(names, LOADS=textwrap.indent(loads, "    ").lstrip() or "pass")
    return generate.load(text, "loss", math_source(), *generate.numba_ingredients()).block


@functools.cache
def math_source() -> str:
    """What the machine code of a loss is made of besides its own text."""
    return Path(generate.__file__).with_name("numba_math.py").read_text(encoding="utf-8")


_SOURCE = """

@njit(forceinline=True, **OPTIONS)
${VALUE}


@njit(forceinline=True, **OPTIONS)
${SLOPE}


@njit(**SUMS)
def total(x_at, y_at, n${C}):
    s = 0.0
    for i in range(n):
        s += float64(value(element(x_at, i), element(y_at, i)${C}))
    return s


@njit(**SUMS)
def total_and_gradient(x_at, y_at, out, n, scale${C}):
    s = 0.0
    for i in range(n):
        x, y = element(x_at, i), element(y_at, i)
        s += float64(value(x, y${C}))
        set_element(out, i, scale * slope(x, y${C}))
    return s


@njit(**OPTIONS)
def values(x_at, y_at, out, n${C}):
    for i in range(n):
        set_element(out, i, value(element(x_at, i), element(y_at, i)${C}))


@njit(**OPTIONS)
def gradient(x_at, y_at, out, n, scale${C}):
    for i in range(n):
        set_element(out, i, scale * slope(element(x_at, i), element(y_at, i)${C}))


@njit(**OPTIONS)
def gradients(x_at, y_at, out, up, n${C}):
    for i in range(n):
        set_element(out, i, element(up, i) * slope(element(x_at, i), element(y_at, i)${C}))


@cfunc("void(intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums):
    what, numbers, skip, n = word(args, 0), word(args, 1), ${SIZE} * begin, end - begin
    scale = ${REAL}(get_float64(numbers, 0))
    ${LOADS}
    x_at, y_at, out = word(args, 2) + skip, word(args, 3) + skip, word(args, 4) + skip
    s = 0.0
    if what == 0:
        s = total(x_at, y_at, n${C})
    elif what == 1:
        s = total_and_gradient(x_at, y_at, out, n, scale${C})
    elif what == 2:
        values(x_at, y_at, out, n${C})
    elif what == 3:
        gradients(x_at, y_at, out, word(args, 5) + skip, n${C})
    else:
        gradient(x_at, y_at, out, n, scale${C})
    set_float64(sums, 0, s)
"""
