"""Source text of disturbances for the compiled sweep: each kind is compiled once, its numbers come as data.

A module has ``disturb(b, at, t, dimension, numbers)``, called between a function's gradient and an optimizer's step t
on the block at `b`; rows of the disturbance's own begin at `at`. One that moves the landscape has ``move``, called
before the function is evaluated, and ``back``, called after, instead. Random numbers are those of
`bench.problems.disturbance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bench.problems import disturbance
from bench.problems.disturbance import GOLDEN, HALF_STEP, MIX, ONE, Disturbance
from bench.sweeps import layout
from bench.sweeps.layout import HEAD, PITCH, STRIDE, indented, over_lanes

ARGUMENTS = "b, at, t, dimension, numbers"
SEED = layout.double(layout.common("seed"))
#: of a disturbance's own rows the first is for the keys of a step's random numbers, the next for those just drawn
DRAWN, FIRST = 1, 2
KEYS = ["make_keys(b, at, t)"]

WHOLE = 1.5 * 2.0**52  # adding and taking it away rounds to a whole number, a half to the even one

RANDOM = f"""
from numba import int64, uint64

GOLDEN = uint64({GOLDEN})


@njit(**INNER, forceinline=True)
def mixed(z):
{"".join(f"    z = (z ^ (z >> uint64({shift}))) * uint64({factor}){chr(10)}" for shift, factor in MIX)}    return z


@njit(**INNER)
def make_keys(b, at, t):
    for l in range(LANES):
        set_word(at, l, int64(mixed(uint64(int64({SEED})) + GOLDEN * uint64(t + 1))))


@njit(**INNER, forceinline=True)
def uniform(at, l, k):
    bits = mixed(uint64(word(at, l)) + GOLDEN * uint64(k + 1))
    return float64_of_bits((bits >> uint64(12)) | uint64({ONE})) - 1.0 + {HALF_STEP!r}


@njit(**INNER, forceinline=True)
def normal(at, l, i):
    return sqrt(-2.0 * log(uniform(at, l, 2 * i))) * cos({2 * math.pi!r} * uniform(at, l, 2 * i + 1))


@njit(**INNER, forceinline=True)
def student2(at, l, i):
    u = uniform(at, l, i)
    return (2.0 * u - 1.0) / sqrt(2.0 * u * (1.0 - u))


@njit(**INNER, forceinline=True)
def nearest(x):
    whole = (x + {WHOLE!r}) - {WHOLE!r}
    return whole if abs(x) < {2.0**51!r} else x  # beyond, numbers are whole or halves; nan stays
"""


def _gradient(real: str) -> str:
    return layout.get(real, HEAD + 1, "i", STRIDE)


def _put_gradient(real: str, value: str) -> str:
    return layout.put(real, HEAD + 1, f"{real}({value})", "i", STRIDE)


def _over_coordinates(lines: list[str], before: list[str] | None = None) -> list[str]:
    return ["for i in range(dimension):", *indented([*(before or []), *over_lanes(lines)])]


def _noise(draw: str) -> Callable[[str], dict[str, list[str]]]:
    def source(real: str) -> dict[str, list[str]]:
        scale, drawn = "scale = get_float64(numbers, i)", f"get_float64(at, {DRAWN * PITCH} + l)"
        draws = over_lanes([f"set_float64(at, {DRAWN * PITCH} + l, {draw}(at, l, i))"])
        add = over_lanes([_put_gradient(real, f"{_gradient(real)} + scale * {drawn}")])
        # in one loop they would be too much for vector instructions
        return {"disturb": [*KEYS, "for i in range(dimension):", *indented([scale, *draws, *add])]}

    return source


def _correlated(real: str) -> dict[str, list[str]]:
    drawn = layout.put(real, FIRST, f"{real}(normal(at, l, i))", "i", base="at")
    added = f"{_gradient(real)} + factor * {layout.get(real, FIRST, 'j', base='at')}"
    mix = ["factor = get_float64(numbers, i * dimension + j)", *over_lanes([_put_gradient(real, added)])]
    every = ["for i in range(dimension):", "    for j in range(dimension):", *indented(indented(mix))]
    return {"disturb": [*KEYS, *_over_coordinates([drawn]), *every]}


def _sparse(real: str) -> dict[str, list[str]]:
    told = f"{_gradient(real)} if uniform(at, l, i) < share else {real}(0.0)"
    return {"disturb": [*KEYS, "share = get_float64(numbers, 0)", *_over_coordinates([_put_gradient(real, told)])]}


def _delayed(real: str) -> dict[str, list[str]]:
    lines = [
        f"gradient = {_gradient(real)}",
        _put_gradient(real, f"{layout.get(real, FIRST, 'row', base='at')} if t >= steps else {real}(0.0)"),
        layout.put(real, FIRST, "gradient", "row", base="at"),
    ]
    ring = _over_coordinates(lines, ["row = t % steps * dimension + i"])
    return {"disturb": ["steps = int64(get_float64(numbers, 0))", *ring]}


def _drifting(real: str) -> dict[str, list[str]]:
    x, kept = layout.x(real, "i"), layout.get(real, FIRST, "i", base="at")
    move = [
        layout.put(real, FIRST, x, "i", base="at"),
        layout.put(real, HEAD, f"{real}({x} - t * velocity)", "i", STRIDE),
    ]
    return {
        "move": _over_coordinates(move, ["velocity = get_float64(numbers, i)"]),
        "back": _over_coordinates([layout.put(real, HEAD, kept, "i", STRIDE)]),
    }


def _quantised(real: str) -> dict[str, list[str]]:
    told = _put_gradient(real, f"nearest({_gradient(real)} / unit) * unit")
    return {"disturb": ["unit = get_float64(numbers, 0)", *_over_coordinates([told])]}


#: the functions of each kind's module
SOURCES: dict[type[Disturbance], Callable[[str], dict[str, list[str]]]] = {
    disturbance.Noise: _noise("normal"),
    disturbance.HeavyNoise: _noise("student2"),
    disturbance.CorrelatedNoise: _correlated,
    disturbance.Sparse: _sparse,
    disturbance.Delayed: _delayed,
    disturbance.Drifting: _drifting,
    disturbance.Quantised: _quantised,
}


def source(kind: type[Disturbance], real: str, beginning: str) -> str:
    """The module of one kind, for coordinates of one type."""
    compiler = f"cfunc('void({', '.join(['intp'] * 5)})', cache=True, **OPTIONS)"
    functions = SOURCES[kind](real)
    return "\n".join(
        [beginning, RANDOM, *(layout.function(f, ARGUMENTS, lines, compiler) for f, lines in functions.items())]
    )
