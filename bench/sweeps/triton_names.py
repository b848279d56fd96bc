"""What generated Triton sweeps call, beside the dialect of the rules: mathematics and types by the names of the CPU's.

A number times one of type float64 is exact, and gives a bare Python number a type.
"""

from __future__ import annotations

import triton
import triton.language as tl

from optimizers.executors import triton_math


@triton.jit
def float64(x):
    return x * tl.full([], 1.0, tl.float64)


@triton.jit
def float32(x):
    return (x * tl.full([], 1.0, tl.float64)).to(tl.float32)


@triton.jit
def stored(x):
    """As a class keeps its scalar state."""
    return float64(float32(x))


@triton.jit
def power(x, y):
    """x ** y for x ≥ 0 and y > 0, with an error of 2e-16 of 1 where x < 1, not of the power itself."""
    return tl.exp(y * tl.log(float64(x)))


@triton.jit
def exp(x):
    return triton_math.exp(x)


@triton.jit
def log(x):
    return triton_math.log(x)


@triton.jit
def sin(x):
    return tl.sin(x)


@triton.jit
def cos(x):
    return tl.cos(x)


@triton.jit
def meet(value, t, met, target, targets, hits, count, runs, lane, inside):
    """Notes step `t` for each target that a run comes down to; how many it has met, and the next, nan after the last.

    targets, hits: [count, runs].
    """
    crossed = inside & (value <= target)
    while tl.max(crossed.to(tl.int32), 0) > 0:
        tl.store(hits + met * runs + lane, t, crossed)
        met = tl.where(crossed, met + 1, met)
        following = tl.load(targets + met * runs + lane, crossed & (met < count), float("nan"))
        target = tl.where(crossed, following, target)
        crossed = inside & (value <= target)
    return met, target


@triton.jit
def judge(value, t, best, bad_step, bad_value, highest, lowest):
    """The least value so far, and the first step at which it was out of bounds, -1 for never, with the value then."""
    outside = (value > highest) | (value < lowest) | (value != value)
    fresh = outside & (bad_step < 0)
    bad_value = tl.where(fresh, value, bad_value)
    bad_step = tl.where(fresh, t, bad_step)
    best = tl.where((bad_step < 0) & (value < best), value, best)
    return best, bad_step, bad_value
