"""The fast path on CPU: one call steps every tensor of every parameter group through a Numba kernel."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import torch

from ..algorithm import Algorithm
from . import generate, sources, threads

#: below this many elements waking a second thread costs more than it saves
SERIAL_BELOW = 65_536
#: above this many, threads take pieces as they come, so that a slow one is not waited for
DYNAMIC_ABOVE = 4_000_000

driver = generate.compiled("driver")


def callable_address(address: int):
    """The compiled function ``intp(intp)`` at an address, for Python; it runs without the interpreter's lock."""
    return ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(address)


_drive = callable_address(driver.drive.address)
_python_share = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 3)(driver.python_body.address)


@functools.cache
def block(algorithm: Algorithm, present: tuple[bool, ...], dtype: torch.dtype, state_dtype: torch.dtype):
    """The compiled rule for one combination of states and dtypes."""
    text = sources.numba_block(algorithm, present, generate.name(dtype), generate.name(state_dtype))
    return generate.load(text, "block", *generate.numba_ingredients()).block


@functools.cache
def prologue(algorithm: Algorithm, scalar_dtype: torch.dtype):
    """The compiled coefficients for one dtype of the scalar state."""
    text = sources.numba_prologue(algorithm, generate.name(scalar_dtype))
    return generate.load(text, "prologue", *generate.numba_ingredients()).prologue


class Job:
    """One kernel over one table of rows; the arrays it points to live as long as it does."""

    #: whether one call with the address of the job is all there is to `run`
    direct = True
    drive = driver.drive.address

    def __init__(
        self,
        algorithm: Algorithm,
        present: tuple[bool, ...],
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        scalar_dtype: torch.dtype,
        rows: np.ndarray,
        hyper: np.ndarray,
        device: torch.device,
    ):
        n = len(rows)
        self.rows, self.hyper = rows, hyper
        self.coefs = np.zeros((n, len(algorithm.outputs)))
        self.active, self.ends = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.kernels = block(algorithm, present, dtype, state_dtype), prologue(algorithm, scalar_dtype)
        parallel, thread_num, num_threads = threads.openmp() or (0, 0, 0)
        self.direct = bool(parallel)
        words = {
            driver.BLOCK: self.kernels[0].address,
            driver.PROLOGUE: self.kernels[1].address,
            driver.ROWS: rows.ctypes.data,
            driver.ROW_BYTES: rows.strides[0],
            driver.N_ROWS: n,
            driver.COEFS: self.coefs.ctypes.data,
            driver.HYPER: hyper.ctypes.data,
            driver.HYPER_BYTES: hyper.strides[0],
            driver.ACTIVE_LIST: self.active.ctypes.data,
            driver.ENDS: self.ends.ctypes.data,
            driver.SERIAL_BELOW: SERIAL_BELOW,
            driver.DYNAMIC_ABOVE: DYNAMIC_ABOVE,
            driver.PARALLEL: parallel,
            driver.THREAD_NUM: thread_num,
            driver.NUM_THREADS: num_threads,
            driver.BODY: driver.openmp_body.address,
        }
        self.words = np.zeros(len(driver.JOB), np.int64)
        for at, value in words.items():
            self.words[at] = value
        self.address = self.words.ctypes.data

    def prepare(self) -> None:
        """Follows torch's number of threads."""
        self.words[driver.THREADS] = threads.count()

    def run(self) -> None:
        """Steps the active rows, without the interpreter's lock."""
        self.prepare()
        if _drive(self.address):
            threads.python_threads(functools.partial(_python_share, self.address), int(self.words[driver.THREADS]))
