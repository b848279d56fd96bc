"""Units in the last place: how far a stored number may be from the real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: explicit mantissa bits, smallest normal exponent, largest number."""

    mantissa: int
    smallest_exponent: int
    largest: float


FORMATS = {
    "float64": Format(52, -1022, float(np.finfo(np.float64).max)),
    "float32": Format(23, -126, float(np.finfo(np.float32).max)),
    "float16": Format(10, -14, 65504.0),
    "bfloat16": Format(7, -126, 3.3895313892515355e38),
}


_EXPONENT_BITS = np.int64(0x7FF0000000000000)  # of a float64: what is left is the power of two below |x|


def ulp(x: Array, dtype: str) -> Array:
    """Distance between neighbours of `dtype` at x; below the smallest normal number, where spacing is even, that."""
    form = FORMATS[dtype]
    power = (np.ascontiguousarray(x, dtype=np.float64).view(np.int64) & _EXPONENT_BITS).view(np.float64)
    return np.clip(power, 2.0**form.smallest_exponent, 2.0**1023) * 2.0**-form.mantissa  # also for inf and nan


def rounded(x: Array, dtype: str) -> Array:
    """x rounded to `dtype`, once, to nearest with ties to even, too large to infinity; the result stays float64.

    Converting float64 to bfloat16 with torch goes through float32 and so rounds twice.
    """
    if dtype == "float64":
        return x
    unit = ulp(x, dtype)
    near = np.where(np.isfinite(x), np.rint(x / unit) * unit, x)
    return np.where(np.abs(near) > FORMATS[dtype].largest, np.copysign(np.inf, near), near)
