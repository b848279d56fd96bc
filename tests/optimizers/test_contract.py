"""Ours can stand where torch's stood: signatures, groups, state, errors, checkpoints, hooks."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import optim_db

import optimizers

from .conftest import NAMES

INFO = {info.optim_cls.__name__: info for info in optim_db}


def pair(name, shapes=((4, 3), (3,)), **options):
    """The same parameters twice, under ours and under torch's loop."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    return (
        (ours, getattr(optimizers, name)(ours, **options)),
        (theirs, getattr(torch.optim, name)(theirs, foreach=False, **options)),
    )


def train(*sides, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        gradients = [torch.randn(p.shape, generator=generator) for p in sides[0][0]]
        for params, optimizer in sides:
            for p, g in zip(params, gradients, strict=True):
                p.grad = g.clone()
            optimizer.step()


def assert_close(a, b):
    """Equal up to the rounding of a few float32 operations that are associated differently."""
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs_then_keyword_only(name):
    ours = inspect.signature(getattr(optimizers, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    assert [(p.name, p.default) for p in ours.values() if p.name in theirs] == [
        (p.name, p.default) for p in theirs.values()
    ]
    extra = [p for n, p in ours.items() if n not in theirs]
    assert [(p.name, p.default, p.kind) for p in extra] in ([], [("fused", None, inspect.Parameter.KEYWORD_ONLY)])
    positional = [n for n, p in theirs.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert list(ours)[: len(positional)] == positional


@pytest.mark.parametrize("name", NAMES)
def test_is_torchs_class_with_its_groups_and_defaults(name):
    (_, ours), (_, theirs) = pair(name)
    assert isinstance(ours, getattr(torch.optim, name))
    assert ours.defaults.keys() == theirs.defaults.keys()
    assert ours.param_groups[0].keys() == theirs.param_groups[0].keys()
    assert repr(ours).startswith(name)


OPTIONS = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "RMSprop": {"momentum": 0.9, "centered": True}}


@pytest.mark.parametrize("name", NAMES)
def test_state_has_torchs_keys_dtypes_and_shapes(name):
    ours, theirs = pair(name, **OPTIONS.get(name, {}))
    train(ours, theirs, steps=2)
    for p, q in zip(ours[0], theirs[0], strict=True):
        mine, other = ours[1].state[p], theirs[1].state[q]
        assert list(mine) == list(other)
        for key in mine:
            assert (mine[key].dtype, mine[key].shape) == (other[key].dtype, other[key].shape)
            torch.testing.assert_close(mine[key], other[key], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_torchs_error_inputs(name):
    for case in INFO[name].optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = case.optimizer_error_input
        if case.error_type in (UserWarning,):
            with pytest.warns(case.error_type, match=case.error_regex):
                getattr(optimizers, name)(given.params, **given.kwargs)
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                optimizer = getattr(optimizers, name)(given.params, **given.kwargs)
                optimizer.step()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", ["torch to ours", "ours to torch"])
def test_checkpoint_crosses_in_the_middle_of_a_run(name, direction):
    ours, theirs = pair(name, **OPTIONS.get(name, {}))
    train(ours, theirs, steps=3)
    source, target = (theirs, ours) if direction == "torch to ours" else (ours, theirs)
    buffer = io.BytesIO()
    torch.save(source[1].state_dict(), buffer)
    buffer.seek(0)
    with torch.no_grad():
        for p, q in zip(target[0], source[0], strict=True):
            p.copy_(q)
    target[1].load_state_dict(torch.load(buffer, weights_only=True))
    train(ours, theirs, steps=20, seed=1)
    assert_close(ours[0], theirs[0])


@pytest.mark.parametrize("name", NAMES)
def test_pickle_and_deepcopy_go_on_alike(name):
    ours, theirs = pair(name)
    train(ours, theirs, steps=2)
    for clone in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        (params, optimizer), (others, torchs) = clone, copy.deepcopy(theirs)
        train((params, optimizer), (others, torchs), steps=3)
        assert_close(params, others)


def test_hooks_run_in_torchs_order_and_may_change_the_arguments():
    (params, optimizer), _ = pair("Adam")
    seen = []
    optimizer.register_step_pre_hook(lambda o, a, k: seen.append("pre"))
    optimizer.register_step_post_hook(lambda o, a, k: seen.append("post"))
    first = register_optimizer_step_pre_hook(lambda o, a, k: seen.append("global pre"))
    last = register_optimizer_step_post_hook(lambda o, a, k: seen.append("global post"))
    try:
        params[0].grad = torch.ones_like(params[0])
        optimizer.step(lambda: seen.append("closure"))
    finally:
        first.remove()
        last.remove()
    assert seen == ["global pre", "pre", "closure", "post", "global post"]


def test_closure_runs_with_gradients_on_and_its_loss_comes_back():
    (params, optimizer), _ = pair("SGD")

    def closure():
        optimizer.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first


def test_profiler_sees_the_step():
    (params, optimizer), _ = pair("Adam")
    params[0].grad = torch.ones_like(params[0])
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert "Optimizer.step#Adam.step" in {event.name for event in profile.events()}


@pytest.mark.parametrize("name", NAMES)
def test_schedulers_change_the_next_step(name):
    ours, theirs = pair(name)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(side[1], 0.5) for side in (ours, theirs)]
    for seed in range(4):
        train(ours, theirs, steps=1, seed=seed)
        for schedule in schedules:
            schedule.step()
    assert_close(ours[0], theirs[0])


def test_group_added_in_the_middle_steps_with_its_own_options():
    ours, theirs = pair("AdamW")
    train(ours, theirs, steps=2)
    late = [torch.nn.Parameter(torch.ones(5)) for _ in range(2)]
    for (params, optimizer), p in zip((ours, theirs), late, strict=True):
        optimizer.add_param_group({"params": [p], "lr": 0.1, "betas": (0.5, 0.9), "amsgrad": True})
        params.append(p)
    train(ours, theirs, steps=3)
    assert_close(ours[0], theirs[0])


def test_adagrads_group_has_its_own_initial_accumulator_where_torch_takes_the_default():
    group = {"params": [torch.nn.Parameter(torch.ones(3))], "initial_accumulator_value": 5.0}
    ours = optimizers.Adagrad([dict(group)])
    theirs = torch.optim.Adagrad([dict(group)])
    assert ours.state[group["params"][0]]["sum"].tolist() == [5.0] * 3
    assert theirs.state[group["params"][0]]["sum"].tolist() == [0.0] * 3, "torch has mended T8: compare with it again"


def test_centered_rmsprop_stays_finite_where_torchs_loop_does_not():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # or torch wakes its threads for each of 6000 small roots
    torch.manual_seed(0)
    start, gradient = torch.randn(1000), torch.randn(1000)
    results = []
    for build in (optimizers.RMSprop, torch.optim.RMSprop):
        p = torch.nn.Parameter(start.clone())
        optimizer = build([p], centered=True, lr=1e-4)
        p.grad = gradient
        for _ in range(3000):
            optimizer.step()
        results.append(p.detach())
    torch.set_num_threads(threads)
    assert results[0].isfinite().all()
    assert results[1].isnan().any(), "torch has mended T11: compare with it again"


def test_nan_hyper_parameters_and_wrong_parameters_are_refused_in_torchs_words():
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="Invalid learning rate: nan"):
        optimizers.Adam([p], lr=float("nan"))
    with pytest.raises(TypeError, match="params argument given to the optimizer should be an iterable"):
        optimizers.Adam(p)
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizers.SGD([{"params": [p]}, {"params": [p]}])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optimizers.Adam([p * 2])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizers.SGD([p, p])


def test_amp_scaler_divides_and_skips_on_infinity_without_touching_anything():
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = optimizers.Adam([p], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(p.sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert p.tolist() == [1.0] * 4 and not optimizer.state
    other = torch.nn.Parameter(torch.ones(4))
    plain = torch.optim.Adam([other], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale((p * torch.arange(1.0, 5.0)).sum()).backward()
        gradient = p.grad.clone()
        scaler.step(optimizer)
        assert torch.equal(p.grad, gradient)
        scaler.update()
        plain.zero_grad()
        (other * torch.arange(1.0, 5.0)).sum().backward()
        plain.step()
    assert_close([p], [other])
