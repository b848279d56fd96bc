"""Functions with kinks, most of them where the minimum is."""

from __future__ import annotations

import math

from bench.problems.function import Function, shifted
from bench.problems.functions.scalable import MOST, Scalable, cycled
from bench.problems.functions.sources import JAMIL


def bukin_6(x, m):
    a, b = x
    return 100 * m.sqrt(m.absolute(b - 0.01 * a**2)) + 0.01 * m.absolute(a + 10)


BUKIN_6 = shifted(
    Function(
        name="bukin-6",
        title="Bukin N.6",
        definition=bukin_6,
        domain=((-15.0, -5.0), (-3.0, 3.0)),
        start=(-8.0, 2.0),
        minimisers=((-10.0, 1.0),),
        minimum=0.0,
        basin=0.0,  # on the ridge, along which it slides to the minimum
        smooth=False,
        source=JAMIL,
    ),
    by=(10.5, -1.2),
)


def cross_in_tray(x, m):
    a, b = x
    around = m.absolute(100 - m.sqrt(a**2 + b**2) / math.pi)
    return -1e-4 * (m.absolute(m.sin(a) * m.sin(b) * m.exp(around)) + 1) ** 0.1


CROSS_IN_TRAY = Function(
    name="cross-in-tray",
    title="Cross-in-tray",
    definition=cross_in_tray,
    domain=((-10.0, 10.0),) * 2,
    start=(1.0, 1.1),
    minimisers=tuple((s * 1.3494066171539107, t * 1.3494066171539107) for s in (1, -1) for t in (1, -1)),
    minimum=-2.062611870822739,
    basin=-2.062611870822739,
    unbounded_outside=True,
    source=f"Mishra 2006; {JAMIL}",
)


def eggholder(x, m):
    a, b = x
    c = b + 47
    return -c * m.sin(m.sqrt(m.absolute(a / 2 + c))) - a * m.sin(m.sqrt(m.absolute(a - c)))


EGGHOLDER = Function(
    name="eggholder",
    title="Eggholder",
    definition=eggholder,
    domain=((-512.0, 512.0),) * 2,
    start=(300.0, 250.0),
    minimisers=((512.0, 404.2318051665797),),
    minimum=-959.640662720851,
    basin=-562.1274633,
    smooth=False,  # its minimum lies on the edge of the domain
    unbounded_outside=True,
    source=f"Whitley et al. 1996; {JAMIL} (the minus is missing); start ours",
)


def holder_table(x, m):
    a, b = x
    return -m.absolute(m.sin(a) * m.cos(b) * m.exp(m.absolute(1 - m.sqrt(a**2 + b**2) / math.pi)))


HOLDER_TABLE = Function(
    name="holder-table",
    title="Hölder table",
    definition=holder_table,
    domain=((-10.0, 10.0),) * 2,
    start=(8.0, 9.5),
    minimisers=tuple((s * 8.055023475736563, t * 9.664590019241272) for s in (1, -1) for t in (1, -1)),
    minimum=-19.208502567886732,
    basin=-19.208502567886732,
    unbounded_outside=True,
    source=f"Mishra 2006; {JAMIL} (the squares are missing)",
)


def salomon(x, m):
    radius = m.sqrt(m.sum(x**2))
    return 1 - m.cos(2 * math.pi * radius) + 0.1 * radius


def salomon_in(n: int) -> Function:
    start = cycled((2.0, -1.4), n)
    # Flow is along the radius, to the ring near a whole number where 2π sin(2πr) = -0.1.
    back = math.asin(0.1 / (2 * math.pi)) / (2 * math.pi)
    ring = math.floor(math.hypot(*start) + 0.5 - back) - back
    function = Function(
        name="salomon",
        title="Salomon",
        definition=salomon,
        domain=((-100.0, 100.0),) * n,
        start=start,
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=1 - math.cos(2 * math.pi * ring) + 0.1 * ring,
        smooth=False,
        source=f"Salomon 1996; {JAMIL}; start ours",
    )
    return shifted(function, by=cycled((2.1, -1.4), n))


def alpine(x, m):
    return m.sum(m.absolute(x * m.sin(x) + 0.1 * x))


def alpine_in(n: int) -> Function:
    function = Function(
        name="alpine",
        title="Alpine 1",
        definition=alpine,
        domain=((-10.0, 10.0),) * n,
        start=cycled((5.0, -1.5), n),
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=0.0,  # where x sin x + x / 10 is not 0 it has no minimum but those where it is
        smooth=False,
        source=f"{JAMIL}; start ours",
    )
    return shifted(function, by=cycled((1.5, -2.5), n))


def schwefel_2_20(x, m):
    return m.sum(m.absolute(x))


def schwefel_2_21(x, m):
    return m.max(m.absolute(x))


def schwefel_2_22(x, m):
    return m.sum(m.absolute(x)) + m.prod(m.absolute(x))


def schwefel_in(number: str, definition):
    """A recipe for one of the three, which differ in their definition alone."""

    def make(n: int) -> Function:
        function = Function(
            name=f"schwefel-{number}",
            title=f"Schwefel {number}",
            definition=definition,
            domain=((-10.0, 10.0),) * n,
            start=cycled((3.0, -2.0), n),
            minimisers=((0.0,) * n,),
            minimum=0.0,
            basin=0.0,
            smooth=False,
            source=f"Schwefel 1981; {JAMIL}; start and domain ours",
        )
        return shifted(function, by=cycled((0.75, 1.25), n))

    return make


def chebyshev_rosenbrock_nonsmooth(x, m):
    return (x[0] - 1) ** 2 / 4 + m.sum(m.absolute(x[1:] - 2 * x[:-1] ** 2 + 1))


def chebyshev_rosenbrock_nonsmooth_in(n: int) -> Function:
    return Function(
        name="chebyshev-rosenbrock-nonsmooth",
        title="Chebyshev-Rosenbrock, non-smooth",
        definition=chebyshev_rosenbrock_nonsmooth,
        domain=((-2.0, 2.0),) * n,
        start=(-1.0, *(1.0,) * (n - 1)),
        minimisers=((1.0,) * n,),
        minimum=0.0,
        basin=0.0,  # nowhere else is there a stationary point
        smooth=False,
        source="Nesterov; Gürbüzbalaban & Overton, Nonlinear Analysis 75(3), 2012, the first of the two",
    )


EVERY = range(1, MOST + 1)

ENTRIES = (
    BUKIN_6,
    CROSS_IN_TRAY,
    EGGHOLDER,
    HOLDER_TABLE,
    Scalable(salomon_in, dimensions=EVERY),
    Scalable(alpine_in, dimensions=EVERY),
    Scalable(schwefel_in("2.20", schwefel_2_20), dimensions=EVERY),
    Scalable(schwefel_in("2.21", schwefel_2_21), dimensions=EVERY),
    Scalable(schwefel_in("2.22", schwefel_2_22), dimensions=EVERY),
    Scalable(chebyshev_rosenbrock_nonsmooth_in),
)
