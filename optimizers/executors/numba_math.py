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
that take only a part of the numbers cost about half of the whole function. Sine and cosine are nan beyond 1e8,
where the distance between neighbouring float32 is more than a turn, and float64 would need more digits of pi.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numba import float64, int32, int64, njit, types, uint32, uint64
from numba.extending import overload

from .numba_dialect import INNER
from .raw import bits_of_float32, bits_of_float64, float32_of_bits, float64_of_bits

__all__ = ["cos", "exp", "exp_negative", "expm1", "log", "log1p", "log1p_unit", "sin", "tanh"]

#: a call that is not inlined keeps the loop around it from becoming vector instructions
OPTIONS = {**INNER, "forceinline": True}


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


def _polynomial(kind, coefficients):
    """A compiled polynomial, from the constant term up."""
    names = {f"c{k}": kind(c) for k, c in enumerate(coefficients)}
    body = "c0"
    for k in range(len(coefficients) - 1, -1, -1):
        body = f"c{k}" if k == len(coefficients) - 1 else f"c{k} + x * ({body})"
    exec(f"def polynomial(x):\n    return {body}", names)
    return njit(**OPTIONS)(names["polynomial"])


def _curve(kind, coefficients):
    """log(1 + x) - x as x² times a polynomial, which takes less time than a division."""
    polynomial = _polynomial(kind, coefficients)
    return njit(**OPTIONS)(lambda x: x * x * polynomial(x))


def _quotients(kind, terms, unit_terms):
    """The same twice, near 0 and between 0 and 1, of a series in x / (2 + x), which needs half as many terms."""
    artanh, wide_artanh = [_polynomial(kind, [2 / (2 * k + 3) for k in range(n)]) for n in (terms, unit_terms)]
    half, two = kind(0.5), kind(2)

    @njit(**OPTIONS)
    def curve(x):
        s = x / (two + x)
        z = s * s
        square = half * x * x
        return s * (square + z * artanh(z)) - square

    @njit(**OPTIONS)
    def unit_curve(x):
        s = x / (two + x)
        z = s * s
        return -s * (x - z * wide_artanh(z))

    return curve, unit_curve


def _make(kind, integer, unsigned, bits_of, of_bits, mantissa, terms, ln2_bits):
    """The functions in one precision; `mantissa` is its number of stored bits, `terms` the polynomial
    of the exponential, log(1 + x) - x near 0 and between 0 and 1, and how many terms the waves have."""
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
    above_root_half = unsigned(int(one_bits) - int(root_half))
    mask = unsigned((1 << mantissa) - 1)
    lift, lifted = kind(2.0**mantissa), kind(mantissa)
    infinity, nan = kind(math.inf), kind(math.nan)
    exponential = _polynomial(kind, terms[0])
    curve, unit_curve = terms[1]
    sine_series = _polynomial(kind, [(-1) ** (k + 1) / math.factorial(2 * k + 3) for k in range(terms[2])])
    cosine_series = _polynomial(kind, [(-1) ** k / math.factorial(2 * k + 4) for k in range(terms[2])])
    # the last bits of a number added to this are the biased exponent of a power of two
    exponent_magic, least = magic + kind(bias), kind(-(bias + 0.49) * math.log(2))

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
        n, p = reduce(x)
        first = (n * half + magic) - magic  # in two steps, for what is below the normal numbers
        y = (one + p) * power_of_two(first) * power_of_two(n - first)
        y = infinity if x > largest else y
        y = zero if x < smallest else y
        return x if x != x else y

    @njit(**OPTIONS)
    def exp_negative(x):
        x = least if x < least else x  # in this order nan stays
        t = x * log2e + exponent_magic
        n = t - exponent_magic
        r = (x - n * ln2_high) - n * ln2_low
        scale = of_bits(unsigned(bits_of(t) << shift))
        return scale + scale * (r + r * r * exponential(r))

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
        return e * ln2_high + (f + (curve(f) + e * ln2_low))

    @njit(**OPTIONS)
    def parts(x):
        """e and f with x = 2^e (1 + f), exactly."""
        # numba makes sums of 32 bits 64 bits wide: told at each step that they are not, vectors stay whole
        bits = unsigned(bits_of(x) + above_root_half)
        exponent = integer(integer(unsigned(bits >> shift)) - exponent_zero)
        return kind(exponent), of_bits(unsigned(unsigned(bits & mask) + root_half)) - one

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
        return x + unit_curve(x)

    @njit(**OPTIONS)
    def tanh(x):
        m = expm1(two * min(abs(x), kind(mantissa)))
        y = m / (m + two)
        y = y if x > zero else -y
        return x if x == zero or x != x else y

    @njit(**OPTIONS)
    def sines(x):
        """The last two bits of n, and sine and cosine of x - n pi/2."""
        t = float64(x) * float64(2 / math.pi) + TURN_MAGIC
        n = t - TURN_MAGIC
        first = float64(x) - n * HALF_PI[0]  # exact, as are the two products that follow
        second, third = n * HALF_PI[1], n * HALF_PI[2]
        between = first - second
        wide = between - third
        back = wide - between
        rest = (first - between) - second + ((between - (wide - back)) - (third + back)) - n * HALF_PI[3]
        high = wide + rest
        low = kind((wide - high) + rest)
        r = kind(high)
        low = kind(high - float64(r)) + low
        z = r * r
        whole = one - half * z
        cosine = whole + (((one - whole) - half * z) + (z * z * cosine_series(z) - r * low))
        return bits_of_float64(t) & uint64(3), r + (low * whole + r * z * sine_series(z)), cosine

    @njit(**OPTIONS)
    def sin(x):
        n, sine, cosine = sines(x)
        y = cosine if n & uint64(1) else sine
        y = -y if n & uint64(2) else y
        y = y if abs(x) <= FARTHEST else nan
        return x if x == zero else y

    @njit(**OPTIONS)
    def cos(x):
        n, sine, cosine = sines(x)
        y = sine if n & uint64(1) else cosine
        y = -y if (n + uint64(1)) & uint64(2) else y
        return y if abs(x) <= FARTHEST else nan

    found = locals()
    return {name: found[name] for name in __all__}


def _half_pi():
    """pi/2 in four parts; the first three have 26 bits, so that their products with whole numbers below 2^27 are exact.

    pi is the sum of these three float64, to 2^-160.
    """
    rest = sum(map(Fraction, (3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33))) / 2
    parts = []
    for bits in (25, 51, 77):
        parts.append(math.floor(rest * 2**bits) / 2.0**bits)
        rest -= Fraction(parts[-1])
    return (*parts, float(rest))


HALF_PI = _half_pi()
TURN_MAGIC = 1.5 * 2.0**52  # adding and taking it away rounds to a whole number, which its last bits then hold
FARTHEST = 1e8

#: (e^r - 1 - r) / r² for |r| <= ln 2 / 2. In float32 by the exchange algorithm of Remez, for the relative error of e^r:
#: 3.1e-9, where the series, one term longer, has 5e-9
_EXPONENTIAL = [0.4999999341250157, 0.16666520107819590, 0.04166839421089387, 0.00836878041118365, 0.00138144670593266]
_SERIES = [1 / math.factorial(k) for k in range(2, 15)]

#: (log(1 + x) - x) / x² in the same way, for the relative error of the logarithm: 5.8e-9 between sqrt(1/2) - 1 and
#: sqrt(2) - 1; and 5.3e-9 between 0 and 1, where each was fitted after those before it had been rounded to float32
_LOGARITHM = [-0.5, 0.333333317069, -0.250008210178, 0.200012269056, -0.166233578652]
_LOGARITHM += [0.142017579376, -0.131601778981, 0.127615749724, -0.0763450446119]
_UNIT_LOGARITHM = [-0.4999993145465851, 0.33330464363098145, -0.24958018958568573, 0.19692102074623108]
_UNIT_LOGARITHM += [-0.15344880521297455, 0.10661128163337708, -0.05745723098516464, 0.020086241886019707]
_UNIT_LOGARITHM += [-0.003290468594059348]

_SHORT = _EXPONENTIAL, (_curve(np.float32, _LOGARITHM), _curve(np.float32, _UNIT_LOGARITHM)), 4
_LONG = _SERIES, _quotients(np.float64, 12, 17), 8
_SINGLE = _make(np.float32, int32, uint32, bits_of_float32, float32_of_bits, 23, _SHORT, 14)
_DOUBLE = _make(np.float64, int64, uint64, bits_of_float64, float64_of_bits, 52, _LONG, 32)


def _offer(function):
    single, double = _SINGLE[function.__name__], _DOUBLE[function.__name__]

    @overload(function, jit_options=OPTIONS)
    def choose(x):
        if x == types.float32:
            return lambda x: single(x)
        return lambda x: double(x)


for _name in __all__:
    _offer(globals()[_name])
