"""The fast path on CUDA: one launch steps every tensor of every parameter group through a Triton kernel."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import triton

from ..algorithm import Algorithm
from . import generate, sources, triton_dialect
from .generate import ACTIVE, NUMEL, ROW_HEAD
from .prologue import Prologue

#: elements that one program steps, in blocks of BLOCK; int32 work items reach PIECE * 2**31 elements
PIECE, BLOCK, WARPS = 8192, 2048, 8
#: copies to the device that may be under way before the host waits for the oldest
RING = 4


@functools.cache
def kernel(algorithm: Algorithm, present: tuple[bool, ...], dtype: torch.dtype, state_dtype: torch.dtype):
    """The Triton kernel for one combination of states and dtypes."""
    text = sources.triton_kernel(algorithm, present, generate.name(dtype), generate.name(state_dtype))
    return generate.load(text, "kernel", triton.__version__, inspect.getsource(triton_dialect)).kernel


def current(device: torch.device) -> AbstractContextManager:
    """Makes a device the one that kernels are launched on; interpreted kernels work on the CPU's tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Mirror:
    """An array on the device that follows one on the host: copied when it changed, without waiting for the device."""

    def __init__(self, like: np.ndarray, device: torch.device):
        host = torch.from_numpy(like)
        self.device = torch.empty_like(host, device=device)
        self.last: np.ndarray | None = None
        self.pinned = device.type == "cuda"
        self.ring: deque = deque()

    def update(self, array: np.ndarray) -> None:
        """Brings the device up to date."""
        if self.last is not None and np.array_equal(self.last, array):
            return
        self.last = array.copy()
        if not self.pinned:
            self.device.copy_(torch.from_numpy(self.last))
            return
        if len(self.ring) == RING:
            staging, done = self.ring.popleft()
            done.synchronize()
        else:
            staging, done = torch.empty_like(self.device, device="cpu", pin_memory=True), torch.cuda.Event()
        staging.copy_(torch.from_numpy(self.last))
        self.device.copy_(staging, non_blocking=True)
        done.record()
        self.ring.append((staging, done))


class Job:
    """One kernel over one table of rows on one device."""

    direct = False

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
        self.rows, self.device = rows, device
        self.prologue = Prologue(algorithm, scalar_dtype, rows, hyper)
        self.kernel = kernel(algorithm, present, dtype, state_dtype)
        self.pointers = rows[:, ROW_HEAD + len(algorithm.scalars) :]
        self.table = np.zeros((len(rows), 2 + self.pointers.shape[1]), np.int64)
        self.coefs = np.zeros(self.prologue.coefs.shape, np.float64 if dtype == torch.float64 else np.float32)
        pieces = -(-rows[:, NUMEL] // PIECE)
        work = np.stack([np.repeat(np.arange(len(rows)), pieces), np.concatenate([np.arange(n) for n in pieces])], 1)
        self.programs = len(work)
        self.work = torch.from_numpy(np.ascontiguousarray(work, np.int32)).to(device)
        self.device_table, self.device_coefs = Mirror(self.table, device), Mirror(self.coefs, device)

    def run(self) -> None:
        """Steps the active rows."""
        index = self.prologue.run()
        with np.errstate(over="ignore"):  # too large for float32 is infinity there, as in torch
            np.copyto(self.coefs, self.prologue.coefs, casting="same_kind")
        active = self.rows[:, ACTIVE] != 0
        self.table[:, 0] = np.where(active, self.rows[:, NUMEL], 0)  # a program of an inactive row finds nothing to do
        self.table[:, 1] = index
        self.table[:, 2:] = self.pointers
        if not self.programs or not active.any():
            return
        aligned = not (self.pointers[active] % 16).any()
        with current(self.device):
            self.device_table.update(self.table)
            self.device_coefs.update(self.coefs)
            self.kernel[(self.programs,)](
                self.device_table.device,
                self.device_coefs.device,
                self.work,
                PIECE=PIECE,
                BLOCK=BLOCK,
                ALIGNED=aligned,
                num_warps=WARPS,
            )
