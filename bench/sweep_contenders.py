"""Who can make many runs of one optimizer on one function, for `sweep_time`, and the functions they make them on.

Each contender takes the learning rates of the runs [runs] and gives the points where they end [runs, dimension]:

    ours      one compiled call for all runs and steps
    batched   torch's autograd and its fused optimizer, over one tensor [runs, dimension] with one learning rate: of the
              ways that torch has, the fastest; with a group for each rate it would be many times slower
    alone     the same over one run [1, dimension]; the other runs would follow one after the other
    optax     ``jit(vmap(scan))`` of one run

All work in the same type, float64 or float32, coefficients in float64 where the optimizer makes them on the host.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import optimizers
from bench.problems import functions
from bench.problems.function import Function, TorchMath

#: the runs of a sweep, from one learning rate to the next
Run = Callable[[np.ndarray], np.ndarray]

DIMENSIONS = (2, 10)
#: with which options each optimizer is swept; the same in torch and in optax
OPTIONS: dict[str, dict[str, float]] = {"Adam": {}, "SGD": {"momentum": 0.9}}
#: the least and the greatest learning rate: nothing diverges, not even with SGD on the steepest of the functions
RATES = {"Adam": (1e-4, 1e-2), "SGD": (1e-9, 1e-7)}


#: the second half takes sines, cosines or exponentials
NAMES = (
    *("rosenbrock", "dixon-price", "zakharov", "styblinski-tang", "sum-squares"),
    *("ackley", "rastrigin", "levy", "griewank", "michalewicz"),
)
SUBJECTS: dict[str, Function] = {
    f"{name}-{dimension}d": functions.named(f"{name}-{dimension}d") for name in NAMES for dimension in DIMENSIONS
}


def ours(function: Function, optimizer: str, starts: np.ndarray, steps: int, device: str, dtype: str) -> Run:
    from bench.descents import sweeper

    sweep, cls = sweeper(device), getattr(optimizers, optimizer)
    return lambda rates: sweep(function, cls, {"lr": rates, **OPTIONS[optimizer]}, starts, steps, dtype=dtype).points


def batched(function: Function, optimizer: str, starts: np.ndarray, steps: int, device: str, dtype: str) -> Run:
    cls, begin = getattr(torch.optim, optimizer), torch.tensor(starts, device=device, dtype=getattr(torch, dtype))
    maths = TypedTorch(begin)

    def run(rates: np.ndarray) -> np.ndarray:
        points = begin.clone().requires_grad_()
        stepper = cls([points], lr=float(rates[0]), fused=True, **OPTIONS[optimizer])
        for _ in range(steps):
            stepper.zero_grad()
            function.definition(points.T, maths).sum().backward()
            stepper.step()
        return points.detach().cpu().numpy()

    return run


def alone(function: Function, optimizer: str, starts: np.ndarray, steps: int, device: str, dtype: str) -> Run:
    return batched(function, optimizer, starts[:1], steps, device, dtype)


def optax(function: Function, optimizer: str, starts: np.ndarray, steps: int, device: str, dtype: str) -> Run:
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    transformations = importlib.import_module("optax")
    maths = JaxMath(jax.numpy, dtype)
    make = {"Adam": transformations.adam, "SGD": transformations.sgd}[optimizer]
    slope = jax.grad(lambda point: function.definition(point, maths))

    def one(rate: Any, point: Any) -> Any:
        transformation = make(rate, **OPTIONS[optimizer])

        def step(carried: Any, _: None) -> tuple[Any, None]:
            point, state = carried
            updates, state = transformation.update(slope(point), state, point)
            return (transformations.apply_updates(point, updates), state), None

        (point, _), _ = jax.lax.scan(step, (point, transformation.init(point)), None, length=steps)
        return point

    begin = jax.numpy.asarray(starts, dtype)
    every = jax.jit(jax.vmap(one))
    return lambda rates: np.asarray(every(jax.numpy.asarray(rates, dtype), begin))


class TypedTorch(TorchMath):
    """The mathematics of the definitions for torch, with constants of the type that the points have."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__(like.device)
        self.dtype = like.dtype

    def _vector(self, values: tuple[float, ...]) -> torch.Tensor:
        return super()._vector(values).to(self.dtype)


class JaxMath:
    """The mathematics of the definitions for JAX: coordinates have shape [dimension]."""

    def __init__(self, jnp: Any, dtype: str) -> None:
        self.sin, self.cos, self.exp, self.sqrt = jnp.sin, jnp.cos, jnp.exp, jnp.sqrt
        self.sum, self.prod, self.vector = jnp.sum, jnp.prod, functools.partial(jnp.asarray, dtype=dtype)


CONTENDERS: dict[str, Callable[[Function, str, np.ndarray, int, str, str], Run]] = {
    "ours": ours,
    "batched": batched,
    "alone": alone,
    "optax": optax,
}


def unavailable(contender: str, device: str) -> str:
    """Why a contender cannot make runs here; empty if it can."""
    if contender != "optax":
        return ""
    if device != "cpu":
        return "optax is timed on the CPU only"
    missing = [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]
    return f"{missing[0]} is not installed: pip install 'optimizers-bench[optax]'" if missing else ""
