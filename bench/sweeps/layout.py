"""Where the numbers of a block of runs are: one buffer of rows, one lane of each row for each run.

First rows that every sweep has, then what an optimizer's coefficients need, then for each coordinate its place,
gradient and states, then what the function needs. All distances are literals: so the compiler sees that no row overlaps
another, and makes vector instructions of the loops over lanes. And neither an optimizer's code depends on the function
nor the function's on the optimizer, so each is compiled once.
"""

from __future__ import annotations

from optimizers.executors.sources import IMPORTS

LANES = 128
#: words from row to row: were they a power of two, all rows would meet in the same few sets of the cache
PITCH = LANES + 8
#: rows that every sweep has, float64 in every sweep; but the first is of the sweep's own type, as a loop that writes
#: two types has the fewer lanes in a vector of the wider, and the last has the addresses of a function's parts
COMMON = ("value", "best", "bad_step", "bad_value", "highest", "lowest", "target", "met", "seed", "parts")
#: rows before those of the coordinates
HEAD = 56
#: rows of a coordinate: its place, its gradient, its states
STRIDE = 6


#: a call that is not inlined keeps the loop around it from becoming vector instructions
INLINE = "njit(**INNER, forceinline=True)"

MATHS = ("cos", "exp", "log", "sin")

BEGINNING = f"""{IMPORTS}
from math import atan2
import numpy as np
from numba import types
from optimizers.executors.numba_dialect import INNER, stored_float32
from optimizers.executors.numba_math import {", ".join(MATHS)}

LANES = {LANES}
"""


def double(row: int, lane: str = "l") -> str:
    """A float64 of one lane."""
    return f"get_float64(b, {row * PITCH} + {lane})"


def put_double(row: int, value: str, lane: str = "l") -> str:
    return f"set_float64(b, {row * PITCH} + {lane}, {value})"


def get(real: str, row: int, index: str = "", stride: int = 1, base: str = "b") -> str:
    """A number of the sweep's own type: that of row `row` + `index` × `stride`."""
    return f"get_{real}({base}, {_place(real, row, index, stride)})"


def put(real: str, row: int, value: str, index: str = "", stride: int = 1, base: str = "b") -> str:
    return f"set_{real}({base}, {_place(real, row, index, stride)}, {value})"


def _place(real: str, row: int, index: str, stride: int) -> str:
    lanes = PITCH * (1 if real == "float64" else 2)  # rows of float32 are as far apart: half of each stays empty
    if not index or index.isdigit():
        return f"{(row + int(index or 0) * stride) * lanes} + l"
    return f"{row * lanes} + {index} * {stride * lanes} + l"


def common(name: str) -> int:
    return COMMON.index(name)


def x(real: str, index: str) -> str:
    """Coordinate `index`."""
    return get(real, HEAD, index, STRIDE)


def part(k: int) -> str:
    """The address of part k."""
    return f"word(b, {common('parts') * PITCH + k})"


def over_lanes(lines: list[str]) -> list[str]:
    return ["for l in range(LANES):", *indented(lines)] if lines else []


def wide(lines: list[str]) -> list[str]:
    """The first line of a function with such lines, if any: what multiplies much gains by wide vectors, sums do not."""
    return ["wide_vectors()"] if any(f"{name}(" in line for line in lines for name in MATHS) else []


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def function(name: str, arguments: str, lines: list[str], compiler: str = "njit(**INNER)") -> str:
    return "\n".join([f"@{compiler}", f"def {name}({arguments}):", *indented(lines), ""])
