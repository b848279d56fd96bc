"""Sums of squares over data: curves fitted to observations."""

from __future__ import annotations

import math

from bench.problems.function import Function
from bench.problems.functions.scalable import Scalable
from bench.problems.functions.sources import MORE


def jennrich_sampson(x, m):
    a, b = x
    i = m.vector(tuple(float(i) for i in range(1, 11)))
    return m.sum((2 + 2 * i - (m.exp(a * i) + m.exp(b * i))) ** 2)


JENNRICH_SAMPSON = Function(
    name="jennrich-sampson",
    title="Jennrich-Sampson",
    definition=jennrich_sampson,
    domain=((-1.0, 1.0),) * 2,
    start=(0.3, 0.4),
    minimisers=((0.2578252136703641,) * 2,),
    minimum=124.36218235561483,
    basin=124.36218235561483,
    source=f"Jennrich & Sampson 1968; {MORE}; domain ours",
)


def watson(x, m):
    n = len(x)
    t = m.vector(tuple(i / 29 for i in range(1, 30)))
    curve, slope = x[n - 1] * t + x[n - 2], (n - 1) * x[n - 1] * t + (n - 2) * x[n - 2]  # Horner's scheme
    for j in range(n - 3, -1, -1):
        curve = curve * t + x[j]
        if j:
            slope = slope * t + j * x[j]
    return m.sum((slope - curve**2 - 1) ** 2) + x[0] ** 2 + (x[1] - x[0] ** 2 - 1) ** 2


#: by the number of coordinates
WATSON: dict[int, tuple[float, tuple[float, ...]]] = {
    6: (
        2.2876700535524363e-3,
        (
            *(-0.015725086401458456, 1.0124348693691099, -0.2329916259567377),
            *(1.2604300877996084, -1.5137289227222797, 0.9929964324311346),
        ),
    ),
    9: (
        1.39976013809902e-06,
        (
            *(-1.5307036521394342e-05, 0.9997897039319483, 0.014763963693556958),
            *(0.14634232829936222, 1.0008211030047092, -2.617731140519015),
            *(4.104403164478857, -3.1436122785564424, 1.0526264080101668),
        ),
    ),
    12: (
        4.722381105891757e-10,
        (
            *(-6.638060464520687e-09, 1.000001644117862, -0.0005639322103423058, 0.34782054050404243),
            *(-0.15673150409616513, 1.0528151772071777, -3.2472711534596677, 7.288434897938061),
            *(-10.271848241321724, 9.074113647075317, -4.541375466692512, 1.0120118885528104),
        ),
    ),
}


def watson_in(n: int) -> Function:
    minimum, minimiser = WATSON[n]
    return Function(
        name="watson",
        title="Watson",
        definition=watson,
        domain=((-10.0, 10.0),) * n,
        start=(0.0,) * n,
        minimisers=(minimiser,),
        minimum=minimum,
        basin=minimum,
        start_value=30.0,
        source=f"Kowalik & Osborne 1968; {MORE}; domain ours",
    )


def brown_dennis(x, m):
    a, b, c, d = x
    times = tuple(i / 5 for i in range(1, 21))
    t, exp, sin, cos = (m.vector(tuple(map(f, times))) for f in (float, math.exp, math.sin, math.cos))
    return m.sum(((a + b * t - exp) ** 2 + (c + d * sin - cos) ** 2) ** 2)


BROWN_DENNIS = Function(
    name="brown-dennis",
    title="Brown-Dennis, 4-D",
    definition=brown_dennis,
    domain=((-30.0, 30.0),) * 4,
    start=(25.0, 5.0, -5.0, -1.0),
    minimisers=((-11.594439904762163, 13.203630051207202, -0.4034394881768595, 0.23677877445573614),),
    minimum=85822.20162635634,
    basin=85822.20162635634,
    source=f"Brown & Dennis 1971; {MORE}; domain ours",
)


def kowalik_osborne(x, m):
    a, b, c, d = x
    y, u = m.vector(ENZYME), m.vector(DOSE)
    return m.sum((y - a * (u**2 + u * b) / (u**2 + u * c + d)) ** 2)


ENZYME = (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
DOSE = (4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)

KOWALIK_OSBORNE = Function(
    name="kowalik-osborne",
    title="Kowalik-Osborne, 4-D",
    definition=kowalik_osborne,
    domain=((0.0, 1.0),) * 4,
    start=(0.25, 0.39, 0.415, 0.39),
    minimisers=((0.19280693457903791, 0.191282328734367, 0.12305650692632096, 0.13606233068379486),),
    minimum=0.0003075056038492375,
    basin=0.0003075056038492375,
    source=f"Kowalik & Osborne 1968; {MORE}; domain ours",
)


def bard(x, m):
    a, b, c = x
    u = tuple(float(i) for i in range(1, 16))
    v, w = tuple(16 - i for i in u), tuple(min(i, 16 - i) for i in u)
    return m.sum((m.vector(OBSERVED) - (a + m.vector(u) / (b * m.vector(v) + c * m.vector(w)))) ** 2)


OBSERVED = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)

BARD = Function(
    name="bard",
    title="Bard, 3-D",
    definition=bard,
    domain=((0.0, 5.0),) * 3,
    start=(1.0, 1.0, 1.0),
    minimisers=((0.08241055974978896, 1.1330360920297222, 2.3436951786425366),),
    minimum=0.008214877306578982,
    basin=0.008214877306578982,
    source=f"Bard 1970; {MORE}; domain ours",
)


def biggs_exp6(x, m):
    a, b, c, d, e, f = x
    times = tuple(i / 10 for i in range(1, 14))
    y = m.vector(tuple(math.exp(-t) - 5 * math.exp(-10 * t) + 3 * math.exp(-4 * t) for t in times))
    t = m.vector(times)
    return m.sum((c * m.exp(-a * t) - d * m.exp(-b * t) + f * m.exp(-e * t) - y) ** 2)


BIGGS_EXP6 = Function(
    name="biggs-exp6",
    title="Biggs EXP6, 6-D",
    definition=biggs_exp6,
    domain=((0.0, 12.0),) * 6,
    start=(1.0, 2.0, 1.0, 1.0, 1.0, 1.0),
    minimisers=((1.0, 10.0, 1.0, 5.0, 4.0, 3.0), (4.0, 10.0, 3.0, 5.0, 1.0, 1.0)),
    minimum=0.0,
    basin=0.0,
    source=f"Biggs 1971; {MORE}; domain ours",
)

ENTRIES = (
    JENNRICH_SAMPSON,
    Scalable(watson_in, usual=6, dimensions=tuple(WATSON)),
    BROWN_DENNIS,
    KOWALIK_OSBORNE,
    BARD,
    BIGGS_EXP6,
)
