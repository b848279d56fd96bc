"""Which executor steps which parameter, the tables the kernels read, and whether both still hold.

A plan is made when the optimizer first steps and again whenever something it was made of has changed. Addresses of
parameters and state are checked in every step, those of gradients are read afresh.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..algorithm import ITEMS, Algorithm, MatrixAlgorithm
from ..groups import check_finite
from . import eager, kernels
from .generate import FIRST, GROUP, NUMEL, ROW_HEAD
from .tensors import impossible, overlapping, refusal, refusal_of_shape

if TYPE_CHECKING:
    from ..optimizer import Optimizer

SHARED = "shares memory with another parameter or state"

#: up to this many elements (about a millisecond) a step keeps the interpreter's lock: no other Python thread can free a
#: gradient in the middle of it. Above, gradients are held by references, which takes longer, and other threads run.
UNLOCK_ABOVE = 4_000_000

#: options that decide how a group is stepped, beside those that decide which states it has
MODES = ("foreach", "fused", "capturable", "differentiable")


@dataclass
class Row:
    """One parameter of one group, and what decides its executor."""

    p: Tensor
    group: int
    reason: str  # why no kernel steps it; empty if one does
    slots: list[Tensor | None] = field(default_factory=list)
    scalars: list[Tensor] = field(default_factory=list)
    fresh: bool = False  # whether state has to be created for it
    first: bool = False  # whether the next step is the first with its state

    @property
    def written(self) -> list[Tensor]:
        """The tensors that a step changes."""
        return [self.p, *(s for s in self.slots if s is not None), *self.scalars]


def choose(optimizer: Optimizer) -> tuple[list[Row], list[Tensor]]:
    """A row for every parameter that has a gradient or state, and the parameters that have neither yet.

    Raises what torch raises for gradients that an optimizer does not take. Changes nothing.
    """
    rows: list[Row] = []
    dormant: list[Tensor] = []
    for index, group in enumerate(optimizer.param_groups):
        mode = optimizer.mode_reason(group)
        for p in group["params"]:
            if p.grad is None and (is_lazy(p) or optimizer.lacks_state(p, group)):
                dormant.append(p)
                continue
            if p.grad is not None:
                optimizer.check_gradient(p, group)
            fresh = optimizer.lacks_state(p, group)
            slots, scalars = ([], []) if fresh else optimizer.states(p, group)
            row = Row(p, index, mode, slots, scalars, fresh)
            row.reason = mode or refuse(row, optimizer.algorithm)
            insist_on_possible(row)
            rows.append(row)
    keep_apart(rows)
    return rows, dormant


def keep_apart(rows: list[Row]) -> None:
    """Sends rows that share memory with another to the eager executor, which takes them one after the other."""
    for i in overlapping((i, row.written) for i, row in enumerate(rows)):
        rows[i].reason = rows[i].reason or SHARED


def insist_on_possible(row: Row) -> None:
    """Raises, before anything changes, for a row that plain torch could not step either."""
    if row.reason and row.p.grad is not None and (reason := impossible(row.p, row.p.grad)):
        raise RuntimeError(f"cannot step a parameter of shape {tuple(row.p.shape)} in group {row.group}: {reason}")


def refuse(row: Row, algorithm: Algorithm) -> str:
    """Why no kernel may step this row as it is, or an empty string."""
    p, g = row.p, row.p.grad
    if reason := kernels.unsupported(p, algorithm):
        return reason
    if reason := refusal(p):
        return f"the parameter {reason}"
    if g is not None and (reason := refusal(g, p)):
        return f"the gradient {reason}"
    if g is not None and g.dtype != p.dtype:
        return f"the gradient is {g.dtype}, the parameter {p.dtype}"
    slots = [s for s in row.slots if s is not None]
    for slot, s in zip(algorithm.slots.values(), row.slots, strict=False):
        if s is None:
            continue
        if reason := refusal(s, p) if slot.shape is None else refusal_of_shape(s, p, slot.shape(p.shape) or ()):
            return f"a state tensor {reason}"
    if len({s.dtype for s in slots}) > 1 or not all(kernels.state_dtype_fits(p.dtype, s.dtype) for s in slots):
        return f"the state is {', '.join(sorted({str(s.dtype) for s in slots}))}, the parameter {p.dtype}"
    for s in row.scalars:
        if s.device.type != "cpu" or s.numel() != 1 or s.dtype not in (torch.float32, torch.float64):
            return f"a scalar state is a {s.dtype} tensor of {s.numel()} elements on {s.device}"
        if reason := refusal(s):
            return f"a scalar state {reason}"
    if len({s.dtype for s in row.scalars}) > 1:
        return "the scalar states differ in dtype"
    return ""


class Plan:
    """How to step the parameters of one optimizer as they are now."""

    def __init__(self, optimizer: Optimizer):
        self.cls = type(optimizer)
        self.algorithm = optimizer.algorithm
        self.options = self.algorithm.options if isinstance(self.algorithm, MatrixAlgorithm) else ()
        self.groups = optimizer.param_groups
        self.state = optimizer.state
        self.lists = [group["params"] for group in self.groups]
        keys = [self._keys(group) for group in self.groups]
        self.getters = {key: _getter(key) for key in keys}
        self.keys = keys if len(self.getters) > 1 else keys[:1]
        self.sizes = [len(group) for group in self.groups]
        self.frozen = [self._frozen(group) for group in self.groups]
        self.modes = [optimizer.mode_reason(group) for group in self.groups]
        self.values: list[tuple] = [()] * len(self.groups)
        self.hyper = np.zeros((max(len(self.groups), 1), len(self.algorithm.hyper) + 1))
        for index, group in enumerate(self.groups):
            check_finite(self.cls, group, index)
        self._fill_hyper(1.0)
        rows, dormant = choose(optimizer)
        self._complete(optimizer, rows)
        jobs = [self._job(key, bucket) for key, bucket in self._buckets(rows).items()]
        _insist_on_fused(rows, self.groups)
        self.rest = [row for row in rows if row.reason]
        self.watch = kernels.watch(self.state, self.lists, dormant)
        self.jobs = []
        for job, bucket in jobs:
            if job is not None:
                self.jobs.append(job)
                self.watch.add(job.rows, ROW_HEAD + len(self.algorithm.scalars), [row.written for row in bucket])
        self.lock = threading.Lock()
        small = sum(int(job.rows[:, NUMEL].sum()) for job in self.jobs) <= UNLOCK_ABOVE
        self.at_once: Callable[[], int] | None = None
        if self.jobs and small and all(job.direct for job in self.jobs) and hasattr(self.watch, "stepper"):
            self.at_once = self.watch.stepper([job.address for job in self.jobs], self.jobs[0].drive)

    def _keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The entries of a group that a step depends on, besides its parameters."""
        names = [ITEMS[name][0] if name in ITEMS else name for name in self.algorithm.hyper]
        slots = [slot.when for slot in self.algorithm.slots.values() if slot.when]
        read = ["maximize", *names, *slots, *self.options, *MODES]
        return tuple(key for key in dict.fromkeys(read) if key in group)

    def _read(self, groups: list[dict[str, Any]]) -> list[tuple]:
        """Those entries of all groups, in bulk where the groups are alike."""
        if len(self.keys) == 1:
            return list(map(self.getters[self.keys[0]], groups))
        return [self.getters[key](group) for key, group in zip(self.keys, groups, strict=True)]

    def _frozen(self, group: dict[str, Any]) -> tuple:
        """What a plan cannot be adapted to: the options that decide states and executors, and a transform's."""
        return (self.algorithm.present(group), *[group.get(name) for name in (*MODES, *self.options)])

    def _complete(self, optimizer: Optimizer, rows: list[Row]) -> None:
        """Creates the state that is missing, once nothing can refuse the step any more."""
        _insist_on_fused(rows, self.groups)
        fresh = {id(row.p) for row in rows if row.fresh}
        for row in rows:
            if id(row.p) in fresh:
                row.first = True  # a parameter listed twice takes its first step twice, as in torch
                optimizer.initialize(row.p, self.groups[row.group])
                row.slots, row.scalars = optimizer.states(row.p, self.groups[row.group])
                row.reason = row.reason or refuse(row, self.algorithm)  # some of it may have been there before
        if fresh:
            keep_apart(rows)

    def _buckets(self, rows: list[Row]) -> dict[tuple, list[Row]]:
        """The rows of each kernel: one for each device, combination of dtypes, and set of states."""
        buckets = defaultdict(list)
        for row in rows:
            if not row.reason:
                state = next((s.dtype for s in row.slots if s is not None), row.p.dtype)
                scalar = row.scalars[0].dtype if row.scalars else torch.float32
                present = self.algorithm.present(self.groups[row.group], row.p.shape)
                buckets[row.p.device, row.p.dtype, state, scalar, present].append(row)
        return buckets

    def _job(self, key: tuple, rows: list[Row]) -> tuple[Any, list[Row]]:
        """A kernel and its table; None, and a reason in each row, if the kernel cannot be compiled."""
        device, dtype, state_dtype, scalar_dtype, present = key
        head = ROW_HEAD + len(self.algorithm.scalars)
        table = np.zeros((len(rows), head + 2 + sum(present)), np.int64)
        table[:, NUMEL] = [row.p.numel() for row in rows]
        table[:, GROUP] = [row.group for row in rows]
        table[:, FIRST] = [row.first for row in rows]
        for i, row in enumerate(rows):
            table[i, ROW_HEAD:head] = [s.data_ptr() for s in row.scalars]
            table[i, head] = row.p.data_ptr()
            pointers = [s.data_ptr() for s in row.slots if s is not None]
            table[i, head + 2 : head + 2 + len(pointers)] = pointers  # after them, the work slots' places
        try:
            shapes = [row.p.shape for row in rows]
            job = kernels.job(
                device,
                self.algorithm,
                present,
                dtype,
                state_dtype,
                scalar_dtype,
                table,
                self.hyper,
                shapes,
                self.groups,
            )
        except Exception as error:  # a compiler that fails must cost speed, not the training
            job = None
            reason = kernels.not_made(error)
            warnings.warn(f"parameters on {device} are stepped without a kernel, slower: {reason}", stacklevel=5)
            for row in rows:
                row.reason = reason
        return job, rows

    def _fill_hyper(self, scale: float) -> None:
        """Writes each group's hyper-parameters where the kernels read them."""
        self.scale = math.nan  # until all is written: a value that raises must not leave a part of it
        for index, (group, values) in enumerate(zip(self.groups, self._read(self.groups), strict=True)):
            row = [] if self.modes[index] else [float(x) for x in self.algorithm.hyper_values(group)]
            if self.modes[index] or not math.isfinite(sum(row)):
                check_finite(self.cls, group, index)
            # what can change in place (tensors, arrays, lists) is read again in the next step
            self.values[index] = values if all(map(_immutable, values)) else ()
            if not self.modes[index]:  # else the eager executor reads them itself
                self.hyper[index] = [*row, (-1.0 if group.get("maximize") else 1.0) / scale]
        self.scale = scale

    def step(self, optimizer: Optimizer, scale: float) -> bool:
        """Steps every parameter that has a gradient; False, and nothing done, if the plan no longer fits.

        `scale`: what gradients are to be divided by.
        """
        with self.lock:
            if not self._adapt(optimizer, scale):
                return False
            if self.at_once is not None:
                for job in self.jobs:
                    job.prepare()
                if not self.at_once():
                    return False
            else:
                try:
                    if not (self.watch.unchanged() and self.watch.refresh()):
                        return False
                    for job in self.jobs:
                        job.run()
                finally:
                    self.watch.release()
            if self.rest:
                self._step_rest(bool(optimizer.defaults.get("differentiable")))
        return True

    def _adapt(self, optimizer: Optimizer, scale: float) -> bool:
        """Whether groups and gradients still fit this plan; brings hyper-parameters up to date."""
        groups = optimizer.param_groups
        if groups is not self.groups or optimizer.state is not self.state or len(groups) != len(self.lists):
            return False
        if not all(map(is_, self.lists, map(_params, groups))) or self.sizes != list(map(len, groups)):
            return False
        changed = scale != self.scale or self._read(groups) != self.values
        if changed:
            if any(self._frozen(group) != frozen for group, frozen in zip(groups, self.frozen, strict=True)):
                return False
            self._fill_hyper(scale)
        return all(row.p.grad is None or self._stays(optimizer, row) for row in self.rest) if self.rest else True

    def _stays(self, optimizer: Optimizer, row: Row) -> bool:
        """Whether a row that no kernel stepped last time still has none."""
        optimizer.check_gradient(row.p, self.groups[row.group])
        insist_on_possible(row)
        permanent = row.reason == SHARED or self.modes[row.group] or "could not be made" in row.reason
        return bool(permanent or refuse(row, self.algorithm))

    def _step_rest(self, grad_enabled: bool) -> None:
        """Steps what no kernel steps, in the order of the groups."""
        with torch.set_grad_enabled(grad_enabled):
            for row in self.rest:
                gradient = row.p.grad
                if gradient is None:
                    continue
                group = self.groups[row.group]
                direction = (-1.0 if group.get("maximize") else 1.0) / self.scale
                traced = bool(group.get("capturable") or group.get("differentiable"))
                coefs = eager.coefficients(self.algorithm, group, row.scalars, direction, row.first, traced)
                row.first = False
                if gradient.is_sparse and self.algorithm.sparse and not self.algorithm.sparse(group):
                    gradient = gradient.to_dense()
                track = bool(group.get("differentiable"))
                eager.step(self.algorithm, row.p, gradient, row.slots, coefs, group, track)


def _insist_on_fused(rows: list[Row], groups: list[dict[str, Any]]) -> None:
    """Raises if a group that asks for a kernel holds a parameter that has none."""
    for row in rows:
        if row.reason and groups[row.group].get("fused"):
            raise RuntimeError(
                f"`fused=True` needs a kernel for every parameter, but for one of shape {tuple(row.p.shape)} there "
                f"is none: {row.reason}. Leave `fused` at None to step such a parameter without a kernel."
            )


_params = itemgetter("params")


def _getter(keys: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple]:
    """Reads these entries of a group."""
    return itemgetter(*keys, *keys[:1]) if keys else lambda group: ()  # of one key it would return the bare value


def _immutable(x: Any) -> bool:
    """Whether a group entry can only change by being replaced."""
    return x is None or type(x) in (int, float, bool, str) or (type(x) is tuple and all(map(_immutable, x)))
