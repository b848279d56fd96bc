"""Run time to target: after how many gradients a run first came down to each target.

Targets are relative to what there is to gain: with f0 the loss at the start and f_ref the value of the local minimum
that this start flows to, target q is f_ref + (f0 - f_ref) 10^-q for q = 1/4, 1/2 … 8. The first is below the start, so
whoever stands still meets none. Fixed targets, not the results of the other entrants, as in COCO (Hansen et al., arXiv
1605.03560).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EXPONENTS = np.arange(1, 33) / 4  # quarter decades below the start
TARGETS = 10.0**-EXPONENTS
DECADES = slice(3, None, 4)  # of those the whole decades: 10^-1 … 10^-8


def thresholds(initial: Array, reference: Array) -> Array:
    """The targets of runs from losses `initial` [runs], as losses [runs, targets].

    -inf for a start that is at its minimum, where there is nothing to gain.
    """
    gain = (initial - reference)[:, None]
    return np.where(gain > 0, reference[:, None] + gain * TARGETS, -np.inf)


def decades(targets: int) -> slice:
    """Places of the whole decades among so many targets, which lie a quarter apart; of a single one it alone."""
    return DECADES if targets > 1 else slice(0, 1)


def only(target: float, runs: int) -> Array:
    """A loss that is the only target of so many runs, as `thresholds` has them: [runs, 1]."""
    return np.full((runs, 1), target)


def first_hits(losses: Array, thresholds: Array) -> Array:
    """Index of the first of `losses` [evaluations + 1, runs] at or below each of `thresholds` [runs, targets].

    inf for one never met; nan meets none.
    """
    found = np.full(thresholds.shape, np.inf)
    for target, threshold in enumerate(thresholds.T):
        met = losses <= threshold
        found[:, target] = np.where(met.any(axis=0), met.argmax(axis=0), np.inf)
    return found


def encode(times: Iterable[float]) -> str:
    """One run's gradients to each target as a text, ``3 5 5 12``.

    Those never met, inf, are left out: a target lies below the one before, so they are always the end of the list.
    """
    return " ".join(str(int(time)) for time in times if time < np.inf)


def decode(texts: Sequence[str], targets: int = len(TARGETS)) -> Array:
    """The inverse of `encode` for many runs: gradients to each target [runs, targets], inf for those never met."""
    times = np.full((len(texts), targets), np.inf)
    counts = np.array([text.count(" ") + 1 if text else 0 for text in texts], dtype=int)
    times[np.arange(targets) < counts[:, None]] = np.array(" ".join(texts).split(), dtype=np.float64)
    return times
