"""Muon: torch's momentum bit for bit, and an orthogonalisation as near to the exact one as bfloat16 allows."""

from __future__ import annotations

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import optimizers
from optimizers.executors import matrices
from optimizers.muon import orthogonalize

COEFFICIENTS = (3.4445, -4.775, 2.0315)
SHAPES = [(32, 32), (40, 24), (24, 40), (1, 9), (9, 1), (128, 64)]


def polynomial(x, steps=5):
    """What the iteration does to each singular value."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
    return x


def exact(matrix, steps=5):
    """The same iteration in float64."""
    a, b, c = COEFFICIENTS
    x = matrix.double() / matrix.double().norm()
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
def test_the_update_is_within_five_percent_of_the_iteration_in_float64(shape):
    """Five iterations of three products, each rounded to 2^-9 relative, whose errors the slope of the polynomial (at
    most 3.4445) amplifies and later iterations damp: 1 to 3 % of the Frobenius norm is what torch's own reaches."""
    torch.manual_seed(0)
    batch = torch.randn(7, *shape)
    for update, matrix in zip(orthogonalize(batch, COEFFICIENTS, 5, 1e-7), batch, strict=True):
        goal = exact(matrix)
        assert (update.double() - goal).norm() <= 0.05 * goal.norm()


def test_singular_values_lie_where_the_polynomial_takes_them():
    """It takes (0, 1] below 1.21 and [0.02, 1] above 0.67 (the grid says so). By Weyl's inequality no singular value
    moves by more than the spectral norm of the error, which is 5 % of the largest at most: 0.06."""
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    assert polynomial(grid).max() < 1.21 and polynomial(grid[200:]).min() > 0.67
    torch.manual_seed(0)
    batch = torch.randn(20, 64, 64)
    start = torch.linalg.svdvals(batch.double()) / batch.double().flatten(1).norm(dim=1)[:, None]
    ends = torch.linalg.svdvals(orthogonalize(batch, COEFFICIENTS, 5, 1e-7).double())
    assert (start > 0.02).sum() > 1000, "most of them start where the polynomial lifts them"
    assert ends.max() < 1.21 + 0.06
    assert ((ends > 0.67 - 0.06).sum(1) >= (start > 0.02).sum(1)).all()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_like_torch_with_several_shapes_and_groups(fused, nesterov):
    """The momentum equals torch's to rounding; the update, made of two bfloat16 iterations, to 6 % in each step."""
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(s)) for s in SHAPES for _ in range(2)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    options = {"lr": 0.1, "weight_decay": 0.3, "nesterov": nesterov}
    second = {"lr": 0.02, "momentum": 0.5, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}
    ours = optimizers.Muon([{"params": mine[:5]}, {"params": mine[5:], **second}], fused=fused, **options)
    torchs = torch.optim.Muon([{"params": theirs[:5]}, {"params": theirs[5:], **second}], **options)
    for step in range(4):
        for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            p.grad = None if (i, step) in {(0, 0), (3, 1), (8, 2)} else torch.randn_like(p)
            q.grad = p.grad
        before = [p.detach().clone() for p in mine]
        ours.step()
        torchs.step()
        for p, q, old in zip(mine, theirs, before, strict=True):
            if q.grad is None:
                assert torch.equal(p, old)
                continue
            buffers = ours.state[p]["momentum_buffer"], torchs.state[q]["momentum_buffer"]
            torch.testing.assert_close(*buffers, rtol=2e-7, atol=2e-7)
            assert (p - q).norm() <= 0.06 * (q - old).norm()
            with torch.no_grad():
                p.copy_(q)
    assert {executor for _, executor, _ in ours.executors()} == {"cpu" if fused else "eager"}


def test_matrices_of_one_shape_share_each_product():
    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = collections.Counter()

        def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
            self.calls[function.__name__.split(".")[0]] += 1
            return function(*arguments, **(options or {}))

    params = [torch.nn.Parameter(torch.randn(8, 8)) for _ in range(100)]
    for p in params:
        p.grad = torch.randn(8, 8)
    optimizer = optimizers.Muon(params)
    optimizer.step()
    with Count() as count:
        optimizer.step()
    assert (count.calls["bmm"], count.calls["baddbmm"]) == (5, 10), count.calls


def test_large_batches_are_cut_into_pieces_of_bounded_memory(monkeypatch):
    monkeypatch.setattr(matrices, "PIECE", 200)
    shapes, groups = [torch.Size((8, 8))] * 7 + [torch.Size((40, 8))] * 2, torch.tensor([0] * 6 + [1] * 3).numpy()
    pieces = [piece.tolist() for piece in matrices._pieces(shapes, groups)]
    assert pieces == [[0, 1, 2], [3, 4, 5], [6], [7], [8]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
def test_other_dtypes_step_like_torch(dtype, fused):
    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(24, 16).to(dtype))
    q = torch.nn.Parameter(p.detach().clone())
    q.grad = p.grad = torch.randn(24, 16).to(dtype)
    old = p.detach().clone()
    ours = optimizers.Muon([p], lr=0.5, fused=fused)
    ours.step()
    torch.optim.Muon([q], lr=0.5).step()
    # on top of the 6 %, what rounding each parameter to the dtype moves it
    slack = torch.finfo(dtype).eps * q.detach().float().norm()
    assert (p.float() - q.float()).norm() <= 0.06 * (q.float() - old.float()).norm() + slack
    assert ours.state[p]["momentum_buffer"].dtype == dtype


def test_zero_gradients_empty_matrices_and_odd_layouts():
    zero, empty = torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(0, 4))
    strided = torch.nn.Parameter(torch.randn(8, 4)[:, ::2])
    plain = torch.nn.Parameter(strided.detach().clone())
    zero.grad, empty.grad = torch.zeros(3, 4), torch.ones(0, 4)
    strided.grad, plain.grad = torch.ones(8, 2).tril(), torch.ones(8, 2).tril()
    optimizer = optimizers.Muon([zero, empty, strided, plain], lr=0.1, weight_decay=0.0)
    optimizer.step()
    assert torch.equal(zero, torch.ones(3, 4))
    torch.testing.assert_close(strided, plain, rtol=0.02, atol=2e-3)
    assert [executor for _, executor, _ in optimizer.executors()] == ["cpu", "cpu", "eager", "cpu"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ns_steps": 100}, "Number of steps must be less than 100"),
        ({"ns_coefficients": (1.0, 2.0)}, "Coefficients must be a tuple of exactly 3 values"),
    ],
)
def test_what_torch_refuses_in_the_step_is_refused_before_anything_changes(change, message):
    p = torch.nn.Parameter(torch.ones(3, 3))
    p.grad = torch.ones(3, 3)
    optimizer = optimizers.Muon([p], **change)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(p, torch.ones(3, 3)) and not optimizer.state
    optimizer = optimizers.Muon([p], lr=0.0)
    optimizer.step()
    optimizer.param_groups[0].update(change)
    momentum = optimizer.state[p]["momentum_buffer"].clone()
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)
    late = torch.nn.Parameter(torch.ones(3))
    late.grad = torch.ones(3)
    good = optimizers.Muon([p])
    good.add_param_group({"params": [late]})
    with pytest.raises(ValueError, match="Param gradient must be a 2D matrix"):
        good.step()
    assert torch.equal(p, torch.ones(3, 3)) and not good.state
