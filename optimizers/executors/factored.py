"""Steps tensors whose second moment is factored, on the CPU: the plan of a step, and the source of its kernel."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Sequence
from string import Template

import numpy as np
import torch

from ..algorithm import FactoredAlgorithm
from . import cpu, generate, threads
from .generate import COEFFICIENTS, NUMEL, ROW_HEAD
from .sources import ELEMENTS, IMPORTS, definition, storage

#: elements of an item, about; a matrix above it is cut into at most SPLITS pieces, each with sums of its columns
ITEM_SIZE, SPLITS = 32_768, 16
#: sums that take more memory than this, and than this an element of the parameters, are given back after every step
KEPT_BYTES, KEPT_BYTES_PER_ELEMENT = 65_536, 0.25

driver = generate.compiled("factored")

#: the driver's names that the templates use
WORDS = (
    "FIRST_MATRIX LAST_MATRIX BEGIN END N_MATRIX_ROWS COLUMNS SPLIT SCRATCH ITEM_BYTES "
    "MEASURE COMBINE MEASURE_SPLIT FINISH APPLY"
).split()


class Job:
    """One kernel over one table of tensors, all of them matrices or none."""

    drive = driver.drive.address

    def __init__(
        self,
        algorithm: FactoredAlgorithm,
        present: tuple[bool, ...],
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        scalar_dtype: torch.dtype,
        rows: np.ndarray,
        hyper: np.ndarray,
        shapes: Sequence[torch.Size],
    ):
        self.rows, self.hyper = rows, hyper
        self.coefs = np.zeros((len(rows), len(algorithm.outputs)))
        self.active = np.zeros(len(rows), np.int64)
        cut = [_items(index, tuple(shape), present[0]) for index, shape in enumerate(shapes)]
        ends = np.cumsum([len(items) for items in cut], dtype=np.int64)
        self.ranges = np.ascontiguousarray(np.stack([np.concatenate([[0], ends[:-1]]), ends], 1))
        width = len(driver.ITEM)
        self.items = np.array([item for items in cut for item in items], np.int64).reshape(-1, width)
        self.items[:, driver.WHOLE] = np.repeat(np.diff(self.ranges)[:, 0] == 1, np.diff(self.ranges)[:, 0])
        sizes = 3 + np.where(present[0], self.items[:, driver.COLUMNS], 0)
        self.scratch_size, self.offsets = int(sizes.sum()), 8 * (np.cumsum(sizes) - sizes)
        self.scratch: np.ndarray | None = None
        self.direct = 8 * self.scratch_size <= max(KEPT_BYTES, KEPT_BYTES_PER_ELEMENT * rows[:, NUMEL].sum())
        self.kernels = block(algorithm, present[0], dtype, state_dtype), cpu.prologue(algorithm, scalar_dtype)
        words = {
            driver.BLOCK: self.kernels[0].address,
            driver.PROLOGUE: self.kernels[1].address,
            driver.ROWS: rows.ctypes.data,
            driver.ROW_BYTES: rows.strides[0],
            driver.N_ROWS: len(rows),
            driver.COEFS: self.coefs.ctypes.data,
            driver.HYPER: hyper.ctypes.data,
            driver.HYPER_BYTES: hyper.strides[0],
            driver.ACTIVE_LIST: self.active.ctypes.data,
            driver.ITEMS: self.items.ctypes.data,
            driver.N_ITEMS: len(self.items),
            driver.RANGES: self.ranges.ctypes.data,
            driver.SERIAL_BELOW: cpu.SERIAL_BELOW,
            driver.PARALLEL: (threads.openmp() or (0,))[0],
            driver.BODY: driver.openmp_body.address,
        }
        self.words = np.zeros(len(driver.JOB), np.int64)
        for at, value in words.items():
            self.words[at] = value
        self.address = self.words.ctypes.data

    def prepare(self) -> None:
        """Follows torch's number of threads."""
        self.words[driver.THREADS] = threads.count()
        if self.scratch is None:
            self.scratch = np.empty(self.scratch_size)
            self.items[:, driver.SCRATCH] = self.scratch.ctypes.data + self.offsets

    def run(self) -> None:
        """Steps the active rows, without the interpreter's lock."""
        self.prepare()
        _drive(self.address)
        if not self.direct:
            self.scratch = None


_drive = cpu.callable_address(driver.drive.address)


def _items(row: int, shape: tuple[int, ...], matrix: bool) -> list[tuple[int, ...]]:
    """How a tensor is cut: a vector into stretches, matrices into groups of whole ones or, if large, of rows."""
    if not matrix:
        n = int(np.prod(shape))  # one row of n columns for every item
        return [(row, 0, 1, begin, min(begin + ITEM_SIZE, n), n, 1, False, 0, 0) for begin in range(0, n, ITEM_SIZE)]
    *batch, rows, columns = shape
    n, size = int(np.prod(batch)), rows * columns
    if n * size == 0:
        return []
    if size <= ITEM_SIZE or rows == 1:
        each = max(1, ITEM_SIZE // size)
        return [(row, b, min(b + each, n), 0, rows, rows, columns, False, 0, 0) for b in range(0, n, each)]
    pieces = min(rows, SPLITS, -(-size // ITEM_SIZE))
    bounds = [rows * i // pieces for i in range(pieces + 1)]
    return [
        (row, b, b + 1, begin, end, rows, columns, True, 0, 0)
        for b in range(n)
        for begin, end in itertools.pairwise(bounds)
    ]


@functools.cache
def block(algorithm: FactoredAlgorithm, matrix: bool, dtype: torch.dtype, state_dtype: torch.dtype):
    """The compiled stages for one combination of dtypes."""
    text = source(algorithm, matrix, dtype, state_dtype)
    return generate.load(text, "factored_block", *generate.numba_ingredients()).block


def source(algorithm: FactoredAlgorithm, matrix: bool, dtype: torch.dtype, state_dtype: torch.dtype) -> str:
    """Source of ``block(row, items, n, stage)``."""
    functions = {
        "moment": algorithm.moment,
        "estimate": algorithm.estimate,
        "update": algorithm.update,
        "step_size": algorithm.step_size,
        "rule": algorithm.rule,
    }
    state = {f"STATE_{name}": value for name, value in storage(generate.name(state_dtype)).items()}
    names = storage(generate.name(dtype)) | state
    names |= {name: str(getattr(driver, name)) for name in WORDS}
    names |= {
        "EPSILON": repr(torch.finfo(dtype).eps),
        "P_WORD": str(ROW_HEAD + len(algorithm.scalars)),
        "COEFFICIENTS": str(COEFFICIENTS),
    }
    text = IMPORTS + ELEMENTS + _HEAD + (_MATRIX if matrix else _VECTOR)
    rules = "\n".join(f"@traced\n{definition(function, name)}" for name, function in functions.items())
    coefs = "\n".join(f"{name} = {names['REAL']}(get_float64(coefs, {i}))" for i, name in enumerate(algorithm.outputs))
    return Template(text).substitute(names, RULES=rules, COEFS=textwrap.indent(coefs, "    ").lstrip())


_HEAD = '''

${RULES}

state, set_state = get_${STATE_KIND}, set_${STATE_KIND}


@njit(**SUMS)
def squares(at, n):
    total = 0.0
    for i in range(n):
        x = element(at, i)
        total += float64(x * x)
    return total


@njit(**INNER)
def finish(items, n, numel, rho, eps2, d):
    """Adds up a tensor's sums in their order and leaves the step size with each of its items."""
    p_square = u_square = 0.0
    for i in range(n):
        scratch = word(items + ${ITEM_BYTES} * i, ${SCRATCH})
        p_square += get_float64(scratch, 0)
        u_square += get_float64(scratch, 1)
    size = step_size(p_square / numel, u_square / numel, float64(rho), float64(eps2), float64(d))
    for i in range(n):
        set_float64(word(items + ${ITEM_BYTES} * i, ${SCRATCH}), 2, size)


'''

_VECTOR = """@njit(**INNER)
def new_variance(g_at, var_at, n, direction, take):
    for i in range(n):
        g = direction * element(g_at, i)
        set_state(var_at, i, moment(state(var_at, i), g * g, take))


# a loop that also stores may or may not be vectorised, as its arrays lie in memory: its sum would not be the same twice
@njit(**SUMS)
def update_squares(g_at, var_at, n, direction, eps1):
    total = 0.0
    for i in range(n):
        u = update(direction * element(g_at, i), state(var_at, i), eps1)
        total += float64(u * u)
    return total


@njit(**INNER)
def apply(p_at, g_at, var_at, n, direction, eps1, size, keep):
    for i in range(n):
        u = update(direction * element(g_at, i), state(var_at, i), eps1)
        p, = rule(element(p_at, i), u, size, keep)
        set_element(p_at, i, p)


@cfunc("void(intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(row, items, n_items, stage):
    coefs = word(row, ${COEFFICIENTS})
    ${COEFS}
    eps1 = ${REAL}(${EPSILON}) if eps1 != eps1 else eps1
    begin, end, scratch = word(items, ${BEGIN}), word(items, ${END}), word(items, ${SCRATCH})
    p_at, g_at = word(row, ${P_WORD}) + ${SIZE} * begin, word(row, ${P_WORD} + 1) + ${SIZE} * begin
    var_at, n = word(row, ${P_WORD} + 2) + ${STATE_SIZE} * begin, end - begin
    if stage == ${MEASURE}:
        set_float64(scratch, 0, squares(p_at, n))
        new_variance(g_at, var_at, n, direction, take)
        set_float64(scratch, 1, update_squares(g_at, var_at, n, direction, eps1))
    elif stage == ${FINISH}:
        finish(items, n_items, word(items, ${N_MATRIX_ROWS}), rho, eps2, d)
    elif stage == ${APPLY}:
        apply(p_at, g_at, var_at, n, direction, eps1, ${REAL}(get_float64(scratch, 2)), keep)
"""

_MATRIX = """@njit(**INNER)
def add_squares(sums, at, n):
    for i in range(n):
        x = element(at, i)
        set_float64(sums, i, get_float64(sums, i) + float64(x * x))


@njit(**SUMS)
def mean(at, n):
    total = 0.0
    for i in range(n):
        total += float64(state(at, i))
    return ${REAL}(total / n)


@njit(**SUMS)
def update_squares(g_at, col_at, n, row, row_mean, eps1):
    total = 0.0
    for i in range(n):
        u = update(element(g_at, i), estimate(row, state(col_at, i), row_mean, eps1), eps1)
        total += float64(u * u)
    return total


@njit(**INNER)
def apply(p_at, g_at, col_at, n, row, row_mean, direction, eps1, size, keep):
    for i in range(n):
        u = update(direction * element(g_at, i), estimate(row, state(col_at, i), row_mean, eps1), eps1)
        p, = rule(element(p_at, i), u, size, keep)
        set_element(p_at, i, p)


@njit(**INNER)
def new_columns(col_at, sums, columns, rows, scale, take):
    for i in range(columns):
        set_state(col_at, i, moment(state(col_at, i), ${REAL}(scale * get_float64(sums, i) / rows), take))


@cfunc("void(intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(row, items, n_items, stage):
    coefs = word(row, ${COEFFICIENTS})
    ${COEFS}
    eps1 = ${REAL}(${EPSILON}) if eps1 != eps1 else eps1
    scale = float64(direction) * float64(direction)
    rows, columns = word(items, ${N_MATRIX_ROWS}), word(items, ${COLUMNS})
    split, scratch = word(items, ${SPLIT}), word(items, ${SCRATCH})
    sums = scratch + 24
    if stage == ${FINISH}:
        last = items + ${ITEM_BYTES} * (n_items - 1)
        finish(items, n_items, word(last, ${LAST_MATRIX}) * rows * columns, rho, eps2, d)
        return
    if stage == ${COMBINE}:
        # only the items of a large matrix have something to add up: those of one lie side by side
        begin = 0
        while begin < n_items and split:
            matrix = word(items + ${ITEM_BYTES} * begin, ${FIRST_MATRIX})
            sums = word(items + ${ITEM_BYTES} * begin, ${SCRATCH}) + 24
            end = begin + 1
            while end < n_items and word(items + ${ITEM_BYTES} * end, ${FIRST_MATRIX}) == matrix:
                others = word(items + ${ITEM_BYTES} * end, ${SCRATCH}) + 24
                for i in range(columns):
                    set_float64(sums, i, get_float64(sums, i) + get_float64(others, i))
                end += 1
            col_at = word(row, ${P_WORD} + 3) + ${STATE_SIZE} * matrix * columns
            new_columns(col_at, sums, columns, rows, scale, take)
            begin = end
        return
    p_square = u_square = 0.0
    for b in range(word(items, ${FIRST_MATRIX}), word(items, ${LAST_MATRIX})):
        begin, end = word(items, ${BEGIN}), word(items, ${END})
        at = (b * rows + begin) * columns
        p_at, g_at = word(row, ${P_WORD}) + ${SIZE} * at, word(row, ${P_WORD} + 1) + ${SIZE} * at
        row_at = word(row, ${P_WORD} + 2) + ${STATE_SIZE} * b * rows
        col_at = word(row, ${P_WORD} + 3) + ${STATE_SIZE} * b * columns
        if stage == ${MEASURE}:
            for i in range(columns):
                set_float64(sums, i, 0.0)
            for r in range(begin, end):
                row_g = g_at + ${SIZE} * (r - begin) * columns
                square = scale * squares(row_g, columns) / columns
                add_squares(sums, row_g, columns)
                set_state(row_at, r, moment(state(row_at, r), ${REAL}(square), take))
            p_square += squares(p_at, (end - begin) * columns)
            if not split:
                new_columns(col_at, sums, columns, rows, scale, take)
        if stage == ${MEASURE_SPLIT} or (stage == ${MEASURE} and not split):
            row_mean = mean(row_at, rows)
            for r in range(begin, end):
                row_g = g_at + ${SIZE} * (r - begin) * columns
                u_square += update_squares(row_g, col_at, columns, state(row_at, r), row_mean, eps1)
        elif stage == ${APPLY}:
            row_mean, size = mean(row_at, rows), ${REAL}(get_float64(scratch, 2))
            for r in range(begin, end):
                skip, here = ${SIZE} * (r - begin) * columns, state(row_at, r)
                apply(p_at + skip, g_at + skip, col_at, columns, here, row_mean, direction, eps1, size, keep)
    if stage == ${MEASURE}:
        set_float64(scratch, 0, p_square)
        set_float64(scratch, 1, u_square * scale)
    elif stage == ${MEASURE_SPLIT}:
        set_float64(scratch, 1, u_square * scale)
"""
