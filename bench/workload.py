"""What an optimizer is verified on: tensors of awkward sizes, with gradients that come late, pause, or never come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.options import OptionSet
from bench.ulp import rounded

Array = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSet:
    """The tensors of a workload; `schedules`, by place, says of some when they have a gradient."""

    shapes: tuple[Shape, ...]
    layouts: tuple[str, ...] = ()  # in memory, by place; empty: all contiguous
    schedules: Mapping[int, str] = field(default_factory=dict)
    apart: bool = False  # each tensor is a bucket of its own, in its shape: for rules that are not elementwise
    gradients: str = "mixed"  # mixed | of one size (in each tensor) | sparse


# Around the widths of vector registers (8, 16, 32, 64) and of kernel blocks (1024), where loops leave remainders.
VECTORS: tuple[Shape, ...] = tuple(
    (n,) for n in (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 1023, 1024, 1025)
)
FACTORED: tuple[Shape, ...] = (
    *((), (1,), (17,), (1025,), (1, 1), (1, 33), (33, 1), (7, 9), (16, 16), (31, 65), (130, 127)),
    *((3, 5, 2), (2, 3, 4, 5), (1, 7, 64)),
)
# No small square ones: random, they often have a singular value too small for bfloat16 to tell from 0.
MATRICES: tuple[Shape, ...] = (
    *((1, 1), (1, 9), (9, 1), (7, 65), (16, 33), (33, 16), (17, 64), (64, 17), (64, 17), (31, 65), (129, 17)),
    *((65, 65), (65, 7)),
)
ROWS: tuple[Shape, ...] = ((1, 1), (5, 3), (40,), (33, 16), (64, 17), (7, 4, 3), (1000, 4), (17, 33), (257, 4))
LAYOUTS = ("transposed", "gradient transposed", "strided", "channels_last")
IN_LAYOUTS: tuple[Shape, ...] = ((7, 33), (7, 33), (40,), (2, 3, 4, 5))

# By what an optimizer sees at once, and by the name in `OptionSet.tensors`.
TENSORS: dict[tuple[str, str], TensorSet] = {
    ("elements", "awkward"): TensorSet(
        ((), *VECTORS, (3, 5, 2)),
        schedules={4: "late", 13: "late", 8: "paused", 16: "paused", 11: "never"},
    ),
    ("elements", "big"): TensorSet(((2**20 + 3,),)),
    ("elements", "layouts"): TensorSet(IN_LAYOUTS, LAYOUTS),
    ("rows", "awkward"): TensorSet(ROWS, schedules={4: "late", 3: "paused", 7: "never"}, gradients="sparse"),
    ("rows", "big"): TensorSet(((2**15 + 3, 32),), gradients="sparse"),
    ("rows", "layouts"): TensorSet(((7, 33), (33, 7), (40,)), ("transposed", "", "strided"), gradients="sparse"),
    ("tensors", "awkward"): TensorSet(FACTORED, schedules={2: "late", 9: "late", 7: "paused", 3: "never"}, apart=True),
    ("tensors", "big"): TensorSet(((1025, 1023), (2**18 + 3,)), apart=True),
    ("tensors", "layouts"): TensorSet(IN_LAYOUTS, LAYOUTS, apart=True),
    ("matrices", "awkward"): TensorSet(
        MATRICES, schedules={3: "late", 6: "late", 4: "paused", 9: "never"}, apart=True, gradients="of one size"
    ),
    ("matrices", "big"): TensorSet(((256, 256), (256, 256)), apart=True, gradients="of one size"),
    ("matrices", "layouts"): TensorSet(((7, 33),) * 3, LAYOUTS[:3], apart=True, gradients="of one size"),
    ("everything", "awkward"): TensorSet(((), (7,), (33, 5), (64,), (1,), (0,)), schedules={3: "never"}),
    ("everything", "big"): TensorSet(((2**17 + 3,),)),
    ("everything", "layouts"): TensorSet(((7, 33), (40,), (2, 3, 4, 5)), ("transposed", "strided", "channels_last")),
}

FIRST_LATE_STEP = 3
PAUSED_STEP = 5
LR_CHANGE_STEP = 4  # from this step on every group's lr is half of what it was
TOUCHED = 0.3  # the share of its rows that a sparse gradient holds


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
    shape: Shape  # in which the rule sees them: flat and together, unless the rule is not elementwise


@dataclass(frozen=True)
class Workload:
    """Tensors one after the other in flat float64 arrays whose values are representable in `dtype`."""

    dtype: str
    shapes: tuple[Shape, ...]
    layouts: tuple[str, ...]
    buckets: tuple[Bucket, ...]
    params: Array
    gradients: Array  # one row a step; nan where a sparse gradient holds nothing
    sparse: bool

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]


def make_workload(option_set: OptionSet, dtype: str, steps: int, seed: int) -> Workload:
    """Parameters of either sign from 1/64 to 2; gradients over seven orders of magnitude, one in fifty exactly 0.

    Within a matrix that is to be orthogonalised they have one size and none is 0: of a matrix whose singular values
    span more than bfloat16 can resolve, no arithmetic in bfloat16 finds the small ones.
    """
    chosen = TENSORS[option_set.sees, option_set.tensors]
    layouts = chosen.layouts or ("",) * len(chosen.shapes)
    groups = 1 + len(option_set.groups)
    order = sorted(range(len(layouts)), key=lambda i: (i % groups, chosen.schedules.get(i, "")))
    shapes, layouts = (tuple(values[i] for i in order) for values in (chosen.shapes, layouts))
    buckets: list[Bucket] = []
    element = 0
    for place, i in enumerate(order):
        key, size = (i % groups, chosen.schedules.get(i, "")), math.prod(shapes[place])
        last = buckets[-1] if buckets else None
        if last is None or chosen.apart or (last.group, last.schedule) != key:
            shape = shapes[place] if chosen.apart else (size,)
            buckets.append(Bucket(*key, range(place, place + 1), slice(element, element + size), shape))
        else:
            elements = slice(last.elements.start, element + size)
            buckets[-1] = Bucket(
                *key, range(last.tensors.start, place + 1), elements, (elements.stop - elements.start,)
            )
        element += size

    random = np.random.default_rng(seed)
    # float16 holds no squares of numbers below 1e-4 or above 255
    low, high = (-2.0, 1.0) if dtype == "float16" else (-6.0, 1.0)
    constant = option_set.gradients == "constant"
    scale = random.uniform(low, high, element)
    if chosen.gradients == "of one size":
        scale = np.concatenate([np.full(b.elements.stop - b.elements.start, scale[b.elements][0]) for b in buckets])
    gradients = random.standard_normal((1 if constant else steps, element)) * 10.0**scale
    if chosen.gradients != "of one size":
        gradients[random.random(gradients.shape) < 0.02] = 0.0
    gradients = np.repeat(gradients, steps, axis=0) if constant else gradients
    if chosen.gradients == "sparse":
        gradients[~touched(shapes, buckets, steps, random)] = np.nan
    params = 2.0 ** random.uniform(-6, 1, element) * random.choice((-1.0, 1.0), element)
    if chosen.gradients == "of one size":
        params /= 2.0**9  # so that an update with the smallest lr still shows beside 16-bit parameters
    return Workload(
        dtype,
        shapes,
        layouts,
        tuple(buckets),
        rounded(params, dtype),
        rounded(gradients, dtype),
        chosen.gradients == "sparse",
    )


def touched(shapes: tuple[Shape, ...], buckets: list[Bucket], steps: int, random: np.random.Generator) -> NDArray:
    """Which elements sparse gradients hold, one row a step: some of the rows of each tensor, all of them in the first.

    Of a tensor with one row that is often none.
    """
    parts = []
    for bucket in buckets:
        for shape in shapes[bucket.tensors.start : bucket.tensors.stop]:
            rows = random.random((steps, shape[0])) < TOUCHED
            rows[0] = True
            parts.append(np.repeat(rows, math.prod(shape[1:]), axis=1))
    return np.concatenate(parts, axis=1)


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


def sparse_rows(dense: torch.Tensor, split: bool) -> torch.Tensor:
    """The rows of `dense` that are not nan, as a sparse gradient. `split`: half of each row, in two entries each.

    Halves are exact above the smallest normal number, so their sum is the row.
    """
    rows = (~torch.isnan(dense.reshape(len(dense), -1)).any(1)).nonzero().flatten()
    values = dense.detach()[rows].contiguous()
    if split:
        rows, values = torch.cat([rows.flip(0), rows]), torch.cat([values.flip(0), values]) / 2
    return torch.sparse_coo_tensor(rows[None], values, dense.shape, is_coalesced=not split, check_invariants=False)
