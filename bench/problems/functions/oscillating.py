"""Functions of any dimension with many minima, most of them of sines."""

from __future__ import annotations

import math

from bench.problems.function import Function, shifted
from bench.problems.functions.scalable import MOST, Scalable, cycled
from bench.problems.functions.sources import JAMIL


def ackley(x, m):
    n = len(x)
    return -20 * m.exp(-0.2 * m.sqrt(m.sum(x**2) / n)) - m.exp(m.sum(m.cos(2 * math.pi * x)) / n) + (20 + math.e)


def ackley_in(n: int) -> Function:
    function = Function(
        name="ackley",
        title="Ackley",
        definition=ackley,
        domain=((-32.768, 32.768),) * n,
        start=cycled((1.5, -0.8), n),
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=math.nan if n % 2 else 3.5744519,
        smooth=False,
        source=f"Ackley 1987; {JAMIL} (0.2, not 0.02)",
    )
    return shifted(function, by=cycled((2.7, -1.3), n))


def rastrigin(x, m):
    return m.sum(x**2 - 10 * m.cos(2 * math.pi * x)) + 10 * len(x)


def rastrigin_in(n: int) -> Function:
    function = Function(
        name="rastrigin",
        title="Rastrigin",
        definition=rastrigin,
        domain=((-5.12, 5.12),) * n,
        start=cycled((-2.0, 3.5), n),
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=sum(cycled((0.0, 12.9344324), n)),  # of each coordinate by itself
        source=f"Rastrigin 1974; {JAMIL}",
    )
    return shifted(function, by=cycled((0.7, -0.4), n))


def griewank(x, m):
    scale = m.vector(tuple(1 / math.sqrt(i + 1) for i in range(len(x))))
    return m.sum(x**2) / 4000 - m.prod(m.cos(x * scale)) + 1


def griewank_in(n: int) -> Function:
    function = Function(
        name="griewank",
        title="Griewank",
        definition=griewank,
        domain=((-600.0, 600.0),) * n,
        start=cycled((5.0, -5.0), n),
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin={2: 0.00739604, 10: 0.00739604}.get(n, math.nan),
        source=f"Griewank 1981; {JAMIL}",
    )
    return shifted(function, by=cycled((2.7, -1.3), n))


def levy(x, m):
    v = (x - 1) / 4  # the usual w - 1; the squared sines do not change
    square = v**2
    return (
        m.sin(math.pi * v[0]) ** 2
        + m.sum(square[:-1] * (1 + 10 * m.sin(math.pi * v[:-1] + 1) ** 2))
        + square[-1] * (1 + m.sin(2 * math.pi * v[-1]) ** 2)
    )


def levy_in(n: int) -> Function:
    function = Function(
        name="levy",
        title="Levy",
        definition=levy,
        domain=((-10.0, 10.0),) * n,
        start=cycled((-4.0, 3.0), n),
        minimisers=((1.0,) * n,),
        minimum=0.0,
        basin={2: 2.4000794, 10: 11.1283622}.get(n, math.nan),
        source="Levy & Montalvo 1985; values recomputed",
    )
    return shifted(function, by=cycled((3.0, -4.5), n))  # where it stands its walls begin at the origin


def levy_13(x, m):
    a, b = x
    return (
        m.sin(3 * math.pi * a) ** 2
        + (a - 1) ** 2 * (1 + m.sin(3 * math.pi * b) ** 2)
        + (b - 1) ** 2 * (1 + m.sin(2 * math.pi * b) ** 2)
    )


LEVY_13 = shifted(
    Function(
        name="levy-13",
        title="Levy N.13",
        definition=levy_13,
        domain=((-10.0, 10.0),) * 2,
        start=(-2.0, 3.0),
        minimisers=((1.0, 1.0),),
        minimum=0.0,
        basin=12.89180347,
        source="Levy & Montalvo 1985; values recomputed",
    ),
    by=(4.2, -3.3),
)


def michalewicz(x, m):
    return -m.sum(m.sin(x) * m.sin(x**2 * m.vector(tuple((i + 1) / math.pi for i in range(len(x))))) ** 20)


#: for each coordinate by itself: where it starts, where it is least, and the value there
MICHALEWICZ = (
    (2.0, 2.2029055201726093, -0.8013034100985525),
    (1.0, 1.5707963267948966, -1.0),
    (1.2, 1.2849915705529245, -0.9590912698960059),
    (1.85, 1.9230584698663629, -0.9384624184720834),
    (1.65, 1.7204697725658413, -0.9888010806215044),
    (1.5, 1.5707963267948966, -1.0),
    (1.4, 1.454413971362379, -0.9932271353558816),
    (1.7, 1.7560865209450263, -0.9828720362722106),
    (1.6, 1.6557174168210291, -0.9963943649251029),
    (1.5, 1.5707963267948966, -1.0),
)


def michalewicz_in(n: int) -> Function:
    start, minimiser, minima = zip(*MICHALEWICZ[:n], strict=True)
    return Function(
        name="michalewicz",
        title="Michalewicz",
        definition=michalewicz,
        domain=((0.0, math.pi),) * n,
        start=start,
        minimisers=(minimiser,),
        minimum=sum(minima),
        basin=sum(minima),
        unbounded_outside=True,
        source=f"Michalewicz 1992, steepness 10; {JAMIL}",
    )


def schwefel(x, m):
    return 418.98288727243369 * len(x) - m.sum(x * m.sin(m.sqrt(m.absolute(x))))


def schwefel_in(n: int) -> Function:
    return Function(
        name="schwefel",
        title="Schwefel 2.26",
        definition=schwefel,
        domain=((-500.0, 500.0),) * n,
        start=(300.0,) * n,
        minimisers=((420.96874635998202,) * n,),
        minimum=0.0,
        basin=217.1396694 * n,
        unbounded_outside=True,
        source=f"Schwefel 1981; {JAMIL} (the usual constant 418.9829 makes the minimum 1.27e-5 per dimension)",
    )


EVERY = range(1, MOST + 1)

ENTRIES = (
    Scalable(ackley_in, dimensions=EVERY),
    Scalable(rastrigin_in, dimensions=EVERY),
    Scalable(griewank_in, dimensions=EVERY),
    Scalable(levy_in),
    LEVY_13,
    Scalable(michalewicz_in, dimensions=range(1, len(MICHALEWICZ) + 1)),
    Scalable(schwefel_in, dimensions=EVERY),
)
