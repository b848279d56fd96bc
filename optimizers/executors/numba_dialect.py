"""The dialect of rules for Numba: the names of `optimizers.dialect`, and how each dtype is loaded and stored."""

from __future__ import annotations

import math

from numba import float32, float64, njit, uint16, uint32
from numba.extending import overload

from .raw import bits_of_float32, float16_of_float32, float32_of_bits, float32_of_float16

#: contraction lets the compiler fuse a*b+c into one rounding; nothing else of IEEE arithmetic is given up
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "boundscheck": False}
#: the same for what only compiled code calls: without what would let Python call it, which is a tenth of compiling it
INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@njit(**INNER)
def sqrt(x):
    return math.sqrt(x)


@njit(**INNER)
def absolute(x):
    return abs(x)


@njit(**INNER)
def maximum(x, y):
    return x if x >= y or x != x else y


@njit(**INNER)
def minimum(x, y):
    return x if x <= y or x != x else y


@njit(**INNER)
def where(condition, x, y):
    return x if condition else y


def lerp(x, y, weight):
    """From `x` towards `y`; each half of the way is measured from its own end, as torch does."""


@overload(lerp, jit_options=OPTIONS)
def _lerp(x, y, weight):
    kind = x

    def lerp(x, y, weight):
        return x + weight * (y - x) if weight < 0.5 else y - (y - x) * (kind(1) - weight)

    return lerp


def sign(x):
    """-1, 0 or 1, in the type of `x`."""


@overload(sign, jit_options=OPTIONS)
def _sign(x):
    kind = x
    return lambda x: kind(x > 0) - kind(x < 0)


@njit(**INNER)
def load_float32(x):
    return x


@njit(**INNER)
def load_float64(x):
    return x


@njit(**INNER)
def load_float16(x):
    return float32_of_float16(x)


@njit(**INNER)
def load_bfloat16(x):
    return float32_of_bits(uint32(x) << uint32(16))


store_float32 = load_float32
store_float64 = load_float64


@njit(**INNER)
def store_float16(x):
    return float16_of_float32(x)


@njit(**INNER)
def store_bfloat16(x):
    bits = bits_of_float32(x)
    # to nearest, ties to even; a nan keeps its quiet bit instead of rounding into infinity
    rounded = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16)
    return uint16(rounded) if x == x else uint16(0x7FC0)


@njit(**INNER)
def stored_float32(x):
    return float64(float32(x))


@njit(**INNER)
def stored_float64(x):
    return x
