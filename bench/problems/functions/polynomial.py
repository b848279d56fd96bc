"""Polynomials with several minima, and with saddles."""

from __future__ import annotations

import math

from bench.problems.function import Function, shifted
from bench.problems.functions.scalable import Scalable
from bench.problems.functions.sources import JAMIL


def himmelblau(x, m):
    a, b = x
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


HIMMELBLAU = Function(
    name="himmelblau",
    title="Himmelblau",
    definition=himmelblau,
    domain=((-5.0, 5.0),) * 2,
    start=(0.0, 0.0),
    minimisers=(
        (3.0, 2.0),
        (-2.805118086952745, 3.131312518250573),
        (-3.779310253377747, -3.283185991286170),
        (3.584428340330492, -1.848126526964404),
    ),
    minimum=0.0,
    basin=0.0,
    start_value=170.0,
    source=f"Himmelblau 1972; {JAMIL}",
)


def styblinski_tang(x, m):
    square = x**2
    return m.sum(square * (square - 16) + 5 * x) / 2


def styblinski_tang_in(n: int) -> Function:
    return Function(
        name="styblinski-tang",
        title="Styblinski-Tang",
        definition=styblinski_tang,
        domain=((-5.0, 5.0),) * n,
        start=(0.0,) * n,
        minimisers=((-2.903534027771177,) * n,),
        minimum=-39.1661657037714 * n,
        basin=-39.1661657037714 * n,
        source=f"Styblinski & Tang 1990; {JAMIL} (-39.16599 per dimension is a misprint)",
    )


def goldstein_price(x, m):
    a, b = x
    s, t = a + b, 2 * a - 3 * b  # the published polynomials in a and b, factored
    return (1 + (s + 1) ** 2 * ((3 * s - 14) * s + 19)) * (30 + t**2 * ((3 * t - 16) * t + 18))


GOLDSTEIN_PRICE = Function(
    name="goldstein-price",
    title="Goldstein-Price",
    definition=goldstein_price,
    domain=((-2.0, 2.0),) * 2,
    start=(-0.5, 0.5),
    minimisers=((0.0, -1.0),),
    minimum=3.0,
    basin=30.0,
    source=f"Goldstein & Price 1971; {JAMIL}",
)


def six_hump_camel(x, m):
    a, b = x
    a2, b2 = a**2, b**2
    return (4 - 2.1 * a2 + a2**2 / 3) * a2 + a * b + 4 * (b2 - 1) * b2


SIX_HUMP_CAMEL = Function(
    name="six-hump-camel",
    title="Six-hump camel",
    definition=six_hump_camel,
    domain=((-3.0, 3.0), (-2.0, 2.0)),
    start=(-1.5, 1.2),
    minimisers=(
        (0.08984201310031807, -0.7126564030207396),
        (-0.08984201310031807, 0.7126564030207396),
    ),
    minimum=-1.0316284534898774,
    basin=-0.2154638,
    source=f"Dixon & Szegö 1978; {JAMIL}",
)


def three_hump_camel(x, m):
    a, b = x
    a2 = a**2
    return (2 - 1.05 * a2 + a2**2 / 6) * a2 + a * b + b**2


THREE_HUMP_CAMEL = shifted(
    Function(
        name="three-hump-camel",
        title="Three-hump camel",
        definition=three_hump_camel,
        domain=((-5.0, 5.0),) * 2,
        start=(-1.8, 1.2),
        minimisers=((0.0, 0.0),),
        minimum=0.0,
        basin=0.2986384,
        source=JAMIL,
    ),
    by=(0.5, -0.75),
)


def strict_saddle(x, m):
    a, b = x
    return a**2 - b**2 + b**4 / 4


STRICT_SADDLE = shifted(
    Function(
        name="strict-saddle",
        title="Strict saddle",
        definition=strict_saddle,
        domain=((-3.0, 3.0),) * 2,
        start=(1.0, 1e-3),  # flow comes close to the saddle (0, 0) before it leaves
        minimisers=((0.0, math.sqrt(2)), (0.0, -math.sqrt(2))),
        minimum=-1.0,
        basin=-1.0,
        source="ours: the least polynomial with a strict saddle between two minima",
    ),
    by=(-1.5, 0.5),
)


def monkey_saddle(x, m):
    a, b = x
    a2, b2 = a**2, b**2
    return a * (a2 - 3 * b2) + (a2 + b2) ** 2 / 4


MONKEY_SADDLE = shifted(
    Function(
        name="monkey-saddle",
        title="Monkey saddle",
        definition=monkey_saddle,
        domain=((-5.0, 5.0),) * 2,
        start=(2.0, 0.05),  # flow comes close to the saddle (0, 0), where the Hessian is 0 too
        minimisers=((-3.0, 0.0), (1.5, 1.5 * math.sqrt(3)), (1.5, -1.5 * math.sqrt(3))),
        minimum=-6.75,
        basin=-6.75,
        source="the monkey saddle a³ - 3ab², held by a quartic (ours), without which it has no minimum",
    ),
    by=(2.5, 1.5),
)

ENTRIES = (
    HIMMELBLAU,
    Scalable(styblinski_tang_in, dimensions=range(1, 101)),
    GOLDSTEIN_PRICE,
    SIX_HUMP_CAMEL,
    THREE_HUMP_CAMEL,
    STRICT_SADDLE,
    MONKEY_SADDLE,
)
