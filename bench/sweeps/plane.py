"""The plane of two hyper-parameters: one run for each pair, all from the start of one function."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from bench.problems.function import Function
from bench.sweeps import engine
from optimizers.algorithm import ITEMS

#: runs that are made together; what lies in memory at a time does not grow with the plane
TOGETHER = 1 << 17
#: an optimizer's default is in the middle of so many decades to either side
DECADES = 3.0


class Scale(StrEnum):
    """How the values of an axis are spaced."""

    LOGARITHMIC = "logarithmic"
    TO_ONE = "logarithmic in 1 - x"  # for averages: 0.9, 0.99, 0.999 are equally far apart
    LINEAR = "linear"


AVERAGES = ("beta1", "beta2", "momentum", "rho", "alpha")
#: what is spaced evenly, and between which values
LINEAR: dict[str, tuple[float, float]] = {
    "etaminus": (0.05, 0.95),
    "etaplus": (1.05, 3.0),
    "dampening": (0.0, 0.95),
    "beta2_decay": (-1.0, 0.0),
    "d": (1.0, 10.0),
}
LAST_AVERAGE = 0.999
#: for an option whose default is 0
ABOVE_ZERO = (1e-6, 1.0)


@dataclass(frozen=True)
class Axis:
    """A hyper-parameter and the values it takes, from the least to the greatest."""

    name: str
    scale: Scale
    values: np.ndarray

    def share(self, value: float) -> float:
        """How far along the axis a value is, from 0 to 1."""
        low, here, high = (_scaled(self.scale, x) for x in (self.values[0], value, self.values[-1]))
        return float((here - low) / (high - low))


@dataclass(frozen=True)
class Plane:
    """What the runs came to: gaps [y, x], inf where a run diverged, and bad_step [y, x], the step at which, or -1."""

    optimizer: str
    title: str
    x: Axis
    y: Axis
    steps: int
    gaps: np.ndarray
    bad_step: np.ndarray
    seconds: float
    what: str = "loss − minimum"  # the gaps are


def _scaled(scale: Scale, x: Any) -> Any:
    return np.log10(x) if scale is Scale.LOGARITHMIC else -np.log10(1 - x) if scale is Scale.TO_ONE else x


def axis(cls: type, name: str, size: int, limits: tuple[float, float] | None = None) -> Axis:
    """`size` values of one hyper-parameter, between `limits` or around the default.

    Raises ValueError for a name the optimizer does not have, a switch, and limits that are no interval.
    """
    group = cls([torch.zeros(1)]).param_groups[0]
    if name not in names(cls):
        raise ValueError(f"{cls.__name__} has no {name}; there are {', '.join(numbers(cls))}")
    if name not in numbers(cls):
        raise ValueError(f"{name} is a switch, not a number; there are {', '.join(numbers(cls))}")
    default = engine.default(name, group)
    scale = Scale.TO_ONE if name in AVERAGES and default < 1 else Scale.LOGARITHMIC
    scale = Scale.LINEAR if name in LINEAR else scale
    if limits is None:
        around = (default * 10**-DECADES, default * 10**DECADES) if default > 0 else ABOVE_ZERO
        limits = LINEAR.get(name) or ((0.0, LAST_AVERAGE) if scale is Scale.TO_ONE else around)
    low, high = limits
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"{name} from {low} to {high} is no interval; give two numbers, the smaller one first")
    if (scale is Scale.LOGARITHMIC and low <= 0) or (scale is Scale.TO_ONE and high >= 1):
        scale = Scale.LINEAR
    places = np.linspace(_scaled(scale, low), _scaled(scale, high), size)
    values = 10**places if scale is Scale.LOGARITHMIC else 1 - 10**-places if scale is Scale.TO_ONE else places
    values[0], values[-1] = low, high
    return Axis(name, scale, values)


def numbers(cls: type) -> list[str]:
    """The hyper-parameters that can be an axis."""
    group = cls([torch.zeros(1)]).param_groups[0]
    return [name for name in names(cls) if not isinstance(group.get(name), bool)]


def names(cls: type) -> list[str]:
    """The options of an optimizer that may differ from run to run.

    Of one without a rule of ours: those arguments of it that are numbers, and the items of ``betas`` and the like.
    """
    if hasattr(cls, "algorithm"):
        return engine.names(cls)
    group, given = cls([torch.zeros(1)]).param_groups[0], inspect.signature(cls).parameters
    found = [name for name, value in group.items() if name in given and isinstance(value, int | float)]
    items = [name for name, (key, place) in ITEMS.items() if key in given and place < _length(group.get(key))]
    return found + items


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else 0


def options(pair: Mapping[str, float], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a parameter group for hyper-parameters by the names their axes have: ``betas`` for ``beta1``."""
    found: dict[str, Any] = {}
    for name, value in pair.items():
        key, place = ITEMS.get(name, (name, None))
        if place is None:
            found[key] = value
        else:
            whole = list(found.get(key, defaults[key]))
            whole[place] = value
            found[key] = tuple(whole)
    return found


def plane(
    function: Function,
    cls: type,
    x: Axis,
    y: Axis,
    steps: int,
    highest_gap: float,
    options: Mapping[str, Any] | None = None,
    dtype: str = "float64",
    sweep: Callable[..., engine.Sweep] = engine.sweep,
    together: int | None = None,
) -> Plane:
    """Makes `steps` steps from the function's start for each pair; a gap above `highest_gap`, ever, has diverged.

    `sweep` is `engine.sweep`, on a GPU `cuda.sweep`, or without a rule of ours `stepped.sweep`; so many runs are made
    `together`, else TOGETHER.
    """
    below = 1e-9 * max(1.0, abs(function.minimum))  # under the minimum lies only what is outside the domain
    bounds = (function.minimum - below, function.minimum + highest_gap)
    origin = np.array(function.start)

    def make(across: np.ndarray, down: np.ndarray, steps: int) -> engine.Sweep:
        pairs = {x.name: np.tile(across, len(down)), y.name: np.repeat(down, len(across))}
        starts = np.broadcast_to(origin, (len(across) * len(down), function.dimension))
        return sweep(function, cls, {**(options or {}), **pairs}, starts, steps, dtype=dtype, bounds=bounds)

    # Compiled, and refused if it must be, ahead of the clock. An end may be a kind of its own, as without momentum, and
    # what is compiled depends on what differs: two values beside it.
    make(*(one.values[[0, len(one.values) // 2, -1]] for one in (x, y)), 0)
    begin = time.perf_counter()
    rows = max(1, (together or TOGETHER) // len(x.values))
    gaps, bad_steps = [], []
    for first in range(0, len(y.values), rows):
        found = make(x.values, y.values[first : first + rows], steps)
        gaps.append(np.where(found.bad_step < 0, found.values - function.minimum, np.inf))
        bad_steps.append(found.bad_step)
    shape = (len(y.values), len(x.values))
    return Plane(
        cls.__name__,
        function.title,
        x,
        y,
        steps,
        np.concatenate(gaps).reshape(shape),
        np.concatenate(bad_steps).reshape(shape),
        time.perf_counter() - begin,
    )
