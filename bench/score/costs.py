"""What an optimizer costs besides gradients: the time of a step, and the state it keeps."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch

from bench import contenders
from bench.contenders import OPTIMIZERS, TRAITS, Takes
from optimizers import Optimizer

PARAMETER_SET = "mlp"  # whose step stands for the others: every optimizer that races is timed on it
SHAPE = (64, 64)


def step_times(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Median µs of a step of ours, or of the user's, on `PARAMETER_SET` in float32, by optimizer and device."""
    return {
        (row["optimizer"], row["device"]): float(row["median_us"])
        for row in rows
        if row.get("contender") in ("ours", contenders.YOURS)
        and (row.get("parameter_set"), row.get("dtype")) == (PARAMETER_SET, "float32")
        and row.get("median_us") is not None
    }


@cache
def state_bytes(optimizer: str) -> float:
    """Bytes of state a parameter that `optimizer` keeps for a float32 matrix of 64 × 64, scalars left out.

    Of ours, as it declares it. nan for one that declares nothing, and for L-BFGS, whose state grows with its history.
    """
    if optimizer not in OPTIMIZERS or TRAITS[optimizer].takes is not Takes.TENSORS:
        return math.nan
    parameter = torch.zeros(SHAPE)
    built = contenders.build("ours", optimizer, [parameter])
    if not isinstance(built, Optimizer):
        return math.nan
    built.initialize(parameter, built.param_groups[0])
    kept = [value for value in built.state[parameter].values() if isinstance(value, torch.Tensor) and value.dim()]
    return sum(value.numel() * value.element_size() for value in kept) / parameter.numel()
