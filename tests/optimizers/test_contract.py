"""Ours can stand where torch's stood: signatures, and what a step does, refuses and leaves alone."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import optimizers

from .classes import (
    CLASSES,
    DENSE,
    GROUPED,
    TORCH,
    assert_same,
    assert_unchanged,
    both,
    build,
    contents,
    gradients,
    parameters,
    step,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


def grads_of(name, params, seed=0):
    return gradients(name, params, torch.Generator().manual_seed(seed))


# --- the class ---------------------------------------------------------------------------------------------------


def test_every_optimizer_of_torchs_is_there():
    assert CLASSES == TORCH
    assert set(CLASSES) < set(optimizers.__all__)


@pytest.mark.parametrize("name", CLASSES)
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


def test_a_class_of_ones_own_shows_its_own_signature():
    class Own(optimizers.Optimizer):
        def __init__(self, params, speed=1.0):
            super().__init__(params, {"lr": speed})

    class Heir(optimizers.Adam):
        pass

    assert list(inspect.signature(Own).parameters) == ["params", "speed"]
    assert inspect.signature(Heir) == inspect.signature(torch.optim.Adam)
    assert list(inspect.signature(optimizers.Optimizer).parameters) == ["params", "defaults"]


@pytest.mark.parametrize("name", CLASSES)
def test_is_torchs_class_with_its_groups_defaults_and_representation(name):
    ours, theirs = [getattr(module, name)(parameters(name)) for module in (optimizers, torch.optim)]
    assert isinstance(ours, getattr(torch.optim, name)) and isinstance(ours, torch.optim.Optimizer)
    assert type(ours) is not type(theirs) and type(ours).__name__ == name
    assert ours.defaults == theirs.defaults
    assert ours.param_groups[0].keys() == theirs.param_groups[0].keys()
    assert repr(ours) == repr(theirs)


# --- what a step leaves alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_without_gradient_are_not_stepped_and_get_no_state(name):
    ours, theirs = both(name)
    for params, optimizer in (ours, theirs):
        before = contents(optimizer)
        if name != "LBFGS":
            assert optimizer.step() is None
            assert_unchanged(optimizer, before)
        for seed, frozen in enumerate((1, 1, None, 0, None)):  # the second thaws, the first freezes
            grads = grads_of(name, params, seed)
            if frozen is None or name == "LBFGS":
                step(optimizer, params, grads)
                continue
            params[frozen].grad = None
            params[1 - frozen].grad = grads[1 - frozen]
            optimizer.step()
            if seed == 0 and name != "Adagrad":
                assert params[1] not in optimizer.state or not optimizer.state[params[1]]
    assert_same(name, ours, theirs, scale=10)


@pytest.mark.parametrize("name", CLASSES)
def test_the_gradient_is_never_written(name):
    options = {"maximize": True} if "maximize" in inspect.signature(getattr(optimizers, name)).parameters else {}
    (params, optimizer), _ = both(name, **options)
    for seed in range(3):
        grads = grads_of(name, params, seed)
        if name == "LBFGS":
            step(optimizer, params, grads)
            continue
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        given = [(p.grad, p.grad._version) for p in params]
        optimizer.step()
        for p, g, (tensor, version) in zip(params, grads, given, strict=True):
            assert p.grad is tensor and tensor._version == version
            assert torch.equal(tensor.to_dense(), g.to_dense())


@pytest.mark.parametrize("name", DENSE)
def test_zero_gradients_and_no_decay_change_no_parameter(name):
    options = {"weight_decay": 0.0} if "weight_decay" in getattr(optimizers, name)(parameters(name)).defaults else {}
    options |= {"lambd": 0.0} if name == "ASGD" else {}
    (params, optimizer), _ = both(name, **options)
    before = [p.detach().clone() for p in params]
    for _ in range(3):
        step(optimizer, params, [torch.zeros_like(p) for p in params])
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("set_to_none", [True, False, None])
def test_zero_grad_drops_gradients_or_fills_them_with_zeros(name, set_to_none):
    (params, optimizer), _ = both(name)
    for p, g in zip(params, grads_of(name, params), strict=True):
        p.grad = g
    given = [p.grad for p in params]
    optimizer.zero_grad() if set_to_none is None else optimizer.zero_grad(set_to_none=set_to_none)
    if set_to_none is False:
        assert all(p.grad is g and not g.to_dense().any() for p, g in zip(params, given, strict=True))
    else:
        assert all(p.grad is None for p in params)


# --- all or nothing ----------------------------------------------------------------------------------------------


def ways_to_fail(name: str) -> list[str]:
    """What makes a step of this class fail."""
    options = inspect.signature(getattr(optimizers, name)).parameters
    ways = {
        "wrong layout of a gradient": name not in ("SGD", "Adagrad"),  # they take both
        "fused without a kernel": "fused" in options,
        "capturable on the host": "capturable" in options,
    }
    return [way for way, there in ways.items() if there]


def spoil(name: str, how: str, params: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> str:
    """Makes the next step one that must fail because of the second parameter; the words it must fail with."""
    for p, g in zip(params, grads_of("Adam", params, seed=5), strict=True):
        p.grad = g
    if how == "wrong layout of a gradient":
        if name == "SparseAdam":
            params[0].grad = grads_of(name, params)[0]
            return "SparseAdam does not support dense gradients"
        params[1].grad = params[1].grad.to_sparse()
        return "does not support sparse gradients"
    if how == "fused without a kernel":
        wide = torch.nn.Parameter(torch.ones(4, 6)[:, ::2])
        wide.grad = torch.ones(4, 3)
        optimizer.param_groups[1].update(params=[wide], fused=True)
        return "`fused=True` needs a kernel for every parameter"
    optimizer.param_groups[1]["capturable"] = True
    return "If capturable=True, .* must be on supported devices"


@pytest.mark.parametrize(("name", "how"), [(name, how) for name in GROUPED for how in ways_to_fail(name)])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_step_that_must_fail_changes_nothing(name, how, steps, checks):
    params = parameters(name)
    params[1] = torch.nn.Parameter(params[1].detach().double())  # another kernel than the first
    optimizer = build(optimizers, name, [{"params": params[:1]}, {"params": params[1:]}])
    for seed in range(steps):
        step(optimizer, params, grads_of(name, params, seed))
    words = spoil(name, how, params, optimizer)
    before = contents(optimizer)
    for _ in range(2):
        with pytest.raises((RuntimeError, AssertionError), match=words):
            optimizer.step()
        assert_unchanged(optimizer, before)


def test_torch_has_stepped_the_first_parameter_when_it_refuses_the_second():
    """The reason for the test above."""
    params = parameters("Adam")
    optimizer = torch.optim.Adam([{"params": params[:1]}, {"params": params[1:]}])
    before = params[0].detach().clone()
    with pytest.raises(RuntimeError):
        spoil("Adam", "wrong layout of a gradient", params, optimizer)
        optimizer.step()
    assert not torch.equal(params[0], before), "torch has mended it"


def test_muon_refuses_a_vector_that_came_later_before_it_has_stepped_a_matrix():
    (params, optimizer), _ = both("Muon")
    late = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="2D"):
        optimizer.add_param_group({"params": [late]})
        for p in (*params, late):
            p.grad = torch.ones_like(p)
        before = [p.detach().clone() for p in params]
        optimizer.step()
    assert len(optimizer.param_groups) == 1 or all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


# --- closures, hooks, profiler -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("outside", [torch.no_grad, torch.enable_grad])
def test_a_closure_runs_with_gradients_on_and_its_loss_comes_back(name, outside):
    (params, optimizer), _ = both(name)
    losses = []

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        for p, g in zip(params, grads_of(name, params), strict=True):
            p.grad = g
        losses.append(torch.tensor(float(len(losses) + 1)))
        return losses[-1]

    with outside():
        mode = torch.is_grad_enabled()
        assert optimizer.step(closure) is losses[0]
        assert torch.is_grad_enabled() == mode
        first = len(losses)
        assert float(optimizer.step(closure=closure)) == float(losses[first])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("outside", [torch.no_grad, torch.enable_grad])
def test_a_closure_that_raises_restores_the_gradient_mode_and_changes_nothing(name, outside):
    (params, optimizer), _ = both(name)
    step(optimizer, params, grads_of(name, params))
    before = contents(optimizer)

    def closure():
        raise KeyError("mine")

    with outside():
        mode = torch.is_grad_enabled()
        with pytest.raises(KeyError, match="mine"):
            optimizer.step(closure)
        assert torch.is_grad_enabled() == mode
    assert_unchanged(optimizer, before)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("module", [optimizers, torch.optim])
def test_hooks_run_once_in_torchs_order_and_are_removable(name, module):
    params = parameters(name)
    optimizer = build(module, name, params)
    seen = []
    note = lambda what: lambda o, a, k: seen.append(what) if o is optimizer else None  # noqa: E731
    handles = [
        optimizer.register_step_post_hook(note("post")),
        optimizer.register_step_pre_hook(note("pre")),
        register_optimizer_step_post_hook(note("global post")),
        register_optimizer_step_pre_hook(note("global pre")),
    ]
    try:
        step(optimizer, params, grads_of(name, params))
        assert seen == ["global pre", "pre", "post", "global post"]
        handles[1].remove()
        step(optimizer, params, grads_of(name, params))
        assert seen[4:] == ["global pre", "post", "global post"]
    finally:
        for handle in handles:
            handle.remove()
    step(optimizer, params, grads_of(name, params))
    assert len(seen) == 7


@pytest.mark.parametrize("module", [optimizers, torch.optim])
def test_a_pre_hook_may_change_the_arguments_and_nothing_else(module):
    params = parameters("Adam")
    optimizer = build(module, "Adam", params)
    calls = []
    hook = optimizer.register_step_pre_hook(lambda o, a, k: ((o, lambda: calls.append("other") or 2.0), {}))
    assert optimizer.step(lambda: calls.append("given")) == 2.0 and calls == ["other"]
    hook.remove()
    optimizer.register_step_pre_hook(lambda o, a, k: 7)
    with pytest.raises(RuntimeError, match="must return None or a tuple of .new_args, new_kwargs., but got 7"):
        optimizer.step()


@pytest.mark.parametrize("hooks", [0, 1])
def test_a_class_that_wraps_step_runs_hooks_as_often_as_torchs(hooks):
    counts = []
    for module in (optimizers, torch.optim):

        class Wrapped(module.Adam):
            def step(self, closure=None):
                return super().step(closure)

        params = parameters("Adam")
        optimizer, seen = Wrapped(params), []
        if hooks:
            optimizer.register_step_post_hook(lambda o, a, k, seen=seen: seen.append(1))
        step(optimizer, params, grads_of("Adam", params))
        counts.append((len(seen), params[0].tolist()))
    assert counts[0][0] == counts[1][0]
    torch.testing.assert_close(counts[0][1], counts[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_the_profiler_sees_step_and_zero_grad_under_torchs_names(name):
    (params, optimizer), _ = both(name)
    with torch.profiler.profile() as profile:
        step(optimizer, params, grads_of(name, params))
        optimizer.zero_grad()
    names = [event.name for event in profile.events()]
    assert names.count(f"Optimizer.step#{name}.step") == 1
    assert f"Optimizer.zero_grad#{name}.zero_grad" in names


# --- where ours and torch's are apart ----------------------------------------------------------------------------


def test_adagrads_group_has_its_own_initial_accumulator_where_torch_takes_the_default():
    group = {"params": [torch.nn.Parameter(torch.ones(3))], "initial_accumulator_value": 5.0}
    ours = optimizers.Adagrad([dict(group)])
    theirs = torch.optim.Adagrad([dict(group)])
    assert ours.state[group["params"][0]]["sum"].tolist() == [5.0] * 3
    assert theirs.state[group["params"][0]]["sum"].tolist() == [0.0] * 3, "torch has mended T8: compare with it again"


def test_centered_rmsprop_stays_finite_where_torchs_loop_does_not():
    torch.manual_seed(0)
    start, gradient = torch.randn(1000), torch.randn(1000)
    results = []
    for module in (optimizers, torch.optim):
        p = torch.nn.Parameter(start.clone())
        optimizer = module.RMSprop([p], centered=True, lr=1e-4)
        p.grad = gradient
        for _ in range(3000):
            optimizer.step()
        results.append(p.detach())
    assert results[0].isfinite().all()
    assert results[1].isnan().any(), "torch has mended T11: compare with it again"
