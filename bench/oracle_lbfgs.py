"""L-BFGS in float64 numpy: what `bench.parity_lbfgs` compares with.

Written from Nocedal & Wright, "Numerical Optimization" (2nd edition, 2006): the inverse Hessian is applied pair by pair
as formula 7.16 defines it, not in the two loops of algorithm 7.4. The line search is algorithms 3.5 and 3.6 with the
cubic of formula 3.59, and with the safeguards of Mark Schmidt's minFunc, which torch names as its model: without them
it would be another search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.oracle import Array, Options

Closure = Callable[[Array], tuple[float, Array]]  # a point in, value and gradient out

LEAST_CURVATURE = 1e-10  # of a pair that is kept
SUFFICIENT, CURVATURE = 1e-4, 0.9  # the constants c1 and c2 of the Wolfe conditions


@dataclass
class Memory:
    """What stays from step to step, under torch's names."""

    func_evals: int = 0
    n_iter: int = 0
    d: Array | None = None
    t: float = 0.0
    old_dirs: list[Array] = field(default_factory=list)  # changes of the gradient
    old_stps: list[Array] = field(default_factory=list)  # changes of the point
    H_diag: float = 1.0
    prev_flat_grad: Array | None = None
    prev_loss: float = math.nan

    @property
    def ro(self) -> list[float]:
        return [1.0 / float(y @ s) for y, s in zip(self.old_dirs, self.old_stps, strict=True)]


def step(x: Array, closure: Closure, memory: Memory, options: Options) -> Array:
    """The point after at most ``max_iter`` iterations from `x`; `memory` is changed."""
    value, gradient = closure(x)
    evaluations = 1
    memory.func_evals += 1
    if _largest(gradient) <= options["tolerance_grad"]:
        return x
    for iteration in range(1, options["max_iter"] + 1):
        memory.n_iter += 1
        if memory.n_iter == 1:
            memory.d = -gradient
        else:
            _remember(memory, gradient, options["history_size"])
            memory.d = -inverse_hessian(memory, len(memory.ro), gradient)
        memory.prev_flat_grad, memory.prev_loss = gradient, value
        first = min(1.0, 1.0 / float(np.abs(gradient).sum())) if memory.n_iter == 1 else 1.0
        memory.t = first * float(options["lr"])
        slope = float(gradient @ memory.d)
        if slope > -options["tolerance_change"]:
            break
        used = 0
        if options["line_search_fn"]:
            search = LineSearch(closure, x, memory.d, value, gradient, slope, options["tolerance_change"])
            found = search.run(memory.t, options["max_eval"] - evaluations)
            memory.t, value, gradient, used = found.t, found.value, found.gradient, search.evaluations
        x = x + memory.t * memory.d
        if not options["line_search_fn"] and iteration < options["max_iter"]:
            value, gradient = closure(x)
            used = 1
        evaluations += used
        memory.func_evals += used
        moved, fell = abs(memory.t) * _largest(memory.d), abs(value - memory.prev_loss)
        arrived = _largest(gradient) <= options["tolerance_grad"]
        stuck = moved <= options["tolerance_change"] or fell < options["tolerance_change"]
        if evaluations >= options["max_eval"] or arrived or stuck:
            break
    return x


def _largest(x: Array) -> float:
    return float(np.abs(x).max())


def _remember(memory: Memory, gradient: Array, size: int) -> None:
    """Keep the newest pair, unless its curvature is not positive enough; drop the oldest of more than `size`."""
    assert memory.d is not None and memory.prev_flat_grad is not None
    y, s = gradient - memory.prev_flat_grad, memory.t * memory.d
    if y @ s > LEAST_CURVATURE:
        memory.old_dirs = [*memory.old_dirs, y][-size:]
        memory.old_stps = [*memory.old_stps, s][-size:]
        memory.H_diag = float(y @ s / (y @ y))


def inverse_hessian(memory: Memory, pairs: int, x: Array) -> Array:
    """H x with the oldest `pairs` of the memory: V' H V x + rho s s'x with V = 1 - rho y s', H of one pair fewer."""
    if not pairs:
        return memory.H_diag * x
    y, s = memory.old_dirs[pairs - 1], memory.old_stps[pairs - 1]
    rho = 1.0 / float(y @ s)
    along = rho * float(s @ x)
    inner = inverse_hessian(memory, pairs - 1, x - along * y)
    return inner - rho * float(y @ inner) * s + along * s


@dataclass(frozen=True)
class Trial:
    """A step length and what was found there; `slope` is the derivative along the direction."""

    t: float
    value: float
    gradient: Array
    slope: float


class LineSearch:
    """Looks for a step length that satisfies the strong Wolfe conditions."""

    def __init__(self, closure: Closure, x: Array, d: Array, value: float, gradient: Array, slope: float, least: float):
        self.closure, self.x, self.d, self.least = closure, x, d, least
        self.start = Trial(0.0, value, gradient, slope)
        self.evaluations = 0

    def run(self, t: float, most: int) -> Trial:
        """The step length found from the guess `t`, with no more than ``most + 1`` evaluations."""
        previous, new, iteration = self.start, self._try(t), 0
        low, high = self.start, new
        while iteration < most:  # algorithm 3.5: widen until an interval holds such a length
            rises = self._too_high(new) or (iteration > 1 and new.value >= previous.value)
            if self._flat(new) and not rises:
                return new
            if rises or new.slope >= 0:
                low, high = previous, new
                break
            bounds = (new.t + 0.01 * (new.t - previous.t), 10 * new.t)
            previous, new = new, self._try(cubic(previous, new, bounds))
            iteration += 1
            low, high = self.start, new
        low, high = sorted((low, high), key=lambda trial: trial.value)
        stalled = False
        while iteration < most and abs(high.t - low.t) * _largest(self.d) >= self.least:  # algorithm 3.6: narrow it
            left, right = sorted((low.t, high.t))
            t = cubic(low, high, (left, right))
            margin = 0.1 * (right - left)
            if min(right - t, t - left) < margin:  # near an end: once is fine, twice is not
                if stalled or t >= right or t <= left:
                    t = right - margin if abs(t - right) < abs(t - left) else left + margin
                    stalled = False
                else:
                    stalled = True
            else:
                stalled = False
            new = self._try(t)
            iteration += 1
            if self._too_high(new) or new.value >= low.value:
                high = new
                low, high = sorted((low, high), key=lambda trial: trial.value)
            elif self._flat(new):
                return new
            else:
                if new.slope * (high.t - low.t) >= 0:
                    high = low
                low = new
        return low

    def _try(self, t: float) -> Trial:
        value, gradient = self.closure(self.x + t * self.d)
        self.evaluations += 1
        return Trial(t, value, gradient, float(gradient @ self.d))

    def _too_high(self, trial: Trial) -> bool:
        return trial.value > self.start.value + SUFFICIENT * trial.t * self.start.slope

    def _flat(self, trial: Trial) -> bool:
        return abs(trial.slope) <= -CURVATURE * self.start.slope


def cubic(one: Trial, other: Trial, bounds: tuple[float, float]) -> float:
    """Where the cubic through both values and slopes has its minimum, kept inside `bounds` (formula 3.59)."""
    a, b = sorted((one, other), key=lambda trial: trial.t)
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if square < 0:
        return sum(bounds) / 2
    d2 = math.sqrt(square)
    t = b.t - (b.t - a.t) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    return min(max(t, bounds[0]), bounds[1])


def state_of(memory: Memory) -> dict[str, Any]:
    """Arrays and numbers by torch's keys, as far as they are results: lists of vectors as one array each."""
    if memory.d is None or memory.prev_flat_grad is None:
        return {}
    return {
        "d": memory.d,
        "prev_flat_grad": memory.prev_flat_grad,
        "old_dirs": np.array(memory.old_dirs).reshape(-1),
        "old_stps": np.array(memory.old_stps).reshape(-1),
        "ro": np.array(memory.ro),
        "t": memory.t,
        "H_diag": memory.H_diag,
        "prev_loss": memory.prev_loss,
        "func_evals": memory.func_evals,
        "n_iter": memory.n_iter,
    }
