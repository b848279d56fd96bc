"""The CPU kernels of elementwise losses: generated from a member's value and slope, run over pieces on all threads."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from string import Template
from struct import Struct
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..executors import cpu, generate, numba_math, threads
from ..executors.sources import ELEMENTS, IMPORTS, storage, typed
from . import memory

if TYPE_CHECKING:
    from .elementwise import Elementwise

#: elements of a piece, and below how many a second thread costs more than it saves
PIECE, SERIAL_BELOW = 16_384, 32_768

#: the words of how many sizes of inputs are kept for their next loss, and with scratch of how many numbers at most
MOST_SIZES, MOST_KEPT = 256, 32_768

#: a loss with one of these has more to compute than to fetch: its values are added in the type of the arithmetic over
#: runs, a few for each lane of a vector, and then in float64, because with float64 from the first on vectors would be
#: half as long. The others wait for memory, which vectors of half the length ask for in a better order
HEAVY, RUN = {*numba_math.__all__, "softplus"}, 512

driver = generate.compiled("reduce")
_drive = cpu.callable_address(driver.drive.address)
_PARALLEL = (threads.openmp() or (0,))[0]

#: for templates: what a block is called for
STAGES = {name: str(getattr(driver, name)) for name in ("PREPARE", "MEASURE", "FINISH")}
#: what the source of a loss begins with
HEAD = IMPORTS + "from optimizers.executors.numba_math import *\n" + ELEMENTS
HEAD += """

@njit(forceinline=True, **OPTIONS)
def softplus(x):
    return maximum(x, ${REAL}(0)) + log1p_unit(exp_negative(-absolute(x)))
"""

#: what is asked of a block of elements
SUM, SUM_AND_GRADIENT, VALUES, GRADIENTS, GRADIENT = range(5)

Outs = tuple[Tensor | None, ...]


def forward(
    loss: Elementwise, tensors: Sequence[Tensor], reduction: str, constants: tuple[float, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor, Outs | None]:
    """The loss and, of the mean and the sum, the gradients that are wanted for an upstream gradient of 1."""
    input = tensors[0]
    if reduction == "none":
        values = memory.fresh(input)
        _run(loss, VALUES, tensors, constants, None, values)
        return values, None
    n = input.numel()
    value = input.new_empty(())
    scale = 1.0 if reduction == "sum" else 1.0 / n if n else math.nan
    outs = _outs(input, wanted) if True in wanted else None
    _run(loss, SUM if outs is None else SUM_AND_GRADIENT, tensors, constants, outs, value, scale)
    return value, outs


def backward(
    loss: Elementwise,
    tensors: Sequence[Tensor],
    reduction: str,
    constants: tuple[float, ...],
    wanted: tuple[bool, ...],
    upstream: Tensor,
) -> Outs:
    """The gradients, made anew."""
    outs = _outs(tensors[0], wanted)
    if reduction == "none":
        _run(loss, GRADIENTS, tensors, constants, outs, upstream.contiguous())
    else:
        scale = upstream.item() / (tensors[0].numel() if reduction == "mean" else 1)
        _run(loss, GRADIENT, tensors, constants, outs, None, scale)
    return outs


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """A gradient for an upstream gradient of 1, made one for another in place."""
    return gradient.mul_(upstream)


def _outs(like: Tensor, wanted: tuple[bool, ...]) -> Outs:
    return tuple([memory.fresh(like) if w else None for w in wanted])


def _run(
    loss: Elementwise,
    what: int,
    tensors: Sequence[Tensor],
    constants: tuple[float, ...],
    outs: Outs | None,
    other: Tensor | None,
    scale: float = 1.0,
) -> None:
    """`other`: where the value or the values go, or the upstream gradients."""
    input = tensors[0]
    # without gradients, the block that serves those of the prediction is as good as any
    wanted = (True, *[False] * (len(tensors) - 1)) if outs is None else tuple([out is not None for out in outs])
    words = [what, 0 if other is None else other.data_ptr(), *[t.data_ptr() for t in tensors]]
    words += [0] * len(tensors) if outs is None else [0 if out is None else out.data_ptr() for out in outs]
    run(_block(loss, input.dtype, len(constants), wanted), words, (scale, *constants), input.numel(), PIECE, 1)


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
    words: Sequence[int],
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
def _block(loss: Elementwise, dtype: torch.dtype, constants: int, wanted: tuple[bool, ...]) -> Any:
    """The compiled block of one loss, dtype, and set of tensors that want a gradient."""
    kind = generate.name(dtype)
    names = storage(kind) | STAGES
    names |= {name: str(globals()[name]) for name in "SUM SUM_AND_GRADIENT VALUES GRADIENTS".split()}
    real, size, n = names["REAL"], names["SIZE"], len(wanted)
    slopes = {k: slope for k, slope in enumerate(loss.slopes) if slope is not None and wanted[k]}
    c = "".join(f", c{i}" for i in range(constants))
    x = ", ".join(f"x{k}" for k in range(n)) + c
    places = [f"x{k}_at = word(args, {3 + k}) + {size} * begin" for k in range(n)]
    places += [f"out{k} = word(args, {3 + n + k}) + {size} * begin" for k in slopes]
    places += [f"c{i} = {real}(get_float64(numbers, {i + 1}))" for i in range(constants)]
    names |= {
        "VALUE": typed(loss.value, "value", real),
        "SLOPES": "".join(f"{_INLINE}{typed(slope, f'slope{k}', real)}\n" for k, slope in slopes.items()),
        "C": c,
        "X": x,
        "AT": ", ".join(f"x{k}_at" for k in range(n)),
        "READ": ", ".join(f"x{k}" for k in range(n)) + " = " + ", ".join(f"element(x{k}_at, i)" for k in range(n)),
        "OUTS": ", ".join(f"out{k}" for k in slopes),
        "SCALED": "; ".join(f"set_element(out{k}, i, scale * slope{k}({x}))" for k in slopes),
        "PLACES": "\n    ".join(places),
        "RUN": str(RUN),
        "PART": real if HEAVY.intersection(loss.value.__code__.co_names) else "float64",
    }
    text = Template(HEAD + _SOURCE).substitute(names)
    return generate.load(text, "loss", math_source(), *generate.numba_ingredients()).block


@functools.cache
def math_source() -> str:
    """What the machine code of a loss is made of besides its own text."""
    return Path(generate.__file__).with_name("numba_math.py").read_text(encoding="utf-8")


_INLINE = "@njit(forceinline=True, **OPTIONS)\n"

_SOURCE = """

@njit(forceinline=True, **OPTIONS)
${VALUE}


${SLOPES}

@njit(**SUMS)
def total(${AT}, n${C}):
    s = 0.0
    for begin in range(0, n, ${RUN}):
        part = ${PART}(0)
        for i in range(begin, min(begin + ${RUN}, n)):
            ${READ}
            part += ${PART}(value(${X}))
        s += float64(part)
    return s


@njit(**SUMS)
def total_and_gradient(${AT}, ${OUTS}, n, scale${C}):
    s = 0.0
    for begin in range(0, n, ${RUN}):
        part = ${PART}(0)
        for i in range(begin, min(begin + ${RUN}, n)):
            ${READ}
            part += ${PART}(value(${X}))
            ${SCALED}
        s += float64(part)
    return s


@njit(**OPTIONS)
def values(${AT}, out, n${C}):
    for i in range(n):
        ${READ}
        set_element(out, i, value(${X}))


@njit(**OPTIONS)
def gradient(${AT}, ${OUTS}, n, scale${C}):
    for i in range(n):
        ${READ}
        ${SCALED}


@njit(**OPTIONS)
def gradients(${AT}, ${OUTS}, up, n${C}):
    for i in range(n):
        ${READ}
        scale = element(up, i)
        ${SCALED}


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    numbers, what, other = word(args, 0), word(args, 1), word(args, 2)
    if stage == ${FINISH} and (what == ${SUM} or what == ${SUM_AND_GRADIENT}):
        set_element(other, 0, get_float64(sums, 0) * get_float64(numbers, 0))
    if stage != ${MEASURE}:
        return 0
    n, scale = end - begin, ${REAL}(get_float64(numbers, 0))
    ${PLACES}
    s = 0.0
    if what == ${SUM}:
        s = total(${AT}, n${C})
    elif what == ${SUM_AND_GRADIENT}:
        s = total_and_gradient(${AT}, ${OUTS}, n, scale${C})
    elif what == ${VALUES}:
        values(${AT}, other + ${SIZE} * begin, n${C})
    elif what == ${GRADIENTS}:
        gradients(${AT}, ${OUTS}, other + ${SIZE} * begin, n${C})
    else:
        gradient(${AT}, ${OUTS}, n, scale${C})
    set_float64(sums, 0, s)
    return 0
"""
