"""What an optimizer is verified on: tensors of awkward sizes, with gradients that come late, pause, or never come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.options import OptionSet
from bench.ulp import rounded

Array = NDArray[np.float64]
Shape = tuple[int, ...]

# Around the widths of vector registers (8, 16, 32, 64) and of kernel blocks (1024), where loops leave remainders.
AWKWARD: tuple[Shape, ...] = tuple(
    (n,) for n in (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 1023, 1024, 1025)
)
TENSORS: dict[str, tuple[Shape, ...]] = {
    "awkward": ((), *AWKWARD, (3, 5, 2)),
    "big": ((2**20 + 3,),),
    "layouts": ((7, 33), (7, 33), (40,), (2, 3, 4, 5)),
}
LAYOUTS = ("transposed", "gradient transposed", "strided", "channels_last")  # of the tensors of "layouts", in order

# When a tensor has a gradient; by its place in the list above, for "awkward" only.
SCHEDULES = {4: "late", 13: "late", 8: "paused", 16: "paused", 11: "never"}
FIRST_LATE_STEP = 3
PAUSED_STEP = 5
LR_CHANGE_STEP = 4  # from this step on every group's lr is half of what it was


def has_gradient(schedule: str, step: int) -> bool:
    """Whether a tensor of this schedule has a gradient in this step, counted from 1."""
    return {"late": step >= FIRST_LATE_STEP, "paused": step != PAUSED_STEP, "never": False}.get(schedule, True)


@dataclass(frozen=True)
class Bucket:
    """Neighbouring tensors with one parameter group and one schedule: their scalar state is always equal."""

    group: int
    schedule: str
    tensors: range
    elements: slice


@dataclass(frozen=True)
class Workload:
    """Tensors one after the other in flat float64 arrays whose values are representable in `dtype`."""

    dtype: str
    shapes: tuple[Shape, ...]
    layouts: tuple[str, ...]
    buckets: tuple[Bucket, ...]
    params: Array
    gradients: Array  # one row a step

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]


def make_workload(option_set: OptionSet, dtype: str, steps: int, seed: int) -> Workload:
    """Parameters of either sign from 1/64 to 2; gradients over seven orders of magnitude, one in fifty exactly 0."""
    shapes = TENSORS[option_set.tensors]
    layouts = LAYOUTS if option_set.tensors == "layouts" else ("",) * len(shapes)
    schedules = SCHEDULES if option_set.tensors == "awkward" else {}
    groups = 1 + len(option_set.groups)
    order = sorted(range(len(shapes)), key=lambda i: (i % groups, schedules.get(i, "")))
    shapes = tuple(shapes[i] for i in order)
    buckets = []
    start = element = 0
    while start < len(order):
        key = (order[start] % groups, schedules.get(order[start], ""))
        stop = start
        while stop < len(order) and (order[stop] % groups, schedules.get(order[stop], "")) == key:
            stop += 1
        size = sum(math.prod(shape) for shape in shapes[start:stop])
        buckets.append(Bucket(*key, range(start, stop), slice(element, element + size)))
        start, element = stop, element + size

    random = np.random.default_rng(seed)
    # float16 holds no squares of numbers below 1e-4 or above 255
    low, high = (-2.0, 1.0) if dtype == "float16" else (-6.0, 1.0)
    scale = 10.0 ** random.uniform(low, high, element)
    gradients = random.standard_normal((1 if option_set.gradients == "constant" else steps, element)) * scale
    gradients[random.random(gradients.shape) < 0.02] = 0.0
    if option_set.gradients == "constant":
        gradients = np.repeat(gradients, steps, axis=0)
    return Workload(
        dtype,
        shapes,
        layouts,
        tuple(buckets),
        rounded(2.0 ** random.uniform(-6, 1, element) * random.choice((-1.0, 1.0), element), dtype),
        rounded(gradients, dtype),
    )


def make_tensor(shape: Shape, layout: str, **kind: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An uninitialised tensor with this memory layout; a strided one comes with the memory that lies between."""
    if layout == "transposed":
        return torch.empty(shape[::-1], **kind).t(), None
    if layout == "channels_last":
        return torch.empty(shape, memory_format=torch.channels_last, **kind), None
    if layout == "strided":
        base = torch.zeros((*shape, 2), **kind)
        return base[..., 0], base[..., 1]
    return torch.empty(shape, **kind), None
