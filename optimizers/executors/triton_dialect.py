"""The dialect of rules for Triton: the names of `optimizers.dialect`, rounded as IEEE arithmetic rounds.

Triton's own ``/`` and ``sqrt`` are approximate in float32; an optimizer step waits for memory, so the exact ones cost
nothing. Each name is a jit function, because Triton does not notice when a name is bound to another built-in.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sqrt(x):
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def divide(x, y):
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


@triton.jit
def absolute(x):
    return tl.abs(x)


@triton.jit
def where(condition, x, y):
    return tl.where(condition, x, y)


@triton.jit
def maximum(x, y):
    return tl.where((x >= y) | (x != x), x, y)


@triton.jit
def minimum(x, y):
    return tl.where((x <= y) | (x != x), x, y)


@triton.jit
def lerp(x, y, weight):
    return tl.where(weight < 0.5, x + weight * (y - x), y - (y - x) * (1 - weight))


@triton.jit
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
