"""The compiled driver of losses: runs a block over pieces of an array on all threads, and adds up what each leaves.

Pieces have one size and their sums are added in order, so that the number of threads changes no bit of a loss. Loaded
by `generate.compiled`.
"""

from __future__ import annotations

import numba
from numba import cfunc, types

from optimizers.executors.numba_dialect import INNER, OPTIONS
from optimizers.executors.raw import caller, fetch_add, get_float64, set_float64, set_word, word

#: the words of a job, before those that its block reads: `n` units (elements, or rows of `unit` elements) in pieces of
#: `piece`, each leaving `width` sums
JOB = "block args n piece unit width sums total threads serial_below next parallel body".split()
BLOCK, ARGS, N, PIECE, UNIT, WIDTH, SUMS, TOTAL, THREADS, SERIAL_BELOW, NEXT, PARALLEL, BODY = range(len(JOB))

#: what a block is called for: once for all units, for each piece, and once more with the sums over all pieces
PREPARE, MEASURE, FINISH = range(3)

_call_block = caller(types.intp, *[types.intp] * 5)
_call_parallel = caller(types.void, types.intp, types.intp, types.uint32, types.uint32)


@numba.njit(**INNER)
def _one(job, i):
    begin = i * word(job, PIECE)
    end = min(begin + word(job, PIECE), word(job, N))
    _call_block(word(job, BLOCK), (word(job, ARGS), begin, end, word(job, SUMS) + 8 * word(job, WIDTH) * i, MEASURE))


@numba.njit(**INNER)
def _pieces(job):
    return (word(job, N) + word(job, PIECE) - 1) // word(job, PIECE)


@cfunc("void(intp)", cache=True, **OPTIONS)
def openmp_body(job):
    n = _pieces(job)
    while True:
        i = fetch_add(job + 8 * NEXT, 1)
        if i >= n:
            return
        _one(job, i)


@cfunc("intp(intp)", cache=True, **OPTIONS)
def drive(job):
    """Runs a block from beginning to end, or returns what it answers, if not 0, when it is asked to prepare."""
    n, width, block, args = _pieces(job), word(job, WIDTH), word(job, BLOCK), word(job, ARGS)
    refused = _call_block(block, (args, 0, word(job, N), 0, PREPARE))
    if refused:
        return refused
    small = word(job, N) * word(job, UNIT) < word(job, SERIAL_BELOW)
    if small or n == 1 or word(job, THREADS) == 1 or word(job, PARALLEL) == 0:
        for i in range(n):
            _one(job, i)
    else:
        set_word(job, NEXT, 0)
        _call_parallel(word(job, PARALLEL), (word(job, BODY), job, types.uint32(word(job, THREADS)), types.uint32(0)))
    for k in range(width):
        total = 0.0
        for i in range(n):
            total += get_float64(word(job, SUMS), i * width + k)
        set_float64(word(job, TOTAL), k, total)
    _call_block(block, (args, 0, word(job, N), word(job, TOTAL), FINISH))
    return 0
