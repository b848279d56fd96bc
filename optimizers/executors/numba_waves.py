"""Sine and cosine for `numba_math`, in both precisions.

An argument is reduced to at most a quarter of pi by Cody and Waite's subtraction (Software Manual for the Elementary
Functions, 1980), of pi/2 in parts, in float64 in either precision; then comes a polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from .llvm_numbers import Number, polynomial, where

# Polynomials of least largest error, by the exchange algorithm of Remez, from the constant term up. In brackets: the
# relative error of the whole function that comes of them.

#: (sin(r) - r) / r³ in r², for |r| <= pi/4 (3.8e-9; 3.6e-18)
_SINE = [-0.166666546094489346, 0.00833216075571652705, -0.000195152823735981817]
_DOUBLE_SINE = [
    *(-0.166666666666666307, 0.00833333333332211851, -0.000198412698295894684),
    *(2.75573136213593424e-6, -2.50507477584325187e-8, 1.58962298857224668e-10),
]
#: (cos(r) - 1 + r²/2) / r⁴ in r², for |r| <= pi/4 (1.2e-10; 5.6e-20)
_COSINE = [0.0416666456828982193, -0.00138873162499779965, 0.0000244331565039866003]
_DOUBLE_COSINE = [
    *(0.0416666666666665929, -0.00138888888888730563, 0.0000248015872888516486),
    *(-2.75573141792768582e-7, 2.08757008388529105e-9, -1.13585363415189741e-11),
]


def _half_pi():
    """pi/2 in four parts; the first three have up to 27 bits, so that their products with numbers below 2^26 are exact.

    pi is the sum of these three float64, to 2^-160.
    """
    rest = sum(map(Fraction, (3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33))) / 2
    parts = []
    for bits in (25, 51, 80):
        parts.append(math.floor(rest * 2**bits) / 2.0**bits)
        rest -= Fraction(parts[-1])
    return (*parts, float(rest))


HALF_PI = _half_pi()
LAST_PARTS = HALF_PI[2] + HALF_PI[3]
TURN_MAGIC = 1.5 * 2.0**52  # adding and taking it away rounds to a whole number, which its last bits then hold
FARTHEST = 1e8


def _turns(x: Number) -> tuple[Number, Number, Number]:
    """The float64 x as n pi/2 + r: a number whose last bits are those of n, n, and r without the last parts of pi/2.

    Up to 1e8 that is exact: both differences are multiples of 2^-53 and below 1.
    """
    t = x * (2 / math.pi) + TURN_MAGIC
    n = t - TURN_MAGIC
    return t.bits(), n, (x - n * HALF_PI[0]) - n * HALF_PI[1]


def _double_remainder(x: Number) -> tuple[Number, Number, Number]:
    """The last bits of n, and x - n pi/2 in two parts."""
    bits, n, wide = _turns(x)
    r = wide - n * HALF_PI[2]
    return bits, r, ((wide - r) - n * HALF_PI[2]) - n * HALF_PI[3]  # up to its last product exact


def _single_remainder(x: Number) -> tuple[Number, Number, Number]:
    """The same for float32: the difference is taken in float64, and then parted."""
    bits, n, wide = _turns(x.double())
    whole = wide - n * LAST_PARTS
    r = whole.single()
    return bits.low_word(), r, (whole - r.double()).single()


@dataclass(frozen=True)
class Waves:
    """Sine and cosine in one precision."""

    remainder: Callable[[Number], tuple[Number, Number, Number]]
    sine_terms: list[float]
    cosine_terms: list[float]
    width: int  # bits of a number

    def both(self, x: Number) -> tuple[Number, Number, Number]:
        """The last bits of n, and sine and cosine of x - n pi/2."""
        bits, r, low = self.remainder(x)
        z = r * r
        whole = 1.0 - 0.5 * z
        cosine = whole + (((1.0 - whole) - 0.5 * z) + (z * z * polynomial(z, self.cosine_terms) - r * low))
        return bits, r + (low * whole + r * z * polynomial(z, self.sine_terms)), cosine

    def turned(self, x: Number, y: Number, bits: Number) -> Number:
        """`y` with the sign that sine has after n quarters of a turn; nan where `x` is too far away."""
        sign = (bits << (self.width - 2)) & (1 << (self.width - 1))
        return where(abs(x) <= FARTHEST, (y.bits() ^ sign).of_bits(), math.nan)

    def sin(self, x: Number) -> Number:
        bits, sine, cosine = self.both(x)
        return where(x == 0.0, x, self.turned(x, where((bits & 1) != 0, cosine, sine), bits))

    def cos(self, x: Number) -> Number:
        bits, sine, cosine = self.both(x)
        return self.turned(x, where((bits & 1) != 0, sine, cosine), bits + 1)


SINGLE = Waves(_single_remainder, _SINE, _COSINE, 32)
DOUBLE = Waves(_double_remainder, _DOUBLE_SINE, _DOUBLE_COSINE, 64)
