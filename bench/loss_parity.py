"""Verify: does every loss of ours, and its gradient, agree with torch in float64?

One cell is one loss on one device; one row is one dtype and reduction. The reference is torch's function (or the
formula, see `bench.losses`) in float64, fed the same numbers; its error in the dtype itself stands beside ours. The
gradient is taken with an upstream gradient that is not 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.losses import LOSSES, Array, Function, Loss, draw, tensors
from bench.ulp import rounded, ulp

KIND = "loss_parity"
EXPECTED_SECONDS_PER_DTYPE = 0.6  # nearly all of it the compiler's, the first time

UPSTREAM = 0.6875  # no power of two, and every dtype holds it

# In units in the last place. The exponential of x has x times the relative error of x, and exponents here reach 80.
# Half types are worked in float32 and rounded once; the gradient once more, when it meets the upstream gradient.
BOUNDS = {"float64": 64.0, "float32": 64.0, "bfloat16": 1.5, "float16": 1.5}
ABOVE_TORCH = 1.25  # what is as ill-conditioned for torch as for us ends near torch's error, on either side
# An exponential below the smallest normal number may be 0, as on most GPUs; here it is multiplied by up to 13. float16
# has no such floor, for it is worked in float32.
FLOOR = {"float64": 2.0**-1018, "float32": 2.0**-122, "bfloat16": 2.0**-122, "float16": 0.0}
WORDS = "at most {bound:g} ulp, or 1.25 times torch's own error in this dtype where that is larger"


class Errors(NamedTuple):
    """The largest error of the value and of the gradient, in units in the last place."""

    value: float
    gradient: float


def cells(budget: Budget, device: str, losses: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each loss; `problems` has no meaning here. Losses that a budget names are all that it verifies."""
    return [
        Cell(
            KIND,
            device,
            name,
            {"name": "verify", "dtypes": dtypes, "seed": seed},
            EXPECTED_SECONDS_PER_DTYPE * len(dtypes),
        )
        for name in losses
        for dtypes in [[dtype for dtype in budget.loss_dtypes if dtype in LOSSES[name].dtypes]]
    ]


def run(cell: Cell) -> Outcome:
    """Verify one loss; the outcome is wrong if any row is."""
    loss = LOSSES[cell.optimizer]
    rows = [
        verify(loss, dtype, reduction, cell.device, cell.settings["seed"])
        for dtype in cell.settings["dtypes"]
        for reduction in loss.reductions
    ]
    wrong = [row for row in rows if row["status"] != Status.OK]
    reason = f"{len(wrong)} of {len(rows)} rows; first: {wrong[0]['reason']}" if wrong else ""
    return Outcome(rows, Status.WRONG if wrong else Status.OK, reason)


def verify(loss: Loss, dtype: str, reduction: str, device: str, seed: int) -> dict[str, Any]:
    """The row of one loss, dtype and reduction, over all its shapes."""
    ours, torchs, executors = [], [], set()
    raised, elements = "", 0
    for shape in loss.verified_shapes:
        drawn = draw(loss, shape, dtype, seed)
        elements += math.prod(shape)
        exact = value_and_gradient(loss, loss.reference, reduction, drawn, "float64", device)
        torchs.append(errors(loss, drawn, dtype, exact, loss.reference, reduction, device))
        try:
            ours.append(errors(loss, drawn, dtype, exact, loss.function, reduction, device))
            executors.add(executor(loss, reduction, drawn, dtype, device))
        except Exception as error:  # whatever ours raises is its result
            raised = f"{type(error).__name__}: {error}"
    row = {
        "loss": loss.name,
        "reduction": reduction,
        "device": device,
        "dtype": dtype,
        "executor": " and ".join(sorted(executors)),
        "elements": elements,
        "against": loss.against,
        "unit": unit_in_words(loss),
        "tolerance": WORDS.format(bound=BOUNDS[dtype]),
    }
    if raised:
        return row | {"status": Status.ERROR.value, "reason": raised}
    return row | judge(worst(ours), worst(torchs), dtype)


def value_and_gradient(
    loss: Loss, function: Function, reduction: str, drawn: tuple[Array, Array], dtype: str, device: str
) -> tuple[Tensor, Tensor]:
    """The loss, with its graph, and its gradient, in `dtype`."""
    input, target = tensors(loss, drawn, dtype, device)
    value = function(input, target, reduction=reduction)
    (gradient,) = torch.autograd.grad(value, input, torch.full_like(value, UPSTREAM), retain_graph=True)
    return value, gradient


def executor(loss: Loss, reduction: str, drawn: tuple[Array, Array], dtype: str, device: str) -> str:
    """The device's name where one of our kernels made the value, "eager" where plain torch did."""
    input, target = tensors(loss, drawn, dtype, device)
    return ran_on(loss.function(input, target, reduction=reduction))


def ran_on(value: Tensor) -> str:
    """The device's name if the graph of `value` holds the autograd function of our kernels, else "eager"."""
    nodes = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            if node.name().startswith("_Fused"):
                return value.device.type
            nodes += [before for before, _ in node.next_functions]
    return "eager"


def errors(
    loss: Loss,
    drawn: tuple[Array, Array],
    dtype: str,
    exact: tuple[Tensor, Tensor],
    function: Function,
    reduction: str,
    device: str,
) -> Errors:
    """How far a function in `dtype` is from the exact value and gradient."""
    found = value_and_gradient(loss, function, reduction, drawn, dtype, device)
    value, gradient = ((as_array(a), as_array(b)) for a, b in zip(found, exact, strict=True))
    return Errors(
        distance(*value, dtype, np.full(value[0].shape, "value" in loss.cancels)),
        distance(*gradient, dtype, cancelled(loss, drawn, gradient[0].shape)),
    )


def as_array(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def cancelled(loss: Loss, drawn: tuple[Array, Array], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which elements of the gradient are differences of larger numbers."""
    if "hits" not in loss.cancels:
        return np.full(shape, "gradient" in loss.cancels)
    target = drawn[1]
    if not loss.of_classes:
        return target != 0
    return np.arange(shape[1]) == target[:, None]


def distance(found: Array, exact: Array, dtype: str, cancels: NDArray[np.bool_]) -> float:
    """The largest |found - exact| in units in the last place of the exact number.

    Where `cancels`, in those of the largest number of the tensor; a unit is at least the `FLOOR`. What overflows in
    `dtype` has to overflow.
    """
    magnitude = np.abs(exact)
    unit = np.maximum(ulp(np.where(cancels, magnitude.max(), magnitude), dtype), FLOOR[dtype])
    same = found == rounded(exact, dtype)
    with np.errstate(invalid="ignore"):
        off = np.where(
            same, np.where(np.isfinite(found), np.abs(found - exact), 0.0) / unit, np.abs(found - exact) / unit
        )
    return float(off.max()) if not np.isnan(off).any() else math.nan


def worst(measured: list[Errors]) -> Errors:
    """The larger of each over all shapes; nan is the largest of all."""
    return Errors(
        *(max(column, key=lambda error: (math.isnan(error), error)) for column in zip(*measured, strict=True))
    )


def judge(ours: Errors, torchs: Errors, dtype: str) -> dict[str, Any]:
    """The numbers of a row, and whether ours are within tolerance; a torch that overflowed allows nothing."""
    reasons = []
    for what, mine, theirs in zip(Errors._fields, ours, torchs, strict=True):
        limit = max(BOUNDS[dtype], ABOVE_TORCH * theirs if math.isfinite(theirs) else 0.0)
        if not mine <= limit:
            reasons.append(f"the {what} is off by {mine:.3g} ulp, torch's by {theirs:.3g}")
    return {
        "value_ulp": ours.value,
        "gradient_ulp": ours.gradient,
        "torch_value_ulp": torchs.value,
        "torch_gradient_ulp": torchs.gradient,
        "status": (Status.WRONG if reasons else Status.OK).value,
        "reason": "; ".join(reasons),
    }


def unit_in_words(loss: Loss) -> str:
    """Of what the last place counts."""
    said = []
    if "value" in loss.cancels:
        said.append("of the largest value")
    if "gradient" in loss.cancels:
        said.append("of the largest gradient")
    if "hits" in loss.cancels:
        said.append("of the largest gradient where the target is " + ("the class" if loss.of_classes else "not 0"))
    return ", ".join(["ulp of each number", *said]) if said else "ulp of each number"
