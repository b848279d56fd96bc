"""The CPU kernel of cross-entropy over rows of logits: one reading makes the loss and, if wanted, the gradient."""

from __future__ import annotations

import functools
from string import Template
from typing import Any

import torch
from torch import Tensor

from ..executors import generate
from ..executors.kernels import SINGLE_AND_DOUBLE
from ..executors.sources import storage
from . import memory
from .cpu import HEAD, STAGES, math_source, run

#: elements of a piece, about; and the longest rows whose exponentials are taken together
PIECE, TOGETHER = 4096, 64

#: what is asked of a block of rows
MEAN, SUM, EACH, GRADIENT_OF_MEAN, GRADIENT = range(5)


def loss(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The mean or the sum of the rows' losses and, if wanted, its gradient.

    logits: ``(rows, classes)``; target: int64 class indices ``(rows,)``; weight: of the classes.
    """
    value, out = logits.new_empty(()), memory.fresh(logits) if wanted else None
    _run(MEAN if mean else SUM, logits, target, weight, ignore_index, smoothing, value, out)
    return value, out


def each(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float) -> Tensor:
    """The loss of every row."""
    losses = logits.new_empty(len(logits))
    _run(EACH, logits, target, weight, ignore_index, smoothing, losses, None)
    return losses


def gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, upstream
) -> Tensor:
    """The gradient of the mean or the sum, or of the rows for as many upstream gradients."""
    out = memory.fresh(logits)
    what, scale, by_row = GRADIENT_OF_MEAN if mean else GRADIENT, 1.0, None
    if upstream.dim():
        by_row = upstream.contiguous()
    else:
        scale = upstream.item()
    _run(what, logits, target, weight, ignore_index, smoothing, None, out, scale, by_row)
    return out


def _run(what, logits, target, weight, ignore_index, smoothing, value, out, scale=1.0, upstream=None) -> None:
    """Raises IndexError, with the value, for a target that is no class."""
    rows, classes = logits.shape
    together = classes <= TOGETHER and logits.dtype in SINGLE_AND_DOUBLE
    if together and out is None:  # short rows are worked in place, whether somebody wants the result or not
        out = torch.empty_like(logits)
    words = (
        what,
        classes,
        ignore_index,
        logits.data_ptr(),
        target.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if value is None else value.data_ptr(),
        0 if out is None else out.data_ptr(),
        0 if upstream is None else upstream.data_ptr(),
    )
    numbers = (scale, smoothing, 0.0, 0.0, 0.0)
    block = _block(logits.dtype, classes if together else 0)
    bad = run(block, words, numbers, rows, max(1, PIECE // max(1, classes)), classes, 1, 2 * rows if together else 0)
    if bad:
        raise IndexError(f"Target {int(target[bad - 1])} is out of bounds.")


@functools.cache
def _block(dtype: torch.dtype, classes: int) -> Any:
    """The compiled block for one dtype of logits and one small number of classes, or 0 for any."""
    kind = generate.name(dtype)
    double = kind == "float64"
    names = storage(kind) | STAGES
    names |= {name: str(globals()[name]) for name in "MEAN SUM EACH GRADIENT_OF_MEAN GRADIENT".split()}
    names |= {
        "SIGNED": "int64" if double else "int32",
        "BITS": "bits_of_float64" if double else "bits_of_float32",
        "UNSIGNED": "uint64" if double else "uint32",
        "OF_BITS": "float64_of_bits" if double else "float32_of_bits",
        "LARGEST": str(2**63 - 1 if double else 2**31 - 1),
        "SIGN_SHIFT": "63" if double else "31",
        "CLASSES": str(classes or "word(args, 2)"),
        "TOGETHER": str(bool(classes)),
        "IN_PLACE": str(kind in ("float32", "float64")),
    }
    text = Template(HEAD + _SOURCE).substitute(names)
    return generate.load(text, "cross_entropy", math_source(), *generate.numba_ingredients()).block


_SOURCE = '''
import math

from numba import int32, int64, uint32, uint64

INLINE = {**OPTIONS, "forceinline": True}
IN_PLACE = ${IN_PLACE}


@njit(**INLINE)
def largest(at, n):
    """The maximum, nan if there is one: of integers in the order of the numbers, which vector units compare."""
    best = ${SIGNED}(-${LARGEST} - 1)
    for i in range(n):
        bits = ${SIGNED}(${BITS}(element(at, i)))
        best = max(best, bits ^ ((bits >> ${SIGNED}(${SIGN_SHIFT})) & ${SIGNED}(${LARGEST})))
    bits = best ^ ((best >> ${SIGNED}(${SIGN_SHIFT})) & ${SIGNED}(${LARGEST}))
    return ${OF_BITS}(${UNSIGNED}(bits))


@njit(**SUMS)
def sum_of_exps(at, n, top):
    """In float64, of sums over a few numbers for each lane of a vector."""
    s = 0.0
    for begin in range(0, n, 256):
        part = ${REAL}(0)
        for i in range(begin, min(begin + 256, n)):
            part += exp_negative(element(at, i) - top)
        s += float64(part)
    return s


@njit(**SUMS)
def keep_exps(at, out, n, top):
    """The same, each of them kept."""
    s = 0.0
    for begin in range(0, n, 256):
        part = ${REAL}(0)
        for i in range(begin, min(begin + 256, n)):
            e = exp_negative(element(at, i) - top)
            set_element(out, i, e)
            part += e
        s += float64(part)
    return s


@njit(**SUMS)
def total(at, n):
    s = 0.0
    for i in range(n):
        s += float64(element(at, i))
    return s


@njit(**{**SUMS, "forceinline": True})
def sum_of_few(at, n):
    s = ${REAL}(0)
    for i in range(n):
        s += element(at, i)
    return float64(s)


@njit(**OPTIONS)
def exps(at, n):
    for i in range(n):
        set_element(at, i, exp_negative(element(at, i)))


@njit(**OPTIONS)
def add_logs(at, sums, n):
    for i in range(n):
        set_float64(at, i, get_float64(at, i) + log(get_float64(sums, i)))


@njit(**INLINE)
def short_rows(logits, out, lses, sums, rows, n):
    """Leaves exponentials in `out`, and of each row their sum and its log-sum-exp.

    One by one, short rows would leave the vector units idle.
    """
    for r in range(rows):
        at, to = logits + ${SIZE} * n * r, out + ${SIZE} * n * r
        top = largest(at, n)
        set_float64(lses, r, float64(top))
        for i in range(n):
            set_element(to, i, element(at, i) - top)
    exps(out, n * rows)
    for r in range(rows):
        set_float64(sums, r, sum_of_few(out + ${SIZE} * n * r, n))
    add_logs(lses, sums, rows)


@njit(**SUMS)
def weighted(at, weight_at, n, lse):
    s = 0.0
    for i in range(n):
        s += float64(element(weight_at, i)) * float64(lse - element(at, i))
    return s


@njit(**INLINE)
def scale_exps(out, n, factor, shift):
    for i in range(n):
        set_element(out, i, factor * element(out, i) - shift)


@njit(**OPTIONS)
def probabilities(at, out, n, lse, factor, shift):
    for i in range(n):
        set_element(out, i, factor * exp_negative(element(at, i) - lse) - shift)


@njit(**OPTIONS)
def subtract_weights(weight_at, out, n, factor):
    for i in range(n):
        set_element(out, i, element(out, i) - factor * element(weight_at, i))


@njit(**OPTIONS)
def clear(out, n):
    for i in range(n):
        set_element(out, i, ${REAL}(0))


@njit(**OPTIONS)
def strangers(target_at, rows, classes, ignored):
    """How many targets are neither a class nor ignored."""
    n = 0
    for r in range(rows):
        t = word(target_at, r)
        n += int64((t != ignored) & ((t < 0) | (t >= classes)))
    return n


@njit(**OPTIONS)
def counted(target_at, rows, ignored):
    n = 0
    for r in range(rows):
        n += int64(word(target_at, r) != ignored)
    return float64(n)


@njit(**OPTIONS)
def weight_of_targets(target_at, weight_at, rows, ignored):
    s = 0.0
    for r in range(rows):
        t = word(target_at, r)
        if t != ignored:
            s += float64(element(weight_at, t))
    return s


@njit(**OPTIONS)
def prepare(args, rows, classes):
    """The scales of value and gradient, and the sum of all weights; or the number of the first row without a class."""
    numbers, what, ignored, target_at, weight_at = (
        word(args, 0), word(args, 1), word(args, 3), word(args, 5), word(args, 6)
    )
    if strangers(target_at, rows, classes, ignored):
        for r in range(rows):
            t = word(target_at, r)
            if t != ignored and (t < 0 or t >= classes):
                return r + 1
    upstream = value_scale = get_float64(numbers, 0)
    if what == ${MEAN} or what == ${GRADIENT_OF_MEAN}:
        if weight_at:
            denominator = weight_of_targets(target_at, weight_at, rows, ignored)
        else:
            denominator = counted(target_at, rows, ignored)
        # all ignored: nan, with a gradient of 0
        value_scale = 1 / denominator if denominator != 0 else math.nan
        upstream = upstream / denominator if denominator != 0 else 0.0
    set_float64(numbers, 2, total(weight_at, classes) if weight_at else float64(classes))
    set_float64(numbers, 3, upstream)
    set_float64(numbers, 4, value_scale)
    return 0


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    numbers, what, n, ignored = word(args, 0), word(args, 1), ${CLASSES}, word(args, 3)
    logits, target_at, weight_at = word(args, 4), word(args, 5), word(args, 6)
    value_at, gradient, upstream = word(args, 7), word(args, 8), word(args, 9)
    if stage == ${PREPARE}:
        return prepare(args, end, n)
    if stage == ${FINISH}:
        if what == ${MEAN} or what == ${SUM}:
            set_element(value_at, 0, get_float64(sums, 0) * get_float64(numbers, 4))
        return 0
    smoothing, all_weights, scale = get_float64(numbers, 1), get_float64(numbers, 2), get_float64(numbers, 3)
    spread = smoothing / n
    loss_sum = 0.0
    lses = exp_sums = 0
    if ${TOGETHER}:
        # of all rows: log-sum-exps, then sums of exponentials
        lses = word(args, 10) + 8 * begin
        exp_sums = lses + 8 * word(args, 11)
        short_rows(logits + ${SIZE} * n * begin, gradient + ${SIZE} * n * begin, lses, exp_sums, end - begin, n)
    for r in range(begin, end):
        at, out, t = logits + ${SIZE} * n * r, gradient + ${SIZE} * n * r, word(target_at, r)
        if t == ignored:
            if gradient:
                clear(out, n)
            if what == ${EACH}:
                set_element(value_at, r, ${REAL}(0))
            continue
        keep = IN_PLACE and gradient != 0
        if ${TOGETHER}:
            s, lse = get_float64(exp_sums, r - begin), get_float64(lses, r - begin)
        else:
            top = largest(at, n)
            s = keep_exps(at, out, n, top) if keep else sum_of_exps(at, n, top)
            lse = float64(top) + math.log(s)
        w = float64(element(weight_at, t)) if weight_at else 1.0
        if what < ${GRADIENT_OF_MEAN}:
            loss = (1 - smoothing) * w * (lse - float64(element(at, t)))
            if smoothing > 0:
                if weight_at:
                    loss += spread * weighted(at, weight_at, n, ${REAL}(lse))
                else:
                    loss += spread * (n * lse - total(at, n))
            loss_sum += loss
            if what == ${EACH}:
                set_element(value_at, r, ${REAL}(loss))
        if gradient:
            here = scale * float64(element(upstream, r)) if upstream else scale
            factor = here * ((1 - smoothing) * w + spread * all_weights)
            shift = ${REAL}(0.0 if weight_at else here * spread)
            if keep:
                chance = float64(element(out, t)) / s
                scale_exps(out, n, ${REAL}(factor / s), shift)
            else:
                chance = math.exp(float64(element(at, t)) - lse)
                probabilities(at, out, n, ${REAL}(lse), ${REAL}(factor), shift)
            if weight_at and smoothing > 0:
                subtract_weights(weight_at, out, n, ${REAL}(here * spread))
            # the difference at the target in float64, rounded once
            right = factor * chance - here * spread * (w if weight_at else 1.0)
            set_element(out, t, ${REAL}(right - here * (1 - smoothing) * w))
    set_float64(sums, 0, loss_sum)
    return 0
'''
