"""Cross-entropy by a CPU kernel: one reading of the logits makes the loss and, if wanted, the gradient."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..executors import generate
from ..executors.kernels import SINGLE_AND_DOUBLE
from ..executors.sources import definition, storage
from . import memory
from .cpu import HEAD, STAGES, Job
from .cross_entropy_columns import COLUMNS
from .cross_entropy_source import COMMON, MIXTURES, ROWS, TARGETS
from .fused import MOST_SIZES

if TYPE_CHECKING:
    from .rows import OfRow

#: elements of a piece, about; the longest rows whose exponentials are taken together, and the fewest columns
PIECE, TOGETHER, FEWEST_COLUMNS = 4096, 64, 256
#: up to so many classes in at least so many rows are worth a kernel of their own, whose loops over them are unrolled;
#: with more of them it is slower, and compiling it takes a second or two
UNROLLED, MANY = 8, 256

#: what is asked of a block of rows
MEAN, SUM, EACH, GRADIENT_OF_MEAN, GRADIENT = range(5)


class Loss:
    """The mean or the sum of the losses and, if wanted, its gradient, of logits and targets of one shape and dtype.

    of_row, constants: what is made of each row's cross-entropy, if anything.

    logits: ``(rows, classes, ...)``; target: int64 class indices ``(rows, ...)``, or of ``(rows, classes)`` logits as
    many probabilities; weight: of the classes. Raises IndexError, with the value, for a target that is no class.
    """

    def __init__(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        target_dtype: torch.dtype,
        ignore_index: int,
        smoothing: float,
        mean: bool,
        of_row: OfRow | None = None,
        constants: tuple[float, ...] = (),
    ):
        what = MEAN if mean else SUM
        self.job = _job(what, shape, dtype, target_dtype, ignore_index, smoothing, of_row, constants)
        self.together = _together(shape, dtype, target_dtype)
        self.like = torch.empty((), dtype=dtype)
        self.large = shape.numel() * dtype.itemsize >= memory.ASK_FROM

    def forward(
        self, tensors: tuple[Tensor, Tensor, Tensor | None], wanted: Sequence[bool]
    ) -> tuple[Tensor, tuple[Tensor | None, None, None]]:
        logits, target, weight = tensors
        value, out = torch.empty_like(self.like), None
        if wanted[0]:
            out = memory.fresh(logits) if self.large else torch.empty_like(logits)
        elif self.together:
            out = torch.empty_like(logits)
        bad = self.job(
            1.0,
            logits.data_ptr(),
            target.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            value.data_ptr(),
            0 if out is None else out.data_ptr(),
            0,
        )
        if bad:
            _refuse(target, bad)
        return value, (out, None, None)


def each(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, *of_row: Any
) -> Tensor:
    """The loss of every row, or of every position."""
    losses = logits.new_empty((len(logits), *logits.shape[2:]))
    run_kernel(EACH, logits, target, weight, ignore_index, smoothing, losses, None, 1.0, None, *of_row)
    return losses


def gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    mean: bool,
    upstream: Tensor,
    *of_row: Any,
) -> Tensor:
    """The gradient of the mean or the sum, or of the rows or positions, for as many upstream gradients."""
    out = memory.fresh(logits)
    what, scale, by_row = GRADIENT_OF_MEAN if mean else GRADIENT, 1.0, None
    if upstream.dim():
        by_row = upstream.contiguous()
    else:
        scale = upstream.item()
    run_kernel(what, logits, target, weight, ignore_index, smoothing, None, out, scale, by_row, *of_row)
    return out


def run_kernel(
    what,
    logits,
    target,
    weight,
    ignore_index,
    smoothing,
    value,
    out,
    scale=1.0,
    upstream=None,
    of_row=None,
    constants=(),
) -> None:
    """Writes losses or their mean or sum to `value`, and the gradient times `scale` and `upstream` to `out`.

    Raises IndexError, with the value, for a target that is no class.
    """
    job = _job(what, logits.shape, logits.dtype, target.dtype, ignore_index, smoothing, of_row, constants)
    if out is None and _together(logits.shape, logits.dtype, target.dtype):
        out = torch.empty_like(logits)  # they are worked in place, whether somebody wants the result or not
    bad = job(
        scale,
        logits.data_ptr(),
        target.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if value is None else value.data_ptr(),
        0 if out is None else out.data_ptr(),
        0 if upstream is None else upstream.data_ptr(),
    )
    if bad:
        _refuse(target, bad)


def _refuse(target: Tensor, row: int) -> None:
    """Rows are counted from 1."""
    raise IndexError(f"Target {int(target.flatten()[row - 1])} is out of bounds.")


def _together(shape: torch.Size, dtype: torch.dtype, target_dtype: torch.dtype) -> bool:
    """Whether rows are so short that their exponentials are taken together."""
    return len(shape) == 2 and shape[1] <= TOGETHER and dtype in SINGLE_AND_DOUBLE and target_dtype == torch.int64


@functools.lru_cache(MOST_SIZES)
def _job(
    what: int,
    shape: torch.Size,
    dtype: torch.dtype,
    target_dtype: torch.dtype,
    ignore_index: int,
    smoothing: float,
    of_row: OfRow | None,
    constants: tuple[float, ...],
) -> Job:
    rows, classes = shape[:2]
    apart = shape[2:].numel()
    piece, after = max(1, PIECE // classes), []
    short = _together(shape, dtype, target_dtype)
    scratch = 2 * rows if short else 0
    if target_dtype != torch.int64:
        source = MIXTURES
    elif len(shape) > 2:
        source, rows, scratch, after = COLUMNS, rows * apart, 3 * rows * apart, [apart]
        piece = max(FEWEST_COLUMNS, piece)
    else:
        source = ROWS
    fixed = classes if short and classes <= UNROLLED and rows >= MANY else 0
    block = _block(source, dtype, short, fixed, of_row, len(constants))
    # after the smoothing, places for what the block itself writes
    numbers, before = (smoothing, 0.0, 0.0, 0.0, *constants), (what, classes, ignore_index)
    return Job(block, rows, piece, classes, numbers=numbers, before=before, pointers=6, after=after, scratch=scratch)


@functools.cache
def _block(
    source: str, dtype: torch.dtype, together: bool, classes: int, of_row: OfRow | None = None, constants: int = 0
) -> Any:
    """The compiled block for one dtype of logits and one small number of classes, or 0 for any."""
    kind = generate.name(dtype)
    double = kind == "float64"
    names = storage(kind) | STAGES
    names |= {name: str(globals()[name]) for name in "MEAN SUM EACH GRADIENT_OF_MEAN GRADIENT".split()}
    names |= {
        "SIGNED": "int64" if double else "int32",
        "BITS": "bits_of_float64" if double else "bits_of_float32",
        "UNSIGNED": "uint64" if double else "uint32",
        "OF_BITS": "float64_of_bits" if double else "float32_of_bits",
        "LARGEST": str(2**63 - 1 if double else 2**31 - 1),
        "SIGN_SHIFT": "63" if double else "31",
        "CLASSES": str(classes or "word(args, 2)"),
        "TOGETHER": str(together),
        "IN_PLACE": str(kind in ("float32", "float64")),
    }
    text = Template(HEAD + TARGETS + COMMON + source).substitute(names | _of_row(of_row, constants))
    return generate.load(text, "cross_entropy", *generate.numba_ingredients()).block


def _of_row(of_row: OfRow | None, constants: int) -> dict[str, str]:
    """The texts of what is made of the cross-entropy of each row, in float64."""
    numbers = "".join(f", get_float64(numbers, {5 + i})" for i in range(constants))
    if of_row is None:
        return {"NEEDED": "False", "OF_ROW": "", "MADE": "", "SLOPES": "", "PULL": ""}
    functions = {"row_value": of_row.value, "row_slope": of_row.slope, "row_pull": of_row.pull}
    texts = [f"@traced\n{definition(f, name)}" for name, f in functions.items() if f is not None]
    call = f"(nll, lse{numbers})"
    return {
        "NEEDED": "True",
        "OF_ROW": "\n\n".join(texts),
        "MADE": f"nll, loss = loss, row_value(loss, lse{numbers})",
        "SLOPES": f"here, pull = here * row_slope{call}, " + (f"here * row_pull{call}" if of_row.pull else "0.0"),
        "PULL": "factor += pull" if of_row.pull else "",
    }
