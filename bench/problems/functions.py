"""The test functions: the value of each written once, as `function.py` says, and one entry with what is known about it.

Starts marked M in `source` are the standard ones of Moré, Garbow & Hillstrom (1981). Minima and minimisers were
recomputed in float64: several that are widely printed are wrong (McCormick, Styblinski-Tang). Functions whose published
minimiser is the origin are shifted as a whole, domain, start and minimisers with them: weight decay pulls towards the
origin, so AdamW would be helped by nothing but the choice of coordinates.
"""

from __future__ import annotations

import math

from bench.problems.function import Function, shifted


def rosenbrock(x, m):
    return m.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def ackley(x, m):
    n = len(x)
    return -20 * m.exp(-0.2 * m.sqrt(m.sum(x**2) / n)) - m.exp(m.sum(m.cos(2 * math.pi * x)) / n) + (20 + math.e)


def rastrigin(x, m):
    return m.sum(x**2 - 10 * m.cos(2 * math.pi * x)) + 10 * len(x)


def beale(x, m):
    a, b = x
    return (1.5 - a * (1 - b)) ** 2 + (2.25 - a * (1 - b**2)) ** 2 + (2.625 - a * (1 - b**3)) ** 2


def himmelblau(x, m):
    a, b = x
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def booth(x, m):
    a, b = x
    return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2


def styblinski_tang(x, m):
    square = x**2
    return m.sum(square * (square - 16) + 5 * x) / 2


def levy(x, m):
    v = (x - 1) / 4  # the usual w - 1; the squared sines do not change
    square = v**2
    return (
        m.sin(math.pi * v[0]) ** 2
        + m.sum(square[:-1] * (1 + 10 * m.sin(math.pi * v[:-1] + 1) ** 2))
        + square[-1] * (1 + m.sin(2 * math.pi * v[-1]) ** 2)
    )


def goldstein_price(x, m):
    a, b = x
    s, t = a + b, 2 * a - 3 * b  # the published polynomials in a and b, factored
    return (1 + (s + 1) ** 2 * ((3 * s - 14) * s + 19)) * (30 + t**2 * ((3 * t - 16) * t + 18))


def branin(x, m):
    a, b = x
    bend = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return bend**2 + (10 - 10 / (8 * math.pi)) * m.cos(a) + 10


def six_hump_camel(x, m):
    a, b = x
    a2, b2 = a**2, b**2
    return (4 - 2.1 * a2 + a2**2 / 3) * a2 + a * b + 4 * (b2 - 1) * b2


def mccormick(x, m):
    a, b = x
    return m.sin(a + b) + (a - b) ** 2 - 1.5 * a + 2.5 * b + 1


def freudenstein_roth(x, m):
    a, b = x
    return (a - 13 + ((5 - b) * b - 2) * b) ** 2 + (a - 29 + ((b + 1) * b - 14) * b) ** 2


def powell_singular(x, m):
    a, b, c, d = x
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


def wood(x, m):
    a, b, c, d = x
    left = 100 * (b - a**2) ** 2 + (1 - a) ** 2
    right = 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return left + right + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)


def ellipsoid(x, m):
    n = len(x)
    return m.sum(m.vector(tuple(10 ** (6 * i / (n - 1)) for i in range(n))) * x**2)


def griewank(x, m):
    scale = m.vector(tuple(1 / math.sqrt(i + 1) for i in range(len(x))))
    return m.sum(x**2) / 4000 - m.prod(m.cos(x * scale)) + 1


def zakharov(x, m):
    slope = m.sum(m.vector(tuple(0.5 * (i + 1) for i in range(len(x)))) * x)
    return m.sum(x**2) + slope**2 + slope**4


def dixon_price(x, m):
    weight = m.vector(tuple(float(i + 1) for i in range(1, len(x))))
    return (x[0] - 1) ** 2 + m.sum(weight * (2 * x[1:] ** 2 - x[:-1]) ** 2)


def matyas(x, m):
    a, b = x
    return 0.26 * (a**2 + b**2) - 0.48 * a * b


def three_hump_camel(x, m):
    a, b = x
    a2 = a**2
    return (2 - 1.05 * a2 + a2**2 / 6) * a2 + a * b + b**2


def easom(x, m):
    a, b = x
    return -m.cos(a) * m.cos(b) * m.exp(-((a - math.pi) ** 2) - (b - math.pi) ** 2)


def bohachevsky(x, m):
    a, b = x
    return a**2 + 2 * b**2 - 0.3 * m.cos(3 * math.pi * a) - 0.4 * m.cos(4 * math.pi * b) + 0.7


MORE = "Moré, Garbow & Hillstrom, ACM TOMS 7(1), 1981 (start M)"
JAMIL = "Jamil & Yang, arXiv 1308.4008, 2013; values recomputed"

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function(
            name="rosenbrock",
            title="Rosenbrock",
            definition=rosenbrock,
            domain=((-2.048, 2.048),) * 2,
            start=(-1.2, 1.0),
            minimisers=((1.0, 1.0),),
            minimum=0.0,
            basin=0.0,
            unimodal=True,
            start_value=24.2,
            source=f"Rosenbrock 1960; {MORE}",
        ),
        Function(
            name="rosenbrock-10d",
            title="Rosenbrock, 10-D",
            definition=rosenbrock,
            domain=((-2.048, 2.048),) * 10,
            start=(-1.2, 1.0) * 5,
            minimisers=((1.0,) * 10,),
            minimum=0.0,
            basin=0.0,
            source=f"chained form, which has a second minimum 3.98657911; {MORE}",
        ),
        shifted(
            Function(
                name="ackley",
                title="Ackley",
                definition=ackley,
                domain=((-32.768, 32.768),) * 2,
                start=(1.5, -0.8),
                minimisers=((0.0, 0.0),),
                minimum=0.0,
                basin=3.5744519,
                smooth=False,
                source=f"Ackley 1987; {JAMIL} (0.2, not 0.02)",
            ),
            by=(2.7, -1.3),
        ),
        shifted(
            Function(
                name="rastrigin",
                title="Rastrigin",
                definition=rastrigin,
                domain=((-5.12, 5.12),) * 2,
                start=(-2.0, 3.5),
                minimisers=((0.0, 0.0),),
                minimum=0.0,
                basin=12.9344324,
                source=f"Rastrigin 1974; {JAMIL}",
            ),
            by=(0.7, -0.4),
        ),
        Function(
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
        ),
        Function(
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
        ),
        Function(
            name="booth",
            title="Booth",
            definition=booth,
            domain=((-10.0, 10.0),) * 2,
            start=(-5.0, 5.0),
            minimisers=((1.0, 3.0),),
            minimum=0.0,
            basin=0.0,
            unimodal=True,
            source=JAMIL,
        ),
        Function(
            name="styblinski-tang",
            title="Styblinski-Tang",
            definition=styblinski_tang,
            domain=((-5.0, 5.0),) * 2,
            start=(0.0, 0.0),
            minimisers=((-2.903534027771177,) * 2,),
            minimum=-39.1661657037714 * 2,
            basin=-39.1661657037714 * 2,
            source=f"Styblinski & Tang 1990; {JAMIL} (-39.16599 per dimension is a misprint)",
        ),
        Function(
            name="levy",
            title="Levy",
            definition=levy,
            domain=((-10.0, 10.0),) * 2,
            start=(-4.0, 3.0),
            minimisers=((1.0, 1.0),),
            minimum=0.0,
            basin=2.4000794,
            source="Levy & Montalvo 1985; values recomputed",
        ),
        Function(
            name="goldstein-price",
            title="Goldstein-Price",
            definition=goldstein_price,
            domain=((-2.0, 2.0),) * 2,
            start=(-0.5, 0.5),
            minimisers=((0.0, -1.0),),
            minimum=3.0,
            basin=30.0,
            source=f"Goldstein & Price 1971; {JAMIL}",
        ),
        Function(
            name="branin",
            title="Branin",
            definition=branin,
            domain=((-5.0, 10.0), (0.0, 15.0)),
            start=(2.5, 7.5),
            minimisers=((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)),
            minimum=0.39788735772974,
            basin=0.39788735772974,
            source=f"Branin 1972; {JAMIL}",
        ),
        Function(
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
        ),
        Function(
            name="mccormick",
            title="McCormick",
            definition=mccormick,
            domain=((-1.5, 4.0), (-3.0, 3.0)),
            start=(0.0, 0.0),
            minimisers=((0.5 - math.pi / 3, -0.5 - math.pi / 3),),
            minimum=-1.9132229549810362,
            basin=-1.9132229549810362,
            unbounded_outside=True,
            source=f"McCormick 1976; {JAMIL} (-1.9133 is a wrong rounding)",
        ),
        Function(
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
        ),
        shifted(
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
        ),
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
        shifted(
            Function(
                name="ellipsoid",
                title="Ellipsoid, 10-D, condition 1e6",
                definition=ellipsoid,
                domain=((-5.0, 5.0),) * 10,
                start=(3.0,) * 10,
                minimisers=((0.0,) * 10,),
                minimum=0.0,
                basin=0.0,
                unimodal=True,
                source="separable ellipsoid without oscillation, after BBOB f2; Hansen et al. 2009",
            ),
            by=(0.5, -0.75, 1.25, -0.25, 1.0, -1.5, 0.75, -0.5, 0.25, -1.0),
        ),
        shifted(
            Function(
                name="griewank",
                title="Griewank",
                definition=griewank,
                domain=((-600.0, 600.0),) * 2,
                start=(5.0, -5.0),
                minimisers=((0.0, 0.0),),
                minimum=0.0,
                basin=0.00739604,
                source=f"Griewank 1981; {JAMIL}",
            ),
            by=(2.7, -1.3),
        ),
        shifted(
            Function(
                name="zakharov",
                title="Zakharov, 10-D",
                definition=zakharov,
                domain=((-5.0, 10.0),) * 10,
                start=(1.0,) * 10,
                minimisers=((0.0,) * 10,),
                minimum=0.0,
                basin=0.0,
                unimodal=True,
                source=JAMIL,
            ),
            by=(0.5, -0.75, 1.25, -0.25, 1.0, -1.5, 0.75, -0.5, 0.25, -1.0),
        ),
        Function(
            name="dixon-price",
            title="Dixon-Price",
            definition=dixon_price,
            domain=((-10.0, 10.0),) * 2,
            start=(2.0, 2.0),
            minimisers=((1.0, math.sqrt(0.5)), (1.0, -math.sqrt(0.5))),
            minimum=0.0,
            basin=0.0,
            source=f"Dixon & Price 1989; {JAMIL}",
        ),
        shifted(
            Function(
                name="matyas",
                title="Matyas",
                definition=matyas,
                domain=((-10.0, 10.0),) * 2,
                start=(5.0, -3.0),
                minimisers=((0.0, 0.0),),
                minimum=0.0,
                basin=0.0,
                unimodal=True,
                source=JAMIL,
            ),
            by=(1.5, -0.5),
        ),
        shifted(
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
        ),
        Function(
            name="easom",
            title="Easom",
            definition=easom,
            domain=((-100.0, 100.0),) * 2,
            start=(2.0, 2.0),
            minimisers=((math.pi, math.pi),),
            minimum=-1.0,
            basin=-1.0,
            source=f"Easom 1990; {JAMIL}",
        ),
        shifted(
            Function(
                name="bohachevsky",
                title="Bohachevsky 1",
                definition=bohachevsky,
                domain=((-100.0, 100.0),) * 2,
                start=(1.0, 1.0),
                minimisers=((0.0, 0.0),),
                minimum=0.0,
                basin=2.2874968,
                source="Bohachevsky, Johnson & Stein 1986; values recomputed",
            ),
            by=(-0.6, 0.8),
        ),
    )
}
