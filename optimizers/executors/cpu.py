"""The fast path on CPU: one call steps every tensor of every parameter group through a Numba kernel."""

from __future__ import annotations

import ctypes
import functools

import numba
import numpy as np
import torch
from numba import cfunc, types

from ..algorithm import Algorithm
from . import generate, numba_dialect, raw, threads
from .generate import ACTIVE, COEFFICIENTS, NUMEL, ROW_HEAD
from .numba_dialect import OPTIONS
from .raw import caller, fetch_add, set_word, word

#: below this many elements waking a second thread costs more than it saves
SERIAL_BELOW = 65_536
#: above this many, threads take pieces as they come, so that a slow one is not waited for
DYNAMIC_ABOVE = 4_000_000
PIECE = 65_536
#: boundaries between threads fall on multiples of this, so that they share no cache line
ALIGN = 64

#: the words of a job, the one argument of the compiled driver
JOB = (
    "block prologue rows row_bytes n_rows coefs hyper hyper_bytes active ends n_active threads "
    "dynamic next parallel thread_num num_threads body"
).split()
(BLOCK, PROLOGUE, ROWS, ROW_BYTES, N_ROWS, COEFS, HYPER, HYPER_BYTES, ACTIVE_LIST, ENDS, N_ACTIVE, THREADS,
 DYNAMIC, NEXT, PARALLEL, THREAD_NUM, NUM_THREADS, BODY) = range(len(JOB))  # fmt: skip

_call_block = caller(types.void, *[types.intp] * 4)
_call_prologue = caller(types.void, *[types.intp] * 7)
_call_parallel = caller(types.void, types.intp, types.intp, types.uint32, types.uint32)
_call_query = caller(types.int32)


@numba.njit(**OPTIONS)
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


@numba.njit(**OPTIONS)
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
def _python_body(job, thread, threads):
    _share(job, thread, threads)


@cfunc("void(intp)", cache=True, **OPTIONS)
def _openmp_body(job):
    thread = _call_query(word(job, THREAD_NUM), ())
    _share(job, thread, _call_query(word(job, NUM_THREADS), ()))


@cfunc("intp(intp)", cache=True, **OPTIONS)
def _drive(job):
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
    if threads == 1 or total < SERIAL_BELOW:
        set_word(job, DYNAMIC, 0)
        _share(job, 0, 1)
        return 0
    set_word(job, DYNAMIC, total > DYNAMIC_ABOVE)
    set_word(job, NEXT, 0)
    if word(job, PARALLEL) == 0:
        return total
    _call_parallel(word(job, PARALLEL), (word(job, BODY), job, types.uint32(threads), types.uint32(0)))
    return 0


_drive_job = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(_drive.address)
_python_share = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 3)(_python_body.address)
_openmp = threads.openmp()

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@functools.cache
def _ingredients() -> tuple[str, ...]:
    """What decides the machine code besides the generated text."""
    import inspect

    return (numba.__version__, inspect.getsource(raw), inspect.getsource(numba_dialect))


@functools.cache
def block(algorithm: Algorithm, present: tuple[bool, ...], dtype: torch.dtype, state_dtype: torch.dtype):
    """The compiled rule for one combination of states and dtypes."""
    text = generate.numba_block(algorithm, present, DTYPES[dtype], DTYPES[state_dtype])
    return generate.load(text, "block", *_ingredients()).block


@functools.cache
def prologue(algorithm: Algorithm, scalar_dtype: torch.dtype):
    """The compiled coefficients for one dtype of the scalar state."""
    return generate.load(generate.numba_prologue(algorithm, DTYPES[scalar_dtype]), "prologue", *_ingredients()).prologue


class Job:
    """One kernel over one table of rows; the arrays it points to live as long as it does."""

    def __init__(
        self, algorithm: Algorithm, present, dtype, state_dtype, scalar_dtype, rows: np.ndarray, hyper, device
    ):
        n = len(rows)
        self.rows, self.hyper = rows, hyper
        self.coefs = np.zeros((n, len(algorithm.outputs)))
        self.active, self.ends = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.kernels = block(algorithm, present, dtype, state_dtype), prologue(algorithm, scalar_dtype)
        parallel, thread_num, num_threads = _openmp or (0, 0, 0)
        words = {
            BLOCK: self.kernels[0].address,
            PROLOGUE: self.kernels[1].address,
            ROWS: rows.ctypes.data,
            ROW_BYTES: rows.strides[0],
            N_ROWS: n,
            COEFS: self.coefs.ctypes.data,
            HYPER: hyper.ctypes.data,
            HYPER_BYTES: hyper.strides[0],
            ACTIVE_LIST: self.active.ctypes.data,
            ENDS: self.ends.ctypes.data,
            PARALLEL: parallel,
            THREAD_NUM: thread_num,
            NUM_THREADS: num_threads,
            BODY: _openmp_body.address,
        }
        self.words = np.zeros(len(JOB), np.int64)
        for at, value in words.items():
            self.words[at] = value
        self.address = self.words.ctypes.data

    def run(self) -> None:
        """Steps the active rows."""
        self.words[THREADS] = threads.count()
        if _drive_job(self.address):
            body = functools.partial(_python_share, self.address)
            threads.python_threads(body, int(self.words[THREADS]))


__all__ = ["DTYPES", "ROW_HEAD", "Job", "block", "prologue"]
