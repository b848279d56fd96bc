"""How far Muon's update is from the one that a float64 iteration makes of the same momentum.

Newton-Schulz iterations in bfloat16 are approximate by design, so the parameter is not judged in ulp. Judged is the
update, what the step subtracts after weight decay, in two ways.

Distance in the Frobenius norm, relative to the float64 update, at most 5 %: bfloat16 keeps 8 bits, so the input and
each product of the five iterations are rounded by about 2^-9 / sqrt(3), 0.1 %, an element. On its way through the rest
of the iteration such an error grows about as the matrix itself does, for the slope of the iterated polynomial at a
singular value s is near 1 / s: relative to the matrix, it stays. Some fifteen roundings, of terms that are up to four
times larger than their sum, add up in quadrature to 1 % to 2 %; measured of torch's loop on random matrices of the
shapes used here are 1.3 % to 1.8 % in the median and 2.9 % at most. A wrong coefficient, or an iteration too few or too
many, moves the update by more than 5 %.

Singular values, each at most 0.1 from that of the float64 update with a learning rate of 1. None can move by more than
the spectral norm of the error (Weyl), so it is that norm which is measured. Spread evenly over a square matrix, an
error of 5 % of the Frobenius norm of a matrix whose singular values are near 1 has a spectral norm of twice 5 %.

Storing the new parameter rounds it too, twice in torch; that much, an ulp an element, is allowed on top.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from bench.oracle import Array, Options
from bench.oracle_matrices import adjusted_lr, decayed
from bench.sweep import one_thread
from bench.ulp import ulp

LARGEST_DISTANCE = 0.05
LARGEST_SHIFT = 0.1  # of a singular value
WORDS = (
    f"update within {LARGEST_DISTANCE:.0%} of a float64 iteration's in the Frobenius norm, every singular value within "
    f"{LARGEST_SHIFT:g} of its, beyond the rounding of the stored parameter"
)


def updates(before: Array, after: Array, options: Options) -> Array:
    """What a step subtracted from a matrix after weight decay."""
    return decayed(before, options) - after


def distance(mine: Array, exact: Array, rounding: float) -> float:
    """||mine - exact|| / ||exact|| in the Frobenius norm, with `rounding` taken off the difference."""
    apart = max(float(np.linalg.norm(mine - exact)) - rounding, 0.0)
    if not math.isfinite(apart):
        return math.inf
    return apart / float(np.linalg.norm(exact)) if apart else 0.0


def shift(mine: Array, exact: Array, rounding: float, options: Options) -> float:
    """By how much a singular value can have moved, as if the learning rate were 1: ||mine - exact|| spectrally."""
    if not np.isfinite(mine).all():
        return math.inf
    with one_thread():  # numpy's has every core at work on however small a matrix
        largest = torch.linalg.matrix_norm(torch.from_numpy(mine - exact), 2).item()
    return max(largest - rounding, 0.0) / adjusted_lr(options, exact.shape)


def rounding(stored: Array, dtype: str) -> float:
    """The Frobenius norm of an ulp in each element of a parameter."""
    return float(np.linalg.norm(ulp(stored, dtype)))
