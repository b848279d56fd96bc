"""Steps the rows that sparse gradients name and no others: on the CPU each of them is a row of a kernel's table."""

from __future__ import annotations

import functools
import math
import threading
import warnings
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import groups
from ..algorithm import Algorithm
from . import eager, generate, kernels
from .generate import ROW_HEAD
from .plan import SHARED
from .tensors import overlapping, refusal, same_strides

if TYPE_CHECKING:
    from ..optimizer import Optimizer

#: rows of a table: it fits the cache, and a gradient with more of them is stepped in parts
ROWS = 16_384


@dataclass
class Item:
    """A parameter that has a gradient, and what decides how its rows are stepped."""

    p: Tensor
    group: Mapping[str, Any]
    index: int  # of the group
    gradient: Tensor
    slots: list[Tensor]  # empty if they have to be created first
    reason: str = ""  # why no kernel steps it
    values: Tensor | None = None  # the gradients of the rows, None if there are none
    offsets: int = 0  # address of where they lie in the parameter, counted in elements
    step: Any = 0  # the number of this step
    hyper: list[float] = field(default_factory=list)  # as the kernels want them: with the direction as the last

    @property
    def written(self) -> list[Tensor]:
        """The tensors that a step changes, some rows of each."""
        return [self.p, *self.slots]

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """What decides which kernel it needs."""
        return self.p.dtype, self.slots[0].dtype if self.slots else self.p.dtype

    def described(self) -> tuple:
        """All that decides the reason."""
        g = self.gradient
        return (g.shape, g.sparse_dim(), g.dtype, *map(_described, self.written))


class Rows:
    """The tables of one optimizer whose gradients are all sparse, and whose state counts steps in a Python int."""

    def __init__(self, algorithm: Algorithm):
        self.algorithm = algorithm
        self.jobs: dict[tuple[torch.dtype, torch.dtype], Any] = {}
        self.failed: dict[tuple[torch.dtype, torch.dtype], str] = {}  # kernels that could not be made, and why
        self.known: list[tuple] = []  # descriptions for which the reasons hold
        self.kept: list[Tensor] = []  # what they describe, so that no other tensor gets the same id
        self.reasons: list[str] = []
        self.lock = threading.Lock()

    def examine(self, optimizer: Optimizer) -> list[Item]:
        """An item for every parameter that has a gradient, with the reason if no kernel steps it; changes nothing.

        Raises what torch raises for gradients that the optimizer does not take.
        """
        items = []
        for index, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                if p.grad is not None:
                    optimizer.check_gradient(p, group)
                    state = {} if optimizer.lacks_state(p, group) else optimizer.state[p]
                    slots = [state[name] for name in self.algorithm.slots if state]
                    items.append(Item(p, group, index, p.grad, slots))
        self._give_reasons(items)
        return items

    def _give_reasons(self, items: list[Item]) -> None:
        known = [item.described() for item in items]
        if known != self.known:
            for item in items:
                _insist_on_one_shape(item)
                item.reason = self._refuse(item)
            for i in overlapping((i, item.written) for i, item in enumerate(items)):
                items[i].reason = items[i].reason or SHARED
            self.reasons = [item.reason for item in items]
            self.known, self.kept = known, [t for item in items for t in item.written]
        for item, reason in zip(items, self.reasons, strict=True):
            item.reason = reason

    def _refuse(self, item: Item) -> str:
        """Why no kernel may step the rows of a parameter, or an empty string."""
        p, dimensions = item.p, item.gradient.sparse_dim()
        if p.device.type != "cpu":
            return f"there are kernels for cpu, not for {p.device.type}"
        if reason := kernels.unsupported(p, self.algorithm) or _compiled().reason:
            return reason
        if reason := refusal(p):
            return f"the parameter {reason}"
        if item.gradient.dtype != p.dtype:
            return f"the gradient is {item.gradient.dtype}, the parameter {p.dtype}"
        row = p.shape[dimensions:]
        if not same_strides(row, p.stride()[dimensions:], torch.empty(row, device="meta").stride()):
            return f"its rows are not contiguous: its strides are {p.stride()}"
        for s in item.slots:
            if reason := refusal(s, p):
                return f"a state tensor {reason}"
        dtypes = {s.dtype for s in item.slots}
        if len(dtypes) > 1 or not all(kernels.state_dtype_fits(p.dtype, dtype) for dtype in dtypes):
            return f"the state is {', '.join(sorted(map(str, dtypes)))}, the parameter {p.dtype}"
        return self.failed.get(item.dtypes, "")

    def step(self, optimizer: Optimizer, scale: float) -> None:
        """Steps every row that has a gradient, which is to be divided by `scale`; all of them or, raising, none."""
        with self.lock, torch.no_grad():
            items = self.examine(optimizer)
            self._read_options(optimizer, items, scale)
            scratch = _locate(items)
            fresh = [item for item in items if not item.slots]
            for item in fresh:
                optimizer.initialize(item.p, item.group)
                item.slots = [optimizer.state[item.p][name] for name in self.algorithm.slots]
            if fresh:
                self._give_reasons(items)
            self._make_jobs(items)
            for item in items:  # one without any row counts too, as in torch
                optimizer.state[item.p]["step"] = item.step
            there = [item for item in items if item.values is not None]
            self._step_by_kernels([item for item in there if not item.reason])
            del scratch
            for item in there:
                if item.reason:
                    self._step_eagerly(item)

    def _read_options(self, optimizer: Optimizer, items: list[Item], scale: float) -> None:
        """Fills in the number of each item's step and its hyper-parameters; raises for one that no step could use."""
        steps: dict[int, Any] = {}
        for item in items:
            p, group = item.p, item.group
            before = steps.get(id(p))  # a parameter listed twice takes two steps
            item.step = steps[id(p)] = (optimizer.state.get(p, {}).get("step", 0) if before is None else before) + 1
            direction = (-1.0 if group.get("maximize") else 1.0) / scale
            values = self.algorithm.hyper_values({**group, "step": item.step})
            item.hyper = [*map(float, values), direction]
            if not all(map(math.isfinite, item.hyper)):
                groups.check_finite(type(optimizer), group, item.index)

    def _make_jobs(self, items: list[Item]) -> None:
        """Makes the kernels that are needed; an item whose kernel cannot be compiled gets that as its reason."""
        needed: dict[tuple[torch.dtype, torch.dtype], list[Item]] = {}
        for item in items:
            if not item.reason:
                needed.setdefault(item.dtypes, []).append(item)
        for key, bucket in needed.items():
            try:
                if key not in self.jobs or len(self.jobs[key].hyper) < len(bucket):
                    self.jobs[key] = self._job(bucket, *key)
            except Exception as error:  # a compiler that fails must cost speed, not the training
                reason = kernels.not_made(error)
                warnings.warn(f"parameters on cpu are stepped without a kernel, slower: {reason}", stacklevel=5)
                self.failed[key], self.known = reason, []
                for item in bucket:
                    item.reason = reason

    def _job(self, items: list[Item], dtype: torch.dtype, state_dtype: torch.dtype) -> Any:
        present = self.algorithm.present(items[0].group)
        table = np.zeros((ROWS, ROW_HEAD + 2 + sum(present)), np.int64)
        hyper = np.zeros((len(items), len(self.algorithm.hyper) + 1))
        return kernels.job(items[0].p.device, self.algorithm, present, dtype, state_dtype, torch.float32, table, hyper)

    def _step_by_kernels(self, items: list[Item]) -> None:
        torch.autograd.graph.increment_version([t for item in items for t in item.written])
        for key, job in self.jobs.items():
            filled = 0
            for number, item in enumerate(item for item in items if item.dtypes == key):
                job.hyper[number] = item.hyper
                filled = _fill(job, filled, number, item)
            _run(job, filled)

    def _step_eagerly(self, item: Item) -> None:
        group = {**item.group, "step": item.step}
        coefs = eager.coefficients(self.algorithm, group, [], item.hyper[-1], False, False)
        g = item.gradient if item.gradient.sparse_dim() else item.gradient.to_dense()
        eager.step(self.algorithm, item.p, g, list(item.slots), coefs, item.group)


def _fill(job: Any, filled: int, number: int, item: Item) -> int:
    """Adds the rows of an item to a kernel's table, and steps what is in it when it is full; the rows it then holds."""
    assert item.values is not None
    address, row_bytes, size = job.rows.ctypes.data, job.rows.strides[0], item.values.element_size()
    entries = item.values.shape[0]
    width = item.values.numel() // entries
    p, g, slots = item.p.data_ptr(), item.values.data_ptr(), [s.data_ptr() for s in item.slots]
    start = 0
    while start < entries:
        taken = min(entries - start, ROWS - filled)
        to, at = address + filled * row_bytes, item.offsets + 8 * start
        head = (to, row_bytes, number, width, at, taken, p, g + start * width * size, size)
        words = array("q", [*head, item.slots[0].element_size(), len(slots), *slots])
        filled += _compiled().fill(words.buffer_info()[0])
        start += taken
        if filled == ROWS:
            filled = _run(job, filled)
    return filled


def _run(job: Any, filled: int) -> int:
    """Steps the first rows of a kernel's table."""
    if filled:
        job.words[_compiled().n_rows] = filled
        job.run()
    return 0


def _locate(items: list[Item]) -> Tensor:
    """Fills in the values of each item and where its rows lie, every row once; raises if one is out of bounds.

    Returns the memory of the offsets.
    """
    total = most = 0
    for item in items:
        item.values = item.gradient._values()
        if not item.values.numel():
            item.values = None
        elif not item.reason:
            total, most = total + item.values.shape[0], max(most, item.values.shape[0])
        elif item.p.device.type == "cpu":  # elsewhere it would have to be waited for
            _check_bounds(item)
    cells = 1 << (2 * most).bit_length()
    scratch = torch.empty(total + cells, dtype=torch.int64)
    offsets, table = scratch.data_ptr(), scratch.data_ptr() + 8 * total
    for item in items:
        if item.values is not None and not item.reason:
            entries = item.values.shape[0]
            _locate_rows(item, offsets, table, cells - 1)
            offsets += 8 * entries
    return scratch


def _locate_rows(item: Item, offsets: int, table: int, mask: int) -> None:
    g, p, compiled = item.gradient, item.p, _compiled()
    indices, values = g._indices(), g._values()
    dimensions, entries = indices.shape
    between = indices.stride()
    which = -1 if g.is_coalesced() else mask
    head = (indices.data_ptr(), *between, entries, dimensions, offsets, table, which)
    words = array("q", [*head, *p.shape[:dimensions], *p.stride()[:dimensions]])
    answer = compiled.locate(words.buffer_info()[0])
    if answer >= 0:
        _refuse_index(item, indices[:, answer].tolist())
    if answer == compiled.module.REPEATED:
        item.gradient = g.coalesce()
        return _locate_rows(item, offsets, table, -1)
    item.values = values.contiguous()
    item.offsets = offsets


def _check_bounds(item: Item) -> None:
    indices = item.gradient._indices()
    sizes = torch.tensor(item.p.shape[: len(indices)])[:, None]
    outside = ((indices < 0) | (indices >= sizes)).any(0).nonzero()
    if len(outside):
        _refuse_index(item, indices[:, int(outside[0])].tolist())


def _refuse_index(item: Item, entry: list[int]) -> None:
    """Raises what torch raises for an index that the parameter does not have."""
    d, index = next((d, i) for d, i in enumerate(entry) if not 0 <= i < item.p.shape[d])
    raise IndexError(f"index {index} is out of bounds for dimension {d} with size {item.p.shape[d]}")


def _insist_on_one_shape(item: Item) -> None:
    for what, t in [("gradient", item.gradient), *(("state", s) for s in item.slots)]:
        if t.shape != item.p.shape:
            raise ValueError(
                f"a parameter has shape {tuple(item.p.shape)} but its {what} {tuple(t.shape)}; "
                "make a new optimizer when the shape of a parameter changes"
            )


def _described(t: Tensor) -> tuple:
    return id(t), t.data_ptr(), t.shape, t.stride(), t.dtype, t.is_neg()


class _Compiled(NamedTuple):
    """The compiled functions, or the reason why there are none."""

    reason: str = ""
    module: Any = None
    locate: Any = None
    fill: Any = None
    n_rows: int = 0


@functools.cache
def _compiled() -> _Compiled:
    try:
        from . import cpu

        module = generate.compiled("sparse")
        locate, fill = (cpu.callable_address(f.address) for f in (module.locate, module.fill))
        return _Compiled("", module, locate, fill, cpu.driver.N_ROWS)
    except Exception as error:  # a compiler that fails must cost speed, not the training
        return _Compiled(kernels.not_made(error))
