"""The oracle's side of a comparison: its parameters and states on a workload, and where each lies in a flat array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.deviation import Array
from bench.oracle import Rule, State
from bench.workload import LR_CHANGE_STEP, Shape, Workload, has_gradient


@dataclass
class Layout:
    """Where in one flat array each (key, bucket) lies: the parameters, then each state array, key by key."""

    pieces: list[tuple[str, int]]
    slices: list[slice]
    keys: dict[str, slice]  # all buckets of one key lie side by side
    shapes: list[Shape]  # of all tensors

    @classmethod
    def of(cls, params: list[Array], states: list[dict[str, Any]], workload: Workload) -> Layout:
        names = dict.fromkeys(key for state in states for key, value in state.items() if isinstance(value, np.ndarray))
        made, at = cls([], [], {}, []), 0
        for key in ("param", *names):
            begin = at
            for bucket, (param, state) in enumerate(zip(params, states, strict=True)):
                if key == "param" or key in state:
                    array, tensors = param if key == "param" else state[key], workload.buckets[bucket].tensors
                    made.pieces.append((key, bucket))
                    made.slices.append(slice(at, at + array.size))
                    # state of another shape than the parameter's is that of one tensor
                    alike = array.shape == param.shape
                    made.shapes += [workload.shapes[i] if alike else array.shape for i in tensors]
                    at += array.size
            made.keys[key] = slice(begin, at)
        return made


class Reference:
    """The oracle's trajectory: one parameter array and one state for each bucket."""

    def __init__(self, rule: Rule, workload: Workload, groups: list[dict[str, Any]]):
        self.rule, self.workload = rule, workload
        self.groups = [{**group, "lr": float(group["lr"]), "dtype": workload.dtype} for group in groups]
        self.params = [workload.params[bucket.elements].reshape(bucket.shape) for bucket in workload.buckets]
        self.states: list[dict[str, Any]] = [{} for _ in workload.buckets]
        self.layout = Layout.of(self.params, self.states, workload)

    def flat(self, layout: Layout) -> Array:
        """Parameters and state in the order of `layout`."""
        arrays = [self.params[bucket] if key == "param" else self.states[bucket][key] for key, bucket in layout.pieces]
        return np.concatenate([array.reshape(-1) for array in arrays])

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
        # one call steps the true gradient and the two beside it
        factors = np.array([1.0, 1.0 + perturbation, 1.0 - perturbation] if perturbation else [1.0])
        before = list(zip(self.params, self.states, strict=True))
        around: list[State | None] = [None for _ in self.workload.buckets]
        for index, bucket in enumerate(self.workload.buckets):
            if has_gradient(bucket.schedule, step):
                gradient = np.multiply.outer(factors, self.workload.gradients[step - 1, bucket.elements])
                param, state = self.rule(
                    self.params[index],
                    gradient.reshape(-1, *bucket.shape),
                    self.states[index],
                    self.groups[bucket.group],
                    np.float32,
                )
                around[index] = {"param": param, **state}
                self.params[index] = param[0, ...]  # an array even where it has no dimension
                self.states[index] = {k: v[0, ...] if isinstance(v, np.ndarray) else v for k, v in state.items()}
        self.layout = Layout.of(self.params, self.states, self.workload)
        old, moved = [], []
        for key, bucket in self.layout.pieces:
            param, state = before[bucket]
            now = self.params[bucket] if key == "param" else self.states[bucket][key]
            old.append((param if key == "param" else state.get(key, np.zeros_like(now))).reshape(-1))
            values = around[bucket]
            moves = np.zeros_like(now) if values is None else np.abs(values[key] - now).max(0)
            moved.append(moves.reshape(-1))
        return np.concatenate(old), self.flat(self.layout), np.concatenate(moved)

    def assign(self, values: Array) -> None:
        """Go on from these numbers, given in the current layout."""
        for (key, bucket), where in zip(self.layout.pieces, self.layout.slices, strict=True):
            if key == "param":
                self.params[bucket] = values[where].reshape(self.params[bucket].shape)
            else:
                state = self.states[bucket]
                self.states[bucket] = {**state, key: values[where].reshape(state[key].shape)}
