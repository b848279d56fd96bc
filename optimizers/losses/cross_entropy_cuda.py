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
from ..executors.triton_dialect import divide
from ..executors.triton_math import log
from .cuda import finished, real

#: the longest rows that are kept in registers, in bytes of the arithmetic's type, and the classes of a block otherwise
WHOLE, BLOCK = 65536, 4096
#: the longest rows that one thread works on, with so many others; the logits of a warp; and targets of a program
SHORT, THREADS, WARP, COUNTED = 32, 128, 512, 16384


def loss(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, mean: bool, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The mean or the sum of the rows' losses and, if wanted, its gradient.

    logits: ``(rows, classes)``; target: int64 class indices ``(rows,)``; weight: of the classes.
    """
    out = torch.empty_like(logits) if wanted else None
    denominator = weight_of_targets(logits, target, weight, ignore_index) if mean else None
    sums = logits.new_empty(_shape(logits)[0], dtype=torch.float64)
    _run(logits, target, weight, ignore_index, smoothing, denominator=denominator, sums=sums, out=out)
    return finished(sums, logits, denominator=denominator), out


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
    denominator = weight_of_targets(logits, target, weight, ignore_index) if mean else None
    upstream = upstream.contiguous()
    _run(logits, target, weight, ignore_index, smoothing, denominator=denominator, upstream=upstream, out=out)
    return out


def weight_of_targets(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What the mean is divided by, in float64: how many targets are not ignored, or their weights."""
    rows, classes = target.numel(), logits.shape[1]
    shares = logits.new_empty(max(1, triton.cdiv(rows, COUNTED)), dtype=torch.float64)
    with current(logits.device):
        _count[(len(shares),)](target, weight, shares, rows, classes, ignore_index, PIECE=COUNTED, BLOCK=2048)
    return shares if len(shares) == 1 else finished(shares, shares)


def _shape(logits: Tensor) -> tuple[int, int, int, int]:
    """Programs, rows of each, classes of a block, and warps."""
    rows, classes = logits.shape
    width = triton.next_power_of_2(max(1, classes))
    block = width if width * real(logits).primitive_bitwidth <= 8 * WHOLE else BLOCK
    tall = THREADS if block <= SHORT else max(1, WARP // block)
    warps = 4 if block <= SHORT else min(max(1, block // WARP), 8 if block <= 8192 else 16)
    return triton.cdiv(rows, tall), tall, block, warps


def _run(
    logits, target, weight, ignore_index, smoothing, denominator=None, upstream=None, out=None, losses=None, sums=None
) -> None:
    rows, classes = logits.shape
    programs, tall, block, warps = _shape(logits)
    with current(logits.device):
        _rows[(programs,)](
            logits,
            target,
            weight,
            denominator,
            upstream,
            out,
            losses,
            sums,
            rows,
            classes,
            1,
            ignore_index,
            smoothing,
            smoothing / max(1, classes),
            SMOOTH=smoothing > 0,
            EACH=upstream is not None and upstream.dim() > 0,
            REAL=real(logits),
            LEAST=torch.finfo(torch.float64 if logits.dtype == torch.float64 else torch.float32).min,
            ROWS=tall,
            BLOCK=block,
            WHOLE=block >= classes,
            AXIS=int(block > SHORT),
            num_warps=warps,
        )


@triton.jit(do_not_specialize=["rows", "classes", "ignored"])
def _count(target, weight, shares, rows, classes, ignored, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    """Targets that are not ignored, or their weights."""
    start = tl.program_id(0).to(tl.int64) * PIECE
    total = tl.zeros((BLOCK,), tl.float64)
    for base in range(start, tl.minimum(start + PIECE, rows), BLOCK):
        at = base + tl.arange(0, BLOCK)
        t = tl.load(target + at, at < rows, other=0)
        live = (at < rows) & (t != ignored)
        if weight is None:
            total += live.to(tl.float64)
        else:
            total += tl.load(weight + t, live & (t >= 0) & (t < classes), other=0.0).to(tl.float64)
    tl.store(shares + tl.program_id(0), tl.sum(total))


@triton.jit
def _tile(
    logits, weight, start, begin, classes, live, step,
    REAL: tl.constexpr, SMOOTH: tl.constexpr, BLOCK: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Columns, logits (-inf outside), whether inside, and weights (0 outside) of a block of classes of some rows."""
    column = begin + tl.arange(0, BLOCK)
    there = column < classes
    inside = tl.expand_dims(live, AXIS) & tl.expand_dims(there, 1 - AXIS)
    # a step that the compiler does not know leaves it no reason to spread a short row over threads
    place = column * step if AXIS == 0 else column
    at = tl.expand_dims(start, AXIS) + tl.expand_dims(place, 1 - AXIS)
    x = tl.load(logits + at, inside, other=float("-inf")).to(REAL)
    w = tl.zeros((BLOCK,), REAL)
    if SMOOTH:
        if weight is None:
            w = there.to(REAL)
        else:
            w = tl.load(weight + column, there, other=0.0).to(REAL)
    return column, x, inside, tl.expand_dims(w, 1 - AXIS)


@triton.jit
def _write(
    out, x, inside, top, factor, shift, right, w, column, t, start, there, classes,
    SMOOTH: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """The gradients of a block of classes of some rows."""
    g = tl.exp(x - tl.expand_dims(top, AXIS)) * tl.expand_dims(factor, AXIS)
    if SMOOTH:
        g -= tl.expand_dims(shift, AXIS) * w
    of_target = tl.expand_dims(column, 1 - AXIS) == tl.expand_dims(t, AXIS)
    g -= tl.where(of_target, tl.expand_dims(right, AXIS), 0)
    g = tl.where(inside, g, 0).to(out.dtype.element_ty)
    at = tl.expand_dims(start, AXIS) + tl.expand_dims(column, 1 - AXIS)
    tl.store(out + at, g, tl.expand_dims(there, AXIS) & tl.expand_dims(column < classes, 1 - AXIS))


@triton.jit(do_not_specialize=["rows", "step", "ignored"])
def _rows(
    logits,
    target,
    weight,
    denominator,
    upstream,
    out,
    losses,
    sums,
    rows,
    classes,
    step,
    ignored,
    smoothing: tl.float64,
    spread: tl.float64,
    SMOOTH: tl.constexpr,
    EACH: tl.constexpr,
    REAL: tl.constexpr,
    LEAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
    AXIS: tl.constexpr,
):
    """AXIS: where the classes of a tile lie; 0 gives every thread a row of its own, 1 spreads rows over threads."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    t = tl.load(target + row, there, other=0)
    live = there & (t != ignored)
    good = live & (t >= 0) & (t < classes)
    start = row * classes
    safe = tl.where(good, t, 0)
    x_t = tl.load(logits + start + safe, good, other=0.0).to(REAL)
    w_t = tl.full((ROWS,), 1, REAL)
    if weight is not None:
        w_t = tl.load(weight + safe, good, other=0.0).to(REAL)

    # the largest logit, and the sum of exponentials; with smoothing also the sums of w and of w x, with x measured from
    # the target's, lest digits be lost where all are large
    origin = tl.where(tl.abs(x_t) < float("inf"), x_t, 0)
    if WHOLE:
        column, x, inside, w = _tile(logits, weight, start, 0, classes, live, step, REAL, SMOOTH, BLOCK, AXIS)
        top = tl.max(x, AXIS)
        total = tl.sum(tl.exp(x - tl.expand_dims(top, AXIS)), AXIS)
        mass = tl.where(inside, w * (x - tl.expand_dims(origin, AXIS)), 0)
        weights = w
    else:
        # each lane has its own; they begin at a number, so that -inf - -inf never happens
        peak = tl.expand_dims(tl.full((ROWS,), LEAST, REAL), AXIS) + tl.expand_dims(tl.zeros((BLOCK,), REAL), 1 - AXIS)
        part, mass = tl.zeros_like(peak), tl.zeros_like(peak)
        weights = tl.expand_dims(tl.zeros((BLOCK,), REAL), 1 - AXIS)
        for begin in range(0, classes, BLOCK):
            column, x, inside, w = _tile(logits, weight, start, begin, classes, live, step, REAL, SMOOTH, BLOCK, AXIS)
            d = x - peak
            e = tl.exp(-tl.abs(d))
            part = tl.where(d > 0, part * e + 1, part + e)
            peak = tl.where(d > 0, x, peak)
            if SMOOTH:
                mass += tl.where(inside, w * (x - tl.expand_dims(origin, AXIS)), 0)
                weights += w
        top = tl.max(peak, AXIS)
        total = tl.sum(part * tl.exp(peak - tl.expand_dims(top, AXIS)), AXIS)

    hard = tl.full((), 1 - smoothing, REAL) * w_t
    spread = tl.full((), spread, REAL)
    all_weights = tl.sum(weights.to(tl.float64)).to(REAL)

    if losses is not None or sums is not None:
        log_total = log(total)
        value = hard * (top - x_t + log_total)
        if SMOOTH:
            value += spread * (all_weights * (top - origin + log_total) - tl.sum(mass, AXIS))
        value = tl.where(live, tl.where(good, value, float("nan")), 0)
        if losses is not None:
            tl.store(losses + row, value.to(losses.dtype.element_ty), there)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value.to(tl.float64)))

    if out is not None:
        scale = tl.full((), 1, tl.float64)
        if denominator is not None:
            n = tl.load(denominator)
            scale = tl.where(n != 0, 1 / n, 0)
        here = tl.full((ROWS,), 1, REAL)
        if EACH:
            here = tl.load(upstream + row, there, other=0.0).to(REAL)
        elif upstream is not None:
            scale *= tl.load(upstream).to(tl.float64)
        here = tl.where(good, here * scale.to(REAL), float("nan"))
        factor = divide(here * (hard + spread * all_weights), total)
        shift, right = here * spread, here * hard
        if WHOLE:
            _write(out, x, inside, top, factor, shift, right, w, column, t, start, there, classes, SMOOTH, AXIS)
        else:
            for begin in range(0, classes, BLOCK):
                column, x, inside, w = _tile(
                    logits, weight, start, begin, classes, live, step, REAL, SMOOTH, BLOCK, AXIS
                )
                _write(out, x, inside, top, factor, shift, right, w, column, t, start, there, classes, SMOOTH, AXIS)
