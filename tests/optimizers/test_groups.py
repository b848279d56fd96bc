"""Parameter groups: what they may hold, what is refused, and groups that come later."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

import optimizers

from .classes import (
    CLASSES,
    DENSE,
    GROUPED,
    OPTIONS,
    assert_equal,
    assert_same,
    assert_unchanged,
    both,
    build,
    contents,
    parameters,
    shapes_of,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")

INFO = {info.optim_cls.__name__: info for info in optim_db}
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("name", CLASSES)
def test_torchs_error_inputs_are_refused_in_torchs_words(name):
    cases = INFO[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert cases
    for case in cases:
        given = case.optimizer_error_input
        if case.error_type is UserWarning:
            with pytest.warns(case.error_type, match=case.error_regex):
                getattr(optimizers, name)(given.params, **given.kwargs)
        else:
            with pytest.raises(case.error_type, match=case.error_regex):
                getattr(optimizers, name)(given.params, **given.kwargs).step()


def said(build_optimizer) -> tuple[type, str]:
    """What an attempt raises."""
    with pytest.raises(Exception) as caught:
        build_optimizer()
    return caught.type, str(caught.value)


LEAF = torch.nn.Parameter(torch.ones(2, 2))
REFUSED = {
    "bare tensor": lambda: LEAF,
    "empty list": lambda: [],
    "number in the list": lambda: [1.0],
    "non-leaf": lambda: [LEAF * 2],
    "set in a group": lambda: [{"params": {LEAF}}],
    "group that is no dict": lambda: [{"params": [LEAF]}, [LEAF]],
    "parameter in two groups": lambda: [{"params": [LEAF]}, {"params": [LEAF]}],
    "some without names": lambda: [("a", LEAF), torch.nn.Parameter(torch.ones(2, 2))],
    "a group without names": lambda: [
        {"params": [("a", LEAF)]},
        {"params": [torch.nn.Parameter(torch.ones(2, 2))]},
    ],
    "group without params": lambda: [{"lr": 0.1}],
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_parameters_are_refused_in_torchs_words(name, kind):
    make = REFUSED[kind]
    assert said(lambda: getattr(optimizers, name)(make())) == said(lambda: getattr(torch.optim, name)(make()))


@pytest.mark.parametrize("name", CLASSES)
def test_a_set_of_parameters_is_refused_where_torch_takes_it(name):
    params = parameters(name)
    getattr(torch.optim, name)(set(params))
    for unordered in (set(params), frozenset(params), [{"params": frozenset(params)}]):
        with pytest.raises(TypeError, match="ordered collections.* give a list"):
            getattr(optimizers, name)(unordered)
    assert len(getattr(optimizers, name)(dict.fromkeys(params).keys()).param_groups[0]["params"]) == len(params)


@pytest.mark.parametrize("name", GROUPED)
def test_duplicates_in_a_group_warn_and_are_stepped_twice_as_in_torch(name):
    sides = []
    for module in (optimizers, torch.optim):
        params = parameters(name)
        with pytest.warns(UserWarning, match="duplicate parameters"):
            sides.append((params, build(module, name, [*params, params[0]])))
    if name != "SparseAdam":  # torch's takes its two steps apart, and our rows together
        train(name, *sides, steps=3)
        assert_same(name, *sides, scale=3)


@pytest.mark.parametrize("name", CLASSES)
def test_an_empty_group_and_a_bare_tensor_in_a_group_are_taken(name):
    params = parameters(name)
    given = [{"params": params[0]}] if name == "LBFGS" else [{"params": params[0]}, {"params": []}]
    optimizer = getattr(optimizers, name)(given)
    assert optimizer.param_groups[0]["params"] == [params[0]]
    train(name, (params[:1], optimizer), steps=1)


@pytest.mark.parametrize("name", CLASSES)
def test_named_parameters_keep_their_names_in_groups_and_state_dict(name):
    ours, theirs = [
        getattr(module, name)(list(zip("ab", parameters(name), strict=True))) for module in (optimizers, torch.optim)
    ]
    assert ours.param_groups[0]["param_names"] == ["a", "b"]
    assert ours.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]
    assert ours.param_groups[0].keys() == theirs.param_groups[0].keys()
    model = torch.nn.Linear(3, 2, bias=False)
    assert getattr(optimizers, name)(model.named_parameters()).param_groups[0]["param_names"] == ["weight"]


# --- values ------------------------------------------------------------------------------------------------------


AMOUNTS = {"lr", "eps", "weight_decay", "momentum", "lr_decay", "initial_accumulator_value", "momentum_decay", "rho"}


def of_no_use(name: str) -> list[tuple[str, object]]:
    """Options of a class with values that no step can use."""
    cases: list[tuple[str, object]] = []
    for key, value in getattr(torch.optim, name)(parameters(name)).defaults.items():
        if isinstance(value, tuple):
            wrong = [NAN] if key in ("betas", "etas", "step_sizes", "ns_coefficients") else [NAN, -1.0]
            cases += [(key, (*value[:i], bad, *value[i + 1 :])) for i in range(len(value)) for bad in wrong]
        elif not isinstance(value, bool | str) and value is not None:
            cases += [(key, bad) for bad in ([NAN, -1.0, INF, -INF] if key in AMOUNTS else [NAN])]
        if key == "betas":
            cases += [(key, (1.0, 0.9)), (key, [0.9, -0.1]), (key, (0.9, INF))]
    return cases


@pytest.mark.parametrize("name", CLASSES)
def test_a_value_of_no_use_is_refused_in_a_group_and_in_a_state_dict_by_name(name):
    params = parameters(name)
    optimizer = getattr(optimizers, name)(params[:1])
    state, defaults = optimizer.state_dict(), dict(optimizer.defaults)
    cases = of_no_use(name)
    assert {"lr"} < {key for key, _ in cases}
    for key, value in cases:
        words = rf"^{key}(\[\d\])? of parameter group {{}} is (nan|-?inf|-?1.0|-0.1|0.9); give a .*number"
        with pytest.raises(ValueError, match=words.format(0)):
            getattr(optimizers, name)([{"params": params[:1], key: value}])
        with pytest.raises(ValueError, match=words.format(0)):
            optimizer.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], key: value}]})
        assert optimizer.param_groups[0][key] == defaults[key]
        if name != "LBFGS":
            with pytest.raises(ValueError, match=words.format(1)):
                optimizer.add_param_group({"params": params[1:], key: value})
            assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("lr", [INF, torch.tensor(INF), torch.tensor([INF])])
def test_an_infinite_learning_rate_is_refused_where_torch_takes_it(name, lr):
    getattr(torch.optim, name)(parameters(name), lr=lr)
    with pytest.raises(ValueError, match="lr of parameter group 0 is inf; give a finite number >= 0"):
        getattr(optimizers, name)(parameters(name), lr=lr)


@pytest.mark.parametrize("name", CLASSES)
def test_a_nan_learning_rate_is_refused_in_torchs_words_if_it_has_any(name):
    kind, words = said(lambda: getattr(optimizers, name)(parameters(name), lr=NAN))
    assert kind is ValueError and "nan" in words
    if name != "SGD":  # torch's takes it
        assert (kind, words) == said(lambda: getattr(torch.optim, name)(parameters(name), lr=NAN))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ASGD", {"t0": INF}),
        ("ASGD", {"t0": -1.0}),
        ("ASGD", {"t0": 1e6, "lambd": 0, "alpha": 0.0}),
        ("Adafactor", {"beta2_decay": -2.0, "d": INF, "eps": (None, 0.0)}),
        ("Adam", {"betas": (0, 0.0), "eps": 0, "lr": 0}),
        ("Adam", {"betas": [torch.tensor(0.5), torch.tensor([0.5])]}),
        ("Adam", {"lr": -1e-20, "betas": np.array([0.5, 0.5])}),
        ("LBFGS", {"tolerance_grad": -1.0, "tolerance_change": -INF, "max_eval": None}),
        ("Muon", {"ns_coefficients": (3.0, -4.0, 2.0), "momentum": 0}),
        ("RMSprop", {"alpha": 1.5}),
        ("Rprop", {"step_sizes": (0.0, INF)}),
        ("SGD", {"dampening": -0.5, "momentum": 2.0}),
        ("SGD", {"weight_decay": torch.tensor(0.1)}),
    ],
    ids=str,
)
def test_unusual_values_that_have_a_meaning_are_taken(name, options):
    params = parameters(name)
    optimizer = getattr(optimizers, name)([{"params": params, **options}])
    for key, value in options.items():
        assert optimizer.param_groups[0][key] is value
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("lr", "error", "words"),
    [
        ("1e-3", TypeError, "lr of parameter group 0 is '1e-3', a str; give a number"),
        (torch.ones(2), ValueError, "lr of parameter group 0 is a tensor of 2 elements; give a tensor of one"),
        (torch.tensor(-0.5), ValueError, "lr of parameter group 0 is -0.5; give a finite number >= 0"),
        (1j, TypeError, "lr of parameter group 0 is 1j, a complex; give a number"),
    ],
    ids=str,
)
def test_what_is_no_learning_rate_is_refused_by_name(lr, error, words):
    with pytest.raises(error) as caught:
        optimizers.Adam([{"params": parameters("Adam"), "lr": lr}])
    assert str(caught.value) == words


def test_a_tensor_that_is_not_on_the_host_is_not_read():
    optimizer = optimizers.Adam([{"params": parameters("Adam"), "lr": torch.ones((), device="meta")}])
    assert optimizer.param_groups[0]["lr"].device.type == "meta"


def test_a_rule_of_ones_own_gives_its_options_its_own_meaning():
    class Signed(optimizers.Optimizer):
        algorithm = optimizers.SGD.algorithm

    Signed(parameters("SGD"), {"lr": 0.1, "alpha": -1.0, "d": 1e-6, "rho": 5.0})
    with pytest.raises(ValueError, match="lr of parameter group 0 is nan"):
        Signed(parameters("SGD"), {"lr": NAN})


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("mode", ["kernel", "eager"])
def test_a_value_that_became_nan_or_infinite_stops_the_step_before_it_changed_anything(name, mode):
    params = parameters(name)
    optimizer = getattr(optimizers, name)([{"params": params[:1]}, {"params": params[1:]}])
    for group in optimizer.param_groups:
        group.update({} if mode == "kernel" else {"fused": False})
    words = "lr of parameter group 1 has become (nan|inf); set it to a finite number >= 0 before the step"
    with pytest.raises(ValueError, match=words):  # the first step of all
        optimizer.param_groups[1]["lr"] = INF
        train(name, (params, optimizer), steps=1)
    assert name == "Adagrad" or not optimizer.state
    optimizer.param_groups[1]["lr"] = 0.01
    train(name, (params, optimizer), steps=2)
    if name == "Rprop":
        return  # only its first step reads lr
    before = contents(optimizer)
    for value in (NAN, INF, torch.tensor(NAN), torch.tensor([INF])):
        optimizer.param_groups[1]["lr"] = value
        for _ in range(2):
            with pytest.raises(ValueError, match=words):
                optimizer.step()
        optimizer.param_groups[1]["lr"] = 0.01
        assert_unchanged(optimizer, before)
    optimizer.step()
    assert all(not torch.equal(p, then) for p, (then, _) in zip(params, before[0], strict=True))


def test_a_refused_step_leaves_no_trace_in_the_next():
    params = parameters("SGD")
    optimizer = optimizers.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.5, fused=True)
    for p in params:
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in params]
    for scale, rate in ((2.0, 0.5), (64.0, NAN), (2.0, 0.5)):  # as a GradScaler sets it
        optimizer.grad_scale = torch.tensor(scale)
        optimizer.param_groups[1]["lr"] = rate
        if rate == rate:
            optimizer.step()
        else:
            with pytest.raises(ValueError, match="lr of parameter group 1 has become nan"):
                optimizer.step()
    torch.testing.assert_close([p.detach() for p in params], [p - 2 * 0.5 / 2 for p in before])


def test_a_learning_rate_that_a_scheduler_rounded_below_zero_is_stepped_with():
    (params, optimizer), theirs = both("SGD")
    for group in (*optimizer.param_groups, *theirs[1].param_groups):
        group["lr"] = -0.25
    train("SGD", (params, optimizer), theirs, steps=2)
    assert_same("SGD", (params, optimizer), theirs)


# --- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "meant"),
    [
        ("AdamW", "weigth_decay", "weight_decay"),
        ("Adam", "beta", "betas"),
        ("SGD", "momentun", "momentum"),
        ("ASGD", "lambda", "lambd"),
        ("Adam", "Fused", "fused"),
    ],
)
def test_a_misspelt_key_is_warned_of_with_the_option_that_is_meant(name, key, meant):
    with pytest.warns(UserWarning, match=f"parameter group 0 has '{key}', .* if '{meant}' is meant, rename it"):
        optimizer = getattr(optimizers, name)([{"params": parameters(name), key: 0.1}])
    assert optimizer.param_groups[0][key] == 0.1, "it is kept"
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)  # it is known by now
    with pytest.warns(UserWarning, match="rename it"):
        getattr(optimizers, name)(parameters(name)).load_state_dict(state)


FOREIGN = "name lr_scale initial_lr max_lr min_lr base_momentum max_momentum swa_lr lr_mult decay_mult".split()


@pytest.mark.parametrize("name", CLASSES)
def test_keys_of_others_are_kept_silently(name):
    own = getattr(optimizers, name)(parameters(name)).defaults
    foreign = {key: -1.0 for key in [*FOREIGN, "momentum_decay", "etas", 3] if key not in own}
    optimizer = getattr(optimizers, name)([{"params": parameters(name), **foreign}])
    optimizer.load_state_dict(optimizer.state_dict())
    assert foreign.items() <= optimizer.param_groups[0].items()


def test_numpy_scalars_become_numbers_that_torch_loads_with_weights_only(tmp_path):
    given = [{"params": parameters("Adam"), "lr_scale": np.float32(0.5)}]
    optimizer = optimizers.Adam(given, lr=np.float64(0.25))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["param_groups"][0]["lr"] == 0.25 and type(optimizer.param_groups[0]["lr_scale"]) is float


# --- later groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_added_in_the_middle_has_its_options_and_leaves_the_state_of_the_others(name):
    ours, theirs = both(name)
    train(name, ours, theirs, steps=2)
    kept = [ours[1].state[p] for p in ours[0]]
    for params, optimizer in (ours, theirs):
        late = torch.nn.Parameter(torch.ones(shapes_of(name)[0]))
        optimizer.add_param_group({"params": [late], "lr": 2e-3})
        params.append(late)
    assert [ours[1].state[p] for p in ours[0][:2]] == kept
    assert {k: v for k, v in ours[1].param_groups[1].items() if k not in ("params", "lr", "foreach")} == {
        k: v for k, v in theirs[1].param_groups[1].items() if k not in ("params", "lr", "foreach")
    }
    train(name, ours, theirs, steps=3)
    assert_same(name, ours, theirs, scale=10)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("how", ["value", "same parameter", "set", "no tensor"])
def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was(name, how):
    (params, optimizer), _ = both(name)
    train(name, (params, optimizer), steps=1)
    late = torch.nn.Parameter(torch.ones(shapes_of(name)[0]))
    group = {
        "value": {"params": [late], "lr": -1.0},
        "same parameter": {"params": [params[0]]},
        "set": {"params": {late}},
        "no tensor": {"params": [1]},
    }[how]
    before, defaults = optimizer.state_dict(), dict(optimizer.defaults)
    with pytest.raises((ValueError, TypeError)):
        optimizer.add_param_group(group)
    assert optimizer.defaults == defaults and late not in optimizer.state
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    train(name, (params, optimizer), steps=1)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_learning_rate_equals_the_number(name, shape):
    lr = 0.125
    sides = []
    for rate in (torch.full(shape, lr), lr):
        params = parameters(name)
        sides.append((params, build(optimizers, name, params, **{**OPTIONS.get(name, {}), "lr": rate})))
    train(name, *sides, steps=3)
    assert_equal(sides[0][0], sides[1][0])
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        getattr(optimizers, name)(parameters(name), lr=torch.ones(2))
    if name == "LBFGS":
        return  # as torch's, it keeps the tensor as the length of its last step, so filling it changes the past
    sides[0][1].param_groups[0]["lr"].fill_(0.0625)  # as a scheduler does
    sides[1][1].param_groups[0]["lr"] = 0.0625
    train(name, *sides, steps=2, seed=1)
    assert_equal(sides[0][0], sides[1][0])
