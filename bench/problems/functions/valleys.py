"""Functions whose minimum lies at the end of a narrow or bent valley, badly scaled ones among them."""

from __future__ import annotations

import math

import numpy as np

from bench.problems.function import Function, shifted
from bench.problems.functions.scalable import Scalable, cycled
from bench.problems.functions.sources import JAMIL, MORE


def rosenbrock(x, m):
    return m.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_in(n: int) -> Function:
    function = Function(
        name="rosenbrock",
        title="Rosenbrock",
        definition=rosenbrock,
        domain=((-2.048, 2.048),) * n,
        start=cycled((-1.2, 1.0), n),
        minimisers=((1.0,) * n,),
        minimum=0.0,
        basin={2: 0.0, 10: 0.0}.get(n, math.nan),  # from four coordinates on there is a second minimum
        unimodal=n < 4,
        start_value=24.2 if n == 2 else None,
        source=f"Rosenbrock 1960, chained; 10-D has a second minimum 3.98657911; {MORE}",
    )
    # Two coordinates stay where all the world draws them; of more the origin is too low.
    return function if n == 2 else shifted(function, by=cycled((1.1, -0.5), n))


def beale(x, m):
    a, b = x
    return (1.5 - a * (1 - b)) ** 2 + (2.25 - a * (1 - b**2)) ** 2 + (2.625 - a * (1 - b**3)) ** 2


BEALE = Function(
    name="beale",
    title="Beale",
    definition=beale,
    domain=((-4.5, 4.5),) * 2,
    start=(1.0, 1.0),
    minimisers=((3.0, 0.5),),
    minimum=0.0,
    basin=0.0,
    start_value=14.203125,
    source=f"Beale 1958; {MORE}",
)


def freudenstein_roth(x, m):
    a, b = x
    return (a - 13 + ((5 - b) * b - 2) * b) ** 2 + (a - 29 + ((b + 1) * b - 14) * b) ** 2


FREUDENSTEIN_ROTH = Function(
    name="freudenstein-roth",
    title="Freudenstein-Roth",
    definition=freudenstein_roth,
    domain=((-10.0, 10.0),) * 2,
    start=(0.5, -2.0),
    minimisers=((5.0, 4.0),),
    minimum=0.0,
    basin=48.9842536792,
    start_value=400.5,
    source=f"Freudenstein & Roth 1963; {MORE}",
)


def powell_singular(x, m):
    a, b, c, d = x
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


POWELL_SINGULAR = shifted(
    Function(
        name="powell-singular",
        title="Powell singular, 4-D",
        definition=powell_singular,
        domain=((-4.0, 5.0),) * 4,
        start=(3.0, -1.0, 0.0, 1.0),
        minimisers=((0.0,) * 4,),
        minimum=0.0,
        basin=0.0,
        unimodal=True,
        start_value=215.0,
        source=f"Powell 1962; {MORE}",
    ),
    by=(0.5, -0.75, 1.25, -0.25),
)


def wood(x, m):
    a, b, c, d = x
    left = 100 * (b - a**2) ** 2 + (1 - a) ** 2
    right = 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return left + right + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)


WOOD = shifted(
    Function(
        name="wood",
        title="Wood, 4-D",
        definition=wood,
        domain=((-10.0, 10.0),) * 4,
        start=(-3.0, -1.0, -3.0, -1.0),
        minimisers=((1.0,) * 4,),
        minimum=0.0,
        basin=0.0,
        start_value=19192.0,
        source=f"Colville 1968; {MORE}",
    ),
    by=(2.5, 0.5, 2.5, -0.5),
)


def dixon_price(x, m):
    weight = m.vector(tuple(float(i + 1) for i in range(1, len(x))))
    return (x[0] - 1) ** 2 + m.sum(weight * (2 * x[1:] ** 2 - x[:-1]) ** 2)


def dixon_price_in(n: int) -> Function:
    *first, last = (2.0 ** (2.0 ** (1 - i) - 1) for i in range(1, n + 1))
    function = Function(
        name="dixon-price",
        title="Dixon-Price",
        definition=dixon_price,
        domain=((-10.0, 10.0),) * n,
        start=(2.0,) * n,
        minimisers=((*first, last), (*first, -last)),
        minimum=0.0,
        basin={2: 0.0, 10: 0.0}.get(n, math.nan),
        source=f"Dixon & Price 1989; {JAMIL}",
    )
    return shifted(function, by=cycled((1.5, -1.0), n))


def helical_valley(x, m):
    a, b, c = x
    turns = 0.25 + m.atan2(-a, b) / (2 * math.pi)  # the published branch: it jumps where a = 0 and b < 0
    return 100 * ((c - 10 * turns) ** 2 + (m.sqrt(a**2 + b**2) - 1) ** 2) + c**2


HELICAL_VALLEY = Function(
    name="helical-valley",
    title="Helical valley, 3-D",
    definition=helical_valley,
    domain=((-10.0, 10.0),) * 3,
    start=(-1.0, 0.0, 0.0),
    minimisers=((1.0, 0.0, 0.0),),
    minimum=0.0,
    basin=0.0,
    unimodal=True,
    start_value=2500.0,
    source=f"Fletcher & Powell 1963; {MORE}",
)


def brown_badly_scaled(x, m):
    a, b = x
    return (a - 1e6) ** 2 + (b - 2e-6) ** 2 + (a * b - 2) ** 2


BROWN_BADLY_SCALED = Function(
    name="brown-badly-scaled",
    title="Brown badly scaled",
    definition=brown_badly_scaled,
    domain=((-1e6, 2e6), (-2.0, 2.0)),
    start=(1.0, 1.0),
    minimisers=((1e6, 2e-6),),
    minimum=0.0,
    basin=0.0,
    unimodal=True,
    source=f"{MORE}; domain ours",
)


def powell_badly_scaled(x, m):
    a, b = x
    return (1e4 * a * b - 1) ** 2 + (m.exp(-a) + m.exp(-b) - 1.0001) ** 2


POWELL_BADLY_SCALED = Function(
    name="powell-badly-scaled",
    title="Powell badly scaled",
    definition=powell_badly_scaled,
    domain=((-1e-3, 1e-3), (0.0, 10.0)),
    start=(0.0, 1.0),
    minimisers=((1.0981593296998053e-05, 9.106146739866624),),
    minimum=0.0,
    basin=0.0,
    source=f"Powell 1970; {MORE}; domain ours",
)


def penalty(x, m):
    return 1e-5 * m.sum((x - 1) ** 2) + (m.sum(x**2) - 0.25) ** 2


def penalty_in(n: int) -> Function:
    # All coordinates are alike at the minimum: there the derivative by one, over 2, is 0.
    roots = np.roots([2 * n, 0.0, 1e-5 - 0.5, -1e-5])
    same = max(roots[np.abs(roots.imag) < 1e-9].real.tolist())
    minimum = 1e-5 * n * (same - 1) ** 2 + (n * same**2 - 0.25) ** 2
    function = Function(
        name="penalty",
        title="Penalty I",
        definition=penalty,
        domain=((-float(n), float(n)),) * n,
        start=tuple(float(i + 1) for i in range(n)),
        minimisers=((same,) * n,),
        minimum=minimum,
        basin=minimum,
        source=f"{MORE}; domain ours",
    )
    return shifted(function, by=cycled((-n / 2, n / 2), n))


def chebyshev_rosenbrock(x, m):
    return (x[0] - 1) ** 2 / 4 + m.sum((x[1:] - 2 * x[:-1] ** 2 + 1) ** 2)


def chebyshev_rosenbrock_in(n: int) -> Function:
    return Function(
        name="chebyshev-rosenbrock",
        title="Chebyshev-Rosenbrock",
        definition=chebyshev_rosenbrock,
        domain=((-2.0, 2.0),) * n,
        start=(-1.0, *(1.0,) * (n - 1)),
        minimisers=((1.0,) * n,),
        minimum=0.0,
        basin=0.0,  # nowhere else is the gradient 0
        unimodal=True,
        source="Nesterov; Gürbüzbalaban & Overton, Nonlinear Analysis 75(3), 2012",
    )


ENTRIES = (
    Scalable(rosenbrock_in),
    BEALE,
    FREUDENSTEIN_ROTH,
    POWELL_SINGULAR,
    WOOD,
    Scalable(dixon_price_in),
    HELICAL_VALLEY,
    BROWN_BADLY_SCALED,
    POWELL_BADLY_SCALED,
    Scalable(penalty_in, usual=4),
    Scalable(chebyshev_rosenbrock_in),
)
