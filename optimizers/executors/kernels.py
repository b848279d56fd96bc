"""The one place that knows which compiled executors there are, and says so once when one is missing."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Algorithm, FactoredAlgorithm, MatrixAlgorithm
from . import threads  # noqa: F401  # now, not at the first step: it has to see a fork that comes before
from .watch import Watch

#: what a kernel's parameters and gradients may be; half types are stepped in float32
SINGLE_AND_DOUBLE, HALF = (torch.float32, torch.float64), (torch.bfloat16, torch.float16)
DTYPES = SINGLE_AND_DOUBLE + HALF
_EXECUTORS = {"cpu": ("numba", "cpu"), "cuda": ("triton", "cuda")}


@functools.cache
def executor(device_type: str) -> Any:
    """The module of an executor, or the reason why there is none."""
    package, module = _EXECUTORS[device_type]
    try:
        importlib.import_module(package)
        return importlib.import_module(f".{module}", __package__)
    except Exception as error:  # a broken installation must cost speed, not the training
        reason = f"{package} is not installed" if isinstance(error, ModuleNotFoundError) else f"{package}: {error}"
        warnings.warn(f"{reason}: parameters on {device_type} are stepped without a kernel, slower", stacklevel=2)
        return reason


def not_made(error: Exception) -> str:
    """The reason that a compiler's error gives: its class and its first line, if it says anything."""
    said = str(error).strip().splitlines()
    return f"its kernel could not be made ({': '.join([type(error).__name__, *said[:1]])})"


def unsupported(p: Tensor, algorithm: Algorithm) -> str:
    """Why an algorithm has no kernel for a parameter of this device and dtype, or an empty string."""
    if p.device.type not in algorithm.kernels:
        return f"there are kernels for {' and '.join(algorithm.kernels)}, not for {p.device.type}"
    if p.dtype not in (DTYPES if algorithm.half_kernels else SINGLE_AND_DOUBLE):
        return f"there is no kernel for {p.dtype}"
    if algorithm.by_rows and not p.is_contiguous():
        return f"its rows are not one after the other: its strides are {p.stride()}"
    module = executor(p.device.type)
    return module if isinstance(module, str) else ""


def state_dtype_fits(dtype: torch.dtype, state: torch.dtype) -> bool:
    """Whether kernels for this parameter dtype take this state dtype: the same, or float32 beside half."""
    return state == dtype or (dtype in HALF and state == torch.float32)


def job(
    device: torch.device,
    algorithm: Algorithm,
    present: tuple[bool, ...],
    dtype: torch.dtype,
    state_dtype: torch.dtype,
    scalar_dtype: torch.dtype,
    rows: np.ndarray,
    hyper: np.ndarray,
    shapes: Sequence[torch.Size] = (),
    groups: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """The compiled step over a table of rows on one device; `shapes` of the rows and options of the groups."""
    if isinstance(algorithm, FactoredAlgorithm):
        from . import factored

        return factored.Job(algorithm, present, dtype, state_dtype, scalar_dtype, rows, hyper, shapes)
    if isinstance(algorithm, MatrixAlgorithm):
        from . import matrices

        return matrices.Job(algorithm, present, dtype, state_dtype, scalar_dtype, rows, hyper, shapes, groups, device)
    module = executor(device.type)
    return module.Job(algorithm, present, dtype, state_dtype, scalar_dtype, rows, hyper, device)


@functools.cache
def _native():
    """The compiled checks, where they were proven to see what Python sees."""
    try:
        from . import native
    except Exception:  # without a compiler, or with a broken one, Python checks
        return None
    return native if native.works else None


def watch(state, lists, dormant) -> Watch:
    """What notices that a plan no longer fits: compiled if possible."""
    native = _native()
    return (native.Watch if native else Watch)(state, lists, dormant)
