"""What a test function is: a definition, what is known about it, and its values and gradients for many points at once.

A definition takes the coordinates `x` of a point and a namespace `m` of mathematics, and is plain arithmetic: `x[i]` is
one coordinate, `x[1:]` a run of them. `m` has `sin cos exp log sqrt absolute atan2`, `sum prod max` over the
coordinates, and `vector` for a row of constants: one per coordinate, or one per observation where a sum runs over data
(``m.sum((m.vector(y) - x[0] * m.vector(t)) ** 2)``). So the same lines serve torch (a whole batch of points at once,
differentiated by autograd), numpy (the same by complex steps, ten times as fast for the few numbers there are) and the
compiled sweep. At a kink all three give the same subgradient, torch's: 0 for `absolute`, and for `max` the mean over
the coordinates that are largest.
"""

from __future__ import annotations

import random
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

    sin, cos, exp, log, sqrt = torch.sin, torch.cos, torch.exp, torch.log, torch.sqrt
    absolute, atan2 = torch.abs, torch.atan2

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.vector, self.matrix = cache(self._vector), cache(self._matrix)  # made once, not in every step

    def _vector(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device).unsqueeze(1)

    def _matrix(self, rows: Matrix) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64, device=self.device)

    @staticmethod
    def sum(terms: Tensor) -> Tensor:
        return terms.sum(0)

    @staticmethod
    def prod(terms: Tensor) -> Tensor:
        return terms.prod(0)

    @staticmethod
    def max(terms: Tensor) -> Tensor:
        return terms.amax(0)


torch_math = cache(TorchMath)


class NumpyMath:
    """The same for numpy: coordinates have shape [dimension, directions, points].

    They are complex. Where a function branches, the real part decides; the imaginary part is the derivative's.
    """

    sin, cos, exp, log, sqrt = np.sin, np.cos, np.exp, np.log, np.sqrt

    @staticmethod
    def absolute(x: np.ndarray) -> np.ndarray:
        return x * np.sign(x.real)

    @staticmethod
    def atan2(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        square = x.real**2 + y.real**2
        return np.arctan2(y.real, x.real) + 1j * ((x.real * y.imag - y.real * x.imag) / square)

    @staticmethod
    @cache
    def vector(values: tuple[float, ...]) -> np.ndarray:
        return np.array(values)[:, None, None]

    @staticmethod
    @cache
    def matrix(rows: Matrix) -> np.ndarray:
        return np.array(rows)

    @staticmethod
    def sum(terms: np.ndarray) -> np.ndarray:
        return np.add.reduce(terms, 0)

    @staticmethod
    def prod(terms: np.ndarray) -> np.ndarray:
        return np.multiply.reduce(terms, 0)

    @staticmethod
    def max(terms: np.ndarray) -> np.ndarray:
        largest = terms.real == terms.real.max(0)
        return np.where(largest, terms, 0).sum(0) / largest.sum(0)


#: up to so many coordinates gradients are made of complex steps
STEPPED = 32
TINY = 1e-170  # its square is 0 in float64, so a complex step of this size is exact


@cache
def complex_steps(dimension: int) -> np.ndarray:
    """A tiny imaginary step along each coordinate, [dimension, directions, 1]."""
    return (1j * TINY * np.eye(dimension))[:, :, None]


@dataclass(frozen=True)
class Function:
    """A function to minimise, with what is known about it.

    `minimum` is the least value in the domain, reached at each of `minimisers`. `basin` is the value at which exact
    gradient flow from `start` ends: what a good local optimizer reaches; it gets below that only by luck.

    With a `rotation` R, an orthogonal matrix by rows, the value at x is that of the definition at Rx. All else is said
    of x, as without.
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
    smooth: bool = True  # autograd has a gradient at its minimisers, and it is 0
    unbounded_outside: bool = False  # falls below the minimum outside the domain
    rotation: Matrix | None = None
    unimodal: bool = False  # known to flow to `basin` from everywhere: then nobody has to follow it there
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
        x = points.reshape(-1, self.dimension).T
        if self.rotation is not None:
            x = torch_math(points.device).matrix(self.rotation) @ x
        return self.definition(x, torch_math(points.device)).reshape(points.shape[:-1])

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
        with np.errstate(all="ignore"):  # a run that diverges overflows; its loss says so
            stepped = x[:, None] + complex_steps(self.dimension)
            if self.rotation is not None:
                stepped = np.tensordot(NumpyMath.matrix(self.rotation), stepped, 1)
            values = self.definition(stepped, NumpyMath)
            value, gradient = values[0].real.copy(), (values.imag / TINY).T
        return torch.from_numpy(value).view(points.shape[:-1]), torch.from_numpy(gradient).reshape(points.shape)


def shifted(function: Function, by: Point) -> Function:
    """`function` moved by the vector `by`: the same landscape around another minimiser."""
    inner = by if function.rotation is None else tuple((np.array(function.rotation) @ by).tolist())

    def move(point: Sequence[float]) -> Point:
        return tuple(x + shift for x, shift in zip(point, by, strict=True))

    return replace(
        function,
        definition=lambda x, m: function.definition(x - m.vector(inner), m),
        domain=tuple((low + shift, high + shift) for (low, high), shift in zip(function.domain, by, strict=True)),
        start=move(function.start),
        minimisers=tuple(map(move, function.minimisers)),
    )


def rotated(function: Function, rotation: np.ndarray) -> Function:
    """The landscape of `function` turned about the origin: what was at Rx is at x, for an orthogonal matrix R.

    A box turned is no box along the axes. The domain is one as wide as before around the turned middle, widened where
    the start or a minimiser would lie outside of it.
    """
    whole = rotation if function.rotation is None else np.array(function.rotation) @ rotation
    low, high = np.array(function.domain).T
    middle, half = rotation.T @ ((low + high) / 2), (high - low) / 2
    start, minimisers = np.array(function.start) @ rotation, np.array(function.minimisers) @ rotation
    inside = np.vstack([start, minimisers])
    domain = zip(
        np.minimum(middle - half, inside.min(0)).tolist(),
        np.maximum(middle + half, inside.max(0)).tolist(),
        strict=True,
    )
    return replace(
        function,
        rotation=tuple(map(tuple, whole.tolist())),
        domain=tuple(domain),
        start=tuple(start.tolist()),
        minimisers=tuple(map(tuple, minimisers.tolist())),
    )


def qr_rotation(dimension: int, seed: str) -> np.ndarray:
    """A rotation matrix drawn evenly from all of them (reflections left out), the same for the same seed.

    The orthogonal factor of a Gaussian matrix, with the signs of R's diagonal taken into Q (Mezzadri, Notices of the
    AMS 54(5), 2007); the last row is turned round where the determinant is negative.
    """
    generator = random.Random(seed)
    gaussian = np.array([[generator.gauss(0, 1) for _ in range(dimension)] for _ in range(dimension)])
    q, r = np.linalg.qr(gaussian)
    q *= np.sign(np.diag(r))
    q[-1] *= np.sign(np.linalg.det(q))
    return q
