"""What L-BFGS makes of a closure that raises, of wrong input, and of the ends: no step is left half done."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

from optimizers import LBFGS
from optimizers.executors import kernels
from optimizers.executors.history import History, history

from .lbfgs_sides import NEAR, PLAIN, WOLFE, Side, assert_same, pair

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("fails_at", [2, 3])
@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("executor", ["cpu", "eager"])
def test_a_closure_that_raises_in_the_line_search_has_not_been_called(fails_at, before, executor, monkeypatch):
    if executor == "eager":
        monkeypatch.setattr(kernels, "executor", lambda device: PLAIN)
    # so short a first length that a search looks several times
    ours, other = (Side(LBFGS, lr=1e-3, max_iter=1, max_eval=20, history_size=2, **WOLFE) for _ in range(2))
    ours.step(before)
    other.step(before)
    values, state = ours.values(), copy.deepcopy(ours.optimizer.state_dict()["state"][0] if before else {})
    ours.fails_at = ours.calls + fails_at
    with pytest.raises(KeyboardInterrupt):
        ours.step()
    assert all(map(torch.equal, ours.params, values))
    for key in state.keys() - {"func_evals"}:
        torch.testing.assert_close(ours.state[key], state[key], rtol=0, atol=0)
    ours.fails_at = None
    ours.step(3)
    other.step(3)
    torch.testing.assert_close(ours.params, other.params, **NEAR)
    assert ours.state["n_iter"] == other.state["n_iter"]


def test_a_closure_that_raises_after_whole_iterations_leaves_these():
    ours, other = (Side(LBFGS, max_iter=n, max_eval=99, **WOLFE) for n in (6, 2))
    other.step()
    ours.fails_at = other.calls + 1
    with pytest.raises(KeyboardInterrupt):
        ours.step()
    torch.testing.assert_close(ours.params, other.params, **NEAR)
    assert ours.state["n_iter"] == other.state["n_iter"] == 2
    assert ours.state["func_evals"] == other.state["func_evals"]
    torch.testing.assert_close(ours.state["old_stps"], other.state["old_stps"], **NEAR)


def test_without_a_line_search_a_closure_that_raises_ends_the_step_where_it_is():
    ours, other = (Side(LBFGS, lr=0.1, max_iter=n, max_eval=99) for n in (6, 3))
    other.step()
    ours.fails_at = 4
    with pytest.raises(KeyboardInterrupt):
        ours.step()
    ours.fails_at = None
    for side in (ours, other):
        side.optimizer.param_groups[0]["max_iter"] = 2
        side.step(3)
    torch.testing.assert_close(ours.params, other.params, **NEAR)


def test_an_unknown_line_search_is_refused_before_the_closure_is_called():
    ours, theirs = pair(line_search_fn="armijo")
    for side in (ours, theirs):
        with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
            side.step()
    assert ours.calls == 0 and not ours.optimizer.state


def test_groups_and_values_that_no_step_could_use_are_refused():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        LBFGS([{"params": [p]}, {"params": [torch.nn.Parameter(torch.ones(2))]}])
    ours, _ = pair()
    ours.optimizer.param_groups[0]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr of parameter group 0 has become nan"):
        ours.step()
    ours, theirs = pair()
    for side in (ours, theirs):
        side.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        with pytest.raises(AssertionError, match="Expected exactly one param_group, but got 2"):
            side.step()
    assert ours.calls == 0


def test_torchs_error_inputs():
    info = next(info for info in optim_db if info.optim_cls is torch.optim.LBFGS)
    for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = case.optimizer_error_input
        if case.error_type is UserWarning:
            with pytest.warns(UserWarning, match=case.error_regex):
                LBFGS(given.params, **given.kwargs)
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                LBFGS(given.params, **given.kwargs)


def test_a_step_that_moves_too_little_is_the_last_however_much_the_loss_falls():
    ours, theirs = pair(lr=1e-4, tolerance_change=1e-3, max_iter=9)
    for side in (ours, theirs):
        side.steepness = 1e6
        side.step(3)
    assert ours.calls < 3 * 9
    assert_same(ours, theirs, 1e-9)


def test_gradients_that_are_nan_stop_nothing_as_in_torch():
    ours, theirs = pair(shapes=((3,),), max_iter=3, max_eval=99)
    for side in (ours, theirs):
        side.loss = lambda side=side: (side.params[0] * torch.tensor([1.0, math.nan, 2.0])).sum()
        side.step()
        assert side.state["n_iter"] == 3 and side.params[0].isnan().any()
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_at_the_optimum_nothing_happens():
    ours, theirs = pair(shapes=((3,),))
    for side in (ours, theirs):
        side.loss = lambda side=side: (side.params[0] * 0).sum()
        side.step()
    assert ours.state == theirs.state == {"func_evals": 1, "n_iter": 0}


def test_a_history_of_none_is_a_scaled_gradient_where_torch_fails():
    ours, theirs = pair(lr=0.1, history_size=0, max_iter=3)
    with pytest.raises(IndexError):
        theirs.step()  # torch has mended it when this fails: compare with it
    first = ours.step().item()
    assert ours.step().item() < first
    assert ours.state["old_dirs"] == [] and ours.state["al"] == []


def test_a_history_made_shorter_on_the_way_keeps_the_newest():
    side = Side(LBFGS, lr=0.1, max_iter=4, history_size=5)
    side.step(2)
    newest = side.state["old_stps"][-1]
    side.optimizer.param_groups[0].update(history_size=2, max_iter=1)
    side.step()
    assert len(side.state["old_stps"]) == len(side.state["ro"]) == 2
    assert torch.equal(side.state["old_stps"][0], newest)


def test_a_state_that_is_not_like_the_gradient_is_worked_on_without_kernel():
    sides = pair(lr=0.1, max_iter=3)
    for side in sides:
        side.step()
        for key in ("old_dirs", "old_stps"):
            side.state[key] = [torch.stack([x, x], 1)[:, 0] for x in side.state[key]]
    gradient = torch.cat([p.grad.reshape(-1) for p in sides[0].params])
    assert type(history(100, gradient, sides[0].state)) is History
    for side in sides:
        side.step(2)
    assert_same(*sides)


def test_a_history_without_end_keeps_all():
    side = Side(LBFGS, lr=0.1, max_iter=4, history_size=math.inf)
    side.step(3)
    assert len(side.state["old_stps"]) == len(side.state["al"]) == 11


def test_a_closure_that_changes_a_parameters_dtype_is_stopped_before_memory_is_read_wrongly():
    side = Side(LBFGS, lr=0.1, max_iter=4)
    closure = side.closure

    def changing():
        if side.calls == 2:
            side.params[0].data = side.params[0].data.float()
            side.params[1].data = side.params[1].data.float()
            side.params[2].data = side.params[2].data.float()
        return closure()

    with pytest.raises(RuntimeError, match="the closure changed the shape, dtype or device of a parameter"):
        side.optimizer.step(changing)
