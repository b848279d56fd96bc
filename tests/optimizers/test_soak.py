"""Random runs of every elementwise optimizer, each step beside the same step of torch's for-loop.

`make test` runs a few hundred of the same cases each time, `make soak` a hundred thousand new ones (SOAK_CASES says how
many). A case that ends the process, as an access beyond a guarded tensor does, is found in `.hypothesis/last-case`.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import optimizers
from optimizers.executors import kernels

from .soak_reference import equal, rows, snapshot, step_and_compare, step_and_compare_whole, wide
from .strategies import DTYPES, OPTIONS, Run, gaps_are_untouched, numbers, place, runs

#: whose elements depend on each other, so that another comparison is made
WHOLE = [name for name in ("Adafactor", "SparseAdam") if hasattr(optimizers, name)]
ELEMENTWISE = [name for name in OPTIONS if name not in ("Adafactor", "SparseAdam")]
CASES = int(os.environ.get("SOAK_CASES", "330"))
SOAK = "SOAK_CASES" in os.environ
LAST_CASE = Path(__file__).parents[2] / ".hypothesis" / "last-case"


def same(optimizer: optimizers.Optimizer, before: list[dict[str, Any]]) -> bool:
    """Whether parameters and state are what they were, but that scalars may have got a wider dtype."""
    now = snapshot(optimizer)

    def alike(key: str, x: Any, y: Any) -> bool:
        if not isinstance(x, Tensor):
            return x == y
        return (x.dtype == y.dtype or key in optimizer.algorithm.scalars) and equal(wide(x), wide(y))

    return all(
        x.keys() == y.keys() and all(alike(key, x[key], y[key]) for key in x) for x, y in zip(before, now, strict=True)
    )


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def anew(optimizer: torch.optim.Optimizer, module: Any) -> torch.optim.Optimizer:
    """An optimizer of the same class (or of torch's of that name) for the same parameters, with none of the state."""
    groups = [{"params": group["params"]} for group in optimizer.param_groups]
    return getattr(module, type(optimizer).__name__)(groups)


def happen(event: str, optimizer: optimizers.Optimizer, changed: dict[str, Any]) -> optimizers.Optimizer:
    """What is done to an optimizer between two steps; it has to stay what it was."""
    before = snapshot(optimizer)
    match event:
        case "save and load":
            state_dict = through_a_file(optimizer.state_dict())
            optimizer = anew(optimizer, optimizers)
            optimizer.load_state_dict(state_dict)
        case "through torch":
            torchs = anew(optimizer, torch.optim)
            torchs.load_state_dict(through_a_file(optimizer.state_dict()))
            before = snapshot(torchs)  # it may have rounded scalars to the dtype of the parameter
            optimizer = anew(optimizer, optimizers)
            optimizer.load_state_dict(through_a_file(torchs.state_dict()))
        case "pickle":
            optimizer = pickle.loads(pickle.dumps(optimizer))
        case "deepcopy":
            optimizer = copy.deepcopy(optimizer)
        case "change options":
            # what decides the state of a parameter cannot change in torch either; the rest: see `strategies.options`
            kept = {"amsgrad", "centered"} | (
                {"momentum", "eps"} if isinstance(optimizer, optimizers.RMSprop) else set()
            )
            optimizer.param_groups[0].update({k: v for k, v in changed.items() if k not in kept})
    assert same(optimizer, before), event
    return optimizer


def sparse(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Some rows of a gradient, in any order and any number of times, or none at all."""
    at = torch.randint(max(len(gradient), 1), (int(torch.randint(6, (1,), generator=generator)),), generator=generator)
    at = at if len(gradient) else at[:0]
    return torch.sparse_coo_tensor(at[None], gradient[at], gradient.shape)


def play(run: Run, compare=step_and_compare) -> None:
    """Plays a case from beginning to end."""
    generator = torch.Generator().manual_seed(run.seed)
    placed: list[Tensor] = []

    def parameter(plan) -> torch.nn.Parameter:
        shape = plan.shape
        if run.name == "Adafactor":  # torch's divides by the number of elements
            shape = tuple(max(size, 1) for size in shape)
        if run.name == "SparseAdam":
            shape = shape or (1,)
        t = place(numbers(plan.values, shape, plan.dtype, generator), plan.layout, plan.edge)
        placed.append(t)
        return torch.nn.Parameter(t)

    groups = [
        {"params": [parameter(plan) for plan in group], **options}
        for group, options in zip(run.groups, run.options, strict=True)
    ]
    eager = run.mode == "eager" and run.name != "SparseAdam"  # which has no modes
    optimizer = getattr(optimizers, run.name)(groups, **({"foreach": False} if eager else {}))
    late = list(run.late)
    for step in run.steps:
        if step.event == "add a group" and late:
            optimizer.add_param_group({"params": [parameter(late.pop())], **step.options})
        elif step.event:
            optimizer = happen(step.event, optimizer, step.options)
        for (_, p), plan in zip(rows(optimizer), step.gradients, strict=False):
            p.grad = None
            if plan is not None:
                gradient = numbers(plan.values, tuple(p.shape), p.dtype, generator)
                is_sparse = run.name == "SparseAdam"
                p.grad = sparse(gradient, generator) if is_sparse else place(gradient, plan.layout, plan.edge)
        compare(optimizer)
    assert all(map(gaps_are_untouched, placed)), "memory beside a parameter was written to"


def remember(run: Run) -> None:
    """Leaves the case where it is found when the interpreter does not live to report it."""
    LAST_CASE.parent.mkdir(exist_ok=True)
    LAST_CASE.write_text(repr(run))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Waking threads for a thousand elements takes longer than stepping them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def soak(name: str, dtypes, compare, monkeypatch) -> None:
    """This optimizer's share of the cases."""
    native = kernels._native

    @settings(
        max_examples=max(CASES // len(OPTIONS), 1),
        deadline=None,
        derandomize=not SOAK,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(runs(name, dtypes))
    def case(run: Run) -> None:
        remember(run)
        monkeypatch.setattr(kernels, "_native", (lambda: None) if run.mode == "python" else native)
        play(run, compare)

    case()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_random_run_steps_like_torchs_loop(name, monkeypatch):
    soak(name, DTYPES, step_and_compare, monkeypatch)


@pytest.mark.parametrize("name", WHOLE)
def test_a_random_run_in_float64_steps_like_torchs_loop(name, monkeypatch):
    with torch.sparse.check_sparse_tensor_invariants(True):  # or torch warns that it does not check
        soak(name, (torch.float64,), step_and_compare_whole, monkeypatch)
