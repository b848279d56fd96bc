"""Random training runs: which tensors, in which layout and of which size, what is done to them, under which options."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from .guarded import AVAILABLE, guarded

SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257)
#: no tensor has more elements than this: what grows with size is the number of loop rounds, which 257 has enough of
LARGEST = 1100
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "offset", "as_strided")
GRADIENT_LAYOUTS = (*LAYOUTS, "expanded", "negative", "conjugate")
EDGES = (None, "before", "behind") if AVAILABLE else (None,)
VALUES = ("normal", "zero", "subnormal", "1e30", "1e-30", "inf", "nan", "mixed")
#: what cells between the elements of a tensor hold, to see that they stay as they are
FILL = 77.0

# --- options ----------------------------------------------------------------------------------------------------------

_unit = st.sampled_from((0.0, 0.5, 0.9, 0.999)) | st.floats(1e-6, 0.9999)
_half = st.floats(0.5, 0.9999)  # below, torch's SparseAdam loses the new gradient in the difference to a large old mean
_pair = st.tuples(_unit, _unit)
_decay = st.sampled_from((0.0, 0.0, 0.1, 1.5))
_eps = st.sampled_from((1e-8, 1e-3, 1e-15, 0.0))
_rate = st.sampled_from((1e-3, 0.1, 1.0, 0.0)) | st.floats(1e-6, 3.0)
_flag = st.booleans()
_adam = {"lr": _rate, "betas": _pair, "eps": _eps, "weight_decay": _decay, "maximize": _flag}

#: what may stand in a parameter group, by optimizer
OPTIONS: dict[str, dict[str, st.SearchStrategy]] = {
    "SGD": {
        "lr": _rate,
        "momentum": st.sampled_from((0.0, 0.9)) | _unit,
        "dampening": st.sampled_from((0.0, 0.5)),
        "weight_decay": _decay,
        "nesterov": _flag,
        "maximize": _flag,
    },
    "Adam": {**_adam, "amsgrad": _flag, "decoupled_weight_decay": _flag},
    "AdamW": {**_adam, "amsgrad": _flag},
    "Adamax": _adam,
    "NAdam": {**_adam, "momentum_decay": st.sampled_from((4e-3, 0.0, 0.5)), "decoupled_weight_decay": _flag},
    "RAdam": {**_adam, "decoupled_weight_decay": _flag},
    "Adagrad": {
        "lr": _rate,
        "lr_decay": st.sampled_from((0.0, 0.1)),
        "weight_decay": _decay,
        "eps": st.sampled_from((1e-10, 1e-3, 0.0)),
        "maximize": _flag,
    },
    "Adadelta": {
        "lr": _rate,
        "rho": _unit,
        "eps": st.sampled_from((1e-6, 1e-3)),
        "weight_decay": _decay,
        "maximize": _flag,
    },
    "RMSprop": {
        "lr": _rate,
        "alpha": _unit,
        "eps": _eps,
        "weight_decay": _decay,
        "momentum": st.sampled_from((0.0, 0.9)) | _unit,
        "centered": _flag,
        "maximize": _flag,
    },
    "Rprop": {
        "lr": st.sampled_from((1e-2, 100.0, 1e-9)),
        "etas": st.sampled_from(((0.5, 1.2), (0.1, 3.0))),
        "step_sizes": st.sampled_from(((1e-6, 50.0), (0.01, 0.02))),
        "maximize": _flag,
    },
    "ASGD": {
        "lr": _rate,
        "lambd": st.sampled_from((1e-4, 0.5, 0.0)),
        "alpha": st.sampled_from((0.75, 0.0, 2.0)),
        "t0": st.sampled_from((1e6, 0.0, 1.0, 2.0)),
        "weight_decay": _decay,
        "maximize": _flag,
    },
    "Adafactor": {
        "lr": _rate,
        "beta2_decay": st.sampled_from((-0.8, 0.0, -2.0)),
        "eps": st.sampled_from(((None, 1e-3), (1e-30, 1e-3), (1e-3, 0.5))),
        "d": st.sampled_from((1.0, 3.0)),
        "weight_decay": _decay,
        "maximize": _flag,
    },
    "SparseAdam": {
        "lr": _rate,
        "betas": st.tuples(_half, _half),
        "eps": st.sampled_from((1e-8, 1e-3)),
        "maximize": _flag,
    },
}


@st.composite
def options(draw, name: str) -> dict[str, Any]:
    """The options of one parameter group: some of them other than the default."""
    keys = draw(st.sets(st.sampled_from(sorted(OPTIONS[name]))))
    chosen = {key: draw(OPTIONS[name][key]) for key in sorted(keys)}
    if chosen.get("nesterov"):  # which has two conditions
        chosen |= {"momentum": chosen.get("momentum") or 0.9, "dampening": 0.0}
    if chosen.get("centered") and chosen.get("eps") == 0:  # rounding alone would decide the size of a step
        chosen["eps"] = 1e-8
    return chosen


# --- tensors ----------------------------------------------------------------------------------------------------------


@st.composite
def shapes(draw) -> tuple[int, ...]:
    """Zero to five dimensions, with few enough elements."""
    shape: list[int] = []
    for size in draw(st.lists(st.sampled_from(SIZES), max_size=5)):
        shape.append(size if size * math.prod(filter(None, shape)) <= LARGEST else 1)
    return tuple(shape)


@dataclass(frozen=True)
class Param:
    """One parameter: what it is and where it lies; `edge` is the side on which it touches forbidden memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    edge: str | None
    values: str


@dataclass(frozen=True)
class Gradient:
    """One gradient: where it lies and what it holds."""

    layout: str
    edge: str | None
    values: str


@dataclass(frozen=True)
class Step:
    """What happens before a step, with which options, and the gradient (or none) of each parameter there may be."""

    event: str
    gradients: tuple[Gradient | None, ...]
    options: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Run:
    """A whole case."""

    name: str
    seed: int
    mode: str  # "kernel", "eager", or "python" for a kernel with the plain checks
    groups: tuple[tuple[Param, ...], ...]
    options: tuple[dict[str, Any], ...] = field(hash=False)
    late: tuple[Param, ...]
    steps: tuple[Step, ...]


EVENTS = ("", "", "", "", "save and load", "through torch", "pickle", "deepcopy", "add a group", "change options")
#: two groups of two and a late one
MAX_PARAMS = 5


@st.composite
def params(draw, dtypes=DTYPES) -> Param:
    return Param(
        draw(shapes()),
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(EDGES)),
        draw(st.sampled_from(("normal", "normal", *VALUES))),
    )


gradients = st.builds(
    Gradient, st.sampled_from(GRADIENT_LAYOUTS), st.sampled_from(EDGES), st.sampled_from(("normal", "normal", *VALUES))
)


@st.composite
def steps(draw, name: str) -> Step:
    event = draw(st.sampled_from(EVENTS))
    some = st.lists(st.none() | gradients, min_size=MAX_PARAMS, max_size=MAX_PARAMS)
    changed = draw(options(name)) if event in ("add a group", "change options") else {}
    return Step(event, tuple(draw(some)), changed)


@st.composite
def runs(draw, name: str, dtypes=DTYPES) -> Run:
    """A run of a few steps of one optimizer."""
    groups = draw(st.lists(st.lists(params(dtypes), min_size=1, max_size=2).map(tuple), min_size=1, max_size=2))
    return Run(
        name,
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from(("kernel", "kernel", "eager", "python"))),
        tuple(groups),
        tuple(draw(options(name)) for _ in groups),
        (draw(params(dtypes)),),
        tuple(draw(st.lists(steps(name), min_size=1, max_size=4))),
    )


def strides_of(shape: tuple[int, ...], layout: str) -> tuple[list[int], int]:
    """The strides of a layout, and the offset of its first element."""
    order = list(range(len(shape)))  # from the outermost dimension to the innermost
    gap, offset = 1, 0
    if layout == "channels_last" and len(shape) > 2:
        order = [0, *order[2:], 1]
    elif layout == "transposed":
        order = order[:-2] + order[-2:][::-1]
    elif layout == "as_strided":
        order, gap = order[::-1], 3
    elif layout == "sliced":
        gap = 2
    elif layout == "offset":
        offset = 3
    strides, stride = [0] * len(shape), gap
    for d in reversed(order):
        strides[d] = stride
        stride *= max(shape[d], 1)
        if layout == "as_strided":
            stride += 1
    if layout == "expanded" and shape:
        strides[0] = 0
    return strides, offset


def place(values: Tensor, layout: str, edge: str | None = None) -> Tensor:
    """These values in memory of that layout; what lies between the elements is `FILL`."""
    if layout == "negative":
        return torch._neg_view(place(-values, "contiguous", edge))
    if layout == "conjugate" and values.is_complex():
        return place(values.conj().resolve_conj(), "contiguous", edge).conj()
    shape = tuple(values.shape)
    strides, offset = strides_of(shape, layout)
    room = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1 if values.numel() else 0
    flat = torch.empty(room, dtype=values.dtype) if edge is None else guarded(room, values.dtype, edge)
    placed = flat.fill_(FILL).as_strided(shape, strides, min(offset, room))
    if layout == "expanded" and shape and shape[0]:
        placed[0] = values[0]
    else:
        placed.copy_(values)
    return placed


def gaps_are_untouched(t: Tensor) -> bool:
    """Whether the memory that `place` made around the elements still holds what it did."""
    size = t.untyped_storage().nbytes() // t.element_size() if t.numel() else 0
    used = torch.zeros(size, dtype=torch.bool).as_strided(t.shape, t.stride(), t.storage_offset() if size else 0)
    used.fill_(True)
    flat = t.detach().as_strided((size,), (1,), 0)
    return bool((flat[~used.as_strided((size,), (1,), 0)] == FILL).all())


def numbers(kind: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random numbers of one kind; `mixed` has some of every kind."""
    real = dtype.to_real() if dtype.is_complex else dtype
    cells = (*shape, 2) if dtype.is_complex else shape
    x = torch.randn(cells, dtype=torch.float64, generator=generator)
    smallest = torch.finfo(real).smallest_normal
    of = {
        "normal": x,
        "zero": torch.zeros_like(x),
        "subnormal": x * smallest / 8,
        "1e30": x * 1e30,
        "1e-30": x * 1e-30,
        "inf": x * math.inf,
        "nan": torch.full_like(x, math.nan),
    }
    if kind == "mixed":
        choice = torch.randint(len(of), cells, generator=generator)
        x = torch.stack(list(of.values())).gather(0, choice[None])[0]
    else:
        x = of[kind]
    x = x.to(real)
    return torch.view_as_complex(x) if dtype.is_complex else x
