"""Cross-entropy by a CPU kernel: one reading of the logits makes the loss and, if wanted, the gradient."""

from __future__ import annotations

import functools
from string import Template
from typing import Any

import torch
from torch import Tensor

from ..executors import generate
from ..executors.kernels import SINGLE_AND_DOUBLE
from ..executors.sources import storage
from . import memory
from .cpu import HEAD, STAGES, math_source, run
from .cross_entropy_columns import COLUMNS
from .cross_entropy_source import COMMON, MIXTURES, ROWS

#: elements of a piece, about; the longest rows whose exponentials are taken together, and the fewest columns
PIECE, TOGETHER, FEWEST_COLUMNS = 4096, 64, 256

#: what is asked of a block of rows
MEAN, SUM, EACH, GRADIENT_OF_MEAN, GRADIENT = range(5)


def loss(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The mean or the sum of the losses and, if wanted, its gradient.

    logits: ``(rows, classes, ...)``; target: int64 class indices ``(rows, ...)``, or of ``(rows, classes)`` logits as
    many probabilities; weight: of the classes.
    """
    value, out = logits.new_empty(()), memory.fresh(logits) if wanted else None
    run_kernel(MEAN if mean else SUM, logits, target, weight, ignore_index, smoothing, value, out)
    return value, out


def each(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float) -> Tensor:
    """The loss of every row, or of every position."""
    losses = logits.new_empty((len(logits), *logits.shape[2:]))
    run_kernel(EACH, logits, target, weight, ignore_index, smoothing, losses, None)
    return losses


def gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, upstream
) -> Tensor:
    """The gradient of the mean or the sum, or of the rows or positions, for as many upstream gradients."""
    out = memory.fresh(logits)
    what, scale, by_row = GRADIENT_OF_MEAN if mean else GRADIENT, 1.0, None
    if upstream.dim():
        by_row = upstream.contiguous()
    else:
        scale = upstream.item()
    run_kernel(what, logits, target, weight, ignore_index, smoothing, None, out, scale, by_row)
    return out


def run_kernel(what, logits, target, weight, ignore_index, smoothing, value, out, scale=1.0, upstream=None) -> None:
    """Writes losses or their mean or sum to `value`, and the gradient times `scale` and `upstream` to `out`.

    Raises IndexError, with the value, for a target that is no class.
    """
    classes, apart, rows = logits.size(1), 1, target.numel()
    short = False
    if target.dtype != torch.int64:
        source, rows = MIXTURES, len(logits)
    elif logits.dim() > 2:
        source, apart = COLUMNS, logits[0, 0].numel()
    else:
        source, short = ROWS, classes <= TOGETHER and logits.dtype in SINGLE_AND_DOUBLE
    if short and out is None:  # short rows are worked in place, whether somebody wants the result or not
        out = torch.empty_like(logits)
    words: tuple[int, ...] = (
        what,
        classes,
        ignore_index,
        logits.data_ptr(),
        target.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if value is None else value.data_ptr(),
        0 if out is None else out.data_ptr(),
        0 if upstream is None else upstream.data_ptr(),
    )
    scratch, piece = 2 * rows if short else 0, max(1, PIECE // classes)
    if source is COLUMNS:
        words, scratch, piece = (*words, apart), 3 * rows, max(FEWEST_COLUMNS, piece)
    numbers = (scale, smoothing, 0.0, 0.0, 0.0)
    block = _block(source, logits.dtype, classes if short else 0)
    bad = run(block, words, numbers, rows, piece, classes, 1, scratch)
    if bad:
        raise IndexError(f"Target {int(target.flatten()[bad - 1])} is out of bounds.")


@functools.cache
def _block(source: str, dtype: torch.dtype, classes: int) -> Any:
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
        "TOGETHER": str(bool(classes)),
        "IN_PLACE": str(kind in ("float32", "float64")),
    }
    text = Template(HEAD + COMMON + source).substitute(names)
    return generate.load(text, "cross_entropy", math_source(), *generate.numba_ingredients()).block
