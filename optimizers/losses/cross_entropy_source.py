"""The templates of cross-entropy's CPU kernels over rows of logits, with a class each or with a mixture of classes.

Their arguments: numbers (upstream gradient, smoothing, then places for the sum of the class weights and the scales of
the gradient and of the value), what is asked, the number of classes, the ignored class, and the addresses of logits,
targets, class weights, losses, gradient and upstream gradients; at last scratch, and the number of rows.
"""

from __future__ import annotations

#: what all kernels that read classes share
TARGETS = '''
import math

from numba import int64


@traced
def clear(out, n):
    loop(n, lambda i: set_${KIND}(out, i, 0))


@njit(**INNER)
def counted(target_at, rows, classes, ignored):
    """How many targets are not ignored, and how many of those are no class."""
    kept = strangers = 0
    for r in range(rows):
        t = word(target_at, r)
        kept += int64(t != ignored)
        strangers += int64((t != ignored) & ((t < 0) | (t >= classes)))
    return kept, strangers


@njit(**INNER)
def weight_of_targets(target_at, weight_at, rows, ignored):
    s = 0.0
    for r in range(rows):
        t = word(target_at, r)
        if t != ignored:
            s += float64(element(weight_at, t))
    return s
'''

#: what all kernels share, those over columns too
COMMON = '''
from numba import int32, uint32, uint64
from optimizers.executors.numba_math import *

INLINE = {**INNER, "forceinline": True}
IN_PLACE = ${IN_PLACE}


# functions, not what Numba puts in their places at once: that makes rows of 10 or 16 float32 a tenth slower
@njit(**INNER)
def element(at, i):
    return get_${KIND}(at, i)


@njit(**INNER)
def set_element(at, i, x):
    set_${KIND}(at, i, ${REAL}(x))


@njit(**INLINE)
def largest(at, n):
    """The maximum, of integers, which vector units compare; with nan among the numbers anything may come.

    As integers, numbers are in their own order from 0 on, and the other way round below.
    """
    best = ${SIGNED}(-${LARGEST} - 1)
    for i in range(n):
        best = max(best, ${SIGNED}(${BITS}(element(at, i))))
    if best < 0:
        best = ${SIGNED}(-1)
        for i in range(n):
            best = min(best, ${SIGNED}(${BITS}(element(at, i))))
    return ${OF_BITS}(${UNSIGNED}(best))


@njit(**SUMS)
def sum_of_exps(at, n, top):
    """In float64, of sums over a few numbers for each lane of a vector."""
    wide_vectors()
    s = 0.0
    for begin in range(0, n, 1024):
        part = ${REAL}(0)
        for i in range(begin, min(begin + 1024, n)):
            part += exp_negative(element(at, i) - top)
        s += float64(part)
    return s


@njit(**SUMS)
def keep_exps(at, out, n, top):
    """The same, each of them kept."""
    wide_vectors()
    s = 0.0
    for begin in range(0, n, 1024):
        part = ${REAL}(0)
        for i in range(begin, min(begin + 1024, n)):
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


@traced
def exps(at, n):
    loop(n, lambda i: set_${KIND}(at, i, exp_negative(get_${KIND}(at, i))))


@traced
def add_logs(at, sums, n):
    loop(n, lambda i: set_float64(at, i, get_float64(at, i) + log(get_float64(sums, i))))


@njit(**SUMS)
def weighted(at, weight_at, n, lse):
    s = 0.0
    for i in range(n):
        s += float64(element(weight_at, i)) * float64(lse - element(at, i))
    return s


@traced
def scale_exps(out, n, factor, shift):
    loop(n, lambda i: set_${KIND}(out, i, factor * get_${KIND}(out, i) - shift))


@traced
def probabilities(at, out, n, lse, factor, shift):
    loop(n, lambda i: set_${KIND}(out, i, factor * exp_negative(get_${KIND}(at, i) - lse) - shift))


@traced
def subtract_weights(weight_at, out, n, factor):
    loop(n, lambda i: set_${KIND}(out, i, get_${KIND}(out, i) - factor * get_${KIND}(weight_at, i)))


@njit(**INNER)
def set_scales(args, what, denominator, all_weights):
    """What value and gradient are multiplied by, for a mean over this number or weight."""
    numbers = word(args, 0)
    upstream, value_scale = get_float64(numbers, 0), 1.0
    if what == ${MEAN} or what == ${GRADIENT_OF_MEAN}:
        # all ignored: nan, with a gradient of 0
        value_scale = 1 / denominator if denominator != 0 else math.nan
        upstream = upstream / denominator if denominator != 0 else 0.0
    # without smoothing nobody asks for them, and one that is infinite may not meet a factor of 0
    set_float64(numbers, 2, all_weights if get_float64(numbers, 1) > 0 else 0.0)
    set_float64(numbers, 3, upstream)
    set_float64(numbers, 4, value_scale)


@njit(**INNER)
def prepare(args, rows, classes):
    """Sets the scales; or the number of the first row without a class."""
    what, ignored, target_at, weight_at = word(args, 1), word(args, 3), word(args, 5), word(args, 6)
    kept, strangers = counted(target_at, rows, classes, ignored)
    if strangers:
        for r in range(rows):
            t = word(target_at, r)
            if t != ignored and (t < 0 or t >= classes):
                return r + 1
    denominator, all_weights = float64(kept), float64(classes)
    if weight_at:
        denominator, all_weights = weight_of_targets(target_at, weight_at, rows, ignored), total(weight_at, classes)
    set_scales(args, what, denominator, all_weights)
    return 0


@njit(**INNER)
def finish(args, sums):
    if word(args, 1) == ${MEAN} or word(args, 1) == ${SUM}:
        set_element(word(args, 7), 0, get_float64(sums, 0) * get_float64(word(args, 0), 4))
'''

ROWS = '''

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


${OF_ROW}


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    if not ${TOGETHER}:
        wide_vectors()
    numbers, what, n, ignored = word(args, 0), word(args, 1), ${CLASSES}, word(args, 3)
    logits, target_at, weight_at = word(args, 4), word(args, 5), word(args, 6)
    value_at, gradient, upstream = word(args, 7), word(args, 8), word(args, 9)
    if stage == ${PREPARE}:
        return prepare(args, end, n)
    if stage == ${FINISH}:
        finish(args, sums)
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
        if ${NEEDED} or what < ${GRADIENT_OF_MEAN}:
            loss = (1 - smoothing) * w * (lse - float64(element(at, t)))
            if smoothing > 0:
                if weight_at:
                    loss += spread * weighted(at, weight_at, n, ${REAL}(lse))
                else:
                    loss += spread * (n * lse - total(at, n))
            ${MADE}
            loss_sum += loss
            if what == ${EACH}:
                set_element(value_at, r, ${REAL}(loss))
        if gradient:
            here = scale * float64(element(upstream, r)) if upstream else scale
            ${SLOPES}
            factor = here * ((1 - smoothing) * w + spread * all_weights)
            ${PULL}
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

MIXTURES = '''

@njit(**SUMS)
def mixed(target_at, weight_at, at, n, keep, spread, lse):
    """The sum of an example's weights, and its loss."""
    weights = loss = 0.0
    for j in range(n):
        q = keep * float64(element(target_at, j)) + spread
        if weight_at:
            q *= float64(element(weight_at, j))
        weights += q
        loss += q * (lse - float64(element(at, j)))
    return weights, loss


@njit(**INNER)
def subtract_mixture(out, target_at, weight_at, n, keep, spread):
    if weight_at:
        for j in range(n):
            q = element(weight_at, j) * (keep * element(target_at, j) + spread)
            set_element(out, j, element(out, j) - q)
    else:
        for j in range(n):
            set_element(out, j, element(out, j) - (keep * element(target_at, j) + spread))


@njit(**INNER)
def mixed_probabilities(at, out, target_at, weight_at, n, lse, factor, keep, spread):
    for j in range(n):
        q = keep * element(target_at, j) + spread
        if weight_at:
            q *= element(weight_at, j)
        set_element(out, j, factor * exp_negative(element(at, j) - lse) - q)


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    numbers, what, n = word(args, 0), word(args, 1), word(args, 2)
    logits, targets, weight_at = word(args, 4), word(args, 5), word(args, 6)
    value_at, gradient, upstream = word(args, 7), word(args, 8), word(args, 9)
    if stage == ${PREPARE}:
        set_scales(args, what, float64(end), 0.0)  # torch's mean of mixtures is over examples, not their weights
        return 0
    if stage == ${FINISH}:
        finish(args, sums)
        return 0
    smoothing, scale = get_float64(numbers, 1), get_float64(numbers, 3)
    spread, keep = smoothing / n, 1 - smoothing
    loss_sum = 0.0
    for r in range(begin, end):
        at, out, target_at = logits + ${SIZE} * n * r, gradient + ${SIZE} * n * r, targets + ${SIZE} * n * r
        top = largest(at, n)
        in_place = IN_PLACE and gradient != 0
        s = keep_exps(at, out, n, top) if in_place else sum_of_exps(at, n, top)
        lse = float64(top) + math.log(s)
        weights, loss = mixed(target_at, weight_at, at, n, keep, spread, lse)
        loss_sum += loss
        if what == ${EACH}:
            set_element(value_at, r, ${REAL}(loss))
        if gradient:
            here = scale * float64(element(upstream, r)) if upstream else scale
            some, more = ${REAL}(here * keep), ${REAL}(here * spread)
            if in_place:
                scale_exps(out, n, ${REAL}(here * weights / s), ${REAL}(0))
                subtract_mixture(out, target_at, weight_at, n, some, more)
            else:
                mixed_probabilities(
                    at, out, target_at, weight_at, n, ${REAL}(lse), ${REAL}(here * weights), some, more
                )
    set_float64(sums, 0, loss_sum)
    return 0
'''
