"""What a parameter group may hold: the range of each option, by torch's name for it, and keys that look misspelt."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .executors.tensors import PLAIN_TYPES

#: what a scheduler may leave of a zero: -1e-20 in a checkpoint is no reason to refuse it
_ROUNDING = 1e-12


class Range(NamedTuple):
    """The numbers an option takes: in words, and as a test."""

    words: str
    holds: Callable[[float], bool]


_AMOUNT = Range("a finite number >= 0", lambda x: -_ROUNDING <= x < math.inf)
_SHARE = Range("a number >= 0 and < 1", lambda x: -_ROUNDING <= x < 1)
_FINITE = Range("a finite number", math.isfinite)
_NUMBER = Range("a number", lambda x: not math.isnan(x))
# an infinite limit is a way to say that there is none
_LIMIT = Range("a number >= 0", lambda x: x >= -_ROUNDING)

#: the range of an option, of all options in a tuple, or of each in turn; None stands for an option that is not set
Ranges = Mapping[str, Range | tuple[Range, ...]]

#: options that mean the same wherever they occur, in a rule of one's own too
COMMON: Ranges = {"lr": _AMOUNT, "weight_decay": _AMOUNT, "momentum": _AMOUNT, "eps": _AMOUNT, "betas": _SHARE}

#: options of one optimizer, by the name of torch's class
OWN: Mapping[str, Ranges] = {
    "ASGD": {"lambd": _AMOUNT, "alpha": _AMOUNT, "t0": _NUMBER},
    "Adadelta": {"rho": Range("a number >= 0 and <= 1", lambda x: -_ROUNDING <= x <= 1)},
    "Adafactor": {
        "beta2_decay": Range("a finite number <= 0", lambda x: -math.inf < x <= _ROUNDING),
        "d": Range("a number >= 1", lambda x: x >= 1),
    },
    "Adagrad": {"lr_decay": _AMOUNT, "initial_accumulator_value": _AMOUNT},
    "LBFGS": {
        "max_iter": _LIMIT,
        "max_eval": _LIMIT,
        "history_size": _LIMIT,
        "tolerance_grad": _NUMBER,  # below 0: never reached
        "tolerance_change": _NUMBER,
    },
    "Muon": {"ns_coefficients": _FINITE, "ns_steps": _AMOUNT},
    "NAdam": {"momentum_decay": _AMOUNT},
    "RMSprop": {"alpha": _AMOUNT},
    "Rprop": {
        "etas": (
            Range("a number > 0 and < 1", lambda x: 0 < x < 1),
            Range("a finite number > 1", lambda x: 1 < x < math.inf),
        ),
        "step_sizes": (_AMOUNT, _LIMIT),
    },
    "SGD": {"dampening": _FINITE},
}

#: what a group of some optimizer of torch's may hold: no misspelling of anything else
_VOCABULARY = {
    "params",
    "param_names",
    "foreach",
    "fused",
    "maximize",
    "capturable",
    "differentiable",
    "amsgrad",
    "centered",
    "nesterov",
    "decoupled_weight_decay",
    "adjust_lr_fn",
    "line_search_fn",
    *COMMON,
    *(name for ranges in OWN.values() for name in ranges),
}

#: how alike an unknown key and an option must be: `weigth_decay` is meant for one, `max_momentum` is not
_ALIKE = 0.86


UNORDERED = "optimizer parameters need to be organized in ordered collections, and a set has no order; give a list"


class ConstructorSignature:
    """The signature of a class whose `__init__` is inherited through one that only passes its arguments on."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        passing = next(cls for cls in owner.__mro__ if vars(cls).get("__signature__") is self)
        init = next(vars(cls)["__init__"] for cls in owner.__mro__ if cls is not passing and "__init__" in vars(cls))
        signature = inspect.signature(init)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def torch_class(cls: type) -> str:
    """The name of the class of torch's that an optimizer class derives from, or an empty string."""
    of_torch = [base.__name__ for base in cls.__mro__ if base.__module__.startswith("torch.optim")]
    return of_torch[0] if of_torch[0] != "Optimizer" else ""


def ranges_of(cls: type) -> Ranges:
    """The ranges of the options of an optimizer class."""
    return {**COMMON, **OWN.get(torch_class(cls), {})}


def check_values(cls: type, group: Mapping[str, Any], index: int) -> None:
    """Raises for an option of a group that no step could use: ValueError for a number, TypeError for anything else."""
    for label, x, wanted in _numbers(cls, group, index):
        if not wanted.holds(x):
            raise ValueError(f"{label} is {x}; give {wanted.words}")


def check_finite(cls: type, group: Mapping[str, Any], index: int) -> None:
    """Raises ValueError if an option has become NaN, or infinite where that has no meaning; the sign is not looked at.

    For the values of a step: they were in range when the group was made, and schedulers may round below zero since.
    """
    for label, x, wanted in _numbers(cls, group, index):
        if not (math.isfinite(x) or wanted.holds(x)):
            raise ValueError(f"{label} has become {x}; set it to {wanted.words} before the step")


def warn_of_misspelt_keys(keys: Iterable[str], known: Iterable[str], index: int) -> None:
    """Warns of each key that is no option but looks like one; other unknown keys are somebody else's."""
    known = {*known, "params", "param_names", "foreach", "fused"}
    for key in keys:
        if key in known or key in _VOCABULARY or not isinstance(key, str):
            continue
        if alike := difflib.get_close_matches(key.lower(), known, n=1, cutoff=_ALIKE):
            warnings.warn(
                f"parameter group {index} has {key!r}, which is no option and changes nothing; "
                f"if {alike[0]!r} is meant, rename it",
                stacklevel=5,
            )


def plain_numbers(group: dict[str, Any]) -> None:
    """Replaces NumPy scalars, which `torch.load` refuses with `weights_only`, by Python's numbers."""
    for key, value in group.items():
        if isinstance(value, np.generic):
            group[key] = value.item()


def _numbers(cls: type, group: Mapping[str, Any], index: int) -> Iterator[tuple[str, float, Range]]:
    """The numbers in a group: what to call each, its value and its range."""
    for key, allowed in ranges_of(cls).items():
        items = _items(group.get(key))
        for i, item in enumerate(items or [group.get(key)]):
            label = f"{key}[{i}] of parameter group {index}" if items else f"{key} of parameter group {index}"
            x = _read(item, label)
            if x is not None:
                yield label, x, allowed if isinstance(allowed, Range) else allowed[min(i, len(allowed) - 1)]


def _items(value: Any) -> list[Any]:
    """What the tuple of an option holds; nothing if it is a single value."""
    if isinstance(value, str | bytes | Tensor):
        return []
    try:
        return list(value)
    except TypeError:
        return []


def _read(value: Any, label: str) -> float | None:
    """A number as a float; None if it is not set, or not to be had without waiting for a device."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if type(value) not in PLAIN_TYPES or torch._C._functorch.is_functorch_wrapped_tensor(value):
            return None
        if value.numel() != 1:
            raise ValueError(f"{label} is a tensor of {value.numel()} elements; give a tensor of one")
        return float(value.detach().item()) if value.device.type == "cpu" and not value.is_complex() else None
    if not isinstance(value, str | bytes):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    raise TypeError(f"{label} is {value!r}, a {type(value).__name__}; give a number")
