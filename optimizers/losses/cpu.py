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
from .fused import MOST_SIZES

if TYPE_CHECKING:
    from .elementwise import Elementwise

#: elements of a piece, and below how many a second thread costs more than it saves
PIECE, SERIAL_BELOW = 16_384, 32_768

#: with scratch of how many numbers at most a job is kept for the next loss of its size
MOST_KEPT = 32_768

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


class Loss:
    """The mean or the sum of a loss, and the gradient of its first tensor if wanted, of tensors of one shape and dtype.

    The others want no gradient.
    """

    def __init__(
        self, shape: torch.Size, dtype: torch.dtype, loss: Elementwise, reduction: str, constants: tuple[float, ...]
    ):
        n = shape.numel()
        self.scale = _scale(shape, reduction)
        first = (True, *[False] * (len(loss.slopes) - 1))
        self.value, self.value_and_gradient = (
            _job(loss, what, dtype, n, constants, first) for what in (SUM, SUM_AND_GRADIENT)
        )
        self.no_others = [0] * (len(first) - 1)
        self.like = torch.empty((), dtype=dtype)
        self.large = n * dtype.itemsize >= memory.ASK_FROM

    def forward(self, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Outs | None]:
        input = tensors[0]
        value = torch.empty_like(self.like)
        pointers = value.data_ptr(), *map(Tensor.data_ptr, tensors)
        if not wanted[0]:
            self.value(self.scale, *pointers, 0, *self.no_others)
            return value, None
        out = memory.fresh(input) if self.large else torch.empty_like(input)
        self.value_and_gradient(self.scale, *pointers, out.data_ptr(), *self.no_others)
        return value, (out, *[None] * len(self.no_others))


def forward(
    loss: Elementwise, tensors: Sequence[Tensor], reduction: str, constants: tuple[float, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor, Outs | None]:
    """The loss and, of the mean and the sum, the gradients that are wanted for an upstream gradient of 1."""
    input = tensors[0]
    if reduction == "none":
        values = memory.fresh(input)
        _run(loss, VALUES, tensors, constants, None, values)
        return values, None
    value, scale = input.new_empty(()), _scale(input.shape, reduction)
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
        scale = upstream.item() * _scale(tensors[0].shape, reduction)
        _run(loss, GRADIENT, tensors, constants, outs, None, scale)
    return outs


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """A gradient for an upstream gradient of 1, made one for another in place."""
    return gradient.mul_(upstream)


def _scale(shape: torch.Size, reduction: str) -> float:
    """What a sum is multiplied by."""
    if reduction == "sum" or (reduction == "batchmean" and not shape):
        return 1.0
    n = shape.numel() if reduction == "mean" else shape[0]
    return 1.0 / n if n else math.nan


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
    pointers = [0 if other is None else other.data_ptr(), *[t.data_ptr() for t in tensors]]
    pointers += [0] * len(tensors) if outs is None else [0 if out is None else out.data_ptr() for out in outs]
    _job(loss, what, input.dtype, input.numel(), constants, wanted)(scale, *pointers)


@functools.lru_cache(MOST_SIZES)
def _job(
    loss: Elementwise, what: int, dtype: torch.dtype, n: int, constants: tuple[float, ...], wanted: tuple[bool, ...]
) -> Job:
    block = _block(loss, dtype, len(constants), wanted)
    return Job(block, n, PIECE, numbers=constants, before=(what,), pointers=1 + 2 * len(wanted))


class Job:
    """A block over so many units, with all of its arguments but pointers and a scale: a loss of one size.

    What does not change from call to call is written to memory once, since that takes longer than a small loss does.
    A block's arguments are the address of its numbers, the words `before`, the pointers, the words `after`, the address
    of `scratch` float64 numbers, and `n`. The first number is the scale, and `numbers` are the others.
    """

    def __init__(
        self,
        block: Any,
        n: int,
        piece: int,
        unit: int = 1,
        *,
        numbers: Sequence[float] = (),
        before: Sequence[int],
        pointers: int,
        after: Sequence[int] = (),
        scratch: int = 0,
    ):
        self.block, self.numbers, self.scratch = block, (1.0, *numbers), scratch
        self.words, self.tail = (*before, *[0] * pointers, *after), n
        self.head = [block.address, 0, n, piece, unit, 1]
        self.set_pointers = Struct(f"{pointers}q").pack_into
        self.first_pointer = 8 * (len(driver.JOB) + 1 + len(before))
        self.pieces, self.parallel = -(-n // piece), n * unit >= SERIAL_BELOW
        self.spare: list[_Call] = []

    def __call__(self, scale: float, *pointers: int) -> int:
        """Runs the block; what it answers, if not 0."""
        spare = self.spare
        try:
            call = spare.pop()  # nobody else has it then: other threads may be in the same loss
        except IndexError:
            call = _Call(self)
        call.numbers[0] = scale
        self.set_pointers(call.job, self.first_pointer, *pointers)
        if self.parallel:
            call.job[driver.THREADS] = threads.count()
        answer = _drive(call.at)
        if self.scratch <= MOST_KEPT:
            spare.append(call)
        return answer


class _Call:
    """The memory of a job, for one thread at a time."""

    def __init__(self, job: Job):
        n, m = len(job.numbers), job.pieces
        self.numbers = array("d", job.numbers)
        self.numbers.frombytes(bytes(8 * (m + 1 + job.scratch)))
        at = self.numbers.buffer_info()[0]
        sums, total = at + 8 * n, at + 8 * (n + m)
        self.job = array("q", [*job.head, sums, total, 1, SERIAL_BELOW, 0, _PARALLEL, driver.openmp_body.address])
        self.job.extend([at, *job.words, total + 8, job.tail])
        self.at = self.job.buffer_info()[0]
        self.job[driver.ARGS] = self.at + 8 * len(driver.JOB)


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
