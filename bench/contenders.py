"""Who competes: our optimizers and each way in which torch runs its own."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch

OPTIMIZERS = (
    "SGD",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "Adagrad",
    "Adadelta",
    "RMSprop",
    "Rprop",
    "ASGD",
)

TORCH_MODES = ("loop", "foreach", "fused")  # "the best of torch" is the fastest of these
CONTENDERS = ("ours", *TORCH_MODES, "compiled")

TIMING_OPTIONS: dict[str, dict[str, Any]] = {name: {} for name in OPTIMIZERS}
TIMING_OPTIONS["SGD"] = {"momentum": 0.9}
TIMING_OPTIONS["RMSprop"] = {"momentum": 0.9}

# What torch has a fused kernel for; every other optimizer does not even take the keyword.
FUSED_IN_TORCH = {device: frozenset({"SGD", "Adam", "AdamW", "Adagrad"}) for device in ("cpu", "cuda")}
_TAKES_FUSED = frozenset().union(*FUSED_IN_TORCH.values())


def unavailable(contender: str, optimizer: str, device: str) -> str:
    """Why ``contender`` cannot step ``optimizer`` on ``device``; empty if it can."""
    if contender == "ours":
        ours = importlib.import_module("optimizers")
        return "" if hasattr(ours, optimizer) else f"our library has no {optimizer}"
    if not hasattr(torch.optim, optimizer):
        return f"torch has no {optimizer}"
    if contender == "fused" and optimizer not in FUSED_IN_TORCH.get(device, frozenset()):
        return f"torch has no fused {optimizer} on {device}"
    if contender == "compiled" and device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        return "torch.compile needs a C++ compiler and none was found; install g++ or set CXX"
    return ""


def fallback(optimizer: Any) -> str:
    """Why an optimizer of ours, after its first step, is not run by a kernel; empty if every tensor is."""
    executors = optimizer.executors()
    reasons = [reason for _, executor, reason in executors if executor == "eager"]
    if not reasons:
        return ""
    return f"{len(reasons)} of {len(executors)} tensors would be stepped by the eager fallback: {reasons[0]}"


def build(
    contender: str, optimizer: str, params: Iterable[torch.Tensor] | Iterable[dict[str, Any]], **options: Any
) -> torch.optim.Optimizer:
    """The optimizer ``optimizer`` over ``params``, run the way ``contender`` names.

    The `step` of "compiled" is torch.compile'd and compiles in its first calls; it is torch's foreach version,
    because that is the one torch.compile turns into few kernels.
    """
    if contender == "ours":
        return getattr(importlib.import_module("optimizers"), optimizer)(params, **options)
    if contender not in CONTENDERS:
        raise ValueError(f"unknown contender {contender!r}; known are: {', '.join(CONTENDERS)}")
    mode: dict[str, bool] = {"foreach": contender in ("foreach", "compiled")}
    if contender == "fused":
        mode = {"fused": True}
    elif optimizer in _TAKES_FUSED:
        mode["fused"] = False
    built = getattr(torch.optim, optimizer)(params, **mode, **options)
    if contender == "compiled":
        # All optimizers share the code around `step`, and after eight versions of one code object torch would give up
        # and run it uncompiled without a word; so what was compiled for earlier cells is forgotten.
        torch.compiler.reset()
        built.step = torch.compile(built.step)
    return built
