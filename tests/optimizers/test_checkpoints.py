"""State dicts: both ways between torch and ours, from older versions, and what loading must not do."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import optimizers

from .classes import (
    CLASSES,
    assert_equal,
    assert_same,
    assert_unchanged,
    both,
    build,
    contents,
    parameters,
    tensors,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")

#: whose state is kept by parameter
BY_PARAMETER = [name for name in CLASSES if name != "LBFGS"]


def through_file(state_dict: dict) -> dict:
    """What comes back from a file, as `torch.load` does it by default."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("way", ["torch to ours", "ours to torch", "ours to ours"])
def test_a_state_dict_crosses_in_the_middle_of_a_run_and_100_more_steps_are_equal(name, way):
    """Equal to a run of torch's that is not stopped; torch's own NAdam changes the dtype of a scalar if it is."""
    ours, theirs = both(name, torch.float64)
    train(name, ours, theirs, steps=3)
    source = theirs if way == "torch to ours" else ours
    params = [torch.nn.Parameter(p.detach().clone()) for p in source[0]]
    target = params, build(torch.optim if way == "ours to torch" else optimizers, name, params)
    state = through_file(source[1].state_dict())
    target[1].load_state_dict(state)
    reference = theirs
    if way == "ours to torch":
        params = [torch.nn.Parameter(p.detach().clone()) for p in theirs[0]]
        reference = params, build(torch.optim, name, params)
        reference[1].load_state_dict(theirs[1].state_dict())
    train(name, target, reference, steps=100, seed=1)
    assert_same(name, target, reference, scale=100)


@pytest.mark.parametrize("name", CLASSES)
def test_state_has_torchs_keys_shapes_and_types_in_torchs_order(name):
    ours, theirs = both(name)
    train(name, ours, theirs, steps=2)
    mine, other = ours[1].state_dict(), theirs[1].state_dict()
    assert list(mine["state"]) == list(other["state"])
    for number, state in mine["state"].items():
        assert state.keys() == other["state"][number].keys()
        assert name == "LBFGS" or list(state) == list(other["state"][number])
        for key, value in state.items():
            like = other["state"][number][key]
            assert type(value) is type(like), key
            if isinstance(value, torch.Tensor):
                assert (value.dtype, value.shape, value.device) == (like.dtype, like.shape, like.device), key
    extra = {"foreach"}  # given to torch alone, to have its loop
    for group, like in zip(mine["param_groups"], other["param_groups"], strict=True):
        assert {k: v for k, v in group.items() if k not in extra} == {k: v for k, v in like.items() if k not in extra}


@pytest.mark.parametrize("name", CLASSES)
def test_equal_runs_have_equal_state_dicts(name):
    sides = [both(name)[0] for _ in range(2)]
    train(name, *sides, steps=3)
    assert_equal(sides[0][1].state_dict(), sides[1][1].state_dict())


@pytest.mark.parametrize("name", CLASSES)
def test_loading_neither_changes_the_given_dict_nor_shares_memory_with_it(name):
    ours, _ = both(name)
    train(name, ours, steps=2)
    state = copy.deepcopy(ours[1].state_dict())
    numbers = [(key, dict(group)) for key, group in enumerate(state["param_groups"])]
    kept = copy.deepcopy(state)
    fresh = parameters(name)
    optimizer = build(optimizers, name, fresh)
    optimizer.load_state_dict(state)
    taken = {t.untyped_storage().data_ptr() for p in fresh for t in tensors(optimizer.state.get(p, {}))}
    assert taken or name == "SGD"
    assert taken.isdisjoint(t.untyped_storage().data_ptr() for t in tensors(state))
    train(name, (fresh, optimizer), steps=2)
    torch.testing.assert_close(state["state"], kept["state"], rtol=0, atol=0)
    assert [(key, dict(group)) for key, group in enumerate(state["param_groups"])] == numbers


@pytest.mark.parametrize("name", CLASSES)
def test_loading_before_the_first_step_changes_nothing(name):
    ours, theirs = both(name)
    for params, optimizer in (ours, theirs):
        optimizer.load_state_dict(optimizer.state_dict())
        assert len(params) == 2
    train(name, ours, theirs, steps=3)
    assert_same(name, ours, theirs, scale=10)


@pytest.mark.parametrize("name", CLASSES)
def test_deepcopy_and_pickle_go_on_alike(name):
    ours, theirs = both(name)
    train(name, ours, theirs, steps=2)
    if name == "LBFGS":  # torch's forgets its list of parameters
        assert not hasattr(copy.deepcopy(theirs)[1], "_params"), "torch has mended it: compare with it"
    clones = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    train(name, ours, *clones, steps=3, seed=1)
    for params, optimizer in clones:
        assert type(optimizer) is type(ours[1]) and repr(optimizer) == repr(ours[1])
        assert_equal(params, ours[0])
        assert params[0] is optimizer.param_groups[0]["params"][0]


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_PARAMETER)
@pytest.mark.parametrize("named", [False, True])
def test_a_state_of_the_wrong_shape_is_refused_at_load_and_nothing_changes(name, named):
    ours, _ = both(name)
    train(name, ours, steps=2)
    optimizer = ours[1]
    if named:
        optimizer.param_groups[0]["param_names"] = ["first", "second"]
    good = optimizer.state_dict()
    assert tensors(good["state"])
    for key, value in good["state"][1].items():
        if not isinstance(value, torch.Tensor):
            continue
        wrong = copy.deepcopy(good)
        wrong["state"][1][key] = torch.zeros(7, 2)
        before = contents(optimizer)
        place = rf"^{key} of parameter 1{' [(]second[)]' if named else ''} has shape \(7, 2\) in the state dict"
        with pytest.raises(ValueError, match=rf"{place}, but a parameter of shape .* needs \(.*\); load the state of"):
            optimizer.load_state_dict(wrong)
        assert_unchanged(optimizer, before)
    train(name, ours, steps=1)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("what", ["groups", "sizes", "no step", "hook", "later hook"])
def test_a_load_that_fails_changes_nothing(name, what):
    ours, theirs = both(name)
    train(name, ours, theirs, steps=2)
    state = copy.deepcopy(ours[1].state_dict())
    train(name, ours, theirs, steps=1, seed=1)
    optimizer, other = ours[1], theirs[1]

    def fail(*_):
        raise ValueError("mine")

    if what == "groups":
        state["param_groups"] = state["param_groups"] * 2
    elif what == "sizes":
        state["param_groups"][0]["params"] = [0]
    elif what == "no step":
        for entry in state["state"].values():
            entry.pop("step", None)
    elif what == "hook":
        optimizer.register_load_state_dict_pre_hook(fail)
    else:
        optimizer.register_load_state_dict_post_hook(fail)
    before = contents(optimizer)
    try:
        other.load_state_dict(copy.deepcopy(state))
        expected = "mine" if "hook" in what else None
    except (ValueError, KeyError) as error:
        expected = str(error)
    if expected is None:
        pytest.skip("torch's class loads this")
    with pytest.raises((ValueError, KeyError)) as caught:
        optimizer.load_state_dict(state)
    assert str(caught.value) == expected
    assert_unchanged(optimizer, before)
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == (what == "hook")
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == (what == "later hook")
    train(name, ours, steps=1)


# --- hooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [optimizers, torch.optim])
def test_load_hooks_run_in_torchs_order_and_see_what_they_see_in_torch(module):
    params = parameters("Adam")
    optimizer = build(module, "Adam", params)
    train("Adam", (params, optimizer), steps=2)
    given = optimizer.state_dict()
    seen = []

    def note(what, value=None):
        def hook(opt, *rest):
            assert opt is optimizer
            seen.append(what)
            if rest:
                assert rest[0].keys() == {"state", "param_groups"}
                assert rest[0] is not given or what == "first"
            else:
                seen.append(opt.param_groups[0]["lr"])
            return value

        return hook

    replaced = {"state": given["state"], "param_groups": [{**given["param_groups"][0], "lr": 0.75}]}
    optimizer.register_load_state_dict_pre_hook(note("second", replaced))
    optimizer.register_load_state_dict_pre_hook(note("first"), prepend=True)
    optimizer.register_load_state_dict_pre_hook(note("third"))
    optimizer.register_load_state_dict_post_hook(note("fifth"))
    optimizer.register_load_state_dict_post_hook(note("fourth"), prepend=True)
    gone = optimizer.register_load_state_dict_pre_hook(note("removed"))
    gone.remove()
    for _ in range(2):
        seen.clear()
        optimizer.load_state_dict(given)
        assert seen == ["first", "second", "third", "fourth", 0.75, "fifth", 0.75]
    assert given["param_groups"][0]["lr"] == 1e-3


@pytest.mark.parametrize("module", [optimizers, torch.optim])
def test_state_dict_hooks_run_in_torchs_order_and_may_replace_it(module):
    optimizer = build(module, "Adam", parameters("Adam"))
    seen = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("second"))
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, d: seen.append("third"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "mine": 1})
    assert optimizer.state_dict()["mine"] == 1 and seen == ["first", "second", "third"]


def test_a_hook_sees_the_state_as_it_will_be_stepped():
    (params, optimizer), _ = both("Adam", torch.bfloat16)
    train("Adam", (params, optimizer), steps=1)
    state = optimizer.state_dict()
    for entry in state["state"].values():
        entry["exp_avg"] = entry["exp_avg"].float()
    seen = []
    optimizer.register_load_state_dict_post_hook(
        lambda o: seen.append(o.state[params[0]]["exp_avg"].dtype), prepend=True
    )
    optimizer.load_state_dict(state)
    assert seen == [torch.float32]
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1
