"""Sums of wells at places that a table gives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.problems.function import Function
from bench.problems.functions.sources import JAMIL


def squares(x, m, weights: Sequence[Sequence[float]], places: Sequence[Sequence[float]]):
    """Σ_j weights[i][j] (x_j - places[i][j])², for each row i."""
    columns = zip(zip(*weights, strict=True), zip(*places, strict=True), strict=True)
    total = 0.0
    for one, (weight, place) in zip(x, columns, strict=True):
        total = m.vector(weight) * (one - m.vector(place)) ** 2 + total
    return total


def hartmann(weights, places):
    def definition(x, m):
        return -m.sum(m.vector((1.0, 1.2, 3.0, 3.2)) * m.exp(-squares(x, m, weights, places)))

    return definition


HARTMANN_3 = Function(
    name="hartmann-3",
    title="Hartmann, 3-D",
    definition=hartmann(
        ((3.0, 10.0, 30.0), (0.1, 10.0, 35.0)) * 2,
        (
            (0.3689, 0.1170, 0.2673),
            (0.4699, 0.4387, 0.7470),
            (0.1091, 0.8732, 0.5547),
            (0.03815, 0.5743, 0.8828),
        ),
    ),
    domain=((0.0, 1.0),) * 3,
    start=(0.5,) * 3,
    minimisers=((0.11461433858967196, 0.5556488499718569, 0.8525469535208658),),
    minimum=-3.862782147820755,
    basin=-3.862782147820755,
    source="Hartmann; Dixon & Szegö 1978 (0.03815, which circulates as 0.0381); values recomputed",
)

HARTMANN_6 = Function(
    name="hartmann-6",
    title="Hartmann, 6-D",
    definition=hartmann(
        (
            (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
            (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
            (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
            (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
        ),
        (
            (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
            (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
            (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
            (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
        ),
    ),
    domain=((0.0, 1.0),) * 6,
    start=(0.5,) * 6,
    minimisers=(
        (
            *(0.20168951100670543, 0.15001069182345797, 0.476873974221897),
            *(0.2753324304940561, 0.31165161660011326, 0.6573005340656204),
        ),
    ),
    minimum=-3.322368011415515,
    basin=-3.322368011415515,
    source="Hartmann; Dixon & Szegö 1978; values recomputed",
)

#: places and widths of the foxholes
FOXHOLES = (
    (4.0, 4.0, 4.0, 4.0),
    (1.0, 1.0, 1.0, 1.0),
    (8.0, 8.0, 8.0, 8.0),
    (6.0, 6.0, 6.0, 6.0),
    (3.0, 7.0, 3.0, 7.0),
    (2.0, 9.0, 2.0, 9.0),
    (5.0, 5.0, 3.0, 3.0),
    (8.0, 1.0, 8.0, 1.0),
    (6.0, 2.0, 6.0, 2.0),
    (7.0, 3.6, 7.0, 3.6),
)
WIDTHS = (0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 0.3, 0.7, 0.5, 0.5)


def shekel(holes: int, minimum: float, minimiser: tuple[float, ...]) -> Function:
    """With the first 5, 7 or 10 foxholes."""

    def definition(x, m):
        ones = ((1.0,) * 4,) * holes
        return -m.sum(1 / (squares(x, m, ones, FOXHOLES[:holes]) + m.vector(WIDTHS[:holes])))

    return Function(
        name=f"shekel-{holes}",
        title=f"Shekel {holes}, 4-D",
        definition=definition,
        domain=((0.0, 10.0),) * 4,
        start=(5.0, 4.5, 5.5, 4.0),
        minimisers=(minimiser,),
        minimum=minimum,
        basin=minimum,
        source="Shekel 1971; Dixon & Szegö 1978, whose seventh hole is (5, 5, 3, 3); values recomputed",
    )


def langermann(x, m):
    places = ((3.0, 5.0), (5.0, 2.0), (2.0, 1.0), (1.0, 4.0), (7.0, 9.0))
    square = squares(x, m, ((1.0, 1.0),) * 5, places)
    return -m.sum(m.vector((1.0, 2.0, 5.0, 2.0, 3.0)) * m.exp(square / -math.pi) * m.cos(math.pi * square))


LANGERMANN = Function(
    name="langermann",
    title="Langermann",
    definition=langermann,
    domain=((0.0, 10.0),) * 2,
    start=(2.9, 1.8),
    minimisers=((2.0029921199344654, 1.0060959402921887),),
    minimum=-5.162126159963981,
    basin=-3.316544805,
    source=JAMIL,
)

ENTRIES = (
    HARTMANN_3,
    HARTMANN_6,
    shekel(5, -10.153199679058227, (4.000037152819676, 4.00013327659156) * 2),
    shekel(7, -10.40294056681866, (4.000572916185823, 4.000689366185305, 3.9994897088591506, 3.9996061588586316)),
    shekel(10, -10.536409816692041, (4.000746531592046, 4.000592934138532, 3.9996633980403224, 3.9995098005868077)),
    LANGERMANN,
)
