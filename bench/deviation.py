"""How far results are from what they should be: by key, in the mean and at worst, and where that was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.ulp import rounded, ulp

Array = NDArray[np.float64]
FREE_TOLERANCE = 1e-12  # of |a - b| / (1 + |b|)


@dataclass
class Stats:
    """Errors of one key: their sum and number, and the largest with its place."""

    total: float = 0.0
    count: int = 0
    largest: float = 0.0
    where: str = ""

    def add(self, errors: Array, describe: Callable[[int], str], step: int) -> None:
        self.total += float(errors.sum())
        self.count += errors.size
        at = int(errors.argmax())
        if not self.where or errors[at] > self.largest:
            self.largest = float(errors[at])
            self.where = f"{describe(at)}, step {step}"

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


@dataclass
class Measured:
    """What came of one contender: errors by key, or why there are none."""

    errors: dict[str, Stats] = field(default_factory=dict)
    fault: str = ""
    raised: str = ""
    not_finite: int = 0
    runner: Any = None  # what stepped it
    update: Stats = field(default_factory=Stats)  # of rules that are approximate by design: see `bench.orthogonal`
    spectrum: Stats = field(default_factory=Stats)

    def add(self, errors: Array, keys: Mapping[str, slice], step: int, describe: Callable[[int], str]) -> None:
        """Take in the errors of one step; `keys` says where in the array each key lies."""
        for key, where in keys.items():
            if where.start == where.stop:
                continue
            self.errors.setdefault(key, Stats()).add(errors[where], lambda at, w=where: describe(w.start + at), step)


def distance(a: Array, b: Array) -> Array:
    """|a - b| / (1 + |b|), 0 where both are the same infinity or both nan, infinite where only one is."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) / (1 + np.abs(b))
    if np.isfinite(apart).all():
        return apart
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def ulp_errors(values: Array, old: Array, new: Array, moved: Array, dtype: str) -> Array:
    """|value - exact| in ulp of the larger of |old| and |exact|, or in `moved` where that is larger.

    0 where value and exact overflow to the same infinity.
    """
    unit = np.maximum(ulp(np.maximum(np.abs(old), np.abs(new)), dtype), moved)
    with np.errstate(invalid="ignore"):
        errors = np.abs(values - new) / unit
    overflown = ~np.isfinite(values)
    if not overflown.any():
        return errors
    target = rounded(new, dtype)
    same = (values == target) | (np.isnan(values) & np.isnan(target))
    return np.where(overflown, np.where(same, 0.0, np.inf), errors)
