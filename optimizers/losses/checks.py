"""What losses ask of their arguments, and the words in which they refuse."""

from __future__ import annotations

import torch
from torch import Tensor

from ..executors import kernels
from .fused import REDUCTIONS


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction; choose one of {', '.join(REDUCTIONS)}")


def check_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, and is {value}")


def check_floating(input: Tensor, name: str = "input") -> None:
    if not input.is_floating_point():
        raise TypeError(f"{name} must be floating point, and is {input.dtype}; convert it with .float()")


def check_one_shape(a: Tensor, b: Tensor, names: tuple[str, str] = ("input", "target")) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one shape, and have {tuple(a.shape)} and {tuple(b.shape)}; "
            "expand one of them first if broadcasting is meant"
        )


def check_classes(input: Tensor, target: Tensor) -> None:
    """Whether logits are (C,) or (N, C, ...) and the target class indices of the same shape without C."""
    check_floating(input)
    if input.dim() == 0:
        raise ValueError("input must have a dimension of classes, (C,) or (N, C, ...), and has none")
    if target.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"target must be class indices, int64, and is {target.dtype}; convert it with .long()")
    needed = input.shape[:1] + input.shape[2:] if input.dim() > 1 else torch.Size()
    if target.shape != needed:
        raise ValueError(
            f"input of shape {tuple(input.shape)} needs class indices of shape {tuple(needed)}, "
            f"and target has {tuple(target.shape)}; the classes are dimension {class_dim(input)} of input"
        )


def class_dim(input: Tensor) -> int:
    return min(input.dim() - 1, 1)


def positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, and is {value}")
    return value


def not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, and is {value}")
    return value


def between(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, and is {value}")
    return value


def working(input: Tensor) -> torch.dtype:
    """The dtype in which a loss is worked: float32 for half precision, which is rounded once, at the end."""
    return torch.float32 if input.dtype in kernels.HALF else input.dtype
