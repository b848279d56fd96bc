"""The CPU kernels of elementwise losses: generated from a member's value and slope, run over pieces on all threads."""

from __future__ import annotations

import functools
import math
import textwrap
from array import array
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

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
_PARALLEL = (threads.openmp() or (0,))[0]

#: for templates: what a block is called for
STAGES = {name: str(getattr(driver, name)) for name in ("PREPARE", "MEASURE", "FINISH")}
#: what the source of a loss begins with
HEAD = IMPORTS + "from optimizers.executors.numba_math import *\n" + ELEMENTS

#: what is asked of a block of elements
SUM, SUM_AND_GRADIENT, VALUES, GRADIENTS, GRADIENT = range(5)


def forward(
    loss: Elementwise, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...], gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss and, if wanted, its gradient for an upstream gradient of 1."""
    block = _block(loss, input.dtype, len(constants))
    if reduction == "none":
        values = memory.fresh(input)
        _run(block, VALUES, input, target, values, None, None, 1.0, constants)
        return values, None
    n = input.numel()
    value = input.new_empty(())
    out = memory.fresh(input) if gradient else None
    scale = 1.0 if reduction == "sum" else 1.0 / n if n else math.nan
    _run(block, SUM_AND_GRADIENT if gradient else SUM, input, target, out, value, None, scale, constants)
    return value, out


def backward(
    loss: Elementwise, input: Tensor, target: Tensor, reduction: str, constants: tuple[float, ...], upstream: Tensor
) -> Tensor:
    """The gradient, made anew."""
    block = _block(loss, input.dtype, len(constants))
    out = memory.fresh(input)
    if reduction == "none":
        _run(block, GRADIENTS, input, target, out, None, upstream.contiguous(), 1.0, constants)
    else:
        scale = upstream.item() / (input.numel() if reduction == "mean" else 1)
        _run(block, GRADIENT, input, target, out, None, None, scale, constants)
    return out


def _run(block, what, input, target, out, value, upstream, scale, constants) -> None:
    words = (what, *map(address, (input, target, out, value, upstream)))
    run(block, words, (scale, *constants), input.numel(), PIECE, 1, 1)


def address(t: Tensor | None) -> int:
    """Where a tensor begins, 0 for none."""
    return 0 if t is None else t.data_ptr()


def run(
    block: Any, words: tuple[int, ...], numbers: tuple[float, ...], n: int, piece: int, unit: int, width: int
) -> int:
    """Runs a block over `n` units of `unit` elements, which leave `width` sums a piece; what it answers, if not 0.

    Its arguments are the address of `numbers`, then `words`. Plain arrays: to make them takes less time than the rest.
    """
    pieces = -(-n // piece)
    sums, floats = array("d", bytes(8 * width * (pieces + 1))), array("d", numbers)
    sums_at = sums.buffer_info()[0]
    job = array(
        "q",
        (
            block.address,
            0,
            n,
            piece,
            unit,
            width,
            sums_at,
            sums_at + 8 * width * pieces,
            threads.count(),
            SERIAL_BELOW,
            0,
            _PARALLEL,
            driver.openmp_body.address,
            floats.buffer_info()[0],
            *words,
        ),
    )
    at = job.buffer_info()[0]
    job[driver.ARGS] = at + 8 * len(driver.JOB)
    return _drive(at)


@functools.cache
def _block(loss: Elementwise, dtype: torch.dtype, constants: int) -> Any:
    """The compiled block of one loss and dtype."""
    kind = generate.name(dtype)
    names = storage(kind) | STAGES
    real = names["REAL"]
    names |= {name: str(globals()[name]) for name in "SUM SUM_AND_GRADIENT VALUES GRADIENTS".split()} | {
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


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    numbers, what, value_at = word(args, 0), word(args, 1), word(args, 5)
    scale = ${REAL}(get_float64(numbers, 0))
    if stage == ${FINISH} and value_at:
        set_element(value_at, 0, get_float64(sums, 0) * get_float64(numbers, 0))
    if stage != ${MEASURE}:
        return 0
    ${LOADS}
    skip, n = ${SIZE} * begin, end - begin
    x_at, y_at, out = word(args, 2) + skip, word(args, 3) + skip, word(args, 4) + skip
    s = 0.0
    if what == ${SUM}:
        s = total(x_at, y_at, n${C})
    elif what == ${SUM_AND_GRADIENT}:
        s = total_and_gradient(x_at, y_at, out, n, scale${C})
    elif what == ${VALUES}:
        values(x_at, y_at, out, n${C})
    elif what == ${GRADIENTS}:
        gradients(x_at, y_at, out, word(args, 6) + skip, n${C})
    else:
        gradient(x_at, y_at, out, n, scale${C})
    set_float64(sums, 0, s)
    return 0
"""
