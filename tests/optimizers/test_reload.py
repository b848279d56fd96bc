"""What reloading does to dtypes and memory layouts, and state dicts of older versions."""

from __future__ import annotations

import copy

import pytest
import torch

import optimizers

from .classes import CLASSES, DENSE, OPTIONS, assert_same, both, build, parameters, tensors, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "LBFGS"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_float32_state_beside_half_parameters_survives_a_reload_where_torch_rounds_it(name, half):
    (params, optimizer), (others, torchs) = both(name, half, lr=0.5)
    train(name, (params, optimizer), (others, torchs), steps=2)
    state = optimizer.state_dict()
    generator = torch.Generator().manual_seed(3)
    for entry in state["state"].values():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor) and key != "step":
                entry[key] = value.float() + torch.rand(value.shape, generator=generator) / 999
        entry["count"] = torch.tensor(70001.0)  # another's
    for side, target, dtype in ((params, optimizer, torch.float32), (others, torchs, half)):
        target.load_state_dict(state)
        for number, p in enumerate(side):
            for key, value in target.state[p].items():
                if isinstance(value, torch.Tensor) and key != "step":
                    assert value.dtype == dtype, key
                    assert torch.equal(value, state["state"][number][key].to(dtype))
    for entry in optimizer.state.values():
        assert entry.pop("count") == 70001
    before = [p.detach().clone() for p in params]
    train(name, (params, optimizer), steps=2)
    assert all(p.isfinite().all() and not torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert any(t.dtype == torch.float32 for t in tensors(optimizer.state_dict()["state"])) or name == "SparseAdam"


def test_lbfgs_vectors_of_all_parameters_follow_the_parameters_as_in_torch():
    source, _ = both("LBFGS")
    train("LBFGS", source, steps=2)
    ours, theirs = both("LBFGS", torch.bfloat16)
    for _, optimizer in (ours, theirs):
        optimizer.load_state_dict(source[1].state_dict())
    mine, other = [tensors(optimizer.state[params[0]]) for params, optimizer in (ours, theirs)]
    assert [t.dtype for t in mine] == [t.dtype for t in other] and torch.bfloat16 in {t.dtype for t in mine}
    train("LBFGS", ours, theirs, steps=1)  # in one dtype, or it raises
    assert all(p.isfinite().all() for p in ours[0])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("saved", [torch.float64, torch.bfloat16])
def test_other_dtypes_follow_the_parameter_as_in_torch_but_scalars_stay_as_they_were(name, saved):
    source, _ = both(name, saved)
    train(name, source, steps=2)
    ours, theirs = both(name)
    for _, optimizer in (ours, theirs):
        optimizer.load_state_dict(source[1].state_dict())
    scalars = getattr(getattr(ours[1], "algorithm", None), "scalars", {})
    for s, p, q in zip(source[0], ours[0], theirs[0], strict=True):
        mine, other, before = ours[1].state.get(p, {}), theirs[1].state.get(q, {}), source[1].state.get(s, {})
        assert mine.keys() == other.keys()
        for key in mine:
            like = before if key in scalars else other
            assert [t.dtype for t in tensors(mine[key])] == [t.dtype for t in tensors(like[key])]
            assert all(torch.equal(s, t) for s, t in zip(tensors(mine[key]), tensors(like[key]), strict=True))


def image_parameters(memory_format: torch.memory_format) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((4, 3, 2, 5), (2, 2, 3, 3))]
    return [torch.nn.Parameter(w.to(memory_format=memory_format)) for w in weights]


@pytest.mark.parametrize("name", [name for name in DENSE if name != "Muon"])
@pytest.mark.parametrize("to", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_checkpoint_of_another_memory_layout_takes_the_parameters(name, to):
    other = torch.contiguous_format if to is torch.channels_last else torch.channels_last
    options = OPTIONS.get(name, {})
    source = image_parameters(other)
    before = source, build(optimizers, name, source, **options)
    train(name, before, steps=3)
    target, like = [[torch.nn.Parameter(p.detach().clone(memory_format=to)) for p in source] for _ in range(2)]
    after = target, build(optimizers, name, target, **options)
    theirs = like, build(torch.optim, name, like, **options)
    after[1].load_state_dict(before[1].state_dict())
    theirs[1].load_state_dict(before[1].state_dict())
    for p in target:
        for tensor in tensors(after[1].state[p]):
            if tensor.shape == p.shape:
                assert tensor.stride() == p.stride()
    train(name, after, theirs, steps=5, seed=1)
    assert_same(name, after, theirs, scale=20)
    if name != "Adafactor":
        assert {executor for _, executor, _ in after[1].executors()} == {before[1].executors()[0][1]}


# --- older and stranger checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_a_checkpoint_without_the_newer_keys_loads(name):
    ours, theirs = both(name)
    train(name, ours, theirs, steps=2)
    newer = {"foreach", "maximize", "capturable", "differentiable", "fused", "amsgrad", "centered"}
    newer |= set() if name == "Muon" else {"nesterov"}
    for _, optimizer in (ours, theirs):
        old = copy.deepcopy(optimizer.state_dict())
        for group in old["param_groups"]:
            for key in newer | {"decoupled_weight_decay"}:
                group.pop(key, None)
        keys = optimizer.param_groups[0].keys()
        optimizer.load_state_dict(old)
        if optimizer is ours[1]:
            assert optimizer.param_groups[0].keys() == keys
        for key in ("maximize", "amsgrad", "centered"):  # torch's default for it, not this optimizer's
            if key in optimizer.param_groups[0] and name != "Adafactor":
                assert not optimizer.param_groups[0][key]
        if name in ("Adafactor", "SparseAdam"):
            optimizer.param_groups[0].setdefault("maximize", False)
    train(name, ours, theirs, steps=2, seed=1)
    assert_same(name, ours, theirs, scale=10)


@pytest.mark.parametrize("name", [name for name in DENSE if name not in ("SGD", "Muon")])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_step_that_is_a_number_becomes_a_tensor_of_torchs_dtype(name, default):
    ours, theirs = both(name)
    train(name, ours, theirs, steps=2)
    torch.set_default_dtype(default)
    try:
        for _, optimizer in (ours, theirs):
            old = copy.deepcopy(optimizer.state_dict())
            for entry in old["state"].values():
                for key in {"step", "mu_product", "eta", "mu"} & entry.keys():
                    entry[key] = entry[key].item()
            optimizer.load_state_dict(old)
        for p, q in zip(ours[0], theirs[0], strict=True):
            mine, other = ours[1].state[p]["step"], theirs[1].state[q]["step"]
            assert (mine.dtype, mine.shape, mine.item()) == (other.dtype, other.shape, 2.0) == (default, (), 2.0)
    finally:
        torch.set_default_dtype(torch.float32)
    train(name, ours, theirs, steps=2, seed=1)
    assert_same(name, ours, theirs, scale=10)


def test_a_step_of_one_element_and_one_dimension_loads():
    ours, theirs = both("Adam")
    train("Adam", ours, theirs, steps=2)
    state = copy.deepcopy(ours[1].state_dict())
    for entry in state["state"].values():
        entry["step"] = entry["step"].reshape(1)
    ours[1].load_state_dict(state)
    train("Adam", ours, theirs, steps=2, seed=1)
    assert_same("Adam", ours, theirs, scale=10)
    assert [entry["step"].tolist() for entry in state["state"].values()] == [[2.0], [2.0]]
    assert {executor for _, executor, _ in ours[1].executors()} == {"cpu"}


def test_a_rule_of_ones_own_loads_numbers_and_strings():
    class Counted(optimizers.Optimizer):
        algorithm = optimizers.Adamax.algorithm

    defaults = dict(optimizers.Adamax(parameters("Adamax")).defaults)
    sides = [(params, Counted(params, dict(defaults))) for params in (parameters("Adamax"), parameters("Adamax"))]
    train("Adamax", *sides, steps=2)
    state = copy.deepcopy(sides[0][1].state_dict())
    for entry in state["state"].values():
        entry.update(step=2, note="text")
    sides[0][1].load_state_dict(state)
    assert {entry["note"] for entry in sides[0][1].state.values()} == {"text"}
    train("Adamax", *sides, steps=2, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(sides[0][0], sides[1][0], strict=True))


@pytest.mark.parametrize("name", ["NAdam", "ASGD"])
def test_float64_parameters_keep_their_kernel_after_a_reload(name):
    ours, _ = both(name, torch.float64)
    train(name, ours, steps=2)
    kind = {executor for _, executor, _ in ours[1].executors()}
    ours[1].load_state_dict(ours[1].state_dict())
    train(name, ours, steps=1)
    assert {executor for _, executor, _ in ours[1].executors()} == kind


@pytest.mark.parametrize(("source", "target"), [("Adam", "AdamW"), ("AdamW", "Adam")])
def test_adam_and_adamw_decay_as_torchs_do_after_loading_each_others_state(source, target):
    given = both(source, weight_decay=0.1)[0]
    train(source, given, steps=2)
    ours, theirs = both(target)
    for _, optimizer in (ours, theirs):
        optimizer.load_state_dict(given[1].state_dict())
    assert ours[1].param_groups[0]["decoupled_weight_decay"] is True
    train(target, ours, theirs, steps=3)
    assert_same(target, ours, theirs, scale=10)


@pytest.mark.parametrize("cast", [False, True])
def test_a_state_dict_loaded_in_inference_mode_can_be_stepped(cast):
    ours, theirs = both("Adam")
    train("Adam", ours, theirs, steps=2)
    with torch.inference_mode():
        state = copy.deepcopy(ours[1].state_dict())
        if cast:  # torch makes it float32 again, as an inference tensor
            for entry in state["state"].values():
                entry["exp_avg"] = entry["exp_avg"].double()
        ours[1].load_state_dict(state)
    assert not any(t.is_inference() for t in tensors(ours[1].state_dict()))
    train("Adam", ours, theirs, steps=2, seed=1)
    assert_same("Adam", ours, theirs, scale=10)


def test_a_scalar_that_torch_rounded_to_16_bits_is_rounded_no_further():
    """torch's own reload casts ``mu_product`` to the parameter's dtype, and then rounds it in every step."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(50, dtype=torch.bfloat16))
    state = {}
    for cls in (torch.optim.NAdam, torch.optim.NAdam, optimizers.NAdam):
        optimizer = cls([p], lr=0.01)
        if state:
            optimizer.load_state_dict(state)
        p.grad = torch.randn(50).bfloat16()
        if cls is not optimizers.NAdam:
            optimizer.step()
        state = optimizer.state_dict()
    rounded = optimizer.state[p]["mu_product"]
    before = rounded.item()
    assert rounded.dtype == torch.float32 and before == rounded.bfloat16().item()
    optimizer.step()
    mu = 0.9 * (1 - 0.5 * 0.96 ** (3 * 0.004))
    torch.testing.assert_close(optimizer.state[p]["mu_product"].item(), before * mu, rtol=1e-6, atol=0)
