"""The textbook rules that see a tensor as a whole, in float64 numpy: Adafactor and Muon.

As in `bench.oracle`, but `p` has the shape of its tensor, and `g` may have one more axis in front, for several
gradients beside each other: what is summed is summed over the last ``p.ndim`` axes.
"""

from __future__ import annotations

import math

import numpy as np

from bench.oracle import Array, Options, Rule, Scalar, State, average, next_step
from bench.ulp import FORMATS


def adafactor(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Shazeer & Stern 2018 (arXiv 1804.04235), algorithms 4 and 5, with means for sums as torch documents them.

    lr bounds the relative step size, and eps[0], by default that of the parameter's dtype, bounds the root of the
    estimate from below; neither is in the paper.
    """
    lr, (eps1, eps2) = float(options["lr"]), options["eps"]
    if eps1 is None:
        eps1 = 2.0 ** -FORMATS[options["dtype"]].mantissa
    step = next_step(state, scalar)
    g = -g if options["maximize"] else g
    keep = 1 - step ** options["beta2_decay"]
    size = np.maximum(eps2, _rms(p, p.ndim)) * min(lr, step**-0.5)
    new: State = {"step": step}
    if p.ndim > 1:
        row = new["row_var"] = average(state.get("row_var", 0.0), (g * g).mean(-1, keepdims=True), keep)
        column = new["col_var"] = average(state.get("col_var", 0.0), (g * g).mean(-2, keepdims=True), keep)
        v = row * column / np.maximum(row.mean(-2, keepdims=True), eps1)
    else:
        v = new["variance"] = average(state.get("variance", 0.0), g * g, keep)
    update = g / np.maximum(np.sqrt(v), eps1)
    update = update / np.maximum(1.0, _rms(update, p.ndim) / options["d"])
    return p * (1 - lr * options["weight_decay"]) - size * update, new


def _rms(x: Array, dimensions: int) -> Array:
    """Root of the mean square over the last `dimensions` axes, which stay, with length 1."""
    return np.sqrt(np.mean(x * x, axis=tuple(range(-dimensions, 0)), keepdims=True))


def muon(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Jordan et al. 2024, "Muon"; the momentum is a mean as in torch, which differs from a sum only beside eps."""
    momentum = options["momentum"]
    buffer = average(state.get("momentum_buffer", 0.0), g, momentum)
    direction = average(g, buffer, 1 - momentum) if options["nesterov"] else buffer
    return decayed(p, options) - adjusted_lr(options, p.shape) * newton_schulz(direction, options), {
        "momentum_buffer": buffer
    }


def decayed(p: Array, options: Options) -> Array:
    """The parameter after weight decay, which takes the unadjusted lr and comes before the update."""
    return p * (1 - float(options["lr"]) * options["weight_decay"])


def adjusted_lr(options: Options, shape: tuple[int, ...]) -> float:
    """lr times sqrt(max(1, rows/columns)) (Jordan), or 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, 2502.16982)."""
    rows, columns = shape
    if options["adjust_lr_fn"] == "match_rms_adamw":
        return float(options["lr"]) * 0.2 * math.sqrt(max(rows, columns))
    return float(options["lr"]) * math.sqrt(max(1.0, rows / columns))


def newton_schulz(matrix: Array, options: Options) -> Array:
    """X <- a X + (b A + c A^2) X with A = X X', from the matrix over its Frobenius norm, in float64."""
    a, b, c = options["ns_coefficients"]
    x = matrix / np.maximum(np.linalg.norm(matrix, axis=(-2, -1), keepdims=True), options["eps"])
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.swapaxes(-2, -1)
    for _ in range(options["ns_steps"]):
        gram = x @ x.swapaxes(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.swapaxes(-2, -1)


WHOLE: dict[str, Rule] = {"Adafactor": adafactor, "Muon": muon}
