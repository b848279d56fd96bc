"""What SparseAdam refuses before anything changes, and what changes between its steps."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

from optimizers import SparseAdam

from .sparse_sides import BUILDS, assert_same, gradient, pair, train

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_sparse_tensors")


def test_dense_gradients_are_refused_before_anything_changes():
    params = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = SparseAdam(params)
    params[0].grad = gradient(params[0], 2, 0)
    params[1].grad = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam instead"):
        optimizer.step()
    assert not optimizer.state and params[0].tolist() == [[1.0] * 2] * 3


def test_a_state_of_another_shape_is_refused_before_anything_changes():
    (params, optimizer), _ = pair((3, 2), (3, 2))
    train((params, optimizer), steps=1)
    before = [p.detach().clone() for p in params]
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"a parameter has shape \(3, 2\) but its state \(4, 2\); make a new"):
        optimizer.step()
    assert all(map(torch.equal, params, before)) and optimizer.state[params[0]]["step"] == 1


def test_an_option_that_became_nan_is_refused_before_anything_changes():
    (params, optimizer), _ = pair((3, 2))
    optimizer.param_groups[0]["lr"] = math.nan
    params[0].grad = gradient(params[0], 2, 0)
    with pytest.raises(ValueError, match="lr of parameter group 0 has become nan"):
        optimizer.step()
    assert not optimizer.state


def test_repeated_and_overlapping_parameters_are_stepped_one_after_the_other():
    sides = []
    for build in BUILDS:
        memory = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
        a, b = torch.nn.Parameter(memory[:4]), torch.nn.Parameter(memory[2:])
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = build([a, b, a], lr=0.1)
        for step in range(3):
            a.grad, b.grad = gradient(a, 3, step), gradient(b, 3, step)
            optimizer.step()
        sides.append(([a, b], optimizer))
    assert sides[0][1].state[sides[0][0][0]]["step"] == 6
    assert {reason for *_, reason in sides[0][1].executors()} == {"shares memory with another parameter or state"}
    assert_same(*sides)


def test_a_parameter_that_moves_in_memory_is_found_again():
    ours, theirs = pair((5, 2), lr=0.1)
    train(ours, theirs, steps=2)
    for params, _ in (ours, theirs):
        params[0].data = params[0].data.clone()
    train(ours, theirs, steps=2, seed=2)
    assert_same(ours, theirs)


def test_groups_added_on_the_way_have_their_own_options():
    ours, theirs = pair((5, 2), (6, 3), lr=0.1)
    late = [params.pop() for params, _ in (ours, theirs)]
    for _, optimizer in (ours, theirs):
        optimizer.param_groups[0]["params"].pop()
    train(ours, theirs, steps=2)
    for (params, optimizer), p in zip((ours, theirs), late, strict=True):
        params.append(p)
        optimizer.add_param_group({"params": [p], "lr": 0.3, "maximize": True, "betas": (0.5, 0.6)})
    train(ours, theirs, steps=4)
    assert_same(ours, theirs)


def test_schedulers_change_the_next_step():
    ours, theirs = pair((5, 2), lr=0.5)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for _, optimizer in (ours, theirs)]
    for seed in range(4):
        train(ours, theirs, steps=1, seed=seed)
        for schedule in schedules:
            schedule.step()
    assert_same(ours, theirs)


def test_copies_go_on_alike():
    ours, theirs = pair((7, 3), lr=0.1)
    train(ours, theirs, steps=3)
    for clone in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        other = copy.deepcopy(theirs)
        train(clone, other, steps=3, seed=3)
        assert_same(clone, other)


def test_torchs_error_inputs():
    info = next(info for info in optim_db if info.optim_cls is torch.optim.SparseAdam)
    for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = case.optimizer_error_input
        if case.error_type is UserWarning:
            with pytest.warns(UserWarning, match=case.error_regex):
                SparseAdam(given.params, **given.kwargs)
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                SparseAdam(given.params, **given.kwargs)
