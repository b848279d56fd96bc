"""The CUDA kernels of cross-entropy over rows of logits: a row is read once if it fits into registers, or else twice.

Nothing waits for the device and no sum depends on the order in which programs run. As in `cuda`, the gradient is made
in the forward pass: 8 bytes a logit of float32 where a row fits (12 where not, less what the cache still has), and no
tensor of the logits' size besides it; saving a log-sum-exp for the backward pass would always take 12.

Of a row the largest logit m and the sum s of the exponentials of the others' distance to it are found, in which no
digits are lost however large the logits are; the loss is ``m + log s - x_t``, and the probabilities ``exp(x - m) / s``.
A target that is no class makes its row's loss and gradient nan, and is never used as an address.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..executors.cuda import current
from .cuda import ADDED, finished, keeps, real

#: the longest rows that are kept in registers, and the elements of a program otherwise
WHOLE, TILE = 16384, 4096
#: rows of a program at most, targets that are counted at once, and programs that count them
MOST_ROWS, COUNTED, COUNTERS = 256, 1024, 1024
assert COUNTERS <= ADDED


def loss(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The mean or the sum of the rows' losses and, if wanted, its gradient.

    logits: ``(rows, classes)``; target: int64 class indices ``(rows,)``; weight: of the classes.
    """
    out = torch.empty_like(logits) if wanted and keeps(logits) else None
    shares = _shares(logits, target, weight, ignore_index) if mean else None
    sums = logits.new_empty(_shape(*logits.shape)[0], dtype=torch.float64)
    _run(logits, target, weight, ignore_index, smoothing, shares=shares, sums=sums, out=out)
    return finished(sums, logits, shares=shares), out


def each(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float) -> Tensor:
    """The loss of every row."""
    losses = logits.new_empty(len(logits))
    _run(logits, target, weight, ignore_index, smoothing, losses=losses)
    return losses


def gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, upstream
) -> Tensor:
    """The gradient of the mean or the sum, or of the rows for as many upstream gradients."""
    out = torch.empty_like(logits)
    shares = _shares(logits, target, weight, ignore_index) if mean else None
    _run(logits, target, weight, ignore_index, smoothing, shares=shares, upstream=upstream.contiguous(), out=out)
    return out


def _shares(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What the mean is divided by, in at most `COUNTERS` parts, in float64."""
    rows, classes = logits.shape
    piece = COUNTED * max(1, triton.cdiv(rows, COUNTED * COUNTERS))
    shares = logits.new_empty(max(1, triton.cdiv(rows, piece)), dtype=torch.float64)
    with current(logits.device):
        _count[(len(shares),)](target, weight, shares, rows, classes, ignore_index, piece, BLOCK=COUNTED)
    return shares


def _shape(rows: int, classes: int) -> tuple[int, int, int, int]:
    """Programs, rows of each, classes of a block, and warps."""
    width = triton.next_power_of_2(max(1, classes))
    block = width if width <= WHOLE else TILE
    tall = min(max(1, TILE // block), MOST_ROWS)
    return triton.cdiv(rows, tall), tall, block, 16 if block > 8192 else 8


def _run(
    logits, target, weight, ignore_index, smoothing, shares=None, upstream=None, out=None, losses=None, sums=None
) -> None:
    rows, classes = logits.shape
    programs, tall, block, warps = _shape(rows, classes)
    with current(logits.device):
        _rows[(programs,)](
            logits,
            target,
            weight,
            shares,
            upstream,
            out,
            losses,
            sums,
            rows,
            classes,
            ignore_index,
            0 if shares is None else len(shares),
            smoothing,
            SMOOTH=smoothing > 0,
            EACH=upstream is not None and upstream.dim() > 0,
            REAL=real(logits),
            LEAST=torch.finfo(torch.float64 if logits.dtype == torch.float64 else torch.float32).min,
            ROWS=tall,
            BLOCK=block,
            WHOLE=block >= classes,
            PARTS=COUNTERS,
            num_warps=warps,
        )


@triton.jit(do_not_specialize=["rows", "classes", "ignored", "piece"])
def _count(target, weight, shares, rows, classes, ignored, piece, BLOCK: tl.constexpr):
    """Targets that are not ignored, or their weights."""
    start = tl.program_id(0).to(tl.int64) * piece
    total = tl.zeros((BLOCK,), tl.float64)
    for base in range(start, tl.minimum(start + piece, rows), BLOCK):
        at = base + tl.arange(0, BLOCK)
        t = tl.load(target + at, at < rows, other=0)
        live = (at < rows) & (t != ignored)
        if weight is None:
            total += live.to(tl.float64)
        else:
            total += tl.load(weight + t, live & (t >= 0) & (t < classes), other=0.0).to(tl.float64)
    tl.store(shares + tl.program_id(0), tl.sum(total))


@triton.jit
def _tile(logits, weight, start, begin, classes, live, REAL: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns, logits (-inf outside), whether inside, and weights (0 outside) of a block of classes of some rows."""
    column = begin + tl.arange(0, BLOCK)
    inside = live[:, None] & (column < classes)[None, :]
    x = tl.load(logits + (start[:, None] + column[None, :]), inside, other=float("-inf")).to(REAL)
    w = tl.zeros((1, BLOCK), REAL)
    if SMOOTH:
        if weight is None:
            w = (column < classes).to(REAL)[None, :]
        else:
            w = tl.load(weight + column, column < classes, other=0.0).to(REAL)[None, :]
    return column, x, inside, w


@triton.jit
def _slopes(x, top, factor, shift, right, w, column, t, SMOOTH: tl.constexpr):
    """Gradients of a block of classes of some rows."""
    g = tl.exp(x - top[:, None]) * factor[:, None]
    if SMOOTH:
        g -= shift[:, None] * w
    return g - tl.where(column[None, :] == t[:, None], right[:, None], 0)


@triton.jit(do_not_specialize=["rows", "ignored", "parts"])
def _rows(
    logits,
    target,
    weight,
    shares,
    upstream,
    out,
    losses,
    sums,
    rows,
    classes,
    ignored,
    parts,
    smoothing: "fp64",  # noqa: F821
    SMOOTH: tl.constexpr,
    EACH: tl.constexpr,
    REAL: tl.constexpr,
    LEAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    t = tl.load(target + row, there, other=0)
    live = there & (t != ignored)
    good = live & (t >= 0) & (t < classes)
    start = row * classes

    # the largest logit, and the sum of exponentials; with smoothing also the sums of w x and of w
    if WHOLE:
        column, x, inside, w = _tile(logits, weight, start, 0, classes, live, REAL, SMOOTH, BLOCK)
        top = tl.max(x, 1)
        total = tl.sum(tl.where(inside, tl.exp(x - top[:, None]), 0), 1)
        mass = tl.where(inside, w * x, 0)
        weights = w
    else:
        # each lane has its own; they begin at a number, so that -inf - -inf never happens
        peak = tl.full((ROWS, BLOCK), LEAST, REAL)
        part = tl.zeros((ROWS, BLOCK), REAL)
        mass = tl.zeros((ROWS, BLOCK), REAL)
        weights = tl.zeros((1, BLOCK), REAL)
        for begin in range(0, classes, BLOCK):
            column, x, inside, w = _tile(logits, weight, start, begin, classes, live, REAL, SMOOTH, BLOCK)
            d = x - peak
            e = tl.exp(-tl.abs(d))
            part = tl.where(d > 0, part * e + 1, part + e)
            peak = tl.where(d > 0, x, peak)
            if SMOOTH:
                mass += tl.where(inside, w * x, 0)
                weights += w
        top = tl.max(peak, 1)
        total = tl.sum(part * tl.exp(peak - top[:, None]), 1)

    safe = tl.where(good, t, 0)
    w_t = tl.full((ROWS,), 1, tl.float64)
    if weight is not None:
        w_t = tl.load(weight + safe, good, other=0.0).to(tl.float64)
    hard = (1 - tl.full((), smoothing, tl.float64)) * w_t
    spread = tl.full((), smoothing, tl.float64) / classes
    all_weights = tl.sum(weights.to(tl.float64))

    if losses is not None or sums is not None:
        lse = top.to(tl.float64) + tl.log(total.to(tl.float64))
        value = hard * (lse - tl.load(logits + start + safe, good, other=0.0).to(tl.float64))
        if SMOOTH:
            value += spread * (all_weights * lse - tl.sum(mass.to(tl.float64), 1))
        value = tl.where(live, tl.where(good, value, float("nan")), 0)
        if losses is not None:
            tl.store(losses + row, value.to(REAL).to(losses.dtype.element_ty), there)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value))

    if out is not None:
        here = tl.full((ROWS,), 1, tl.float64)
        if upstream is not None:
            if EACH:
                here = tl.load(upstream + row, there, other=0.0).to(tl.float64)
            else:
                here = here * tl.load(upstream).to(tl.float64)
        if shares is not None:
            part_at = tl.arange(0, PARTS)
            denominator = tl.sum(tl.load(shares + part_at, part_at < parts, other=0.0))
            here = tl.where(denominator != 0, here / denominator, 0)
        here = tl.where(good, here, float("nan"))
        factor = (here * (hard + spread * all_weights) / total.to(tl.float64)).to(REAL)
        shift, right = (here * spread).to(REAL), (here * hard).to(REAL)
        if WHOLE:
            g = _slopes(x, top, factor, shift, right, w, column, t, SMOOTH)
            g = tl.where(inside, g, 0).to(out.dtype.element_ty)
            tl.store(out + (start[:, None] + column[None, :]), g, there[:, None] & (column < classes)[None, :])
        else:
            for begin in range(0, classes, BLOCK):
                column, x, inside, w = _tile(logits, weight, start, begin, classes, live, REAL, SMOOTH, BLOCK)
                g = _slopes(x, top, factor, shift, right, w, column, t, SMOOTH)
                g = tl.where(inside, g, 0).to(out.dtype.element_ty)
                tl.store(out + (start[:, None] + column[None, :]), g, there[:, None] & (column < classes)[None, :])
