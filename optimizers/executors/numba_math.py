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
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm_numbers import Number, polynomial, where
from .numba_waves import DOUBLE, SINGLE

__all__ = ["cos", "exp", "exp_negative", "expm1", "log", "log1p", "log1p_unit", "sin", "tanh"]

#: (e^r - 1 - r) / r² for |r| <= ln 2 / 2, from the constant term up, by the exchange algorithm of Remez, for the
#: relative error of e^r: 3.1e-9 in float32, where the series, one term longer, has 5e-9, and 5.3e-20 in float64
_EXPONENTIAL = [0.4999999341250157, 0.16666520107819590, 0.04166839421089387, 0.00836878041118365, 0.00138144670593266]
_DOUBLE_EXPONENTIAL = [
    *(0.500000000000000004, 0.166666666666666834, 0.0416666666666660948, 0.00833333333331704732),
    *(0.00138888888891154596, 0.000198412698963507878, 0.0000248015869268339885, 2.75572348955421219e-6),
    *(2.75575817627263038e-7, 2.51120249151712742e-8, 2.08266313973531235e-9),
]


#: (log(1 + x) - x) / x² in the same way, for the relative error of the logarithm: 5.8e-9 between sqrt(1/2) - 1 and
#: sqrt(2) - 1; and 5.3e-9 between 0 and 1, where each was fitted after those before it had been rounded to float32
_LOGARITHM = [
    *(-0.5, 0.333333317069, -0.250008210178, 0.200012269056, -0.166233578652),
    *(0.142017579376, -0.131601778981, 0.127615749724, -0.0763450446119),
]
_UNIT_LOGARITHM = [
    *(-0.4999993145465851, 0.33330464363098145, -0.24958018958568573, 0.19692102074623108, -0.15344880521297455),
    *(0.10661128163337708, -0.05745723098516464, 0.020086241886019707, -0.003290468594059348),
]


def _curve(coefficients):
    """log(1 + x) - x as x² times a polynomial, which takes less time than a division."""
    return lambda x: x * x * polynomial(x, coefficients)


def _quotients(terms, unit_terms):
    """The same twice, near 0 and between 0 and 1, of a series in x / (2 + x), which needs half as many terms."""
    artanh, wide_artanh = ([2 / (2 * k + 3) for k in range(n)] for n in (terms, unit_terms))

    def curve(x):
        s = x / (2.0 + x)
        z = s * s
        square = 0.5 * x * x
        return s * (square + z * polynomial(z, artanh)) - square

    def unit_curve(x):
        s = x / (2.0 + x)
        z = s * s
        return -s * (x - z * polynomial(z, wide_artanh))

    return curve, unit_curve


def _split(kind, bits):
    """ln 2 in two parts; the first is short, so that whole multiples of it are exact."""
    high = math.floor(math.log(2) * 2.0**bits) / 2.0**bits
    # ln 2 is this far from the nearest float64
    return kind(high), kind((math.log(2) - high) + 2.319046813846299558e-17)


def _make(kind, mantissa, exponential_terms, curves, ln2_bits) -> dict[str, Callable]:
    """The functions in one precision; `mantissa` is its number of stored bits, then come the polynomial of the
    exponential, log(1 + x) - x near 0 and between 0 and 1, and how long the first part of ln 2 is.
    """
    magic = kind(1.5 * 2.0**mantissa)  # adding and taking it away rounds to a whole number
    ln2_high, ln2_low = _split(kind, ln2_bits)
    log2e = kind(1 / math.log(2))
    width = 8 * np.dtype(kind).itemsize
    bias = (1 << (width - 1 - mantissa) - 1) - 1
    largest, smallest = kind(bias + 1) * kind(math.log(2)), kind(-(bias + mantissa + 1)) * kind(math.log(2))
    normal = kind(2.0 ** (1 - bias))
    root_half = int(np.array(math.sqrt(0.5), kind).view(f"u{width // 8}"))
    one_bits = int(np.array(1, kind).view(f"u{width // 8}"))
    mask = (1 << mantissa) - 1
    curve, unit_curve = curves
    # the last bits of a number added to this are the biased exponent of a power of two
    exponent_magic, least = magic + kind(bias), kind(-(bias + 0.49) * math.log(2))
    # from here on the exponential is 0 and infinite
    vanishing, overflowing = kind(-(bias + mantissa + 3) * math.log(2)), kind((bias + 2) * math.log(2))

    def power_of_two(n):
        return ((n.whole() + bias) << mantissa).of_bits()

    def remainder(x, n):
        """x - n ln 2, and e to that power less 1."""
        r = (x - n * ln2_high) - n * ln2_low
        return r + r * r * polynomial(r, exponential_terms)

    def exp(x):
        x = where(x < vanishing, vanishing, x)  # in this order nan stays
        x = where(x > overflowing, overflowing, x)
        n = (x * log2e + magic) - magic
        first = n * 0.5 + exponent_magic  # in two steps, for what is below the normal numbers
        second = (n - (first - exponent_magic)) + exponent_magic
        y = (1.0 + remainder(x, n)) * (first.bits() << mantissa).of_bits()
        return y * (second.bits() << mantissa).of_bits()

    def exp_negative(x):
        x = where(x < least, least, x)  # in this order nan stays
        t = x * log2e + exponent_magic
        scale = (t.bits() << mantissa).of_bits()
        return scale + scale * remainder(x, t - exponent_magic)

    def expm1(x):
        inside = where(x > smallest, x, smallest)
        inside = where(inside < largest, inside, largest)
        n = (inside * log2e + magic) - magic
        first = (n * 0.5 + magic) - magic
        scale = power_of_two(first)
        rest = power_of_two(n - first)
        y = (remainder(inside, n) * scale + (scale - 1.0 / rest)) * rest
        y = where(x > largest, math.inf, y)
        y = where(x < -(mantissa + 3.0), -1.0, y)
        return where((x != x) | (x == 0.0), x, y)

    def log_of_parts(e, f):
        """e ln 2 + log(1 + f) for f between sqrt(1/2) - 1 and sqrt(2) - 1."""
        return e * ln2_high + (f + (curve(f) + e * ln2_low))

    def parts(x):
        """e and f with x = 2^e (1 + f), exactly."""
        bits = x.bits() + (one_bits - root_half)
        return ((bits >> mantissa) - bias).of_whole(), ((bits & mask) + root_half).of_bits() - 1.0

    def log(x):
        small = x < normal
        e, f = parts(where(small, x * 2.0**mantissa, x))
        y = log_of_parts(where(small, e - float(mantissa), e), f)
        y = where(x == 0.0, -math.inf, y)
        y = where(x < 0.0, math.nan, y)
        return where((x != x) | (x == math.inf), x, y)

    def log1p(x):
        u = 1.0 + x
        e, f = parts(u)
        # beyond, where nothing is lost, it would be no number
        scale = power_of_two(-where(e < bias - 1.0, e, bias - 1.0))
        y = log_of_parts(e, f + (x - (u - 1.0)) * scale)  # what was lost in the sum comes back
        y = where(u == 0.0, -math.inf, y)
        y = where(u < 0.0, math.nan, y)
        return where((x == 0.0) | (x != x) | (x == math.inf), x, y)

    def log1p_unit(x):
        return x + unit_curve(x)

    def tanh(x):
        size = abs(x)
        m = expm1(2.0 * where(size < float(mantissa), size, float(mantissa)))
        y = m / (m + 2.0)
        y = where(x > 0.0, y, -y)
        return where((x == 0.0) | (x != x), x, y)

    waves = SINGLE if kind is np.float32 else DOUBLE
    sin, cos = waves.sin, waves.cos

    found = locals()
    return {name: found[name] for name in __all__}


_MADE = {
    types.float32: _make(np.float32, 23, _EXPONENTIAL, (_curve(_LOGARITHM), _curve(_UNIT_LOGARITHM)), 14),
    types.float64: _make(np.float64, 52, _DOUBLE_EXPONENTIAL, _quotients(12, 17), 32),
}


def _of_number(name):
    def function(x):
        return _MADE[types.float32 if x.type == ir.FloatType() else types.float64][name](x)

    function.__name__ = name
    return staticmethod(function)


#: the same functions of `Number`, in its precision
of_numbers = type("of_numbers", (), {name: _of_number(name) for name in __all__})


def _offer(name, doc):
    """A function for compiled code; in float64 but of float32."""

    def function(typing, x):
        kind = types.float32 if x == types.float32 else types.float64

        def generate(context, builder, signature, values):
            return _MADE[kind][name](Number(builder, values[0])).value

        return kind(kind), generate

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


exp = _offer("exp", "e to the power of `x`.")
exp_negative = _offer(
    "exp_negative", "`exp` of what is not positive; 0 where that is below the smallest normal number."
)
expm1 = _offer("expm1", "``exp(x) - 1``, exact near 0.")
log = _offer("log", "The natural logarithm; -inf at 0, nan below.")
log1p = _offer("log1p", "``log(1 + x)``, exact near 0.")
log1p_unit = _offer("log1p_unit", "`log1p` of what lies in [0, 1].")
tanh = _offer("tanh", "The hyperbolic tangent, exact near 0.")
sin = _offer("sin", "The sine; nan beyond 1e8.")
cos = _offer("cos", "The cosine; nan beyond 1e8.")
