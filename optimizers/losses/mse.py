"""Mean squared error: how far predictions are from what was measured.

    error_i = (input_i - target_i)²            mean = (1/n) Σ error_i,   sum = Σ error_i
    ∂ mean / ∂ input_i = 2 (input_i - target_i) / n

Squaring makes large errors count more than small ones and gives a gradient that shrinks as the prediction comes closer,
so gradient descent slows down by itself near the target. Its minimiser is the mean (Legendre 1805, Gauss 1809).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

REDUCTIONS = ("none", "mean", "sum")


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error of `input` against `target`, as `torch.nn.functional.mse_loss` gives it.

    Args:
        input: predictions, any shape, floating point.
        target: what they should be, the shape of `input`.
        size_average, reduce: deprecated in torch; use `reduction`.
        reduction: "mean" and "sum" give a scalar, "none" the squared error of each element.
        weight: how much each element counts, the shape of `input`; "mean" then divides by the sum of the weights.

    Returns:
        A tensor of the promoted dtype of `input` and `target`. The mean over no elements is nan.

    Raises:
        ValueError: an unknown `reduction`, or a `weight` of another shape.
        RuntimeError: shapes that do not broadcast. If they differ but broadcast, torch's warning is given.
        NotImplementedError: integers, booleans or complex numbers.
    """
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=2,
        )
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    _check_reduction(reduction)
    input, target = torch.broadcast_tensors(input, target)
    if weight is not None and weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    dtype = torch.promote_types(input.dtype, target.dtype)
    if not dtype.is_floating_point:
        raise NotImplementedError(
            f"mse_loss needs real floating-point tensors, not {dtype}; convert them with .float()"
        )
    errors = (input - target).square()
    if weight is not None:
        errors = errors * weight
    if reduction == "none":
        return errors
    if reduction == "sum":
        return errors.sum()
    return errors.mean() if weight is None else errors.sum() / weight.sum()


class MSELoss(nn.Module):
    """Mean squared error as a module; arguments, shapes and errors are those of `torch.nn.MSELoss` and of `mse_loss`.

    Example: four steps against the gradient, each of which makes the error smaller::

        >>> loss = MSELoss()
        >>> target = torch.tensor([1.0, 2.0])
        >>> prediction = torch.zeros(2, requires_grad=True)
        >>> for _ in range(4):
        ...     error = loss(prediction, target)
        ...     (gradient,) = torch.autograd.grad(error, prediction)
        ...     prediction = (prediction - 0.25 * gradient).detach().requires_grad_()
        ...     print(f"{error:.4f}")
        2.5000
        1.4062
        0.7910
        0.4449
    """

    __constants__ = ["reduction"]  # noqa: RUF012 - torch.jit reads this name

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = _legacy_reduction(size_average, reduce) if legacy else reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, reduction=self.reduction)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction; choose one of {', '.join(REDUCTIONS)}")


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """What torch's two old flags, True unless given, mean as a `reduction`."""
    if reduce is False:
        reduction = "none"
    else:
        reduction = "sum" if size_average is False else "mean"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.", stacklevel=3
    )
    return reduction
