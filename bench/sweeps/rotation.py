"""Rotated functions in a sweep: the point is turned before the function's own code, its gradient turned back after.

One piece of code for all functions and dimensions, with the matrix as data: a rotation compiles nothing anew.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bench.problems.function import Function
from bench.sweeps import kernel, layout
from bench.sweeps.layout import HEAD, PITCH, STRIDE

SOURCE = """
call = caller(types.void, types.intp)


@njit(**INNER)
def times(to, matrix, by_row, by_column, kept, dimension):
    for i in range(dimension):
        for l in range(LANES):
            set_{REAL}(to, i * {COORDINATE} + l, {REAL}(0))
        for j in range(dimension):
            factor = {REAL}(get_float64(matrix, i * by_row + j * by_column))
            for l in range(LANES):
                at = i * {COORDINATE} + l
                set_{REAL}(to, at, get_{REAL}(to, at) + factor * get_{REAL}(kept, j * {ROW} + l))


@njit(**INNER)
def copy(to, to_row, place, place_row, dimension):
    for i in range(dimension):
        for l in range(LANES):
            set_{REAL}(to, i * to_row + l, get_{REAL}(place, i * place_row + l))


@cfunc("void(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def turned(b, evaluate, matrix, kept_row, dimension):
    kept, x, g = b + 8 * {PITCH} * kept_row, b + 8 * {PITCH} * {HEAD}, b + 8 * {PITCH} * ({HEAD} + 1)
    copy(kept, {ROW}, x, {COORDINATE}, dimension)
    times(x, matrix, dimension, 1, kept, dimension)
    call(evaluate, (b,))
    copy(x, {COORDINATE}, kept, {ROW}, dimension)
    copy(kept, {ROW}, g, {COORDINATE}, dimension)
    times(g, matrix, 1, dimension, kept, dimension)
"""


@functools.cache
def module(real: str) -> Any:
    """With ``turned(b, evaluate, matrix, kept_row, dimension)``, which does what `evaluate(b)` does, rotated.

    `kept_row` is the first of as many free rows as there are dimensions.
    """
    size = PITCH * (1 if real == "float64" else 2)
    text = SOURCE
    for name, value in {
        "REAL": real, "COORDINATE": STRIDE * size, "ROW": size, "PITCH": PITCH, "HEAD": HEAD,
    }.items():  # fmt: skip
        text = text.replace(f"{{{name}}}", str(value))
    return kernel.load(layout.BEGINNING + text, "sweep_rotation")


@functools.cache
def matrix(function: Function) -> np.ndarray:
    """Its rotation as an array, which stays where it is."""
    return np.array(function.rotation, np.float64)


def words(function: Function, rows: int, real: str) -> dict[str, int]:
    """What a job has to know of the rotation; `rows` is the first free row."""
    if function.rotation is None:
        return {"turned": 0, "matrix": 0, "kept_row": rows}
    return {"turned": module(real).turned.address, "matrix": matrix(function).ctypes.data, "kept_row": rows}
