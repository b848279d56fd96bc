"""The CPU kernels of elementwise losses: generated from a member's value and slope, run over pieces on all threads."""

from __future__ import annotations

import functools
import math
import textwrap
from array import array
from pathlib import Path
from string import Template
from struct import Struct
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

#: the words of how many sizes of inputs are kept for their next loss, and with scratch of how many numbers at most
MOST_SIZES, MOST_KEPT = 256, 32_768

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


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """A gradient for an upstream gradient of 1, made one for another in place."""
    return gradient if upstream.item() == 1 else gradient.mul_(upstream)


def _run(block, what, input, target, out, value, upstream, scale, constants) -> None:
    words = (
        what,
        input.data_ptr(),
        target.data_ptr(),
        0 if out is None else out.data_ptr(),
        0 if value is None else value.data_ptr(),
        0 if upstream is None else upstream.data_ptr(),
    )
    run(block, words, (scale, *constants), input.numel(), PIECE, 1, 1)


class _Call:
    """The words of a job in memory. They are made once for a size, since that takes longer than a small loss does."""

    def __init__(self, block: Any, words: int, numbers: int, n: int, piece: int, unit: int, width: int, scratch: int):
        pieces = -(-n // piece)
        self.numbers = array("d", bytes(8 * (numbers + width * (pieces + 1) + scratch)))
        numbers_at = self.numbers.buffer_info()[0]
        sums, total = numbers_at + 8 * numbers, numbers_at + 8 * (numbers + width * pieces)
        head = [block.address, 0, n, piece, unit, width, sums, total, 0, SERIAL_BELOW, 0, _PARALLEL]
        head += [driver.openmp_body.address, numbers_at]
        self.job = array("q", [*head, *[0] * words, total + 8 * width, n])
        self.at = self.job.buffer_info()[0]
        self.job[driver.ARGS] = self.at + 8 * len(driver.JOB)
        self.set_words, self.set_numbers = Struct(f"{words}q").pack_into, Struct(f"{numbers}d").pack_into
        self.first_word = 8 * len(head)


_calls: dict[tuple[int, int, int], list[_Call]] = {}


def run(
    block: Any,
    words: tuple[int, ...],
    numbers: tuple[float, ...],
    n: int,
    piece: int,
    unit: int,
    width: int = 1,
    scratch: int = 0,
) -> int:
    """Runs a block over `n` units of `unit` elements, which leave `width` sums a piece; what it answers, if not 0.

    Its arguments are the address of `numbers`, then `words`, the address of `scratch` float64 numbers, and `n`.
    """
    key = block.address, n, unit
    spare = _calls.get(key)
    if spare is None:
        if len(_calls) >= MOST_SIZES:
            _calls.clear()
        spare = _calls.setdefault(key, [])
    try:
        call = spare.pop()  # nobody else has it then: other threads may be in the same loss
    except IndexError:
        call = _Call(block, len(words), len(numbers), n, piece, unit, width, scratch)
    call.set_words(call.job, call.first_word, *words)
    call.set_numbers(call.numbers, 0, *numbers)
    call.job[driver.THREADS] = threads.count()
    answer = _drive(call.at)
    if scratch <= MOST_KEPT:
        spare.append(call)
    return answer


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
