"""The CPU kernels of elementwise losses: generated from a member's value and slope, run over pieces on all threads."""

from __future__ import annotations

import functools
import math
import textwrap
from array import array
from collections.abc import Sequence
from string import Template
from struct import Struct
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..executors import cpu, generate, numba_math, threads
from ..executors.sources import ELEMENTS, IMPORTS, definition, storage
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
HEAD = IMPORTS + ELEMENTS

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
        self.scale = _scale(shape, reduction)
        self.no_others = [0] * (len(loss.slopes) - 1)
        self.of = dtype, shape.numel(), constants, (True, *[False] * len(self.no_others))
        self.loss = loss
        self.like = torch.empty((), dtype=dtype)
        self.large = self.of[1] * dtype.itemsize >= memory.ASK_FROM

    # each is compiled when it is first asked for
    @functools.cached_property
    def value(self) -> Job:
        return _job(self.loss, SUM, *self.of)

    @functools.cached_property
    def value_and_gradient(self) -> Job:
        return _job(self.loss, SUM_AND_GRADIENT, *self.of)

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
    block = _block(loss, what, dtype, len(constants), wanted)
    return Job(block, n, PIECE, numbers=constants, pointers=1 + 2 * len(wanted))


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
        before: Sequence[int] = (),
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
def _block(loss: Elementwise, what: int, dtype: torch.dtype, constants: int, wanted: tuple[bool, ...]) -> Any:
    """The compiled block of what is asked of one loss and dtype, for a set of tensors that want a gradient."""
    names = storage(generate.name(dtype)) | STAGES
    real, size, n = names["REAL"], names["SIZE"], len(wanted)
    slopes = {}
    if what not in (SUM, VALUES):
        slopes = {k: slope for k, slope in enumerate(loss.slopes) if slope is not None and wanted[k]}
    elements = ", ".join([*(f"x{k}" for k in range(n)), *(f"c{i}" for i in range(constants))])
    places = [f"other_at = other + {size} * begin"] if what in (VALUES, GRADIENTS) else []
    places += [f"x{k}_at = word(args, {2 + k}) + {size} * begin" for k in range(n)]
    places += [f"out{k} = word(args, {2 + n + k}) + {size} * begin" for k in slopes]
    places += [f"c{i} = {real}(get_float64(numbers, {i + 1}))" for i in range(constants)]
    places += [f"scale = {real}(get_float64(numbers, 0))"] if slopes and what != GRADIENTS else []
    body = [f"x{k} = element(x{k}_at, i)" for k in range(n)]
    body += ["scale = element(other_at, i)"] if what == GRADIENTS else []
    body += [f"set_element(other_at, i, value({elements}))"] if what == VALUES else []
    body += [f"set_element(out{k}, i, scale * slope{k}({elements}))" for k in slopes]
    heavy = not HEAVY.isdisjoint(loss.value.__code__.co_names)
    names["PART"] = real if heavy else "float64"
    names["WIDE"] = "wide_vectors()" if heavy else ""  # a few of them cost more time than they save
    if what in (SUM, SUM_AND_GRADIENT):
        body.append(f"part = add(part, {names['PART']}(value({elements})))")
    functions = {"value": loss.value} | {f"slope{k}": slope for k, slope in slopes.items()}
    names |= {
        "FUNCTIONS": "\n\n".join(f"@traced\n{definition(function, name)}" for name, function in functions.items()),
        "PLACES": "\n    ".join(places),
        "RUN": str(RUN),
    }
    block, margin = (_SUM, " " * 12) if what in (SUM, SUM_AND_GRADIENT) else (_EACH, " " * 8)
    text = Template(HEAD + block).substitute(names, BODY=textwrap.indent("\n".join(body), margin).lstrip())
    return generate.load(text, "loss", *generate.numba_ingredients()).block


_BEGIN = """

${FUNCTIONS}

@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    ${WIDE}
    numbers, other, n = word(args, 0), word(args, 1), end - begin
"""

_SUM = f"""{_BEGIN}
    if stage == ${{FINISH}}:
        set_element(other, 0, get_float64(sums, 0) * get_float64(numbers, 0))
    if stage != ${{MEASURE}}:
        return 0
    ${{PLACES}}
    s = 0.0
    for first in range(0, n, ${{RUN}}):
        part = ${{PART}}(0)
        for i in range(first, min(first + ${{RUN}}, n)):
            ${{BODY}}
        s = add(s, float64(part))
    set_float64(sums, 0, s)
    return 0
"""

_EACH = f"""{_BEGIN}
    if stage != ${{MEASURE}}:
        return 0
    ${{PLACES}}
    for i in range(n):
        ${{BODY}}
    return 0
"""
