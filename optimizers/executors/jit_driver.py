"""The compiled driver: divides the active rows of a table among threads, and calls the rule's block on each part.

Loaded by `generate.compiled` and not imported, so that its machine code is never older than what it was made of.
"""

from __future__ import annotations

import numba
from numba import cfunc, types

from optimizers.executors.generate import ACTIVE, COEFFICIENTS, NUMEL
from optimizers.executors.numba_dialect import INNER, OPTIONS
from optimizers.executors.raw import caller, fetch_add, set_word, word

#: what a thread takes at a time where threads take pieces as they come
PIECE = 65_536
#: boundaries between threads fall on multiples of this, so that they share no cache line
ALIGN = 64

#: the words of a job, the one argument of the compiled driver
JOB = (
    "block prologue rows row_bytes n_rows coefs hyper hyper_bytes active ends n_active threads "
    "serial_below dynamic_above dynamic next parallel thread_num num_threads body"
).split()
(BLOCK, PROLOGUE, ROWS, ROW_BYTES, N_ROWS, COEFS, HYPER, HYPER_BYTES, ACTIVE_LIST, ENDS, N_ACTIVE, THREADS,
 SERIAL_BELOW, DYNAMIC_ABOVE, DYNAMIC, NEXT, PARALLEL, THREAD_NUM, NUM_THREADS, BODY) = range(len(JOB))  # fmt: skip

_call_block = caller(types.void, *[types.intp] * 4)
_call_prologue = caller(types.void, *[types.intp] * 7)
_call_parallel = caller(types.void, types.intp, types.intp, types.uint32, types.uint32)
_call_query = caller(types.int32)


@numba.njit(**INNER)
def _span(job, begin, end):
    """Elements [begin, end) of all active tensors laid end to end, cut at multiples of ALIGN inside a tensor."""
    n, ends, rows = word(job, N_ACTIVE), word(job, ENDS), word(job, ROWS)
    low, high = 0, n
    while low < high:  # the first tensor that ends after `begin`
        middle = (low + high) // 2
        if word(ends, middle) > begin:
            high = middle
        else:
            low = middle + 1
    for r in range(low, n):
        row = rows + word(word(job, ACTIVE_LIST), r) * word(job, ROW_BYTES)
        numel = word(row, NUMEL)
        base = word(ends, r) - numel
        if base >= end:
            break
        start = max(begin - base, 0) // ALIGN * ALIGN
        stop = numel if end >= base + numel else (end - base) // ALIGN * ALIGN
        if start < stop:
            _call_block(word(job, BLOCK), (row, word(row, COEFFICIENTS), start, stop))


@numba.njit(**INNER)
def _share(job, thread, threads):
    """What one of the threads does."""
    total = word(word(job, ENDS), word(job, N_ACTIVE) - 1)
    if not word(job, DYNAMIC):
        _span(job, total * thread // threads, total * (thread + 1) // threads)
        return
    while True:
        piece = fetch_add(job + 8 * NEXT, PIECE)
        if piece >= total:
            return
        _span(job, piece, min(piece + PIECE, total))


@cfunc("void(intp, intp, intp)", cache=True, **OPTIONS)
def python_body(job, thread, threads):
    _share(job, thread, threads)


@cfunc("void(intp)", cache=True, **OPTIONS)
def openmp_body(job):
    thread = _call_query(word(job, THREAD_NUM), ())
    _share(job, thread, _call_query(word(job, NUM_THREADS), ()))


@cfunc("intp(intp)", cache=True, **OPTIONS)
def drive(job):
    """Lists the active rows, fills coefficients, steps; returns the elements left for Python threads to step."""
    rows, row_bytes, active = word(job, ROWS), word(job, ROW_BYTES), word(job, ACTIVE_LIST)
    n = total = 0
    for r in range(word(job, N_ROWS)):
        row = rows + r * row_bytes
        if word(row, ACTIVE):
            total += word(row, NUMEL)
            set_word(active, n, r)
            set_word(word(job, ENDS), n, total)
            n += 1
    set_word(job, N_ACTIVE, n)
    if n == 0:
        return 0
    _call_prologue(
        word(job, PROLOGUE),
        (rows, row_bytes, active, n, word(job, COEFS), word(job, HYPER), word(job, HYPER_BYTES)),
    )
    threads = word(job, THREADS)
    if threads == 1 or total < word(job, SERIAL_BELOW):
        set_word(job, DYNAMIC, 0)
        _share(job, 0, 1)
        return 0
    set_word(job, DYNAMIC, total > word(job, DYNAMIC_ABOVE))
    set_word(job, NEXT, 0)
    if word(job, PARALLEL) == 0:
        return total
    _call_parallel(word(job, PARALLEL), (word(job, BODY), job, types.uint32(threads), types.uint32(0)))
    return 0
