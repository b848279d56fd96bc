"""Exponentials, logarithms and sines for Numba that the compiler turns into vector instructions, with stated errors.

Numba's own call the C library for one number at a time, which is ten times slower. Largest errors, in units in the last
place, over all magnitudes (`tests/optimizers/test_numba_math.py` measures them):

    ============  =======  =======
    function      float32  float64
    ============  =======  =======
    exp           1.0      1.0
    exp_negative  1.1      1.0
    expm1         1.6      2.0
    log           0.9      0.9
    log1p         1.5      1.5
    log1p_unit    1.2      1.2
    tanh          2.5      3.0
    sin           0.8      0.8
    cos           0.8      0.8
    ============  =======  =======

Results below the smallest normal number are rounded once more. nan, infinities, zeros and poles are as in C. Those two
that take only a part of the numbers cost half and a third of the whole function. Sine and cosine are nan beyond 1e8,
where the distance between neighbouring float32 is more than a turn, and float64 would need more digits of pi.
"""

from __future__ import annotations

import math

import numpy as np
from numba import int32, int64, njit, types, uint32, uint64
from numba.extending import overload

from .numba_waves import OPTIONS, WAVES, polynomial
from .raw import bits_of_float32, bits_of_float64, float32_of_bits, float64_of_bits

__all__ = ["cos", "exp", "exp_negative", "expm1", "log", "log1p", "log1p_unit", "sin", "tanh"]


def exp(x):
    """e to the power of `x`."""


def exp_negative(x):
    """`exp` of what is not positive; 0 where that is below the smallest normal number."""


def expm1(x):
    """``exp(x) - 1``, exact near 0."""


def log(x):
    """The natural logarithm; -inf at 0, nan below."""


def log1p(x):
    """``log(1 + x)``, exact near 0."""


def log1p_unit(x):
    """`log1p` of what lies in [0, 1]."""


def tanh(x):
    """The hyperbolic tangent, exact near 0."""


def sin(x):
    """The sine; nan beyond 1e8."""


def cos(x):
    """The cosine; nan beyond 1e8."""


def _split(kind, bits):
    """ln 2 in two parts; the first is short, so that whole multiples of it are exact."""
    high = math.floor(math.log(2) * 2.0**bits) / 2.0**bits
    # ln 2 is this far from the nearest float64
    return kind(high), kind((math.log(2) - high) + 2.319046813846299558e-17)


def _make(kind, integer, unsigned, bits_of, of_bits, mantissa, terms, ln2_bits):
    """The functions in one precision; `mantissa` is its number of stored bits, `terms` the polynomial of the
    exponential and how many terms the logarithms' series have."""
    one, two, half, zero = kind(1), kind(2), kind(0.5), kind(0)
    magic = kind(1.5 * 2.0**mantissa)  # adding and taking it away rounds to a whole number
    ln2_high, ln2_low = _split(kind, ln2_bits)
    log2e = kind(1 / math.log(2))
    bias = (1 << (31 - mantissa if kind is np.float32 else 63 - mantissa) - 1) - 1
    shift, exponent_zero = unsigned(mantissa), integer(bias)
    largest, smallest = kind(bias + 1) * kind(math.log(2)), kind(-(bias + mantissa + 1)) * kind(math.log(2))
    normal = kind(2.0 ** (1 - bias))
    root_half = unsigned(int(np.array(math.sqrt(0.5), kind).view(f"u{np.dtype(kind).itemsize}")))
    one_bits = unsigned(int(np.array(1, kind).view(f"u{np.dtype(kind).itemsize}")))
    mask = unsigned((1 << mantissa) - 1)
    lift, lifted = kind(2.0**mantissa), kind(mantissa)
    infinity, nan = kind(math.inf), kind(math.nan)
    exponential = polynomial(kind, terms[0])
    artanh = polynomial(kind, [2 / (2 * k + 3) for k in range(terms[1])])
    wide_artanh = polynomial(kind, [2 / (2 * k + 3) for k in range(terms[2])])
    # the last bits of a number added to this are the biased exponent of a power of two
    exponent_magic, least = magic + kind(bias), kind(-(bias + 0.49) * math.log(2))
    # from here on the exponential is 0 and infinite
    vanishing, overflowing = kind(-(bias + mantissa + 3) * math.log(2)), kind((bias + 2) * math.log(2))

    @njit(**OPTIONS)
    def power_of_two(n):
        return of_bits(unsigned(integer(n) + exponent_zero) << shift)

    @njit(**OPTIONS)
    def reduce(x):
        """n and e^r - 1 where x = n ln 2 + r; arguments beyond the range are brought to its edge."""
        x = min(max(x, smallest), largest)
        n = (x * log2e + magic) - magic
        r = (x - n * ln2_high) - n * ln2_low
        return n, r + r * r * exponential(r)

    @njit(**OPTIONS)
    def exp(x):
        x = vanishing if x < vanishing else x  # in this order nan stays
        x = overflowing if x > overflowing else x
        n = (x * log2e + magic) - magic
        r = (x - n * ln2_high) - n * ln2_low
        first = n * half + exponent_magic  # in two steps, for what is below the normal numbers
        second = (n - (first - exponent_magic)) + exponent_magic
        y = one + (r + r * r * exponential(r))
        return y * of_bits(unsigned(bits_of(first) << shift)) * of_bits(unsigned(bits_of(second) << shift))

    @njit(**OPTIONS)
    def exp_negative(x):
        x = least if x < least else x  # in this order nan stays
        t = x * log2e + exponent_magic
        n = t - exponent_magic
        r = (x - n * ln2_high) - n * ln2_low
        return (one + (r + r * r * exponential(r))) * of_bits(unsigned(bits_of(t) << shift))

    @njit(**OPTIONS)
    def expm1(x):
        n, p = reduce(x)
        first = (n * half + magic) - magic
        scale = power_of_two(first)
        rest = power_of_two(n - first)
        y = (p * scale + (scale - one / rest)) * rest
        y = infinity if x > largest else y
        y = -one if x < kind(-(mantissa + 3)) else y
        return x if x != x or x == zero else y

    @njit(**OPTIONS)
    def log_of_parts(e, f):
        """e ln 2 + log(1 + f) for f between sqrt(1/2) - 1 and sqrt(2) - 1."""
        s = f / (two + f)
        z = s * s
        square = half * f * f
        return e * ln2_high + (f - (square - (s * (square + z * artanh(z)) + e * ln2_low)))

    @njit(**OPTIONS)
    def parts(x):
        """e and f with x = 2^e (1 + f), exactly."""
        bits = bits_of(x) + (one_bits - root_half)
        return kind(integer(bits >> shift) - exponent_zero), of_bits((bits & mask) + root_half) - one

    @njit(**OPTIONS)
    def log(x):
        small = x < normal
        e, f = parts(x * lift if small else x)
        y = log_of_parts(e - lifted if small else e, f)
        y = -infinity if x == zero else y
        y = nan if x < zero else y
        return x if x != x or x == infinity else y

    @njit(**OPTIONS)
    def log1p(x):
        u = one + x
        e, f = parts(u)
        scale = power_of_two(-min(e, kind(bias - 1)))  # beyond, where nothing is lost, it would be no number
        y = log_of_parts(e, f + (x - (u - one)) * scale)  # what was lost in the sum comes back
        y = -infinity if u == zero else y
        y = nan if u < zero else y
        return x if (x == zero) | (x != x) | (x == infinity) else y

    @njit(**OPTIONS)
    def log1p_unit(x):
        s = x / (two + x)
        z = s * s
        return x - s * (x - z * wide_artanh(z))

    @njit(**OPTIONS)
    def tanh(x):
        m = expm1(two * min(abs(x), kind(mantissa)))
        y = m / (m + two)
        y = y if x > zero else -y
        return x if x == zero or x != x else y

    sin, cos = WAVES[kind]

    found = locals()
    return {name: found[name] for name in __all__}


#: (e^r - 1 - r) / r² for |r| <= ln 2 / 2, from the constant term up, by the exchange algorithm of Remez, for the
#: relative error of e^r: 3.1e-9 in float32, where the series, one term longer, has 5e-9, and 5.3e-20 in float64
_EXPONENTIAL = [0.4999999341250157, 0.16666520107819590, 0.04166839421089387, 0.00836878041118365, 0.00138144670593266]
_DOUBLE_EXPONENTIAL = [
    *(0.500000000000000004, 0.166666666666666834, 0.0416666666666660948, 0.00833333333331704732),
    *(0.00138888888891154596, 0.000198412698963507878, 0.0000248015869268339885, 2.75572348955421219e-6),
    *(2.75575817627263038e-7, 2.51120249151712742e-8, 2.08266313973531235e-9),
]

_SINGLE = _make(np.float32, int32, uint32, bits_of_float32, float32_of_bits, 23, (_EXPONENTIAL, 5, 7), 14)
_DOUBLE = _make(np.float64, int64, uint64, bits_of_float64, float64_of_bits, 52, (_DOUBLE_EXPONENTIAL, 12, 17), 32)


def _offer(function):
    single, double = _SINGLE[function.__name__], _DOUBLE[function.__name__]

    @overload(function, jit_options=OPTIONS)
    def choose(x):
        if x == types.float32:
            return lambda x: single(x)
        return lambda x: double(x)


for _name in __all__:
    _offer(globals()[_name])
