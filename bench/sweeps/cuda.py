"""The sweep on CUDA: one Triton kernel makes all steps of all runs, a run in each thread, without the host.

Compiled for sm_80 and sm_90 and interpreted in the tests; not yet measured on a device.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton

from bench.problems.function import Function
from bench.sweeps import cuda_source, engine, triton_names
from bench.sweeps.step import Step
from optimizers.algorithm import Algorithm
from optimizers.executors import generate, triton_dialect, triton_math
from optimizers.executors.cuda import current

#: runs of a program, and how many of its warps of 32 threads share them
LANES, WARPS = 128, 4


@functools.cache
def step_of(algorithm: Algorithm, present: tuple[bool, ...], real: str) -> Step:
    """An optimizer's step, whose options all come as columns."""
    return Step(algorithm, present, real, frozenset())


@functools.cache
def module(function: Function, algorithm: Algorithm, present: tuple[bool, ...], real: str) -> ModuleType:
    """The generated module of one optimizer on one function."""
    text = cuda_source.source(function, step_of(algorithm, present, real))
    used = [inspect.getsource(one) for one in (triton_dialect, triton_math, triton_names)]
    return generate.load(text, "sweep_cuda", triton.__version__, *used)


def sweep(
    function: Function,
    cls: type,
    options: Mapping[str, Any],
    starts: np.ndarray,
    steps: int,
    *,
    dtype: str = "float64",
    every: int = 0,
    bounds: tuple[np.ndarray | float, np.ndarray | float] | None = None,
    targets: np.ndarray | None = None,
    device: str = "cuda",
) -> engine.Sweep:
    """`engine.sweep` on a GPU: the same arguments but seeds, errors and results.

    Raises ValueError too for a function that `cuda_source.refusal` refuses.
    """
    starts, targets = engine.checked(function, starts, steps, every, targets)
    if reason := cuda_source.refusal(function):
        raise ValueError(f"{function.name} has no sweep on CUDA: {reason}")
    columns, groups = engine._columns(cls, options, len(starts))
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    columns |= {"lowest": engine._array(low, len(starts)), "highest": engine._array(high, len(starts))}
    parts = []
    for present, chosen in groups.items():
        step = step_of(cls.algorithm, present, dtype)
        rows = [columns[name][chosen] for name in [*step.common, "highest", "lowest"]] + [*starts[chosen].T]
        kernel = module(function, cls.algorithm, present, dtype).kernel
        aims = targets[chosen].T
        parts.append(_run(kernel, rows, aims, function.dimension, steps, every, bounds is not None, device))
    if len(parts) == 1:
        return parts[0]
    return engine._joined(parts, np.argsort(np.concatenate(list(groups.values()))))


def _run(
    kernel: Any,
    rows: list[np.ndarray],
    targets: np.ndarray,
    dimension: int,
    steps: int,
    every: int,
    judged: bool,
    device: str,
) -> engine.Sweep:
    """One launch; `rows` are the kernel's inputs, `targets` [targets, runs]."""
    runs = len(rows[0])
    inputs = torch.empty(len(rows), runs, dtype=torch.float64, device=device)
    for to, row in zip(inputs, rows, strict=True):
        if row.min() == row.max():  # most options are alike in all runs, and need not travel
            to.fill_(row[0])
        else:
            to.copy_(torch.from_numpy(np.ascontiguousarray(row)))
    outputs = torch.empty(4 + dimension, runs, dtype=torch.float64, device=device)
    records = torch.empty(steps // every + 1 if every else 0, 1 + dimension, runs, dtype=torch.float64, device=device)
    aims = torch.from_numpy(np.ascontiguousarray(targets)).to(device)
    hits = torch.full(aims.shape, -1.0, dtype=torch.float64, device=device)
    sizes = torch.tensor([runs, steps, every, len(aims)], device=device)
    switches = {"JUDGED": judged, "RECORDED": every > 0, "AIMED": len(aims) > 0}
    with current(inputs.device):
        kernel[(-(-runs // LANES),)](
            inputs, outputs, records, aims, hits, sizes, **switches, LANES=LANES, num_warps=WARPS
        )
    value, best, bad_step, bad_value, *points = outputs.cpu().numpy()
    kept = records.cpu().numpy()
    return engine.Sweep(
        values=value,
        points=np.stack(points, 1),
        best=best,
        bad_step=bad_step.astype(np.int64),
        bad_values=bad_value,
        recorded_values=kept[:, 0],
        recorded_points=kept[:, 1:].transpose(0, 2, 1),
        hits=hits.cpu().numpy().T.astype(np.int64),
    )
