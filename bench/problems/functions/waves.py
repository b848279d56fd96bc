"""Functions of two coordinates with sines in them: several minima, rings of them, and a plain."""

from __future__ import annotations

import math

from bench.problems.function import Function, shifted
from bench.problems.functions.sources import JAMIL


def branin(x, m):
    a, b = x
    bend = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return bend**2 + (10 - 10 / (8 * math.pi)) * m.cos(a) + 10


BRANIN = Function(
    name="branin",
    title="Branin",
    definition=branin,
    domain=((-5.0, 10.0), (0.0, 15.0)),
    start=(2.5, 7.5),
    minimisers=((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)),
    minimum=0.39788735772974,
    basin=0.39788735772974,
    source=f"Branin 1972; {JAMIL}",
)


def mccormick(x, m):
    a, b = x
    return m.sin(a + b) + (a - b) ** 2 - 1.5 * a + 2.5 * b + 1


MCCORMICK = Function(
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
)


def easom(x, m):
    a, b = x
    return -m.cos(a) * m.cos(b) * m.exp(-((a - math.pi) ** 2) - (b - math.pi) ** 2)


EASOM = Function(
    name="easom",
    title="Easom",
    definition=easom,
    domain=((-100.0, 100.0),) * 2,
    start=(2.0, 2.0),
    minimisers=((math.pi, math.pi),),
    minimum=-1.0,
    basin=-1.0,
    source=f"Easom 1990; {JAMIL}",
)


def bohachevsky(x, m):
    a, b = x
    return a**2 + 2 * b**2 - 0.3 * m.cos(3 * math.pi * a) - 0.4 * m.cos(4 * math.pi * b) + 0.7


BOHACHEVSKY = shifted(
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
)


def drop_wave(x, m):
    a, b = x
    square = a**2 + b**2
    return -(1 + m.cos(12 * m.sqrt(square))) / (0.5 * square + 2)


DROP_WAVE = shifted(
    Function(
        name="drop-wave",
        title="Drop-wave",
        definition=drop_wave,
        domain=((-5.12, 5.12),) * 2,
        start=(0.6, 0.4),
        minimisers=((0.0, 0.0),),
        minimum=-1.0,
        basin=-0.9362453,
        smooth=False,  # it is, but autograd of the root is nan there
        source="Surjanovic & Bingham, Virtual Library of Simulation Experiments; values recomputed",
    ),
    by=(1.7, -0.8),
)


def shubert(x, m):
    a, b = (
        m.sum(m.vector(WEIGHTS) * m.cos(m.vector(tuple(j + 1 for j in WEIGHTS)) * one + m.vector(WEIGHTS))) for one in x
    )
    return a * b


WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0)
# Modulo 2π two values of one coordinate go with two of the other.
SHUBERT_PAIRS = tuple(
    (a, b)
    for a in (-7.708313735499347, -1.425128428319761, 4.858056878859825)
    for b in (-7.0835064076515595, -0.8003211004719731, 5.482864206707613)
)

SHUBERT = Function(
    name="shubert",
    title="Shubert",
    definition=shubert,
    domain=((-10.0, 10.0),) * 2,
    start=(-1.2, -0.7),
    minimisers=tuple((a, b) for a, b in SHUBERT_PAIRS) + tuple((b, a) for a, b in SHUBERT_PAIRS),
    minimum=-186.73090883102378,
    basin=-186.73090883102378,
    source=f"Shubert 1972; {JAMIL} (the factor j is missing)",
)


def schaffer_2(x, m):
    a, b = x
    a2, b2 = a**2, b**2
    return 0.5 + (m.sin(a2 - b2) ** 2 - 0.5) / (1 + 0.001 * (a2 + b2)) ** 2


SCHAFFER_2 = shifted(
    Function(
        name="schaffer-2",
        title="Schaffer N.2",
        definition=schaffer_2,
        domain=((-100.0, 100.0),) * 2,
        start=(0.7, 0.5),
        minimisers=((0.0, 0.0),),
        minimum=0.0,
        basin=0.0,
        source=f"Schaffer 1984; {JAMIL}",
    ),
    by=(1.6, -0.7),
)


def schaffer_4(x, m):
    a, b = x
    a2, b2 = a**2, b**2
    return 0.5 + (m.cos(m.sin(a2 - b2)) ** 2 - 0.5) / (1 + 0.001 * (a2 + b2)) ** 2  # of |a² - b²| it is the same


S4 = 1.2531318314637332

SCHAFFER_4 = Function(
    name="schaffer-4",
    title="Schaffer N.4",
    definition=schaffer_4,
    domain=((-100.0, 100.0),) * 2,
    start=(0.5, 1.5),
    minimisers=((0.0, S4), (0.0, -S4), (S4, 0.0), (-S4, 0.0)),
    minimum=0.29257863203598056,
    basin=0.29257863203598056,
    source=f"Schaffer 1984; {JAMIL}",
)

ENTRIES = (BRANIN, MCCORMICK, EASOM, BOHACHEVSKY, DROP_WAVE, SHUBERT, SCHAFFER_2, SCHAFFER_4)
