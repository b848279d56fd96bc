"""The CPU kernel of cross-entropy over rows of logits: one reading makes the loss and, if wanted, the gradient."""

from __future__ import annotations

import functools
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..executors import generate
from ..executors.sources import storage
from . import memory
from .cpu import HEAD, math_source, run

#: elements of a piece, about; and the longest rows whose exponentials are taken together
PIECE, TOGETHER = 16_384, 64


class Rows:
    """Logits ``(rows, classes)``, class indices ``(rows,)``, and how the losses of the rows are weighed."""

    def __init__(self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float):
        self.logits, self.target, self.weight = logits, target, weight
        self.ignore_index, self.smoothing = ignore_index, smoothing
        self.rows, self.classes = logits.shape
        self.block = _module(logits.dtype, self.classes if self.classes <= TOGETHER else 0)
        self.total_weight = float(self.classes) if weight is None else float(weight.double().sum())

    def denominator(self) -> float:
        """The sum of the weights of all targets that are not ignored.

        Raises IndexError, with the value, for a target that is no class.
        """
        out = np.zeros(2)
        self._call(3, None, None, 1.0, None, out)
        if out[1]:
            bad = self.target[(self.target != self.ignore_index) & ((self.target < 0) | (self.target >= self.classes))]
            raise IndexError(f"Target {int(bad[0])} is out of bounds.")
        return float(out[0])

    def losses(self, gradient: bool, scale: float) -> tuple[float, Tensor | None]:
        """The sum of the rows' losses and, if wanted, its gradient times `scale`."""
        out = memory.fresh(self.logits) if gradient else None
        return float(self._call(0, None, out, scale)), out

    def each(self) -> Tensor:
        """The loss of every row."""
        losses = torch.empty(self.rows, dtype=self.logits.dtype)
        self._call(1, losses, None, 1.0)
        return losses

    def gradient(self, scale: float, upstream: Tensor | None) -> Tensor:
        """The gradient, times `scale` and, row by row, `upstream`."""
        out = memory.fresh(self.logits)
        self._call(2, None, out, scale, upstream)
        return out

    def _call(self, what: int, losses, out, scale: float, upstream=None, sums=None) -> float:
        numbers = np.array([scale, self.smoothing, self.total_weight], np.float64)
        tensors = (self.logits, self.target, self.weight, losses, out, upstream)
        addresses = [0 if t is None else t.data_ptr() for t in tensors]
        args = np.array([what, numbers.ctypes.data, self.classes, self.ignore_index, *addresses], np.int64)
        totals = run(self.block, args, self.rows, max(1, PIECE // max(1, self.classes)), self.classes, 2)
        if sums is not None:
            sums[:] = totals
        return totals[0]


@functools.cache
def _module(dtype: torch.dtype, classes: int) -> Any:
    """The compiled block for one dtype of logits and one small number of classes, or 0 for any."""
    kind = generate.name(dtype)
    double = kind == "float64"
    names = storage(kind) | {
        "SIGNED": "int64" if double else "int32",
        "BITS": "bits_of_float64" if double else "bits_of_float32",
        "UNSIGNED": "uint64" if double else "uint32",
        "OF_BITS": "float64_of_bits" if double else "float32_of_bits",
        "LARGEST": str(2**63 - 1 if double else 2**31 - 1),
        "SIGN_SHIFT": 63 if double else 31,
        "TOGETHER": TOGETHER,
        "CLASSES": classes or "word(args, 2)",
        "IN_PLACE": kind in ("float32", "float64"),
    }
    text = Template(HEAD + _SOURCE).substitute(names)
    return generate.load(text, "cross_entropy", math_source(), *generate.numba_ingredients()).block


_SOURCE = '''
import math

from numba import int32, int64, uint32, uint64

IN_PLACE = ${IN_PLACE}


@njit(**OPTIONS)
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
    s = 0.0
    for i in range(n):
        s += float64(exp(element(at, i) - top))
    return s


@njit(**SUMS)
def keep_exps(at, out, n, top):
    """The same, each of them kept."""
    s = 0.0
    for i in range(n):
        e = exp(element(at, i) - top)
        set_element(out, i, e)
        s += float64(e)
    return s


@njit(**OPTIONS)
def shifted(logits, gradient, begin, end, n):
    for r in range(begin, end):
        at, out = logits + ${SIZE} * n * r, gradient + ${SIZE} * n * r
        top = largest(at, n)
        for i in range(n):
            set_element(out, i, element(at, i) - top)


@njit(**OPTIONS)
def exps(at, n):
    for i in range(n):
        set_element(at, i, exp(element(at, i)))


@njit(**SUMS)
def total(at, n):
    s = 0.0
    for i in range(n):
        s += float64(element(at, i))
    return s


@njit(**SUMS)
def weighted(at, weight_at, n, lse):
    s = 0.0
    for i in range(n):
        s += float64(element(weight_at, i)) * float64(lse - element(at, i))
    return s


@njit(**OPTIONS)
def scale_exps(out, n, factor, shift):
    for i in range(n):
        set_element(out, i, factor * element(out, i) - shift)


@njit(**OPTIONS)
def probabilities(at, out, n, lse, factor, shift):
    for i in range(n):
        set_element(out, i, factor * exp(element(at, i) - lse) - shift)


@njit(**OPTIONS)
def subtract_weights(weight_at, out, n, factor):
    for i in range(n):
        set_element(out, i, element(out, i) - factor * element(weight_at, i))


@njit(**OPTIONS)
def clear(out, n):
    for i in range(n):
        set_element(out, i, ${REAL}(0))


@njit(**OPTIONS)
def denominator(target_at, weight_at, begin, end, classes, ignored, sums):
    s, bad = 0.0, 0
    for r in range(begin, end):
        t = word(target_at, r)
        if t != ignored:
            if t < 0 or t >= classes:
                bad += 1
            else:
                s += float64(element(weight_at, t)) if weight_at else 1.0
    set_float64(sums, 0, s)
    set_float64(sums, 1, float64(bad))


@cfunc("void(intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums):
    what, numbers, n, ignored = word(args, 0), word(args, 1), ${CLASSES}, word(args, 3)
    logits, target_at, weight_at = word(args, 4), word(args, 5), word(args, 6)
    losses, gradient, upstream = word(args, 7), word(args, 8), word(args, 9)
    if what == 3:
        denominator(target_at, weight_at, begin, end, n, ignored, sums)
        return
    scale, smoothing, all_weights = get_float64(numbers, 0), get_float64(numbers, 1), get_float64(numbers, 2)
    spread = smoothing / n
    loss_sum = 0.0
    together = IN_PLACE and gradient != 0 and n <= ${TOGETHER}
    if together:
        # short rows one by one would leave the vector units idle
        shifted(logits, gradient, begin, end, n)
        exps(gradient + ${SIZE} * n * begin, n * (end - begin))
    for r in range(begin, end):
        at, out, t = logits + ${SIZE} * n * r, gradient + ${SIZE} * n * r, word(target_at, r)
        if t == ignored:
            if gradient:
                clear(out, n)
            if losses:
                set_element(losses, r, ${REAL}(0))
            continue
        top = largest(at, n)
        keep = IN_PLACE and gradient != 0
        if together:
            s = total(out, n)
        else:
            s = keep_exps(at, out, n, top) if keep else sum_of_exps(at, n, top)
        lse = float64(top) + math.log(s)
        w = float64(element(weight_at, t)) if weight_at else 1.0
        if what != 2:
            loss = (1 - smoothing) * w * (lse - float64(element(at, t)))
            if smoothing > 0:
                if weight_at:
                    loss += spread * weighted(at, weight_at, n, ${REAL}(lse))
                else:
                    loss += spread * (n * lse - total(at, n))
            loss_sum += loss
            if losses:
                set_element(losses, r, ${REAL}(loss))
        if gradient:
            here = scale * float64(element(upstream, r)) if upstream else scale
            factor = here * ((1 - smoothing) * w + spread * all_weights)
            shift = ${REAL}(0.0 if weight_at else here * spread)
            if keep:
                chance = float64(element(out, t)) / s
                scale_exps(out, n, ${REAL}(factor / s), shift)
            else:
                chance = exp(float64(element(at, t)) - lse)
                probabilities(at, out, n, ${REAL}(lse), ${REAL}(factor), shift)
            if weight_at and smoothing > 0:
                subtract_weights(weight_at, out, n, ${REAL}(here * spread))
            # the difference at the target in float64, rounded once
            right = factor * chance - here * spread * (w if weight_at else 1.0)
            set_element(out, t, ${REAL}(right - here * (1 - smoothing) * w))
    set_float64(sums, 0, loss_sum)
    set_float64(sums, 1, 0.0)
'''
