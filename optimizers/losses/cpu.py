"""The CPU kernels of elementwise losses: generated from a member's value and slope, run over pieces on all threads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
HEAD += """

@njit(forceinline=True, **OPTIONS)
def softplus(x):
    return maximum(x, ${REAL}(0)) + log1p(exp(-absolute(x)))
"""

#: what a block does
SUM, SUM_AND_GRADIENT, VALUES, GRADIENTS, GRADIENT = range(5)


Outs = tuple[Tensor | None, ...]


def forward(
    loss: Elementwise, tensors: Sequence[Tensor], reduction: str, constants: tuple[float, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor, Outs | None]:
    """The loss and, of the mean and the sum, the gradients that are wanted for an upstream gradient of 1."""
    input = tensors[0]
    if reduction == "none":
        values = memory.fresh(input)
        _run(loss, VALUES, tensors, constants, (values,))
        return values, None
    n = input.numel()
    scale = 1.0 if reduction == "sum" else 1.0 / n if n else float("nan")
    outs = _outs(input, wanted) if any(wanted) else None
    total = _run(loss, SUM if outs is None else SUM_AND_GRADIENT, tensors, constants, outs or (None,), scale)
    return torch.full((), total * scale, dtype=input.dtype), outs


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
        _run(loss, GRADIENTS, tensors, constants, outs, 1.0, upstream.contiguous())
    else:
        scale = upstream.item() / (tensors[0].numel() if reduction == "mean" else 1)
        _run(loss, GRADIENT, tensors, constants, outs, scale)
    return outs


def _outs(like: Tensor, wanted: tuple[bool, ...]) -> Outs:
    return tuple(memory.fresh(like) if w else None for w in wanted)


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
    tensors: Sequence[Tensor],
    constants: tuple[float, ...],
    outs: Outs,
    scale: float = 1.0,
    upstream: Tensor | None = None,
) -> float:
    numbers = np.array([scale, *constants], np.float64)
    # without gradients, the block that serves those of the prediction is as good as any
    wanted = tuple(out is not None for out in outs) if what not in (SUM, VALUES) else (True,)
    wanted += (False,) * (len(tensors) - len(wanted))
    outs += (None,) * (len(tensors) - len(outs))
    addresses = [0 if t is None else t.data_ptr() for t in (*tensors, *outs, upstream)]
    args = np.array([what, numbers.ctypes.data, *addresses], np.int64)
    block = _block(loss, tensors[0].dtype, len(constants), wanted)
    return float(run(block, args, tensors[0].numel(), PIECE, 1)[0])


@functools.cache
def _block(loss: Elementwise, dtype: torch.dtype, constants: int, wanted: tuple[bool, ...]) -> Any:
    """The compiled block of one loss, dtype, and set of tensors that want a gradient."""
    kind = generate.name(dtype)
    names = storage(kind)
    real, size, n = names["REAL"], names["SIZE"], len(wanted)
    slopes = {k: slope for k, slope in enumerate(loss.slopes) if slope is not None and wanted[k]}
    c = "".join(f", c{i}" for i in range(constants))
    x = ", ".join(f"x{k}" for k in range(n)) + c
    places = [f"x{k}_at = word(args, {2 + k}) + {size} * begin" for k in range(n)]
    places += [f"out{k} = word(args, {2 + n + k}) + {size} * begin" for k in slopes]
    places += [f"c{i} = {real}(get_float64(numbers, {i + 1}))" for i in range(constants)]
    names |= {
        "VALUE": typed(loss.value, "value", real),
        "SLOPES": "".join(f"{_INLINE}{typed(slope, f'slope{k}', real)}\n" for k, slope in slopes.items()),
        "C": c,
        "X": x,
        "AT": ", ".join(f"x{k}_at" for k in range(n)),
        "READ": ", ".join(f"x{k}" for k in range(n)) + " = " + ", ".join(f"element(x{k}_at, i)" for k in range(n)),
        "OUTS": ", ".join(f"out{k}" for k in slopes),
        "SCALED": "\n        ".join(f"set_element(out{k}, i, scale * slope{k}({x}))" for k in slopes),
        "PLACES": "\n    ".join(places),
        "OUT": f"word(args, {2 + n}) + {size} * begin",
        "UPSTREAM": f"word(args, {2 + 2 * n}) + {size} * begin",
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
    for i in range(n):
        ${READ}
        s += float64(value(${X}))
    return s


@njit(**SUMS)
def total_and_gradient(${AT}, ${OUTS}, n, scale${C}):
    s = 0.0
    for i in range(n):
        ${READ}
        s += float64(value(${X}))
        ${SCALED}
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


@cfunc("void(intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums):
    what, numbers, n = word(args, 0), word(args, 1), end - begin
    scale = ${REAL}(get_float64(numbers, 0))
    ${PLACES}
    s = 0.0
    if what == 0:
        s = total(${AT}, n${C})
    elif what == 1:
        s = total_and_gradient(${AT}, ${OUTS}, n, scale${C})
    elif what == 2:
        values(${AT}, ${OUT}, n${C})
    elif what == 3:
        gradients(${AT}, ${OUTS}, ${UPSTREAM}, n${C})
    else:
        gradient(${AT}, ${OUTS}, n, scale${C})
    set_float64(sums, 0, s)
"""
