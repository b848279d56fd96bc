"""What a test function is: a definition, what is known about it, and its values and gradients for many points at once.

A definition takes the coordinates `x` of a point and a namespace `m` of mathematics, and is plain arithmetic: `x[i]` is
one coordinate, `x[1:]` a run of them, and `m` has `sin cos exp sqrt`, `sum` and `prod` over the coordinates, and
`vector` for one constant per coordinate. So the same lines serve torch (a whole batch of points at once, differentiated
by autograd), numpy (the same by complex steps, ten times as fast for the few numbers there are) and sympy. They must be
analytic: no `abs`, no comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.problems.disturbance import Disturbance, Matrix

Point = tuple[float, ...]


class TorchMath:
    """The mathematics of the definitions for torch: coordinates have shape [dimension, points]."""

    sin, cos, exp, sqrt = torch.sin, torch.cos, torch.exp, torch.sqrt

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.vector = cache(self._vector)  # constants are made once, not in every step

    def _vector(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device).unsqueeze(1)

    @staticmethod
    def sum(terms: Tensor) -> Tensor:
        return terms.sum(0)

    @staticmethod
    def prod(terms: Tensor) -> Tensor:
        return terms.prod(0)


torch_math = cache(TorchMath)


class NumpyMath:
    """The same for numpy: coordinates have shape [dimension, directions, points]."""

    sin, cos, exp, sqrt = np.sin, np.cos, np.exp, np.sqrt

    @staticmethod
    @cache
    def vector(values: tuple[float, ...]) -> np.ndarray:
        return np.array(values)[:, None, None]

    @staticmethod
    def sum(terms: np.ndarray) -> np.ndarray:
        return np.add.reduce(terms, 0)

    @staticmethod
    def prod(terms: np.ndarray) -> np.ndarray:
        return np.multiply.reduce(terms, 0)


#: up to so many coordinates gradients are made of complex steps
STEPPED = 32
TINY = 1e-170  # its square is 0 in float64, so a complex step of this size is exact


@cache
def complex_steps(dimension: int) -> np.ndarray:
    """A tiny imaginary step along each coordinate, [dimension, directions, 1]."""
    return (1j * TINY * np.eye(dimension))[:, :, None]


@cache
def matrix(rows: Matrix) -> np.ndarray:
    return np.array(rows)


@dataclass(frozen=True)
class Function:
    """A function to minimise, with what is known about it.

    `minimum` is the least value in the domain, reached at each of `minimisers`. `basin` is the value at which exact
    gradient flow from `start` ends: what a good local optimizer reaches; it gets below that only by luck.
    """

    name: str
    title: str
    definition: Callable[[Any, Any], Any]
    domain: tuple[tuple[float, float], ...]
    start: Point
    minimisers: tuple[Point, ...]
    minimum: float
    basin: float
    source: str
    start_value: float | None = None  # published value at the start
    smooth: bool = True  # differentiable at its minimisers
    unbounded_outside: bool = False  # falls below the minimum outside the domain
    rotation: Matrix | None = None  # R: the value is definition(R @ x), so all else is about x, not R @ x
    disturbance: Disturbance | None = None  # of the gradients an optimizer is told; values are true ones

    def __post_init__(self) -> None:
        if not self.start:
            raise ValueError(f"{self.name} has 0 dimensions; give a start with 1 or more")
        meant = self.disturbance.dimension if self.disturbance else None
        if meant not in (None, self.dimension):
            raise ValueError(
                f"{self.name} has {self.dimension} dimensions and its disturbance {meant}; give numbers for each"
            )

    @property
    def dimension(self) -> int:
        return len(self.start)

    def __call__(self, points: Tensor) -> Tensor:
        """Values [...] at `points` [..., dimension] (float64), differentiable by autograd."""
        flat = points.reshape(-1, self.dimension)
        if self.rotation is not None:
            flat = flat @ torch.from_numpy(matrix(self.rotation)).to(points.device).T
        return self.definition(flat.T, torch_math(points.device)).reshape(points.shape[:-1])

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Values [...] and gradients [..., dimension] at `points` [..., dimension], equal to autograd's to rounding.

        On the CPU by the complex step, f(x + ih) = f(x) + ih f'(x) + O(h²) (Squire & Trapp 1998): autograd spends ten
        times as long on keeping its books as on arithmetic with so few numbers. With many coordinates it is the other
        way round, as each has a step of its own.
        """
        if not points.is_cpu or self.dimension > STEPPED:
            leaf = points.detach().requires_grad_()
            values = self(leaf)
            (gradient,) = torch.autograd.grad(values, leaf, torch.ones_like(values))
            return values.detach(), gradient
        x = points.detach().numpy().reshape(-1, self.dimension).T
        rotation = None if self.rotation is None else matrix(self.rotation)
        with np.errstate(all="ignore"):  # a run that diverges overflows; its loss says so
            x = x if rotation is None else rotation @ x
            values = self.definition(x[:, None] + complex_steps(self.dimension), NumpyMath)
            value, gradient = values[0].real.copy(), (values.imag / TINY).T
            gradient = gradient if rotation is None else gradient @ rotation
        return torch.from_numpy(value).view(points.shape[:-1]), torch.from_numpy(gradient).reshape(points.shape)


def shifted(function: Function, by: Point) -> Function:
    """`function` moved by the vector `by`: the same landscape around another minimiser."""

    def move(point: Sequence[float]) -> Point:
        return tuple(x + shift for x, shift in zip(point, by, strict=True))

    turned = by if function.rotation is None else tuple((matrix(function.rotation) @ by).tolist())
    return replace(
        function,
        definition=lambda x, m: function.definition(x - m.vector(turned), m),
        domain=tuple((low + shift, high + shift) for (low, high), shift in zip(function.domain, by, strict=True)),
        start=move(function.start),
        minimisers=tuple(map(move, function.minimisers)),
    )
