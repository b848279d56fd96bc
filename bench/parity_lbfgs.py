"""Runs L-BFGS contenders and its oracle side by side: as `bench.parity`, for an optimizer that sees everything at once.

The loss is a convex function of all parameters that have a gradient: parabolas whose curvatures span three decades,
coupled by fourth powers of neighbours' differences. Value and gradient are computed in float64 from each contender's
own parameters; the gradient is rounded once to the storage type, for the oracle as well.

*Free*, in float64: a few iterations only. Each direction is made of all differences before it, so whatever rounding
error there is grows about tenfold in ten iterations, in any order of summation. *Aligned*: one iteration, or line
search, from the oracle's state of before, rounded to the storage type. All elements of a vector mix through its sums,
so errors are counted in ulp of the vector's largest element, or, where that is more, in the most that an element moves
when the gradient does by two roundings, of itself and of its product with the direction: a line search makes much of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench import oracle_lbfgs
from bench.deviation import Array, Measured, distance
from bench.errors import first_line
from bench.options import OptionSet
from bench.parity import start_all
from bench.runner import Build, Runner, copy, parts
from bench.ulp import rounded, ulp
from bench.workload import LR_CHANGE_STEP, Workload, has_gradient

FREE_TOLERANCE = 1e-9  # of |a - b| / (1 + |b|), after at most `FREE_ITERATIONS`
FREE_ITERATIONS = 24
CURVATURES = 1e3  # the largest over the smallest
COUPLING = 0.1
FACTORS = (1.0, 1 + 2.0**-22, 1 - 2.0**-22)  # of the gradient: as it is, and two roundings of float32 beside that
VECTORS = ("d", "prev_flat_grad")
LISTS = ("old_dirs", "old_stps", "ro")
NUMBERS = ("t", "H_diag")
COUNTS = ("func_evals", "n_iter")
KEYS = {"al", "prev_loss", *VECTORS, *LISTS, *NUMBERS, *COUNTS}


class Problem:
    """The loss, over the elements of `x` that have a gradient; the rest does not matter to it."""

    def __init__(self, workload: Workload):
        random = np.random.default_rng(workload.params.size)
        seen = [has_gradient(bucket.schedule, 1) for bucket in workload.buckets for _ in bucket.tensors]
        self.active = np.repeat(seen, workload.sizes)
        self.dtype = workload.dtype
        count = int(self.active.sum())
        self.curvature = random.permutation(np.geomspace(1.0, CURVATURES, count))
        self.centre = random.standard_normal(count)

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Value and gradient, the latter as the storage type holds it."""
        z = x[self.active]
        apart = np.diff(z)
        slope = self.curvature * (z - self.centre)
        slope[1:] += COUPLING * apart**3
        slope[:-1] -= COUPLING * apart**3
        gradient = np.zeros_like(x)
        gradient[self.active] = slope
        value = (self.curvature * (z - self.centre) ** 2).sum() / 2 + COUPLING * (apart**4).sum() / 4
        return float(value), rounded(gradient, self.dtype)


class ClosureRunner(Runner):
    """A contender whose step evaluates the loss."""

    def __init__(self, name: str, build: Build, workload: Workload, option_set: OptionSet, device: str):
        super().__init__(name, build, workload, option_set, device)
        self.problem = Problem(workload)
        self.device = device

    def step(self, step: int, gradients: list[torch.Tensor]) -> None:
        if step == LR_CHANGE_STEP:
            self.optimizer.param_groups[0]["lr"] *= 0.5
        with self.threads():
            self.optimizer.step(self.evaluate)

    def evaluate(self) -> torch.Tensor:
        """The closure: sets the gradients of all parameters but those that never have one."""
        value, gradient = self.problem(self.params_now())
        self.given = gradient
        copy(parts(gradient, self.workload.shapes, self.workload.dtype, self.device), self.gradients)
        for bucket in self.workload.buckets:
            for i in bucket.tensors:
                self.params[i].grad = self.gradients[i] if has_gradient(bucket.schedule, 1) else None
        return torch.tensor(value, dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.params[0]]

    def results(self) -> dict[str, Array]:
        """Parameters and what the state holds of vectors and numbers, each a flat array."""
        state = self.state()
        found = {key: state[key] for key in (*VECTORS, *NUMBERS, *LISTS) if key in state}
        return {"param": self.params_now(), **flat_each(found)}

    def hand_over(self, params: list[torch.Tensor], state: dict[str, Any]) -> None:
        """Go on from these, as after loading a checkpoint."""
        copy(params, self.params)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})

    def wrote_gradients(self, step: int) -> bool:
        """Whether the gradients are no longer those of the last evaluation."""
        now = torch.cat([gradient.reshape(-1) for gradient in self.gradients]).double().cpu().numpy()
        return not np.array_equal(now, self.given)

    def look(self, memory: oracle_lbfgs.Memory, step: int) -> None:
        """As `Runner.check`: counters that differ, other state, memory that is not its own."""
        state = self.state()
        for key in COUNTS:
            if state[key] != getattr(memory, key):
                self.fault = self.fault or f"{key} is {state[key]} and not {getattr(memory, key)} after step {step}"
        if not set(state) <= KEYS:
            self.fault = self.fault or f"state holds {sorted(set(state) - KEYS)} too in step {step}"
        if self.wrote_gradients(step):
            self.fault = self.fault or f"wrote into .grad in step {step}"
        if any(bool(guard.any()) for guard in self.guards):
            self.fault = self.fault or f"wrote between the elements of a strided parameter in step {step}"


def flat(values: list[Any]) -> Array:
    """Vectors and numbers one after the other, in float64."""
    tensors = [torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().reshape(-1) for value in values]
    return torch.cat(tensors).numpy() if tensors else np.zeros(0)


def flat_each(found: dict[str, Any]) -> dict[str, Array]:
    return {key: flat(value if isinstance(value, list) else [value]) for key, value in found.items()}


def results_of(memory: oracle_lbfgs.Memory, x: Array) -> dict[str, Array]:
    """The oracle's, in the same form; before the first iteration there is no state."""
    keys = (*VECTORS, *NUMBERS, *LISTS) if memory.d is not None else ()
    return {"param": x, **flat_each({key: getattr(memory, key) for key in keys})}


def side_by_side(
    builds: Mapping[str, Build], option_set: OptionSet, workload: Workload, steps: int, aligned: bool, device: str
) -> dict[str, Measured]:
    """As `bench.parity.side_by_side`; everybody is compared with the oracle."""
    if aligned:
        most = option_set.options.get("max_iter", 20) * 5 // 4
        option_set = replace(option_set, options={"max_eval": most, **option_set.options, "max_iter": 1})
    measured = start_all(builds, lambda name, build: ClosureRunner(name, build, workload, option_set, device))
    options = dict(measured["loop"].runner.optimizer.param_groups[0])
    options["lr"] = float(options["lr"])
    problem, memory, x = Problem(workload), oracle_lbfgs.Memory(), workload.params
    for step in range(1, steps + 1):
        if step == LR_CHANGE_STEP:
            options["lr"] *= 0.5
        active = [m for m in measured.values() if m.runner and not m.raised]
        if aligned and memory.d is not None:
            memory, x = rounded_memory(memory, workload.dtype), rounded(x, workload.dtype)
            for m in active:
                params = parts(x, workload.shapes, workload.dtype, device)
                try:
                    m.runner.hand_over(params, torch_state(memory, workload.dtype, device, options["history_size"]))
                except Exception as error:  # as below
                    m.raised = f"state of step {step - 1} cannot be loaded: {first_line(error)}"
            active = [m for m in active if not m.raised]
        around = [run_oracle(x, problem, memory, options, factor) for factor in (FACTORS if aligned else (1.0,))]
        x, memory = around[0]
        exact, *beside = [results_of(its, at) for at, its in around]
        units = {key: unit(key, target, beside, workload) for key, target in exact.items()} if aligned else {}
        for m in active:
            try:
                m.runner.step(step, [])
                m.runner.look(memory, step)
                compare(m, m.runner.results(), exact, units, step)
            except Exception as error:  # whatever a contender raises is its result; the others go on
                m.raised = f"{type(error).__name__} in step {step}: {first_line(error)}"
    for m in measured.values():
        m.fault = m.runner.fault if m.runner else ""
    return measured


def run_oracle(
    x: Array, problem: Problem, memory: oracle_lbfgs.Memory, options: dict[str, Any], factor: float
) -> tuple[Array, oracle_lbfgs.Memory]:
    """The point and the memory after a step in which every gradient is multiplied by `factor`."""

    def closure(point: Array) -> tuple[float, Array]:
        value, gradient = problem(point)
        return value, factor * gradient

    memory = replace(memory)
    return oracle_lbfgs.step(x, closure, memory, options), memory


def unit(key: str, exact: Array, beside: list[dict[str, Array]], workload: Workload) -> Array:
    """For each number: an ulp of its vector's largest, or by how much the vector moves with the gradient."""
    length = 1 if key in ("ro", *NUMBERS) else workload.params.size
    same = [one[key] for one in beside if key in one and one[key].shape == exact.shape]
    moved = np.max([np.abs(one - exact) for one in same], axis=0) if same else np.zeros_like(exact)
    largest, most = (np.abs(one).reshape(-1, length).max(1) for one in (exact, moved))
    return np.repeat(np.maximum(ulp(largest, workload.dtype), most), length)


def compare(m: Measured, values: dict[str, Array], exact: dict[str, Array], units: dict[str, Array], step: int) -> None:
    """Add the errors of one step, key by key: in `units`, or relative where there are none."""
    if values.keys() != exact.keys():
        m.runner.fault = m.runner.fault or f"state holds {sorted(values)} and not {sorted(exact)} in step {step}"
        return
    for key, target in exact.items():
        found = values[key]
        if found.shape != target.shape:
            m.runner.fault = m.runner.fault or f"{key} has {len(found)} numbers, not {len(target)}, in step {step}"
            continue
        m.not_finite = max(m.not_finite, int((~np.isfinite(found)).sum()))
        errors = np.abs(found - target) / units[key] if units else distance(found, target)
        m.add(errors, {key: slice(0, target.size)}, step, lambda at, key=key: f"{key}, element {at}")


def rounded_memory(memory: oracle_lbfgs.Memory, dtype: str) -> oracle_lbfgs.Memory:
    """A memory that the storage type can hold."""
    return replace(
        memory,
        d=rounded(memory.d, dtype),
        prev_flat_grad=rounded(memory.prev_flat_grad, dtype),
        old_dirs=[rounded(y, dtype) for y in memory.old_dirs],
        old_stps=[rounded(s, dtype) for s in memory.old_stps],
        t=float(rounded(np.array([memory.t]), dtype)[0]),
        H_diag=float(rounded(np.array([memory.H_diag]), dtype)[0]),
    )


def torch_state(memory: oracle_lbfgs.Memory, dtype: str, device: str, history_size: int) -> dict[str, Any]:
    """A memory as torch's state of the first parameter."""

    def tensor(value: Any) -> torch.Tensor:
        return torch.as_tensor(value).to(device, getattr(torch, dtype))

    state = {key: getattr(memory, key) for key in (*COUNTS, "prev_loss", *NUMBERS)}
    state |= {key: tensor(getattr(memory, key)) for key in ("d", "prev_flat_grad")}
    state |= {key: [tensor(value) for value in getattr(memory, key)] for key in LISTS}
    return {**state, "al": [None] * history_size}
