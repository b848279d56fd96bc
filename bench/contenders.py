"""Who competes: our optimizers and each way in which torch runs its own."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch

TORCH_MODES = ("loop", "foreach", "fused")  # "the best of torch" is the fastest of these
CONTENDERS = ("ours", *TORCH_MODES, "compiled")
YOURS = "yours"  # the one contender for a class of the user's own
NULLS = ("stands still", "sign flipped", "to the origin")  # they race too, and optimize nothing


class Takes(StrEnum):
    """What an optimizer can step, so what it can be measured on."""

    TENSORS = "dense tensors"
    MATRICES = "matrices only"
    SPARSE = "sparse gradients only"
    CLOSURE = "a closure that evaluates the loss"


@dataclass(frozen=True)
class Traits:
    """What an optimizer needs, and which ways there are to run it."""

    takes: Takes = Takes.TENSORS
    foreach: bool = True  # torch has it, and takes the keyword
    fused: bool = False  # the same
    eager: Mapping[str, Any] | None = field(default_factory=lambda: {"foreach": False})  # makes ours plain torch
    kernels: tuple[str, ...] = ("cpu", "cuda")  # where ours has kernels; elsewhere ours is plain torch
    half_kernels: bool = True  # they take bfloat16 and float16 too
    timed_with: Mapping[str, Any] = field(default_factory=dict)  # beside its defaults
    apart: bool = False  # whether its runs may not share a step, because it may look at more than one parameter
    own: type | None = None  # the user's class, which stands in the place of ours
    place: str = ""  # where that one was asked for, as ``lion.py:Lion``
    source: str = ""  # a hash of its source


TRAITS: dict[str, Traits] = {
    "SGD": Traits(fused=True, timed_with={"momentum": 0.9}),
    "Adam": Traits(fused=True),
    "AdamW": Traits(fused=True),
    "Adamax": Traits(),
    "NAdam": Traits(),
    "RAdam": Traits(),
    "Adagrad": Traits(fused=True),
    "Adadelta": Traits(),
    "RMSprop": Traits(timed_with={"momentum": 0.9}),
    "Rprop": Traits(),
    "ASGD": Traits(),
    "Adafactor": Traits(kernels=("cpu",), half_kernels=False),
    "Muon": Traits(Takes.MATRICES, foreach=False, eager={"fused": False}),
    "SparseAdam": Traits(Takes.SPARSE, foreach=False, eager=None, kernels=("cpu",)),
    # Timed with an lr so small that it does not arrive meanwhile: then there would be nothing left to do.
    "LBFGS": Traits(
        Takes.CLOSURE,
        foreach=False,
        eager=None,
        kernels=("cpu",),
        half_kernels=False,
        timed_with={"lr": 1e-3, "max_iter": 4},
    ),
}
OPTIMIZERS = tuple(TRAITS)  # the user's own come into the table later, see `bench.own`


def class_of(optimizer: str) -> type:
    """Our class of that name, or the user's."""
    own = TRAITS.get(optimizer, Traits()).own
    return own or getattr(importlib.import_module("optimizers"), optimizer)


def unavailable(contender: str, optimizer: str, device: str) -> str:
    """Why ``contender`` cannot step ``optimizer`` on ``device``; empty if it can."""
    traits = TRAITS.get(optimizer, Traits())
    if contender == YOURS:
        return ""
    if contender == "ours":
        ours = importlib.import_module("optimizers")
        return "" if hasattr(ours, optimizer) else f"our library has no {optimizer}"
    if not hasattr(torch.optim, optimizer):
        return f"torch has no {optimizer}"
    if contender == "fused" and not traits.fused:
        return f"torch has no fused {optimizer} on {device}"
    if contender == "foreach" and not traits.foreach:
        return f"torch has no foreach {optimizer}"
    if contender == "compiled" and not traits.foreach:
        return f"torch.compile is timed on foreach steps, and torch has no foreach {optimizer}"
    return no_compiler(device) if contender == "compiled" else ""


def no_compiler(device: str) -> str:
    """Why torch.compile cannot work on this device; empty if it can."""
    if device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
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
    if contender in ("ours", YOURS):
        return class_of(optimizer)(params, **options)
    if contender not in CONTENDERS:
        raise ValueError(f"unknown contender {contender!r}; known are: {', '.join(CONTENDERS)}")
    traits = TRAITS.get(optimizer, Traits())
    mode: dict[str, bool] = {}
    if contender == "fused":
        mode["fused"] = True
    else:
        if traits.foreach:
            mode["foreach"] = contender in ("foreach", "compiled")
        if traits.fused:
            mode["fused"] = False
    built = getattr(torch.optim, optimizer)(params, **mode, **options)
    if contender == "compiled":
        # All optimizers share the code around `step`, and after eight versions of one code object torch would give up
        # and run it uncompiled without a word; so what was compiled for earlier cells is forgotten.
        torch.compiler.reset()
        built.step = torch.compile(built.step)
    return built
