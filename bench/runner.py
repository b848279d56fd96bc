"""One contender with its own copy of a workload: builds it, steps it, reads it, and notices what it must not do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.deviation import FREE_TOLERANCE, Array
from bench.options import OptionSet
from bench.reference import Layout, Reference
from bench.workload import LR_CHANGE_STEP, Workload, has_gradient, make_tensor, sparse_rows

Build = Callable[[list[dict[str, Any]], dict[str, Any]], torch.optim.Optimizer]


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
        self.own_threads = name in ("cpu", "cuda") and option_set.sees != "matrices"  # whose products are torch's
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
                gradient = self.gradients[i]
                if self.workload.sparse:
                    gradient = sparse_rows(gradient, split=bool(i % 2))
                self.params[i].grad = gradient if has_gradient(bucket.schedule, step) else None
        with self.threads():
            self.optimizer.step()

    @contextmanager
    def threads(self) -> Iterator[None]:
        """One thread for torch on small tensors, all of them for our kernel, whose partition is under test.

        torch wakes every thread for each of its square roots and each tensor of a fused step, however small, and on
        a busy machine waits up to 100 ms a step for them.
        """
        threads = torch.get_num_threads()
        alone = not self.own_threads and self.workload.params.size < 2**16
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

    def params_now(self) -> Array:
        """The parameters alone, flat."""
        return torch.cat([param.detach().reshape(-1) for param in self.params]).to(torch.float64).cpu().numpy()

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
        if self.wrote_gradients(step):
            self.fault = f"wrote into .grad in step {step}"
        elif any(bool(guard.any()) for guard in self.guards):
            self.fault = f"wrote between the elements of a strided parameter in step {step}"

    def wrote_gradients(self, step: int) -> bool:
        """Whether any gradient is no longer what it was given."""
        if self.workload.sparse:
            given = [(i, param.grad) for i, param in enumerate(self.params) if param.grad is not None]
            again = [sparse_rows(self.gradients[i], split=bool(i % 2)) for i, _ in given]
            pairs = zip((grad for _, grad in given), again, strict=True)
            return not all(
                torch.equal(a._indices(), b._indices()) and torch.equal(a._values(), b._values()) for a, b in pairs
            )
        gradients = torch.cat([gradient.reshape(-1) for gradient in self.gradients]).double().cpu().numpy()
        return not np.array_equal(gradients, self.workload.gradients[step - 1])
