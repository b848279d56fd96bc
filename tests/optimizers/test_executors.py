"""Which executor steps what, and that whatever it is steps it rightly."""

from __future__ import annotations

import pytest
import torch

import optimizers

from .conftest import NAMES
from .test_contract import assert_close, pair, train


def chosen(optimizer):
    return [(name, reason) for _, name, reason in optimizer.executors()]


def with_gradient(p):
    p.grad = torch.ones_like(p)
    return p


def test_the_default_is_a_kernel_for_every_plain_tensor():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        p = with_gradient(torch.nn.Parameter(torch.zeros(3, dtype=dtype)))
        assert chosen(optimizers.Adam([p])) == [("cpu", "")]


@pytest.mark.parametrize(
    "options, reason",
    [({"foreach": False}, "foreach=False"), ({"foreach": True}, "foreach=True"), ({"fused": False}, "fused=False")],
)
@pytest.mark.parametrize("name", ["Adam", "Adamax"])
def test_modes_ask_for_eager(name, options, reason):
    p = with_gradient(torch.nn.Parameter(torch.zeros(3)))
    assert chosen(getattr(optimizers, name)([p], **options)) == [("eager", reason)]


def test_eager_names_its_reason_in_words():
    p = with_gradient(torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    assert chosen(optimizers.Adam([p])) == [("eager", "there is no kernel for torch.complex64")]
    p = torch.nn.Parameter(torch.zeros(3, 4))
    p.grad = torch.ones(4, 3).t()
    assert chosen(optimizers.Adam([p])) == [("eager", "the gradient has strides (1, 3), the parameter (4, 1)")]


@pytest.mark.parametrize("name", ["Adam", "Adamax"])
def test_fused_is_a_kernel_or_an_error_that_says_why(name):
    p = with_gradient(torch.nn.Parameter(torch.zeros(3)))
    optimizer = getattr(optimizers, name)([p], fused=True)
    assert chosen(optimizer) == [("cpu", "")]
    assert optimizer.state_dict()["param_groups"][0]["fused"] is True
    p.grad = None
    q = torch.nn.Parameter(torch.zeros(6)[::2])
    q.grad = torch.ones(3)
    optimizer = getattr(optimizers, name)([q], fused=True)
    with pytest.raises(RuntimeError, match=r"no.*: the parameter is not dense in memory\. Leave `fused` at None"):
        optimizer.step()
    assert q.tolist() == [0.0] * 3
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        getattr(optimizers, name)([p], fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        getattr(optimizers, name)([p], fused=True, differentiable=True)


LAYOUTS = {
    "transposed": lambda t: t.t(),
    "every other column": lambda t: torch.cat([t, t], 1)[:, ::2],
    "offset": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)])[3 : 3 + t.numel()].reshape(t.shape),
    "expanded": lambda t: t[:1].expand(t.shape),
    "negative bit": lambda t: torch._neg_view(-t),
    "contiguous": lambda t: t.clone(),
}


@pytest.mark.parametrize("name", ["SGD", "Adam", "Rprop"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of", ["gradient", "parameter", "both"])
def test_any_layout_steps_like_torchs_loop(name, layout, of, checks):
    if layout == "expanded" and of != "gradient":
        pytest.skip("torch itself refuses to write to an expanded tensor")
    torch.manual_seed(0)
    sides = []
    base = torch.randn(6, 6)
    shape = LAYOUTS[layout] if of != "gradient" else torch.clone
    for build, mode in ((getattr(optimizers, name), {}), (getattr(torch.optim, name), {"foreach": False})):
        p = torch.nn.Parameter(shape(base.clone()))
        sides.append(([p], build([p], lr=0.1, **mode)))
    for step in range(6):
        g = torch.randn(6, 6)
        if of != "parameter" and step != 2:  # one step in another layout in between
            g = LAYOUTS[layout](g)
        for (p,), optimizer in sides:
            p.grad = g
            before = g.clone()
            optimizer.step()
            assert torch.equal(p.grad, before)
    assert_close(sides[0][0], sides[1][0])


def test_channels_last_in_the_middle_of_a_run_steps_like_torchs_loop(checks):
    sides = []
    for build, mode in ((optimizers.AdamW, {}), (torch.optim.AdamW, {"foreach": False})):
        torch.manual_seed(0)
        model = torch.nn.Conv2d(4, 6, 3)
        optimizer = build(model.parameters(), lr=0.01, **mode)
        for step in range(6):
            if step == 3:
                model.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            model(torch.ones(2, 4, 5, 5).to(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
        sides.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*sides, rtol=1e-5, atol=1e-5)  # the convolutions round differently by layout


@pytest.mark.parametrize("name", NAMES)
def test_complex_parameters_step_as_pairs_of_reals(name):
    sides = []
    for build, mode in ((getattr(optimizers, name), {}), (getattr(torch.optim, name), {"foreach": False})):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(5, dtype=torch.complex128))
        optimizer = build([p], lr=0.1, **mode)
        for _ in range(5):
            p.grad = torch.randn(5, dtype=torch.complex128)
            optimizer.step()
        sides.append(p.detach())
    torch.testing.assert_close(*sides, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def unchecked_sparse_tensors():
    torch.sparse.check_sparse_tensor_invariants.disable()  # or torch warns that it does not check


@pytest.mark.parametrize("name, options", [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adagrad", {})])
def test_sparse_gradients(name, options):
    sides = []
    for build, mode in ((getattr(optimizers, name), {}), (getattr(torch.optim, name), {"foreach": False})):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(6, 2, dtype=torch.float64))
        optimizer = build([p], lr=0.1, **mode, **options)
        for _ in range(4):
            at = torch.tensor([[1, 4, 1]])
            p.grad = torch.sparse_coo_tensor(at, torch.randn(3, 2, dtype=torch.float64), (6, 2))
            optimizer.step()
        sides.append(p.detach())
    torch.testing.assert_close(*sides, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["Adam", "ASGD", "Rprop"])
def test_sparse_gradients_are_refused_where_torch_refuses_them(name):
    p = torch.nn.Parameter(torch.zeros(4, 2))
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2))
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        getattr(optimizers, name)([p]).step()


def test_repeated_and_overlapping_parameters_are_stepped_one_after_the_other(checks):
    sides = []
    for build, mode in ((optimizers.SGD, {}), (torch.optim.SGD, {"foreach": False})):
        memory = torch.arange(6.0)
        a, b = torch.nn.Parameter(memory[:4]), torch.nn.Parameter(memory[2:])
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = build([a, b, a], lr=0.1, momentum=0.5, **mode)
        for step in range(3):
            a.grad, b.grad = torch.full((4,), 1.0 + step), torch.full((4,), 2.0)
            optimizer.step()
        sides.append(memory)
        if build is optimizers.SGD:
            assert {name for name, _ in chosen(optimizer)} == {"eager"}
    torch.testing.assert_close(*sides, rtol=1e-6, atol=1e-6)


def test_zero_dimensional_and_empty_parameters_disturb_nobody(checks):
    ours, theirs = pair("Adam", shapes=((), (0,), (3,), (0, 4), (1,), (2, 0)))
    train(ours, theirs, steps=4)
    assert_close(ours[0], theirs[0])


def test_half_precision_keeps_float32_state_where_it_is_given(checks):
    p = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
    optimizer = optimizers.Adam([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[p][key] = optimizer.state[p][key].float()
    assert chosen(optimizer) == [("cpu", "")]
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].dtype == torch.float32
    assert abs(optimizer.state[p]["exp_avg"][0].item() - 0.19) < 1e-3


def test_differentiable_lets_autograd_through_the_step():
    lr = torch.tensor(0.1, requires_grad=True, dtype=torch.float64)

    def after_two_steps(start):
        p = start.clone()
        optimizer = optimizers.Adam([p], lr=lr, differentiable=True)
        for _ in range(2):
            p.grad = (p**2).detach() + 1.0
            optimizer.step()
        return p

    start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    after_two_steps(start).sum().backward()
    assert start.grad.isfinite().all() and lr.grad.isfinite() and lr.grad != 0


def test_asking_for_executors_changes_nothing():
    (params, optimizer), theirs = pair("SGD", momentum=0.9, dampening=0.5)
    for p in params:
        p.grad = torch.ones_like(p)
    assert {name for name, _ in chosen(optimizer)} == {"cpu"}
    assert not optimizer.state
    train((params, optimizer), theirs, steps=3)
    assert_close(params, theirs[0])


def test_a_step_that_fails_has_changed_nothing():
    (params, optimizer), _ = pair("Adam", shapes=((4,), (4, 2)))
    before = [p.detach().clone() for p in params]
    params[0].grad = torch.ones(4)
    params[1].grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2))
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert all(map(torch.equal, params, before)) and not optimizer.state
