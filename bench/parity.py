"""Runs contenders and the oracle side by side on one workload, and measures how far apart they are.

Two tests. *Free*: everybody starts from the same parameters and goes its own way; the difference is measured after
each step, |a - b| / (1 + |b|). *Aligned*: before each step everybody is set to the same state, and the error of that
one step against the float64 oracle is measured in ulp of the larger of |old| and |new|. The next step begins from the
oracle's state, rounded once to the storage type, and from the parameters of the beginning: were they to walk, some
would come so near to 0 that a relative measure tells only who was lucky there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.options import OptionSet
from bench.oracle import Rule, State
from bench.ulp import rounded, ulp
from bench.workload import LR_CHANGE_STEP, Workload, has_gradient, make_tensor

Array = NDArray[np.float64]
Build = Callable[[list[dict[str, Any]], dict[str, Any]], torch.optim.Optimizer]
FREE_TOLERANCE = 1e-12  # of |a - b| / (1 + |b|)

# An element that is the small difference of large numbers (gradient + weight_decay * parameter near 0) has an error of
# many ulp in any arithmetic, and how many is luck. So errors are counted in ulp or, where it is larger, in the move of
# the exact result when the gradient moves by this factor: one rounding of float32, or in the 16-bit types, whose errors
# are held against a limit and not against the loop's, the four roundings of a weighted sum.
PERTURBATION = {"float32": 2.0**-23, "bfloat16": 2.0**-21, "float16": 2.0**-21}


@dataclass
class Layout:
    """Where in one flat array each (key, bucket) lies: the parameters, then each state array, key by key."""

    pieces: list[tuple[str, int]]
    slices: list[slice]
    keys: dict[str, slice]  # all buckets of one key lie side by side

    @classmethod
    def of(cls, params: list[Array], states: list[dict[str, Any]]) -> Layout:
        names = dict.fromkeys(key for state in states for key, value in state.items() if isinstance(value, np.ndarray))
        pieces, slices, keys, at = [], [], {}, 0
        for key in ("param", *names):
            begin = at
            for bucket, state in enumerate(states):
                if key == "param" or key in state:
                    pieces.append((key, bucket))
                    slices.append(slice(at, at + params[bucket].size))
                    at += params[bucket].size
            keys[key] = slice(begin, at)
        return cls(pieces, slices, keys)

    def shapes(self, workload: Workload) -> list[tuple[int, ...]]:
        return [workload.shapes[i] for _, bucket in self.pieces for i in workload.buckets[bucket].tensors]


class Reference:
    """The oracle's trajectory: one parameter array and one state for each bucket."""

    def __init__(self, rule: Rule, workload: Workload, groups: list[dict[str, Any]]):
        self.rule, self.workload = rule, workload
        self.groups = [{**group, "lr": float(group["lr"])} for group in groups]
        self.params = [workload.params[bucket.elements] for bucket in workload.buckets]
        self.states: list[dict[str, Any]] = [{} for _ in workload.buckets]
        self.layout = Layout.of(self.params, self.states)

    def flat(self, layout: Layout) -> Array:
        """Parameters and state in the order of `layout`."""
        return np.concatenate(
            [self.params[bucket] if key == "param" else self.states[bucket][key] for key, bucket in layout.pieces]
        )

    def scalars(self) -> list[tuple[str, int, float]]:
        """(key, bucket, value) of all scalar state."""
        return [
            (key, bucket, value)
            for bucket, state in enumerate(self.states)
            for key, value in state.items()
            if not isinstance(value, np.ndarray)
        ]

    def step(self, step: int, perturbation: float = 0.0) -> tuple[Array, Array, Array]:
        """Step every bucket that has a gradient; what was before, what is now, and how far that is from sure.

        The last is how far the result moves if the gradient does, by the factors 1 +- `perturbation`. All three are in
        the new layout. State that did not exist counts as 0 before.
        """
        if step == LR_CHANGE_STEP:
            for group in self.groups:
                group["lr"] *= 0.5
        # the rules are elementwise, so one call steps the true gradient and the two beside it
        factors = np.array([[1.0], [1.0 + perturbation], [1.0 - perturbation]]) if perturbation else np.ones((1, 1))
        before = list(zip(self.params, self.states, strict=True))
        around: list[State | None] = [None for _ in self.workload.buckets]
        for index, bucket in enumerate(self.workload.buckets):
            if has_gradient(bucket.schedule, step):
                gradient = factors * self.workload.gradients[step - 1, bucket.elements]
                param, state = self.rule(
                    self.params[index], gradient, self.states[index], self.groups[bucket.group], np.float32
                )
                around[index] = {"param": param, **state}
                self.params[index] = param[0]
                self.states[index] = {k: v[0] if isinstance(v, np.ndarray) else v for k, v in state.items()}
        self.layout = Layout.of(self.params, self.states)
        old, moved = [], []
        for key, bucket in self.layout.pieces:
            param, state = before[bucket]
            old.append(param if key == "param" else state.get(key, np.zeros_like(param)))
            values = around[bucket]
            moved.append(np.zeros_like(param) if values is None else np.abs(values[key] - values[key][0]).max(0))
        return np.concatenate(old), self.flat(self.layout), np.concatenate(moved)

    def assign(self, values: Array) -> None:
        """Go on from these numbers, given in the current layout."""
        for (key, bucket), where in zip(self.layout.pieces, self.layout.slices, strict=True):
            if key == "param":
                self.params[bucket] = values[where]
            else:
                self.states[bucket] = {**self.states[bucket], key: values[where]}


def parts(values: Array, shapes: Sequence[tuple[int, ...]], dtype: str, device: str) -> list[torch.Tensor]:
    """Flat float64 values, all of which `dtype` can hold, as tensors of these shapes."""
    flat = torch.from_numpy(np.ascontiguousarray(values)).to(device, getattr(torch, dtype))
    pieces = flat.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def copy(source: list[torch.Tensor], into: list[torch.Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(into, source)


class Runner:
    """One contender with its own copy of the workload."""

    def __init__(self, name: str, build: Build, workload: Workload, option_set: OptionSet, device: str):
        self.name, self.workload = name, workload
        self.fault = ""  # the first thing it did that no optimizer may do
        kind = {"dtype": getattr(torch, workload.dtype), "device": device}
        made = [
            make_tensor(shape, layout, **kind) for shape, layout in zip(workload.shapes, workload.layouts, strict=True)
        ]
        self.params = [tensor.requires_grad_() for tensor, _ in made]
        self.guards = [guard for _, guard in made if guard is not None]
        self.gradients = [
            make_tensor(shape, layout.removeprefix("gradient ") if layout.startswith("gradient") else "", **kind)[0]
            for shape, layout in zip(workload.shapes, workload.layouts, strict=True)
        ]
        copy(parts(workload.params, workload.shapes, workload.dtype, device), self.params)
        groups: list[dict[str, Any]] = [{"params": []} for _ in (0, *option_set.groups)]
        for group, changes in zip(groups[1:], option_set.groups, strict=True):
            group.update(changes)
        for bucket in workload.buckets:
            groups[bucket.group]["params"] += [self.params[i] for i in bucket.tensors]
        options = dict(option_set.options)
        if option_set.tensor_lr:
            options["lr"] = torch.tensor(options["lr"], dtype=torch.float64)
        self.optimizer = build(groups, options)

    def tensors(self, layout: Layout) -> list[torch.Tensor]:
        """Its parameters and state tensors in the order of `layout`."""
        found = []
        for key, bucket in layout.pieces:
            for i in self.workload.buckets[bucket].tensors:
                param = self.params[i]
                found.append(param if key == "param" else self.optimizer.state[param][key])
        return found

    def step(self, step: int, gradients: list[torch.Tensor]) -> None:
        if step == LR_CHANGE_STEP:  # as a scheduler does; in place where lr is a tensor
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.5
        copy(gradients, self.gradients)
        for bucket in self.workload.buckets:
            for i in bucket.tensors:
                self.params[i].grad = self.gradients[i] if has_gradient(bucket.schedule, step) else None
        with self.threads():
            self.optimizer.step()

    @contextmanager
    def threads(self) -> Iterator[None]:
        """One thread for torch on small tensors, all of them for our kernel, whose partition is under test.

        torch wakes every thread for each of its square roots and each tensor of a fused step, however small, and on
        a busy machine waits up to 100 ms a step for them.
        """
        threads = torch.get_num_threads()
        alone = self.name not in ("cpu", "cuda") and self.workload.params.size < 2**16
        if alone:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if alone:
                torch.set_num_threads(threads)

    def values(self, layout: Layout) -> Array:
        with torch.no_grad():
            flat = torch.cat([tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in self.tensors(layout)])
        return flat.to(torch.float64).cpu().numpy()

    def check(self, reference: Reference, step: int) -> None:
        """Look for what no optimizer may do: other state, other scalar state, written gradients or foreign memory."""
        if self.fault:
            return
        for bucket, state in zip(self.workload.buckets, reference.states, strict=True):
            for i in bucket.tensors:
                mine = self.optimizer.state.get(self.params[i], {})
                if state and mine.keys() != state.keys():
                    self.fault = f"state of tensor {i} holds {sorted(mine)} and not {sorted(state)} in step {step}"
                    return
        for key, bucket, value in reference.scalars():
            for i in self.workload.buckets[bucket].tensors:
                mine = float(self.optimizer.state[self.params[i]][key])
                if not abs(mine - value) <= FREE_TOLERANCE * (1 + abs(value)):
                    self.fault = f"{key} of tensor {i} is {mine!r} and not {value!r} after step {step}"
                    return
        gradients = torch.cat([gradient.reshape(-1) for gradient in self.gradients]).double().cpu().numpy()
        if not np.array_equal(gradients, self.workload.gradients[step - 1]):
            self.fault = f"wrote into .grad in step {step}"
        elif any(bool(guard.any()) for guard in self.guards):
            self.fault = f"wrote between the elements of a strided parameter in step {step}"


@dataclass
class Stats:
    """Errors of one key: their sum and number, and the largest with its place."""

    total: float = 0.0
    count: int = 0
    largest: float = 0.0
    where: str = ""

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


@dataclass
class Measured:
    """What came of one contender: errors by key, or why there are none."""

    errors: dict[str, Stats] = field(default_factory=dict)
    fault: str = ""
    raised: str = ""
    not_finite: int = 0
    runner: Runner | None = None

    def add(self, errors: Array, layout: Layout, step: int, describe: Callable[[int, Layout], str]) -> None:
        for key, where in layout.keys.items():
            mine = errors[where]
            if mine.size == 0:
                continue
            stats = self.errors.setdefault(key, Stats())
            stats.total += float(mine.sum())
            stats.count += mine.size
            at = int(mine.argmax())
            if not stats.where or mine[at] > stats.largest:
                stats.largest = float(mine[at])
                stats.where = f"{describe(where.start + at, layout)}, step {step}"


def describer(workload: Workload) -> Callable[[int, Layout], str]:
    """Names the tensor that an element of a flat array belongs to."""

    def describe(element: int, layout: Layout) -> str:
        for (key, bucket), where in zip(layout.pieces, layout.slices, strict=True):
            if where.start <= element < where.stop:
                offset = element - where.start
                for i in workload.buckets[bucket].tensors:
                    if offset < workload.sizes[i]:
                        shape = "x".join(map(str, workload.shapes[i])) or "0-d"
                        return f"{key} of tensor {i} ({shape}), element {offset}"
                    offset -= workload.sizes[i]
        return ""

    return describe


def distance(a: Array, b: Array) -> Array:
    """|a - b| / (1 + |b|), 0 where both are the same infinity or both nan, infinite where only one is."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) / (1 + np.abs(b))
    if np.isfinite(apart).all():
        return apart
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def ulp_errors(values: Array, old: Array, new: Array, moved: Array, dtype: str) -> Array:
    """|value - exact| in ulp of the larger of |old| and |exact|, or in `moved` where that is larger.

    0 where value and exact overflow to the same infinity.
    """
    unit = np.maximum(ulp(np.maximum(np.abs(old), np.abs(new)), dtype), moved)
    with np.errstate(invalid="ignore"):
        errors = np.abs(values - new) / unit
    overflown = ~np.isfinite(values)
    if not overflown.any():
        return errors
    target = rounded(new, dtype)
    same = (values == target) | (np.isnan(values) & np.isnan(target))
    return np.where(overflown, np.where(same, 0.0, np.inf), errors)


def side_by_side(
    rule: Rule,
    builds: Mapping[str, Build],
    option_set: OptionSet,
    workload: Workload,
    steps: int,
    aligned: bool,
    device: str = "cpu",
) -> dict[str, Measured]:
    """Run every contender of `builds`, the first of which must be "loop", and measure each of them.

    In the free test contenders are compared with the loop for as long as the loop itself agrees with the oracle, and
    from then on with the oracle; the loop is compared with the oracle.
    """
    measured = {name: Measured() for name in builds}
    for name, build in builds.items():
        try:
            measured[name].runner = Runner(name, build, workload, option_set, device)
        except Exception as refusal:
            measured[name].raised = f"refused: {str(refusal).splitlines()[0]}"
    loop = measured["loop"].runner
    if loop is None:
        raise RuntimeError(measured["loop"].raised)
    reference = Reference(rule, workload, loop.optimizer.param_groups)
    with np.errstate(all="ignore"):  # overflow to infinity is compared like any other value
        _run(measured, loop, reference, workload, steps, aligned, device)
    for m in measured.values():
        m.fault = m.runner.fault if m.runner else ""
    return measured


def _run(
    measured: Mapping[str, Measured],
    loop: Runner,
    reference: Reference,
    workload: Workload,
    steps: int,
    aligned: bool,
    device: str,
) -> None:
    """All steps of `side_by_side`."""
    loop_is_right = True
    describe = describer(workload)
    for step in range(1, steps + 1):
        active = [m for m in measured.values() if m.runner and not m.raised]
        if aligned and step > 1:
            layout = reference.layout
            start = parts(reference.flat(layout), layout.shapes(workload), workload.dtype, device)
            for m in active:  # scalar state is not handed over: it is each contender's own business, and is checked
                copy(start, m.runner.tensors(layout))
        gradients = parts(workload.gradients[step - 1], workload.shapes, workload.dtype, device)
        old, new, moved = reference.step(step, PERTURBATION[workload.dtype] if aligned else 0.0)
        layout = reference.layout
        target = new
        for m in active:  # the loop comes first
            try:
                m.runner.step(step, gradients)
                if step <= LR_CHANGE_STEP + 2 or step % 10 == 0 or step == steps:
                    m.runner.check(reference, step)
                values = m.runner.values(layout)
            except Exception as error:
                m.raised = f"{type(error).__name__} in step {step}: {str(error).splitlines()[0]}"
                continue
            m.not_finite = max(m.not_finite, int((~np.isfinite(values) & np.isfinite(new)).sum()))
            if aligned:
                errors = ulp_errors(values, old, new, moved, workload.dtype)
            else:
                errors = distance(values, target)
            m.add(errors, layout, step, describe)
            if m.runner is loop and not aligned and loop_is_right:
                loop_is_right = bool((errors <= FREE_TOLERANCE).all())
                target = values if loop_is_right else new
        if aligned:
            start_again = rounded(new, workload.dtype)
            start_again[layout.keys["param"]] = workload.params
            reference.assign(start_again)
