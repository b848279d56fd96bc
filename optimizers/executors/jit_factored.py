"""The compiled driver of factored algorithms: runs the stages of a step over the items that a table is cut into.

An item is a stretch of a tensor: some whole matrices, some rows of a large one, or some elements of a vector. Sums are
kept item by item and added in their order, so that the number of threads changes no bit. Loaded by `generate.compiled`.
"""

from __future__ import annotations

import numba
from numba import cfunc, types

from optimizers.executors.generate import ACTIVE, NUMEL
from optimizers.executors.numba_dialect import INNER, OPTIONS
from optimizers.executors.raw import caller, fetch_add, set_word, word

#: the words of a job
JOB = (
    "block prologue rows row_bytes n_rows coefs hyper hyper_bytes active items n_items ranges "
    "threads serial_below next stage parallel body"
).split()
(BLOCK, PROLOGUE, ROWS, ROW_BYTES, N_ROWS, COEFS, HYPER, HYPER_BYTES, ACTIVE_LIST, ITEMS, N_ITEMS, RANGES,
 THREADS, SERIAL_BELOW, NEXT, STAGE, PARALLEL, BODY) = range(len(JOB))  # fmt: skip

#: the words of an item: the row of the table, matrices [first, last), rows [begin, end) of each, the number of all rows
#: and columns, whether it holds only some of a matrix's rows, the address of its sums, and whether it is a whole tensor
ITEM = "row first last begin end rows columns split scratch whole".split()
ROW, FIRST_MATRIX, LAST_MATRIX, BEGIN, END, N_MATRIX_ROWS, COLUMNS, SPLIT, SCRATCH, WHOLE = range(len(ITEM))
ITEM_BYTES = 8 * len(ITEM)

#: what a block is called for: each item, then all items of a tensor at once, by turns
MEASURE, COMBINE, MEASURE_SPLIT, FINISH, APPLY = range(5)

_call_block = caller(types.void, *[types.intp] * 4)
_call_prologue = caller(types.void, *[types.intp] * 7)
_call_parallel = caller(types.void, types.intp, types.intp, types.uint32, types.uint32)


@numba.njit(**INNER)
def _one(job, i):
    """The current stage of one item unless its tensor has no gradient; all stages of a whole tensor while it is hot."""
    item = word(job, ITEMS) + i * ITEM_BYTES
    row = word(job, ROWS) + word(item, ROW) * word(job, ROW_BYTES)
    stage = word(job, STAGE)
    if not word(row, ACTIVE):
        return
    if word(item, WHOLE):
        if stage == MEASURE:
            _call_block(word(job, BLOCK), (row, item, 1, MEASURE))
            _call_block(word(job, BLOCK), (row, item, 1, FINISH))
            _call_block(word(job, BLOCK), (row, item, 1, APPLY))
    elif stage != MEASURE_SPLIT or word(item, SPLIT):
        _call_block(word(job, BLOCK), (row, item, 1, stage))


@numba.njit(**INNER)
def _share(job):
    """What one of several threads does: items as they come."""
    while True:
        i = fetch_add(job + 8 * NEXT, 1)
        if i >= word(job, N_ITEMS):
            return
        _one(job, i)


@cfunc("void(intp)", cache=True, **OPTIONS)
def openmp_body(job):
    _share(job)


@numba.njit(**INNER)
def _each_item(job, stage, alone):
    set_word(job, STAGE, stage)
    if alone:
        for i in range(word(job, N_ITEMS)):
            _one(job, i)
        return
    set_word(job, NEXT, 0)
    _call_parallel(word(job, PARALLEL), (word(job, BODY), job, types.uint32(word(job, THREADS)), types.uint32(0)))


@numba.njit(**INNER)
def _each_tensor(job, n, stage):
    for i in range(n):
        r = word(word(job, ACTIVE_LIST), i)
        first, last = word(word(job, RANGES), 2 * r), word(word(job, RANGES), 2 * r + 1)
        if first + 1 < last:
            row, items = word(job, ROWS) + r * word(job, ROW_BYTES), word(job, ITEMS) + first * ITEM_BYTES
            _call_block(word(job, BLOCK), (row, items, last - first, stage))


@cfunc("intp(intp)", cache=True, **OPTIONS)
def drive(job):
    """Lists the active rows, fills coefficients, and runs the stages."""
    rows, row_bytes, active = word(job, ROWS), word(job, ROW_BYTES), word(job, ACTIVE_LIST)
    n = total = 0
    for r in range(word(job, N_ROWS)):
        if word(rows + r * row_bytes, ACTIVE):
            total += word(rows + r * row_bytes, NUMEL)
            set_word(active, n, r)
            n += 1
    if n == 0:
        return 0
    _call_prologue(
        word(job, PROLOGUE),
        (rows, row_bytes, active, n, word(job, COEFS), word(job, HYPER), word(job, HYPER_BYTES)),
    )
    split, parts = 0, 0
    for i in range(word(job, N_ITEMS)):
        item = word(job, ITEMS) + i * ITEM_BYTES
        split |= word(item, SPLIT)
        parts |= 1 - word(item, WHOLE)
    alone = word(job, THREADS) == 1 or total < word(job, SERIAL_BELOW) or word(job, PARALLEL) == 0
    _each_item(job, MEASURE, alone)
    if split:
        _each_tensor(job, n, COMBINE)
        _each_item(job, MEASURE_SPLIT, alone)
    if parts:
        _each_tensor(job, n, FINISH)
        _each_item(job, APPLY, alone)
    return 0
