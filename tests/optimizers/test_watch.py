"""A plan never outlives what it was made of: whatever changes between two steps is noticed, by both kinds of check."""

from __future__ import annotations

import pytest
import torch

import optimizers
from optimizers.executors import kernels

from .test_contract import assert_close, pair, train


def test_the_compiled_checks_work_with_the_pinned_torch():
    assert kernels._native() is not None


def replace_state(params, optimizer):
    optimizer.state[params[0]]["exp_avg"] = torch.full_like(params[0], 0.25)


def rebind_state_data(params, optimizer):
    optimizer.state[params[0]]["exp_avg"].data = torch.full_like(params[0], 0.5)


def drop_state(params, optimizer):
    del optimizer.state[params[0]]


def clear_state(params, optimizer):
    optimizer.state[params[1]].clear()


def rebind_data(params, optimizer):
    params[0].data = params[0].data.clone() * 2


def transpose_data(params, optimizer):
    params[0].data = params[0].data.t().contiguous().t()


def swap(params, optimizer):
    torch.utils.swap_tensors(params[0], torch.nn.Parameter(torch.full_like(params[0], 3.0)))


def drop_gradient(params, optimizer):
    params[1].grad = None


def new_list(params, optimizer):
    optimizer.param_groups[0]["params"] = list(reversed(optimizer.param_groups[0]["params"]))


def change_list(params, optimizer):
    optimizer.param_groups[0]["params"].pop(0)


def change_hyper(params, optimizer):
    optimizer.param_groups[0].update(lr=0.3, betas=(0.5, 0.6), weight_decay=0.2, maximize=True)


def change_states(params, optimizer):
    for p in params:
        optimizer.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
    optimizer.param_groups[0]["amsgrad"] = True


def change_step(params, optimizer):
    optimizer.state[params[0]]["step"] = torch.tensor(40.0)


CHANGES = [
    replace_state, rebind_state_data, drop_state, clear_state, rebind_data, transpose_data, swap, drop_gradient,
    new_list, change_list, change_hyper, change_states, change_step,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_between_steps_is_noticed(change, checks):
    ours, theirs = pair("Adam", shapes=((4, 3), (3,), (5,)))
    train(ours, theirs, steps=2)
    generator = torch.Generator().manual_seed(7)
    for step in range(4):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours[0]]
        for params, optimizer in (ours, theirs):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g.clone()
            if step == 1:
                change(params, optimizer)
            optimizer.step()
    assert_close(ours[0], theirs[0])
    for p, q in zip(ours[0], theirs[0], strict=True):
        assert ours[1].state[p].keys() == theirs[1].state[q].keys()


def test_gradients_that_come_and_go_and_come_late(checks):
    ours, theirs = pair("NAdam", shapes=((4,), (3,), (70,), (2,)))
    pattern = ["1011", "1000", "0110", "1111", "0001", "0000", "1111"]
    generator = torch.Generator().manual_seed(3)
    for present in pattern:
        gradients = [torch.randn(p.shape, generator=generator) for p in ours[0]]
        for params, optimizer in (ours, theirs):
            for p, g, there in zip(params, gradients, present, strict=True):
                p.grad = g.clone() if there == "1" else None
            optimizer.step()
    assert_close(ours[0], theirs[0])


def test_alternating_gradients_do_not_make_the_plan_anew(checks):
    (params, optimizer), _ = pair("Adam")
    plans = set()
    for step in range(8):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if i == step % 2 or step < 2 else None
        optimizer.step()
        plans.add(id(optimizer._plan))
    assert len(plans) == 1


def test_everything_written_gets_a_new_version_and_nothing_else(checks):
    (params, optimizer), _ = pair("Adam")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    params[1].grad = None
    state = [optimizer.state[p] for p in params]
    before = [[t._version for t in (p, *s.values())] for p, s in zip(params, state, strict=True)]
    gradient = params[0].grad._version
    optimizer.step()
    after = [[t._version for t in (p, *s.values())] for p, s in zip(params, state, strict=True)]
    assert after[0] == [v + 1 for v in before[0]] and after[1] == before[1]
    assert params[0].grad._version == gradient


def test_backward_through_a_stepped_parameter_is_an_error_not_a_wrong_gradient(checks):
    p = torch.nn.Parameter(torch.ones(3))
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    optimizers.SGD([p], lr=1.0).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tensor_learning_rates_are_read_in_every_step(checks):
    sides = []
    for build, mode in ((optimizers.Adam, {}), (torch.optim.Adam, {"foreach": False})):
        p, lr = torch.nn.Parameter(torch.ones(3)), torch.tensor(0.1)
        optimizer = build([p], lr=lr, **mode)
        for step in range(4):
            p.grad = torch.full((3,), 1.0 + step)
            optimizer.step()
            lr.mul_(0.5)
        sides.append([p])
    assert_close(*sides)
