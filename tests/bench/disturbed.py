"""Quadratics whose gradients are disturbed, in each of the ways there are, for the tests of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bench.problems.disturbance import (
    CorrelatedNoise,
    Delayed,
    Drifting,
    HeavyNoise,
    Noise,
    Oracle,
    Quantised,
    Sparse,
)
from bench.problems.function import Function
from bench.problems.quadratics import QUADRATICS, quadratic

#: in ten dimensions, where the compiled gradient is a loop over coordinates, and in two, where it is written out
PLANE = quadratic("plane", "", [1.0, 20.0], "", minimiser=[0.5, -1.0])
TEN = QUADRATICS["quadratic-1e2"]
FACTOR = tuple(map(tuple, np.random.default_rng(0).normal(size=(10, 10)).tolist()))
KINDS = {
    "noise": Noise(tuple(np.linspace(0.1, 2, 10).tolist())),
    "heavy": HeavyNoise(tuple(np.linspace(0.1, 2, 10).tolist())),
    "correlated": CorrelatedNoise(FACTOR),
    "sparse": Sparse(0.3),
    "delayed": Delayed(4),
    "drifting": Drifting((0.01, -0.02) * 5),
    "quantised": Quantised(0.7),
}
RANDOM = ("noise", "heavy", "correlated", "sparse")
EVERY = pytest.mark.parametrize("kind", KINDS)


def disturbed(kind: str, function: Function = TEN) -> Function:
    one = KINDS[kind]
    if function.dimension == 2:
        one = {
            "noise": Noise((0.1, 2.0)),
            "heavy": HeavyNoise((0.1, 2.0)),
            "correlated": CorrelatedNoise(((1.0, 0.5), (-0.5, 2.0))),
            "drifting": Drifting((0.01, -0.02)),
        }.get(kind, one)
    return dataclasses.replace(function, disturbance=one)


def starts_of(function: Function, count: int) -> np.ndarray:
    return np.array(function.start) + np.random.default_rng(1).normal(0, 0.05, (count, function.dimension))


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def alone(function, cls, start, options, steps, seed) -> tuple[np.ndarray, np.ndarray]:
    """Every point and true value of one run by the optimizer's class."""
    oracle, point = Oracle(function, [seed]), torch.tensor(start)
    optimizer = cls([point], **options)
    path, values = [point.numpy().copy()], []
    for _ in range(steps):
        value, gradient = oracle.ask(point[None])
        point.grad = gradient[0]
        optimizer.step()
        values.append(value.item())
        path.append(point.numpy().copy())
    return np.array(path), np.array([*values, oracle.values(point[None]).item()])
