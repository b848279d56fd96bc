"""The inputs that PyTorch tests its optimizers with, good and bad, through ours and through torch's for-loop."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers

pytest.importorskip("expecttest", reason="torch's own test cases need expecttest")
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

STEPS = 7
INFO = {info.name: info for info in optim_db if hasattr(optimizers, info.name)}

#: parameters of every kind of shape, an empty one last, for which torch's Adafactor divides by zero
SHAPES = ((5, 3), (), (33,), (2, 3, 4, 2), (1,), (0, 2))
OWN_SHAPES = {"Adafactor": SHAPES[:-1], "Muon": ((5, 3), (3, 5), (17, 17), (1, 1), (5, 3))}
#: which parameters have no gradient in a step: the second begins late, the first is frozen for a while, one is idle
FROZEN = {0: {1}, 2: {0}, 3: {0}, 4: {0, 1, 2, 3, 4, 5}}

#: relative to 1 + the value; both sides do the same few float64 operations, associated differently
EXACT = 1e-12
#: the twenty iterations of LBFGS work with differences of gradients, which lose digits as they converge
ITERATED = 1e-8
#: Muon orthogonalises in bfloat16, through products that a batch sums in another order than a single matrix does: an
#: error of 2**-9 an entry. The iteration multiplies small singular values by 3.4 each time, and that error with them,
#: so that in a square random matrix it decides some of the last direction: of 17, up to about 7 % of the norm.
MUON = 0.1


#: how ours may be asked to step: a kernel where there is one, plain torch, and plain torch that autograd may follow
MODES: dict[str, dict[str, Any]] = {"kernel": {}, "eager": {"fused": False}, "differentiable": {"differentiable": True}}


def accepted(name: str, kwargs: dict[str, Any], mode: str) -> bool:
    """Whether a mode means something to this class and these options."""
    has = MODES[mode].keys() <= inspect.signature(getattr(optimizers, name)).parameters.keys()
    # tensors among the options of a differentiable step are for autograd to follow, and no numbers to compare
    return has and not (mode == "differentiable" and any(isinstance(value, Tensor) for value in kwargs.values()))


def cases(*modes: str, where=lambda info, kwargs: True) -> list:
    """Every input of every class in every mode, and those that torch has for CUDA alone on CUDA."""
    found = []
    for name, info in INFO.items():
        given = [("cpu", case, mode) for case in info.optim_inputs_func(device="cpu") for mode in modes]
        graph = [case for case in info.optim_inputs_func(device="cuda") if case.kwargs.get("capturable")]
        for device, case, mode in given + [("cuda", case, "kernel") for case in graph]:
            if accepted(name, case.kwargs, mode) and where(info, case.kwargs):
                skip = pytest.mark.skipif(device == "cuda" and not torch.cuda.is_available(), reason="needs CUDA")
                label = f"{name}-{case.desc}-{mode}".replace(" ", "_")
                found.append(pytest.param(name, case.kwargs, device, mode, id=label, marks=[skip]))
    return found


def pair(name: str, kwargs: dict[str, Any], mode: dict[str, Any], shapes=None, dtype=torch.float64, device="cpu"):
    """Ours and torch's for-loop over equal parameters: [(parameters, optimizer), (parameters, optimizer)]."""
    generator = torch.Generator().manual_seed(1)
    shapes = shapes or OWN_SHAPES.get(name, SHAPES)
    start = [torch.randn(shape, dtype=dtype, generator=generator).to(device) for shape in shapes]
    theirs = getattr(torch.optim, name)
    loop = {"foreach": False} if "foreach" in inspect.signature(theirs).parameters else {}
    sides = []
    for build, options, given in ((getattr(optimizers, name), mode, kwargs), (theirs, loop, numbers(name, kwargs))):
        # a differentiable step refuses leaves that require gradients, as torch's does
        params = [Parameter(p.clone(), requires_grad="differentiable" not in options) for p in start]
        sides.append((params, build(params, **copy.deepcopy(given), **options)))
    return sides


def numbers(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options with numbers for tensors: what torch's loop makes of a float32 tensor it rounds to float32.

    LBFGS keeps what it was given in its state.
    """
    if name == "LBFGS" or kwargs.get("capturable"):
        return kwargs
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in kwargs.items()}


def compare(ours: Any, theirs: Any, name: str, tolerance: float = EXACT) -> None:
    """State of any kind, down to the type of a number."""
    if isinstance(theirs, Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.device == theirs.device, name
        ours, theirs = (x.detach().to_dense() if x.layout != torch.strided else x.detach() for x in (ours, theirs))
        tolerance = tolerance if theirs.dtype in (torch.float64, torch.complex128) else 1e-7
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), name
        for i, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            compare(x, y, f"{name}[{i}]", tolerance)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance), name
    else:
        assert type(ours) is type(theirs) and ours == theirs, name


def compare_all(ours, theirs) -> None:
    """Parameters and state, keys in the same order."""
    iterated = INFO[type(ours[1]).__name__].step_requires_closure
    tolerance = ITERATED if iterated else EXACT
    for i, (p, q) in enumerate(zip(ours[0], theirs[0], strict=True)):
        compare(p, q, f"parameter {i}", tolerance)
        mine, other = ours[1].state.get(p, {}), theirs[1].state.get(q, {})
        order = sorted if iterated else list  # LBFGS adds keys as it needs them
        assert order(mine) == order(other), f"state of parameter {i}"
        for key in other:
            compare(mine[key], other[key], f"{key} of parameter {i}", tolerance)


def compare_muon(ours, theirs, before: list[Tensor]) -> None:
    """Momentum exactly, the update within what bfloat16 allows; then ours goes on from torch's parameters."""
    for p, q, old in zip(ours[0], theirs[0], before, strict=True):
        mine, other = ours[1].state.get(p, {}), theirs[1].state.get(q, {})
        assert list(mine) == list(other)
        for key in other:
            compare(mine[key], other[key], key)
        keep = 1 - theirs[1].param_groups[0]["lr"] * theirs[1].param_groups[0]["weight_decay"]
        update = (q - old * keep).norm()
        assert (p - q).norm() <= MUON * update, ((p - q).norm() / update).item()
        p.data.copy_(q)


def sparse(gradient: Tensor) -> Tensor:
    """Some rows of a gradient, one of them twice."""
    rows = torch.tensor([2 % len(gradient), 0, 2 % len(gradient)])
    return torch.sparse_coo_tensor(rows[None], gradient[rows], gradient.shape)


def train(ours, theirs, name: str, steps: int = STEPS, change=lambda gradient: gradient) -> None:
    """Steps both with the same gradients, and compares after each step."""
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        before = [p.detach().clone() for p in theirs[0]]
        for i, (p, q) in enumerate(zip(ours[0], theirs[0], strict=True)):
            gradient = torch.randn(p.shape, dtype=p.dtype, generator=generator).to(p.device)
            if i not in FROZEN.get(step, ()):
                p.grad, q.grad = change(gradient), change(gradient)
            else:
                p.grad = q.grad = None
        for params, optimizer in (ours, theirs):
            versions = [None if p.grad is None else (p.grad, p.grad._version) for p in params]
            optimizer.step()
            assert versions == [None if p.grad is None else (p.grad, p.grad._version) for p in params]
        if name == "Muon":
            compare_muon(ours, theirs, before)
        else:
            compare_all(ours, theirs)


def loss_of(params: list[Parameter]) -> Tensor:
    """A curved function of all parameters that has no minimum at zero; real for complex ones too."""
    total = torch.zeros((), dtype=torch.float64)
    for i, p in enumerate(params):
        x = torch.view_as_real(p) if p.is_complex() else p
        at = torch.linspace(-1, 1 + i, x.numel(), dtype=torch.float64).reshape(x.shape)
        total = total + ((x - at) ** 2).sum() * (1 + i) + 0.1 * ((x - at).roll(1) ** 4).sum()
    return total


def train_with_closure(ours, theirs) -> None:
    """The same for an optimizer that computes its gradients itself: losses, evaluations, parameters and state."""
    for _ in range(STEPS):
        losses: list[list[float]] = []
        for params, optimizer in (ours, theirs):
            seen: list[float] = []

            def closure(params=params, optimizer=optimizer, seen=seen):
                optimizer.zero_grad()
                loss = loss_of(params)
                loss.backward()
                seen.append(loss.item())
                return loss

            seen.append(optimizer.step(closure).item())
            losses.append(seen)
        assert losses[0] == pytest.approx(losses[1], rel=1e-11)
        compare_all(ours, theirs)
        for p, q in zip(ours[0], theirs[0], strict=True):  # the next step starts from the same place
            p.data.copy_(q)
            if q in theirs[1].state:
                ours[1].state[p] = copy.deepcopy(theirs[1].state[q])


def run(name: str, kwargs: dict[str, Any], mode: str = "kernel", **places: Any) -> None:
    """One input, in the way that this class is put to work."""
    if INFO[name].only_supports_sparse_grads:
        return run_sparse(name, kwargs, mode)
    ours, theirs = pair(name, kwargs, MODES[mode], **places)
    if INFO[name].step_requires_closure:
        return train_with_closure(ours, theirs)
    return train(ours, theirs, name)


def run_sparse(name: str, kwargs: dict[str, Any], mode: str) -> None:
    """The same with gradients for some of the rows."""
    ours, theirs = pair(name, kwargs, MODES[mode], shapes=((5, 3), (7,), (33, 2, 2)))
    with torch.sparse.check_sparse_tensor_invariants(True):  # or torch warns that it does not check
        train(ours, theirs, name, change=sparse)


@pytest.mark.parametrize(("name", "kwargs", "device", "mode"), cases(*MODES))
def test_input_steps_like_torchs_loop(name, kwargs, device, mode):
    run(name, kwargs, mode, device=device)


@pytest.mark.parametrize(
    ("name", "kwargs", "device", "mode"), cases("kernel", where=lambda info, kwargs: info.supports_complex)
)
def test_input_steps_complex_parameters_like_torchs_loop(name, kwargs, device, mode):
    run(name, kwargs, mode, device=device, dtype=torch.complex128)


@pytest.mark.parametrize(
    ("name", "kwargs", "device", "mode"),
    # torch takes no weight decay with sparse gradients
    cases("kernel", "eager", where=lambda info, kwargs: info.supports_sparse and not kwargs.get("weight_decay")),
)
def test_input_steps_sparse_gradients_like_torchs_loop(name, kwargs, device, mode):
    run_sparse(name, kwargs, mode)


@pytest.mark.parametrize(("dims", "dtype"), [(0, torch.float32), (1, torch.float64), (2, torch.float64)])
@pytest.mark.parametrize("name", INFO)
def test_a_learning_rate_may_be_a_tensor_of_one_element(name, dtype, dims):
    run(name, {"lr": torch.full((1,) * dims, 0.1, dtype=dtype)})


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("dims", [0, 2])
def test_betas_may_be_tensors_of_one_element(name, dims):
    betas = tuple(torch.full((1,) * dims, value, dtype=torch.float64) for value in (0.8, 0.99))
    run(name, {"lr": torch.tensor(0.1, dtype=torch.float64), "betas": betas})


def test_weight_decay_of_sgd_may_be_a_tensor():
    run("SGD", {"lr": 0.1, "weight_decay": torch.tensor(0.25, dtype=torch.float64), "momentum": 0.9})


def outcome(build: Any, case: Any) -> tuple[type, str] | list[tuple[type, str]]:
    """What a wrong input leads to: the error and its words, or the warnings."""
    given = case.optimizer_error_input
    params = given.params
    if params is None:
        params = [Parameter(torch.randn(2, 3))]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            optimizer = build(params, **given.kwargs)
            if case.error_on is OptimizerErrorEnum.STEP_ERROR:
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        p.grad = torch.rand_like(p)
                optimizer.step()
        except Exception as error:
            return type(error), str(error)
    return [(w.category, str(w.message)) for w in seen]


ERRORS = [
    pytest.param(name, i, id=f"{name}-{case.optimizer_error_input.desc}".replace(" ", "_"))
    for name, info in INFO.items()
    for i, case in enumerate(info.optim_error_inputs_func(device="cpu", dtype=torch.float32))
]


@pytest.mark.parametrize(("name", "number"), ERRORS)
def test_wrong_input_is_refused_in_torchs_words(name, number):
    case = INFO[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)[number]
    ours = outcome(getattr(optimizers, name), case)
    assert ours == outcome(getattr(torch.optim, name), case)
    kind, words = ours[0] if isinstance(ours, list) else ours
    assert issubclass(kind, case.error_type) and re.search(case.error_regex, words)
