"""Run time to target: after how many gradients a run first came down to each target.

Targets are relative to what there is to gain: with f0 the loss at the start and f_ref the value of the basin that the
published start flows to, target q is f_ref + (f0 - f_ref) 10^-q for q = 1/4, 1/2 … 8. The first is below the start, so
whoever stands still meets none. Fixed targets, not the results of the other entrants, as in COCO (Hansen et al., arXiv
1605.03560).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EXPONENTS = np.arange(1, 33) / 4  # quarter decades below the start
TARGETS = 10.0**-EXPONENTS
DECADES = slice(3, None, 4)  # of those the whole decades: 10^-1 … 10^-8


def reference(initial: float, basin: float, minimum: float) -> float:
    """The value that gaps are measured from: the basin's, or the minimum for a start that is below the basin."""
    return basin if initial > basin else minimum


def first_hits(losses: NDArray[np.float64], reference: float) -> list[int]:
    """Index of the first of `losses` [evaluations + 1] at or below each target; those never met are left out.

    A target lies below the one before, so what is left out is always the end of the list. nan meets no target.
    """
    initial_gap = losses[0] - reference
    if not initial_gap > 0:  # it starts at the minimum: there is nothing to gain
        return []
    lowest = np.fmin.accumulate((losses - reference) / initial_gap)
    met = TARGETS[lowest[-1] <= TARGETS]
    return np.searchsorted(-lowest, -met).tolist()  # -lowest ascends


def encode(hits: list[int]) -> str:
    """As one field of a CSV file: ``3 5 5 12``."""
    return " ".join(map(str, hits))


def decode(text: str) -> NDArray[np.float64]:
    """The gradients to each target [targets], inf for those that were not met."""
    times = np.full(len(TARGETS), np.inf)
    found = np.array(text.split(), dtype=np.float64)
    times[: len(found)] = found
    return times
