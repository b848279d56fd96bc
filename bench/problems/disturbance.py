"""What stands between a function's true gradient and the one that an optimizer is told: noise, delay, drift and others.

A function declares its disturbance apart from its definition (`Function.disturbance`). An `Oracle` then answers for the
steps of some runs: what is judged is always the true value at the point, only the gradient that is told is disturbed.

Random numbers are a function of a run's seed, the step and a counter (splitmix64's finaliser, Steele, Lea & Flood 2014,
applied twice), with no state between them. So a run's noise depends on its own seed alone, whatever runs beside it, and
the compiled sweep (`bench.sweeps.disturb`) has the same numbers: the uniform ones to the bit, those that take a
logarithm or a square root to a few units in the last place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from bench.problems.function import Function

Matrix = tuple[tuple[float, ...], ...]
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))  # shift, multiplier
ONE = 0x3FF0000000000000  # the bits of 1.0
HALF_STEP = 2.0**-53
#: a seed is a float64 in the compiled sweep, so it has no more bits than that
SEED_BITS = 53


def mixed(z: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of `z`, uint64."""
    for shift, factor in MIX:
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z


def uniform(seeds: np.ndarray, step: int, count: int) -> np.ndarray:
    """Numbers 0 … count - 1 of a step, [runs, count], each in (0, 1) and an odd multiple of 2^-53."""
    golden = np.uint64(GOLDEN)
    keys = mixed(seeds.astype(np.uint64) + golden * np.array([step + 1], np.uint64))
    bits = mixed(keys[:, None] + golden * np.arange(1, count + 1, dtype=np.uint64))
    return ((bits >> np.uint64(12)) | np.uint64(ONE)).view(np.float64) - 1.0 + HALF_STEP


def normal(seeds: np.ndarray, step: int, count: int) -> np.ndarray:
    """Standard normal numbers [runs, count] (Box & Muller 1958), each from two uniform ones."""
    u = uniform(seeds, step, 2 * count)
    return np.sqrt(-2.0 * np.log(u[:, ::2])) * np.cos(2 * math.pi * u[:, 1::2])


def student2(seeds: np.ndarray, step: int, count: int) -> np.ndarray:
    """Student's t with two degrees of freedom [runs, count], by its inverse distribution; the variance is infinite."""
    u = uniform(seeds, step, count)
    return (2.0 * u - 1.0) / np.sqrt(2.0 * u * (1.0 - u))


@dataclass(frozen=True)
class Disturbance:
    """One that does nothing; the others say what they change."""

    @property
    def dimension(self) -> int | None:
        """The dimension that its numbers are for; None for any."""
        return None

    def numbers(self) -> np.ndarray:
        """All that the compiled sweep needs to know besides its kind, float64."""
        return np.zeros(0)

    def rows(self, dimension: int) -> int:
        """Numbers that a run keeps from step to step, or within one."""
        return 0

    def moved(self, points: Tensor, step: int) -> Tensor:
        """Where in the landscape of step 0 the points of this step are."""
        return points

    def told(self, gradients: Tensor, step: int, seeds: np.ndarray, past: deque[Tensor]) -> Tensor:
        """The gradients an optimizer gets in place of the true ones [runs, dimension]; `past` is its memory."""
        return gradients


@dataclass(frozen=True)
class Noise(Disturbance):
    """Adds `scale` [dimension] × standard normal numbers."""

    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scale:
            raise ValueError("noise in 0 dimensions makes no sense; give a scale for each coordinate")
        if not all(0 <= one < math.inf for one in self.scale):
            wrong = next(one for one in self.scale if not 0 <= one < math.inf)
            raise ValueError(f"noise of scale {wrong} makes no sense; give 0 or more")

    @property
    def dimension(self) -> int:
        return len(self.scale)

    def numbers(self) -> np.ndarray:
        return np.array(self.scale)

    def drawn(self, seeds: np.ndarray, step: int) -> np.ndarray:
        return normal(seeds, step, len(self.scale))

    def told(self, gradients: Tensor, step: int, seeds: np.ndarray, past: deque[Tensor]) -> Tensor:
        noise = self.drawn(seeds, step) * np.array(self.scale)
        return gradients + torch.from_numpy(noise).to(gradients.device)


@dataclass(frozen=True)
class HeavyNoise(Noise):
    """Adds `scale` [dimension] × numbers of Student's t with two degrees of freedom: mean 0, infinite variance.

    Noise of stochastic gradients can look like it (Simsekli, Sagun & Gurbuzbalaban 2019).
    """

    def drawn(self, seeds: np.ndarray, step: int) -> np.ndarray:
        return student2(seeds, step, len(self.scale))


@dataclass(frozen=True)
class CorrelatedNoise(Disturbance):
    """Adds `factor` [dimension, dimension] @ standard normal numbers: its covariance is factor @ factor.T."""

    factor: Matrix

    def __post_init__(self) -> None:
        sizes = {len(row) for row in self.factor}
        if sizes != {len(self.factor)}:
            raise ValueError(f"a factor of {len(self.factor)} rows of {sorted(sizes)} is no square matrix; give one")
        if not np.isfinite(self.factor).all():
            raise ValueError("the factor of noise has nan or infinity in it; give finite numbers")

    @property
    def dimension(self) -> int:
        return len(self.factor)

    def numbers(self) -> np.ndarray:
        return np.array(self.factor).ravel()

    def rows(self, dimension: int) -> int:
        return dimension  # the numbers before they are mixed

    def told(self, gradients: Tensor, step: int, seeds: np.ndarray, past: deque[Tensor]) -> Tensor:
        noise = normal(seeds, step, len(self.factor)) @ np.array(self.factor).T
        return gradients + torch.from_numpy(noise).to(gradients.device)


@dataclass(frozen=True)
class Sparse(Disturbance):
    """Tells each coordinate of the gradient with probability `share`, and 0 in its place otherwise.

    What is told is not divided by `share`, as in an embedding, whose rows get their whole gradient or none.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"gradients that are told with probability {self.share} make no sense; give one in (0, 1]")

    def numbers(self) -> np.ndarray:
        return np.array([self.share])

    def told(self, gradients: Tensor, step: int, seeds: np.ndarray, past: deque[Tensor]) -> Tensor:
        there = uniform(seeds, step, gradients.shape[1]) < self.share
        return torch.where(torch.from_numpy(there).to(gradients.device), gradients, 0.0)


@dataclass(frozen=True)
class Delayed(Disturbance):
    """Tells the gradient of `steps` steps ago, and 0 until there is one."""

    steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"a delay of {self.steps} steps makes no sense; give a whole number, 1 or more")

    def numbers(self) -> np.ndarray:
        return np.array([float(self.steps)])

    def rows(self, dimension: int) -> int:
        return self.steps * dimension

    def told(self, gradients: Tensor, step: int, seeds: np.ndarray, past: deque[Tensor]) -> Tensor:
        past.append(gradients.clone())
        return past.popleft() if len(past) > self.steps else torch.zeros_like(gradients)


@dataclass(frozen=True)
class Drifting(Disturbance):
    """The landscape moves by `velocity` [dimension] in each step; a value is that above the optimum of its step."""

    velocity: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.velocity:
            raise ValueError("a drift in 0 dimensions makes no sense; give a velocity for each coordinate")
        if not np.isfinite(self.velocity).all():
            raise ValueError(f"a drift of {self.velocity} a step makes no sense; give finite numbers")

    @property
    def dimension(self) -> int:
        return len(self.velocity)

    def numbers(self) -> np.ndarray:
        return np.array(self.velocity)

    def rows(self, dimension: int) -> int:
        return dimension  # the places of the optimizer, while those in the landscape are in theirs

    def moved(self, points: Tensor, step: int) -> Tensor:
        return points - step * torch.tensor(self.velocity, dtype=points.dtype, device=points.device)


@dataclass(frozen=True)
class Quantised(Disturbance):
    """Tells each coordinate of the gradient as the nearest multiple of `unit`: 0 for all that is below half of it."""

    unit: float

    def __post_init__(self) -> None:
        if not 0 < self.unit < math.inf:
            raise ValueError(f"gradients in units of {self.unit} make no sense; give a unit above 0")

    def numbers(self) -> np.ndarray:
        return np.array([self.unit])

    def told(self, gradients: Tensor, step: int, seeds: np.ndarray, past: deque[Tensor]) -> Tensor:
        return torch.round(gradients / self.unit) * self.unit


class Oracle:
    """Answers for some runs on a function, step by step: true values, and gradients as its disturbance tells them.

    seeds: one for each run, below 2^53; the runs of a function without a disturbance need none. evaluate: true values
    and gradients at points, if there is a faster way than the function's own.
    """

    def __init__(self, function: Function, seeds: Sequence[int], evaluate: Evaluate | None = None) -> None:
        self.function, self.disturbance = function, function.disturbance
        self.evaluate = evaluate or function.value_and_gradient
        self.seeds = np.array(seeds, np.uint64)
        self.past: deque[Tensor] = deque()
        self.step = 0

    def values(self, points: Tensor) -> Tensor:
        """The true values [runs] at `points` [runs, dimension] in the present step."""
        return self.function(self._moved(points))

    def ask(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The true values [runs] and what is told of the gradients [runs, dimension]; the next step begins."""
        values, gradients = self.evaluate(self._moved(points))
        if self.disturbance is not None:
            gradients = self.disturbance.told(gradients, self.step, self.seeds, self.past)
        self.step += 1
        return values, gradients

    def _moved(self, points: Tensor) -> Tensor:
        return points if self.disturbance is None else self.disturbance.moved(points, self.step)
