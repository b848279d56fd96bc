"""Functions that exist in several dimensions: one recipe for all, and the value that gradient flow comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from bench.problems.function import Function, Point

#: more is only a matter of waiting for the flow
MOST = 100


def cycled(pattern: Sequence[float], n: int) -> Point:
    """The pattern's numbers over and over, n of them."""
    return tuple(float(pattern[i % len(pattern)]) for i in range(n))


@dataclass(frozen=True)
class Scalable:
    """A function of n coordinates: `make(n)` for each n in `dimensions`; `usual` is what its bare name means.

    A recipe leaves `basin` nan where nobody has written it down; it is computed when the function is asked for.
    """

    make: Callable[[int], Function]
    usual: int = 2
    dimensions: Sequence[int] = range(2, MOST + 1)

    def at(self, n: int) -> Function:
        """The function of n coordinates: ``ackley``, or ``ackley-10d`` where 10 are not the usual number."""
        function = self.make(n)
        named = function.name if n == self.usual else f"{function.name}-{n}d"
        title = function.title if n == 2 else f"{function.title}, {n}-D"
        basin = flow(function) if math.isnan(function.basin) else function.basin
        return replace(function, name=named, title=title, basin=basin)


def flow(function: Function) -> float:
    """The value at which exact gradient flow from the start ends, dx/dt = -f'(x), to about eight digits."""
    from scipy.integrate import solve_ivp  # a second of loading, for few

    def downhill(_, x):
        return -function.value_and_gradient(torch.from_numpy(x))[1].numpy()

    end = solve_ivp(downhill, (0, 1e6), function.start, method="LSODA", rtol=1e-9, atol=1e-11).y[:, -1]
    return function(torch.tensor(end)).item()
