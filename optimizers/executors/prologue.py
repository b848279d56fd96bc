"""Advances the scalar state of a table's rows and makes their coefficients, on the host, for kernels elsewhere."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from ..algorithm import Algorithm
from .generate import ACTIVE, COEFFICIENTS, FIRST, GROUP, ROW_HEAD

_TYPES = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


class Prologue:
    """The coefficients of one table, by the compiled prologue of the CPU executor or, without Numba, in Python."""

    def __init__(self, algorithm: Algorithm, scalar_dtype: torch.dtype, rows: np.ndarray, hyper: np.ndarray):
        self.algorithm, self.rows, self.hyper = algorithm, rows, hyper
        self.kind = _TYPES[scalar_dtype]
        self.coefs = np.zeros((len(rows), len(algorithm.outputs)))
        self.compiled: Callable[..., None] | None = None
        try:
            from . import cpu
        except ImportError:
            return
        compiled = cpu.prologue(algorithm, scalar_dtype)
        self.compiled = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 7)(compiled.address)

    def run(self) -> np.ndarray:
        """Advances the active rows; the row of `coefs` that belongs to each row of the table."""
        active = np.flatnonzero(self.rows[:, ACTIVE])
        if self.compiled is None:
            self._interpret(active)
        elif len(active):
            self.compiled(
                self.rows.ctypes.data,
                self.rows.strides[0],
                active.ctypes.data,
                len(active),
                self.coefs.ctypes.data,
                self.hyper.ctypes.data,
                self.hyper.strides[0],
            )
        index = (self.rows[:, COEFFICIENTS] - self.coefs.ctypes.data) // self.coefs.strides[0]
        return np.where(self.rows[:, ACTIVE] != 0, index, 0)

    def _interpret(self, active: np.ndarray) -> None:
        names = list(self.algorithm.scalars)
        stored = (lambda x: float(np.float32(x))) if self.kind is ctypes.c_float else float
        seen: dict[tuple, SimpleNamespace] = {}
        for place, r in enumerate(active):
            row = self.rows[r]
            cells = [self.kind.from_address(int(row[ROW_HEAD + i])) for i in range(len(names))]
            key = (int(row[GROUP]), int(row[FIRST]), *[cell.value for cell in cells])
            if key not in seen:
                hyper = self.hyper[row[GROUP]].tolist()
                values = dict(zip([*self.algorithm.hyper, "direction"], hyper, strict=True))
                values |= dict(zip(names, key[2:], strict=True)) | {"first": key[1], "stored": stored}
                answer = self.algorithm.coefficients(**{name: values[name] for name in self.algorithm.inputs})
                self.coefs[place] = answer[len(names) :]
                seen[key] = SimpleNamespace(new=answer[: len(names)], at=self.coefs[place].ctypes.data)
            row[COEFFICIENTS], row[FIRST] = seen[key].at, 0
            for cell, value in zip(cells, seen[key].new, strict=True):
                cell.value = value
