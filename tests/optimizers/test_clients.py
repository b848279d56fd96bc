"""What others do with an optimizer: schedulers, averages, scalers, checkpoints of many machines, trainers."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

import optimizers

from .classes import (
    CLASSES,
    DENSE,
    OPTIONS,
    assert_same,
    assert_unchanged,
    both,
    build,
    contents,
    gradients,
    parameters,
    step,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")

#: how to build each scheduler of torch's
SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 2, gamma=0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1, 3], gamma=0.5),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, factor=0.5, total_iters=3),
    "LinearLR": lambda o: schedulers.LinearLR(o, start_factor=0.25, total_iters=4),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.5),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, factor=0.5), schedulers.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, factor=0.5), schedulers.ExponentialLR(o, 0.5)], optimizer=o
    ),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=3),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=2),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=4, power=2.0),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=2, cycle_momentum=cycles_momentum(o)),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=cycles_momentum(o)),
    "SWALR": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=3),
}


def cycles_momentum(optimizer: torch.optim.Optimizer) -> bool:
    return "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0) != 0


def test_every_scheduler_of_torchs_has_its_test():
    there = {
        name
        for name, cls in vars(schedulers).items()
        if inspect.isclass(cls) and issubclass(cls, schedulers.LRScheduler) and not name.startswith("_")
    }
    assert there - {"LRScheduler"} == SCHEDULERS.keys() - {"SWALR"}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_changes_the_next_steps_as_in_torch(name, scheduler):
    sides = both(name, torch.float64)
    schedules = [SCHEDULERS[scheduler](optimizer) for _, optimizer in sides]
    used = set()
    for seed in range(7):
        train(name, *sides, steps=1, seed=seed)
        for schedule in schedules:
            schedule.step(*[1.0] * (scheduler == "ReduceLROnPlateau"))
        groups = [optimizer.param_groups[0] for _, optimizer in sides]
        for key in ("lr", "momentum", "betas"):
            assert groups[0].get(key) == groups[1].get(key)
        used.add(groups[0]["lr"])
    assert len(used) > 1
    assert_same(name, *sides, scale=1000 if name == "Muon" else 100)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_scheduler_fills_a_tensor_learning_rate_in_place(name):
    sides = both(name, torch.float64, lr=torch.tensor(0.1, dtype=torch.float64))
    rates = [optimizer.param_groups[0]["lr"] for _, optimizer in sides]
    schedules = [schedulers.ExponentialLR(optimizer, 0.5) for _, optimizer in sides]
    for seed in range(4):
        train(name, *sides, steps=1, seed=seed)
        for schedule in schedules:
            schedule.step()
    assert [optimizer.param_groups[0]["lr"] is rate for (_, optimizer), rate in zip(sides, rates, strict=True)] == [
        True
    ] * 2
    assert_same(name, *sides, scale=10)


@pytest.mark.parametrize("module", [optimizers, torch.optim])
def test_a_scheduler_with_a_function_for_each_group_refuses_a_later_group_as_in_torch(module):
    for make, fails in ((SCHEDULERS["LambdaLR"], True), (SCHEDULERS["StepLR"], False)):
        optimizer = module.SGD(parameters("SGD"), lr=0.1)
        schedule = make(optimizer)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        optimizer.step()
        if fails:
            with pytest.raises(ValueError, match="shorter"):
                schedule.step()
        else:
            schedule.step()


# --- averages ----------------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """A module around the parameters that an optimizer takes."""

    def __init__(self, params):
        super().__init__()
        self.weights = torch.nn.ParameterList(params)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["mean", "exponential"])
def test_averaged_models_follow_the_parameters(name, average):
    averages = []
    for params, optimizer in both(name, torch.float64):
        averaged = AveragedModel(Model(params), multi_avg_fn=average)
        generator = torch.Generator().manual_seed(0)
        seen = []
        for _ in range(4):
            step(optimizer, params, gradients(name, params, generator))
            averaged.update_parameters(Model(params))
            seen.append([p.detach().clone() for p in params])
        own = [p.detach() for p in averaged.module.weights]
        if average is None:
            for i, p in enumerate(own):
                torch.testing.assert_close(p, torch.stack([s[i] for s in seen]).mean(0))
        averages.append(own)
    slack = {"rtol": 0.0, "atol": 1e-3} if name == "Muon" else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(*averages, **slack)


# --- gradient scaling --------------------------------------------------------------------------------------------


def scaled(params, scaler, factor: float) -> None:
    """Gradients 1, 2, 3, ... times `factor`, times the scale."""
    for p in params:
        p.grad = None
    ramp = [factor * torch.arange(1.0, p.numel() + 1).reshape(p.shape) for p in params]
    scaler.scale(sum((p * r).sum() for p, r in zip(params, ramp, strict=True))).backward()


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("fused", [None, True])
def test_a_gradient_scaler_divides_and_skips_on_infinity_without_touching_anything(name, fused):
    if fused and "fused" not in inspect.signature(getattr(optimizers, name)).parameters:
        pytest.skip("has no fused")
    options = OPTIONS.get(name, {})
    params, others = parameters(name), parameters(name)
    optimizer, plain = (
        build(optimizers, name, params, fused=fused, **options),
        build(torch.optim, name, others, **options),
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled(params, scaler, float("inf"))
    before = contents(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512
    assert_unchanged(optimizer, before)
    for _ in range(2):
        scaled(params, scaler, 1.0)
        scaler.step(optimizer)
        scaler.update()
        scaled(others, torch.amp.GradScaler("cpu", enabled=False), 1.0)
        plain.step()
    assert_same(name, (params, optimizer), (others, plain), scale=10)
    before = contents(optimizer)
    scaled(params, scaler, float("nan"))
    scaler.step(optimizer)
    assert_unchanged(optimizer, before)


def test_only_a_fused_optimizer_of_torchs_says_that_it_unscales_by_itself():
    for module in (optimizers, torch.optim):
        for fused in (None, True):
            optimizer = module.AdamW(parameters("AdamW"), fused=fused)
            assert getattr(optimizer, "_step_supports_amp_scaling", False) is bool(fused)


# --- many machines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_step_that_makes_state_for_a_distributed_checkpoint_leaves_parameters_bit_for_bit(name, decay):
    params = parameters(name)
    options = OPTIONS.get(name, {}) | {"weight_decay": decay} if name != "Rprop" else {}
    optimizer = build(optimizers, name, params, **options)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert all(optimizer.state[p] for p in params)
    assert all(t.isfinite().all() for p in params for t in optimizer.state[p].values())


@pytest.mark.parametrize("name", DENSE)
def test_a_distributed_checkpoint_goes_out_and_in(name):
    checkpoint = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    sides = []
    for params, optimizer in both(name):
        model = Model(params)
        train(name, (params, optimizer), steps=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = checkpoint.get_optimizer_state_dict(model, optimizer)
            fresh = Model([torch.nn.Parameter(p.detach().clone()) for p in params])
            module = optimizers if isinstance(optimizer, optimizers.Optimizer) else torch.optim
            other = build(module, name, list(fresh.parameters()), **OPTIONS.get(name, {}))
            checkpoint.set_optimizer_state_dict(fresh, other, state)
        assert all(torch.equal(p, q) for p, q in zip(fresh.parameters(), params, strict=True))
        sides.append((list(fresh.parameters()), other))
        assert state["state"] or name == "SGD"
    train(name, *sides, steps=3, seed=1)
    assert_same(name, *sides, scale=10)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad"])
def test_parameters_in_shared_memory_are_stepped_where_they_are(name):
    ours, theirs = both(name)
    for params, optimizer in (ours, theirs):
        for p in params:
            p.share_memory_()
        if name == "Adagrad":
            optimizer.share_memory()
    views = [p.detach().view(-1) for p in ours[0]]
    places = [p.data_ptr() for p in ours[0]]
    train(name, ours, theirs, steps=3)
    assert_same(name, ours, theirs, scale=10)
    assert [p.data_ptr() for p in ours[0]] == places and all(p.is_shared() for p in ours[0])
    assert all(torch.equal(view, p.detach().view(-1)) for view, p in zip(views, ours[0], strict=True))


@pytest.mark.parametrize("name", DENSE)
def test_one_optimizer_for_each_parameter_may_step_inside_backward(name):
    sides = []
    for module in (optimizers, torch.optim):
        params = parameters(name)
        each = {p: build(module, name, [p], **OPTIONS.get(name, {})) for p in params}

        def hook(p, each=each):
            each[p].step()
            each[p].zero_grad()

        for p in params:
            p.register_post_accumulate_grad_hook(hook)
        for _ in range(3):
            sum((p * p).sum() for p in params).backward()
            assert all(p.grad is None for p in params)
        sides.append(params)
    slack = {"rtol": 0.0, "atol": 5e-4} if name == "Muon" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(sides[0], sides[1], **slack)


# --- trainers ----------------------------------------------------------------------------------------------------


class Mixin:
    """A wrapper in the manner of Lightning's: it takes the optimizer's attributes over and forwards its step."""

    def __init__(self, optimizer):
        self.__dict__ = {k: v for k, v in optimizer.__dict__.items() if k != "step"}
        self._optimizer = optimizer
        self.calls = 0

    def step(self, closure=None, **arguments):
        self.calls += 1
        return self._optimizer.step(closure, **arguments)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_made_of_a_wrapper_and_an_optimizer_works(name):
    ours, theirs = both(name)
    cls = type(f"Lightning{name}", (Mixin, type(ours[1])), {})
    wrapped = cls(ours[1])
    assert isinstance(wrapped, torch.optim.Optimizer) and wrapped.param_groups is ours[1].param_groups
    train(name, (ours[0], wrapped), theirs, steps=3)
    assert wrapped.calls == 3
    assert_same(name, ours, theirs, scale=10)
    wrapped.zero_grad()
    state = wrapped.state_dict()
    wrapped.load_state_dict(state)
    assert name in repr(wrapped)


@pytest.mark.parametrize("name", DENSE)
def test_parameters_and_step_may_be_exchanged_after_construction(name):
    """As accelerate does: other tensors in the groups, and a step on the instance."""
    ours, theirs = both(name)
    train(name, ours, theirs, steps=1)
    sides = []
    for params, optimizer in (ours, theirs):
        fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
        for old, new in zip(params, fresh, strict=True):
            if old in optimizer.state:
                optimizer.state[new] = optimizer.state.pop(old)
        optimizer.param_groups[0]["params"] = fresh
        inner, calls = optimizer.step, []
        optimizer.step = lambda *a, inner=inner, calls=calls: (calls.append(1), inner(*a))[1]
        sides.append((fresh, optimizer))
        train(name, sides[-1], steps=2)
        assert len(calls) == 2
    assert_same(name, *sides, scale=10)


@pytest.mark.parametrize("name", DENSE)
def test_parameters_and_state_swapped_in_for_a_while_are_stepped_instead(name):
    swap = getattr(torch.optim, "swap_in_optimizer_params_and_state", None)
    if swap is None:
        pytest.skip("this torch has no swap_in_optimizer_params_and_state")
    (ours, guest), (theirs, expected) = both(name)[0], both(name)[0]
    host, reference = both(name, lr=0.02)[0], both(name, lr=0.02)[0]
    train(name, host, reference, steps=2, seed=5)
    train(name, (ours, guest), (theirs, expected), steps=2)
    if not host[1].state:
        pytest.skip("has no state")
    before = contents(host[1])
    with swap(host[1], dict(zip("ab", ours, strict=True)), guest.state_dict()):
        train(name, (ours, host[1]), (theirs, expected), steps=2, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    assert_unchanged(host[1], before)
    train(name, host, reference, steps=2, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(host[0], reference[0], strict=True))
