"""The small language that rules and coefficients are written in, as plain torch and plain Python.

A rule may use ``+ - * / **``, comparisons inside `where`, ``is None`` for state it does not keep, and the
functions below. Here they take tensors or Python numbers; the compiled executors bring their own versions
of the same names (`executors.llvm_dialect`, `executors.numba_dialect`, `executors.triton_dialect`). What depends on
numbers is chosen by `where` alone: a rule is compiled by being called, so that no `if` can ask about them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def sqrt(x: Any) -> Any:
    """Square root; nan for negative numbers, as the processor does."""
    if isinstance(x, Tensor):
        return x.sqrt()
    return math.sqrt(x) if x >= 0 else math.nan


def exp(x: Any) -> Any:
    """e to the power of `x`."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


def exp_negative(x: Any) -> Any:
    """`exp` of what is not positive, which takes a compiled kernel half the time."""
    return exp(x)


def expm1(x: Any) -> Any:
    """``exp(x) - 1``, exact near 0."""
    return x.expm1() if isinstance(x, Tensor) else math.expm1(x)


def log(x: Any) -> Any:
    """The natural logarithm; -inf at 0."""
    if isinstance(x, Tensor):
        return x.log()
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


def log1p(x: Any) -> Any:
    """``log(1 + x)``, exact near 0; -inf at -1."""
    if isinstance(x, Tensor):
        return x.log1p()
    return math.log1p(x) if x > -1 else -math.inf if x == -1 else math.nan


def log1p_unit(x: Any) -> Any:
    """`log1p` of what lies in [0, 1], which takes a compiled kernel a third of the time."""
    return log1p(x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return x.tanh() if isinstance(x, Tensor) else math.tanh(x)


def softplus(x: Any) -> Any:
    """``log(1 + exp(x))``, which does not overflow, and whose derivatives autograd has right at 0 too."""
    if isinstance(x, Tensor):
        return -torch.nn.functional.logsigmoid(-x)
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def absolute(x: Any) -> Any:
    """Absolute value."""
    return abs(x)


def sign(x: Any) -> Any:
    """-1, 0 or 1; 0 for nan, as `torch.sign`."""
    if isinstance(x, Tensor):
        return x.sign()
    return (x > 0) - (x < 0)


def maximum(x: Any, y: Any) -> Any:
    """The larger one; nan if either is nan."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.maximum(x, y)
    if isinstance(x, Tensor):
        return x.clamp(min=y)
    if isinstance(y, Tensor):
        return y.clamp(min=x)
    return x if x >= y or x != x else y


def minimum(x: Any, y: Any) -> Any:
    """The smaller one; nan if either is nan."""
    return -maximum(-x, -y)


def lerp(x: Any, y: Any, weight: Any) -> Any:
    """From `x` towards `y` by a share of the way, exact at both ends."""
    return torch.lerp(x, y, weight.to(x.dtype) if isinstance(weight, Tensor) else weight)


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`; a condition over coefficients alone chooses once for all."""
    if isinstance(condition, Tensor):
        return torch.where(condition, x, y)
    return x if condition else y
