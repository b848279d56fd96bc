"""Exponentials and logarithms for Triton, with stated errors: the names of `executors.numba_math`.

Triton's own are approximate in float32 (an error that grows with the argument, and no relative bound for logarithms
near 1), and its library of exact ones cannot be interpreted. These are plain arithmetic that is rounded alike on a GPU
and in the interpreter, so that what a test measures there holds here (where a GPU fuses a product with a sum, it loses
less). Largest errors, in units in the last place (`tests/optimizers/test_triton_losses.py` measures them):

    ============  =======  =======
    function      float32  float64
    ============  =======  =======
    exp           1.0      1.0
    exp_negative  1.1      1.0
    expm1         1.6      3.0
    log           0.9      1.0
    log1p         1.6      2.0
    log1p_unit    1.2      2.0
    tanh          2.5      4.0
    ============  =======  =======

nan, infinities, zeros and poles are as in C; `exp_negative` is 0 below the smallest normal number. In float64 the
library's exp and log are used, which are exact to a unit.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

__all__ = ["exp", "exp_negative", "expm1", "log", "log1p", "log1p_unit", "softplus", "tanh"]

LOG2E = tl.constexpr(1 / math.log(2))
#: ln 2 in two parts; the first is short, so that whole multiples of it are exact
LN2_HIGH = tl.constexpr(math.floor(math.log(2) * 2.0**14) / 2.0**14)
LN2_LOW = tl.constexpr(math.log(2) - math.floor(math.log(2) * 2.0**14) / 2.0**14)
#: adding it rounds to a whole number, which its last bits then are
MAGIC, MAGIC_BITS = tl.constexpr(1.5 * 2.0**23), tl.constexpr(0x4B400000)
#: below, `exp_negative` is 0: its exponent's bits are
LEAST = tl.constexpr(-(127 + 0.49) * math.log(2))
TINY, LIFT = tl.constexpr(2.0**-126), tl.constexpr(2.0**23)
ROOT_HALF_BITS, ONE_LESS_ROOT_HALF = tl.constexpr(0x3F3504F3), tl.constexpr(0x3F800000 - 0x3F3504F3)


@triton.jit
def _power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _reduce(x):
    """n, in the last bits of a number, and e^r - 1, where x = n ln 2 + r."""
    t = x * LOG2E + MAGIC
    n = t - MAGIC
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = 1 / 720 + r * (1 / 5040)
    p = 1 / 6 + r * (1 / 24 + r * (1 / 120 + r * p))
    return t.to(tl.int32, bitcast=True), r + r * r * (0.5 + r * p)


@triton.jit
def exp(x):
    if x.dtype == tl.float32:
        x = tl.where(x > 89.0, 89.0, x)  # in this order nan stays; what is cut off is infinity, and 0
        x = tl.where(x < -104.0, -104.0, x)
        bits, p = _reduce(x)
        n = bits - MAGIC_BITS
        first = n >> 1  # in two steps, for what is below the normal numbers
        return (1 + p) * _power_of_two(first) * _power_of_two(n - first)
    else:
        return tl.exp(x)


@triton.jit
def exp_negative(x):
    if x.dtype == tl.float32:
        bits, p = _reduce(tl.where(x < LEAST, LEAST, x))
        return (1 + p) * _power_of_two(bits)  # what stands before the last bits is shifted out
    else:
        return tl.exp(x)


@triton.jit
def expm1(x):
    if x.dtype == tl.float32:
        z = tl.where(x > 89.0, 89.0, x)
        z = tl.where(z < -26.0, -26.0, z)
        bits, p = _reduce(z)
        n = bits - MAGIC_BITS
        first = n >> 1
        scale = _power_of_two(first)
        return (p * scale + (scale - _power_of_two(first - n))) * _power_of_two(n - first)
    else:
        # Kahan: the errors of u - 1 and log u are the same, and go in the quotient
        u = tl.exp(x)
        y = (u - 1) * (x / tl.log(u))
        y = tl.where(u == 1, x, y)
        return tl.where((u == float("inf")) | (u - 1 == -1), u - 1, y)


@triton.jit
def log(x):
    if x.dtype == tl.float32:
        small = x < TINY
        bits = tl.where(small, x * LIFT, x).to(tl.int32, bitcast=True) + ONE_LESS_ROOT_HALF
        e = (bits >> 23).to(tl.float32) - tl.where(small, 150.0, 127.0)
        f = ((bits & 0x7FFFFF) + ROOT_HALF_BITS).to(tl.float32, bitcast=True) - 1
        # e ln 2 + log(1 + f), with log((1 + s) / (1 - s)) = 2 artanh s
        s = tl.div_rn(f, 2 + f)
        z = s * s
        artanh = 2 / 3 + z * (2 / 5 + z * (2 / 7 + z * (2 / 9 + z * (2 / 11))))
        square = 0.5 * f * f
        y = e * LN2_HIGH + (f - (square - (s * (square + z * artanh) + e * LN2_LOW)))
        y = tl.where(x == 0, float("-inf"), y)
        y = tl.where(x < 0, float("nan"), y)
        return tl.where((x != x) | (x == float("inf")), x, y)
    else:
        return tl.log(x)


@triton.jit
def log1p(x):
    u = 1 + x
    lost = x - (u - 1)  # in the sum
    if x.dtype == tl.float32:
        y = log(u) + tl.div_rn(lost, u)
    else:
        y = log(u) + lost / u
    y = tl.where(u == 0, float("-inf"), y)
    return tl.where(x == float("inf"), x, y)


@triton.jit
def log1p_unit(x):
    if x.dtype == tl.float32:
        s = tl.div_rn(x, 2 + x)
        z = s * s
        artanh = 2 / 3 + z * (2 / 5 + z * (2 / 7 + z * (2 / 9 + z * (2 / 11 + z * (2 / 13 + z * (2 / 15))))))
        return x - s * (x - z * artanh)
    else:
        return log1p(x)


@triton.jit
def softplus(x):
    return tl.where(x < 0, 0.0, x) + log1p_unit(exp_negative(-tl.abs(x)))


@triton.jit
def tanh(x):
    m = tl.abs(x)
    m = expm1(2 * tl.where(m > 23, 23, m))  # there it is 1
    if x.dtype == tl.float32:
        y = tl.div_rn(m, m + 2)
    else:
        y = m / (m + 2)
    return tl.where(x < 0, -y, y)
