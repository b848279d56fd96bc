"""Convex functions, and others with one minimum and no valley to it."""

from __future__ import annotations

from bench.problems.function import Function, shifted
from bench.problems.functions.scalable import Scalable, cycled
from bench.problems.functions.sources import JAMIL

#: by which those are shifted that have their minimum at the origin
AWAY = (0.5, -0.75, 1.25, -0.25, 1.0, -1.5, 0.75, -0.5, 0.25, -1.0)


def sphere(x, m):
    return m.sum(x**2)


def sphere_in(n: int) -> Function:
    function = Function(
        name="sphere",
        title="Sphere",
        definition=sphere,
        domain=((-5.12, 5.12),) * n,
        start=cycled((3.0, -4.0), n),
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=0.0,
        unimodal=True,
        source="De Jong 1975; start ours",
    )
    return shifted(function, by=cycled(AWAY, n))


def sum_squares(x, m):
    return m.sum(m.vector(tuple(float(i + 1) for i in range(len(x)))) * x**2)


def sum_squares_in(n: int) -> Function:
    function = Function(
        name="sum-squares",
        title="Sum squares",
        definition=sum_squares,
        domain=((-10.0, 10.0),) * n,
        start=cycled((3.0, -4.0), n),
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=0.0,
        unimodal=True,
        source=f"{JAMIL}; start ours",
    )
    return shifted(function, by=cycled(AWAY, n))


def ellipsoid(x, m):
    n = len(x)
    return m.sum(m.vector(tuple(10 ** (6 * i / (n - 1)) for i in range(n))) * x**2)


def ellipsoid_in(n: int) -> Function:
    function = Function(
        name="ellipsoid",
        title="Ellipsoid of condition 1e6",
        definition=ellipsoid,
        domain=((-5.0, 5.0),) * n,
        start=(3.0,) * n,
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=0.0,
        unimodal=True,
        source="separable ellipsoid without oscillation, after BBOB f2; Hansen et al. 2009",
    )
    return shifted(function, by=cycled(AWAY, n))


def booth(x, m):
    a, b = x
    return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2


BOOTH = Function(
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
)


def matyas(x, m):
    a, b = x
    return 0.26 * (a**2 + b**2) - 0.48 * a * b


MATYAS = shifted(
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
)


def zakharov(x, m):
    slope = m.sum(m.vector(tuple(0.5 * (i + 1) for i in range(len(x)))) * x)
    return m.sum(x**2) + slope**2 + slope**4


def zakharov_in(n: int) -> Function:
    function = Function(
        name="zakharov",
        title="Zakharov",
        definition=zakharov,
        domain=((-5.0, 10.0),) * n,
        start=(1.0,) * n,
        minimisers=((0.0,) * n,),
        minimum=0.0,
        basin=0.0,
        unimodal=True,
        source=JAMIL,
    )
    return shifted(function, by=cycled((-0.75, -1.25, -0.5, -1.5), n))  # all to one side, or the origin would be low


def trid(x, m):
    return m.sum((x - 1) ** 2) - m.sum(x[1:] * x[:-1])


def trid_in(n: int) -> Function:
    return Function(
        name="trid",
        title="Trid",
        definition=trid,
        domain=((-float(n**2), float(n**2)),) * n,
        start=(0.0,) * n,
        minimisers=(tuple(float(i * (n + 1 - i)) for i in range(1, n + 1)),),
        minimum=-n * (n + 4) * (n - 1) / 6,
        basin=-n * (n + 4) * (n - 1) / 6,
        source=f"Neumaier; {JAMIL} (its second sum must begin at 2)",
    )


ENTRIES = (
    Scalable(sphere_in, dimensions=range(1, 101)),
    Scalable(sum_squares_in, dimensions=range(1, 101)),
    Scalable(ellipsoid_in, usual=10),
    BOOTH,
    MATYAS,
    Scalable(zakharov_in, usual=10, dimensions=range(1, 101)),
    Scalable(trid_in, usual=10),
)
