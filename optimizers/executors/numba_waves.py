"""Sine and cosine for `numba_math`, in both precisions.

An argument is reduced to at most a quarter of pi by Cody and Waite's subtraction (Software Manual for the Elementary
Functions, 1980), of pi/2 in parts, in float64 in either precision; then comes a polynomial.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numba import float32, float64, njit, uint64

from .numba_dialect import INNER
from .raw import bits_of_float64, float64_of_bits

#: a call that is not inlined keeps the loop around it from becoming vector instructions
OPTIONS = {**INNER, "forceinline": True}


def polynomial(kind, coefficients):
    """A compiled polynomial, from the constant term up."""
    names = {f"c{k}": kind(c) for k, c in enumerate(coefficients)}
    body = "c0"
    for k in range(len(coefficients) - 1, -1, -1):
        body = f"c{k}" if k == len(coefficients) - 1 else f"c{k} + x * ({body})"
    exec(f"def polynomial(x):\n    return {body}", names)
    return njit(**OPTIONS)(names["polynomial"])


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


@njit(**OPTIONS)
def _turns(x):
    """The float64 x as n pi/2 + r: a number whose last bits are those of n, n, and r without the last parts of pi/2.

    Up to 1e8 that is exact: both differences are multiples of 2^-53 and below 1.
    """
    t = x * (2 / math.pi) + TURN_MAGIC
    n = t - TURN_MAGIC
    return bits_of_float64(t), n, (x - n * HALF_PI[0]) - n * HALF_PI[1]


@njit(**OPTIONS)
def _sign_of_sine(bits):
    """The bit of a float64's sign where sine is turned round after n quarters of a turn."""
    return uint64(bits << uint64(62)) & uint64(1 << 63)


def _double_waves(sine_terms, cosine_terms):
    """Sine and cosine in float64."""
    sine_series, cosine_series = polynomial(np.float64, sine_terms), polynomial(np.float64, cosine_terms)

    @njit(**OPTIONS)
    def waves(x):
        """The bits of n, and sine and cosine of x - n pi/2."""
        bits, n, wide = _turns(x)
        r = wide - n * HALF_PI[2]
        low = ((wide - r) - n * HALF_PI[2]) - n * HALF_PI[3]  # up to its last product exact
        z = r * r
        whole = 1.0 - 0.5 * z
        cosine = whole + (((1.0 - whole) - 0.5 * z) + (z * z * cosine_series(z) - r * low))
        return bits, r + (low * whole + r * z * sine_series(z)), cosine

    @njit(**OPTIONS)
    def sin(x):
        bits, sine, cosine = waves(x)
        y = cosine if bits & uint64(1) else sine
        y = float64_of_bits(bits_of_float64(y) ^ _sign_of_sine(bits))
        y = y if abs(x) <= FARTHEST else math.nan
        return x if x == 0.0 else y

    @njit(**OPTIONS)
    def cos(x):
        bits, sine, cosine = waves(x)
        y = sine if bits & uint64(1) else cosine
        y = float64_of_bits(bits_of_float64(y) ^ _sign_of_sine(bits + uint64(1)))
        return y if abs(x) <= FARTHEST else math.nan

    return sin, cos


def _single_waves(sine_terms, cosine_terms):
    """Sine and cosine in float32: r and the last sum in float64, so that each result is rounded once."""
    sine_series, cosine_series = polynomial(np.float32, sine_terms), polynomial(np.float32, cosine_terms)
    half = float32(0.5)

    @njit(**OPTIONS)
    def waves(x):
        """The bits of n, r and r² for r = x - n pi/2, sin(r) / r - 1 and (cos(r) - 1) / r²."""
        bits, n, wide = _turns(float64(x))
        r = wide - n * LAST_PARTS
        square = r * r
        z = float32(square)
        return bits, r, square, z * sine_series(z), z * cosine_series(z) - half

    @njit(**OPTIONS)
    def rounded(odd, bits, r, square, sine, cosine):
        y = (1.0 if odd else r) + (square if odd else r) * float64(cosine if odd else sine)
        return float32(float64_of_bits(bits_of_float64(y) ^ _sign_of_sine(bits)))

    @njit(**OPTIONS)
    def sin(x):
        bits, r, square, sine, cosine = waves(x)
        y = rounded(bits & uint64(1) != 0, bits, r, square, sine, cosine)
        y = y if abs(x) <= float32(FARTHEST) else float32(math.nan)
        return x if x == float32(0) else y

    @njit(**OPTIONS)
    def cos(x):
        bits, r, square, sine, cosine = waves(x)
        y = rounded(bits & uint64(1) == 0, bits + uint64(1), r, square, sine, cosine)
        return y if abs(x) <= float32(FARTHEST) else float32(math.nan)

    return sin, cos


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

WAVES = {np.float32: _single_waves(_SINE, _COSINE), np.float64: _double_waves(_DOUBLE_SINE, _DOUBLE_COSINE)}
