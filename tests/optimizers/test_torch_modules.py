"""Every loss of the installed torch is among ours, with its signature; modules on torch's own inputs for them."""

from __future__ import annotations

import importlib
import inspect
import itertools

import pytest
import torch
from torch.nn import functional
from torch.testing._internal.common_modules import module_db

from optimizers import losses
from optimizers.losses import elementwise

from .agreement import by_rows_for_the_smallest

CLASSES = [name for name in dir(torch.nn) if name.endswith("Loss")]
FUNCTIONS = [name for name in dir(functional) if name.endswith("_loss") or "cross_entropy" in name or name == "kl_div"]
INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__ in losses.__all__}
#: of LinearCrossEntropyLoss torch has 857 inputs
EVERY = {"LinearCrossEntropyLoss": 20}


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", 0)
    module = importlib.import_module("optimizers.losses.cross_entropy")
    monkeypatch.setattr(module, "_pays", lambda *args: True)
    module._kernel.cache_clear()
    with by_rows_for_the_smallest():
        yield
    module._kernel.cache_clear()


@pytest.mark.parametrize("name", CLASSES + FUNCTIONS)
def test_every_loss_of_torchs_is_here_with_its_signature(name):
    """Ours may have further options, by keyword, at the end."""
    home = torch.nn if name in CLASSES else functional
    assert name in losses.__all__
    ours, theirs = (
        [(p.name, p.kind, p.default) for p in inspect.signature(getattr(module, name)).parameters.values()]
        for module in (losses, home)
    )
    assert ours[: len(theirs)] == theirs
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in ours[len(theirs) :])


def test_the_list_is_not_empty():
    assert len(CLASSES) >= 23 and len(FUNCTIONS) >= 22 and len(INFOS) >= 19


def run(module, call):
    """The value, and the gradients of all inputs and parameters for a random upstream gradient."""
    given = [t.detach().clone().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t
             for t in call.args]  # fmt: skip
    value = module(*given, **call.kwargs)
    wanted = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad] + list(module.parameters())
    if not value.requires_grad:
        return (value,)
    upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return value, *torch.autograd.grad(value, wanted, upstream.to(value.dtype), allow_unused=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", INFOS)
def test_torchs_inputs_for_modules(name, dtype):
    info, n = INFOS[name], 0
    inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
    for case in itertools.islice(inputs, 0, None, EVERY.get(name, 1)):
        made = case.constructor_input
        ours, theirs = (getattr(home, name)(*made.args, **made.kwargs) for home in (losses, torch.nn))
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        theirs.load_state_dict(ours.state_dict())
        assert type(ours) is getattr(losses, name) and repr(ours) == repr(theirs)
        got, goal = run(ours, case.forward_input), run(theirs, case.forward_input)
        # torch's gradient of CTC has three digits in float32, ours seven
        options = {"rtol": 5e-3, "atol": 5e-4} if (name, dtype) == ("CTCLoss", torch.float32) else {}
        torch.testing.assert_close(got, goal, equal_nan=True, **options)
        n += 1
    assert n > 0


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of the patterns, which are torch's
@pytest.mark.parametrize("name", [name for name, info in INFOS.items() if info.module_error_inputs_func is not None])
def test_torchs_wrong_inputs_for_modules(name):
    info, n = INFOS[name], 0
    for case in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=True
    ):
        made, call = case.module_error_input.constructor_input, case.module_error_input.forward_input
        if case.error_on.name == "CONSTRUCTION_ERROR":
            with pytest.raises(case.error_type, match=case.error_regex):
                getattr(losses, name)(*made.args, **made.kwargs)
        else:
            module = getattr(losses, name)(*made.args, **made.kwargs)
            with pytest.raises(case.error_type, match=case.error_regex):
                module(*call.args, **call.kwargs)
        n += 1
    assert n > 0


DATA = torch.Generator().manual_seed(0)
A, B, C = (torch.randn(6, 4, generator=DATA, dtype=torch.float64) for _ in range(3))


def signed_distance(a, b):
    return (a - b).sum(-1)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TripletMarginLoss", {"margin": 0.5, "p": 1.0, "eps": 0.1, "swap": True}),
        ("TripletMarginWithDistanceLoss", {"margin": 0.5, "swap": True, "distance_function": signed_distance}),
    ],
)
def test_modules_without_inputs_of_torchs_pass_their_options_on(name, options, reduction):
    values = []
    for home in (losses, torch.nn):
        a = A.clone().requires_grad_()
        value = getattr(home, name)(reduction=reduction, **options)(a, B, C)
        values.append((value, *torch.autograd.grad(value.sum(), a)))
    torch.testing.assert_close(*values)
    assert not torch.equal(values[0][0], getattr(losses, name)(reduction=reduction)(A, B, C))


@pytest.mark.parametrize(
    "target", [[0, 1, 3, 5, 6, 9, 2], [0, 1, 2, 1], [9, 8, 6], [4], []], ids=["all", "head", "last", "one", "none"]
)
def test_adaptive_softmax_is_torchs(target):
    ours, theirs = (home.AdaptiveLogSoftmaxWithLoss(16, 10, [3, 6], head_bias=True) for home in (losses, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    x, target, answers = torch.randn(len(target), 16, generator=DATA), torch.tensor(target, dtype=torch.int64), []
    for module in (ours, theirs):
        given = x.clone().requires_grad_()
        output, loss = module(given, target)
        slopes = torch.autograd.grad(
            loss + (output * output).sum(), [given, *module.parameters()], allow_unused=True, materialize_grads=True
        )
        answers.append((output, loss, *slopes))
    torch.testing.assert_close(*answers, equal_nan=True)
    assert type(ours(x, target)) is type(theirs(x, target))


def test_adaptive_softmax_refuses_what_torchs_does():
    ours, x, target = losses.AdaptiveLogSoftmaxWithLoss(16, 10, [3, 6]), torch.zeros(2, 16), torch.tensor([0, 9])
    assert ours(x[0], target[1]).output.shape == ()
    for off in (-1, 1):
        with pytest.raises(RuntimeError, match="Target values should be in"):
            ours(x, target + off)
    with pytest.raises(RuntimeError, match="same size in the batch dimension"):
        ours(x, target[:1])
    with pytest.raises(ValueError, match="cutoffs should be a sequence of unique, positive"):
        losses.AdaptiveLogSoftmaxWithLoss(16, 10, [6, 3])
