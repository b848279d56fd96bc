"""Focal loss of many classes, cross-entropy with z-loss, and poly-1: against loops, and against other people's."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch.nn import functional

from optimizers import losses
from optimizers.losses import rows

from .agreement import assert_agree, indices, normal, value_and_gradients

SHAPES = pytest.mark.parametrize("shape", [(7, 5), (3, 4, 2, 3), (1, 2), (6,)])


def sample(shape, ignored=()):
    logits = normal(*shape, scale=3.0)
    target = indices(*shape[:1], *shape[2:], classes=shape[1]) if len(shape) > 1 else torch.tensor(2)
    for place in ignored:
        target.view(-1)[place] = -100
    return logits, target


def looped(row_loss, logits, target):
    """A loss of a row of logits and a class, row by row; 0 where the class is -100."""
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1]) if logits.dim() > 1 else logits[None]
    values = [
        row_loss(row, t) if t != -100 else row.sum() * 0 for row, t in zip(rows, target.flatten().tolist(), strict=True)
    ]
    return torch.stack(values).reshape(target.shape)


def probability(row, t):
    return row[t].exp() / sum(x.exp() for x in row)


@SHAPES
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_focal_loss_is_its_formula(shape, gamma, weighted):
    logits, target = sample(shape, ignored=[0] if len(shape) > 2 else [])
    alpha = normal(shape[min(len(shape) - 1, 1)], seed=4).abs()

    def row_loss(row, t):
        p = probability(row, t)
        return -(alpha[t] if weighted else 1) * (1 - p) ** gamma * p.log()

    def ours(x):
        return losses.softmax_focal_loss(x, target, alpha if weighted else None, gamma, reduction="none")

    assert_agree(ours, lambda x: looped(row_loss, x, target), logits)


@SHAPES
@pytest.mark.parametrize(("smoothing", "softcap", "z"), [(0.0, None, 1e-2), (0.2, 2.0, 0.5), (1.0, None, 0.0)])
def test_z_loss_is_its_formula(shape, smoothing, softcap, z):
    logits, target = sample(shape, ignored=[0] if len(shape) > 2 else [])

    def row_loss(row, t):
        row = row if softcap is None else softcap * (row / softcap).tanh()
        lse = sum(x.exp() for x in row).log()
        share = smoothing / len(row)
        weights = [share + (1 - smoothing if i == t else 0.0) for i in range(len(row))]
        return sum(w * (lse - x) for w, x in zip(weights, row, strict=True)) + z * lse**2

    def ours(x):
        return losses.z_loss_cross_entropy(x, target, z=z, softcap=softcap, label_smoothing=smoothing, reduction="none")

    assert_agree(ours, lambda x: looped(row_loss, x, target), logits)


@SHAPES
@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 2.0])
def test_poly1_is_its_formula(shape, epsilon):
    logits, target = sample(shape, ignored=[0] if len(shape) > 2 else [])

    def row_loss(row, t):
        p = probability(row, t)
        return -p.log() + epsilon * (1 - p)

    def ours(x):
        return losses.poly1_cross_entropy(x, target, epsilon, reduction="none")

    assert_agree(ours, lambda x: looped(row_loss, x, target), logits)


ALL = {
    "focal": losses.softmax_focal_loss,
    "z": losses.z_loss_cross_entropy,
    "poly1": losses.poly1_cross_entropy,
}


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_mean_is_over_what_is_not_ignored(name):
    logits, target = sample((9, 4), ignored=[0, 5])
    values = ALL[name](logits, target, reduction="none")
    assert values[0] == values[5] == 0
    torch.testing.assert_close(ALL[name](logits, target), values.sum() / 7)
    torch.testing.assert_close(ALL[name](logits, target, reduction="sum"), values.sum())
    gradient = value_and_gradients(lambda x: ALL[name](x, target), logits)[1]
    assert gradient[0].eq(0).all() and gradient[1].ne(0).all()
    target[:] = -100
    value, gradient = value_and_gradients(lambda x: ALL[name](x, target), logits)
    assert value.isnan() and gradient.nan_to_num(0).eq(0).all()
    byte = torch.tensor([1, 2, 156], dtype=torch.uint8)  # 156 is -100 to a byte
    assert ALL[name](logits[:3].repeat(1, 40), byte, reduction="none").ne(0).all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_plain_options_are_cross_entropy(name):
    logits, target = sample((20, 6))
    plain = {"focal": {"gamma": 0.0}, "z": {"z": 0.0}, "poly1": {"epsilon": 0.0}}[name]
    assert_agree(lambda x: ALL[name](x, target, **plain), lambda x: functional.cross_entropy(x, target), logits)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_focal_loss_has_a_gradient_where_the_probability_is_1(gamma, dtype):
    x = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], dtype=dtype, requires_grad=True)
    value = losses.softmax_focal_loss(x, torch.tensor([0, 0]), gamma=gamma, reduction="none")
    assert value.tolist() == [0, 1000]
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert gradient.tolist() == [[0, 0], [-1, 1]]
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert second.isfinite().all()


def test_large_and_impossible_logits():
    x = torch.tensor([[1e4, -1e4, 0.0], [-math.inf, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([0, 1])
    poly = losses.poly1_cross_entropy(x, target, reduction="none")
    torch.testing.assert_close(poly, torch.tensor([0.0, math.log(2) + 0.5]))
    z = losses.z_loss_cross_entropy(x, target, z=1.0, reduction="none")
    torch.testing.assert_close(z, torch.tensor([1e8, math.log(2) + math.log(2) ** 2]))
    capped = losses.z_loss_cross_entropy(x, target, z=0.0, softcap=30.0, reduction="none")
    assert capped[0] < 1e-9 and capped[1].isfinite()
    for value in (poly, z, capped):
        assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("dims", [(6, 4), (3, 4, 5)])
def test_kornias_focal_loss(dims):
    kornia = pytest.importorskip("kornia.losses")
    logits, target = sample(dims, ignored=[1])
    alpha = torch.tensor([0.75, 0.25, 0.25, 0.25], dtype=torch.float64)
    assert_agree(
        lambda x: losses.softmax_focal_loss(x, target, alpha, 1.5, reduction="none"),
        lambda x: kornia.focal_loss(x, target, alpha=0.25, gamma=1.5, reduction="none").sum(1),
        logits,
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, t: losses.softmax_focal_loss(x, t, gamma=-1.0), ValueError, "gamma must not be negative.*-1.0"),
        (lambda x, t: losses.softmax_focal_loss(x, t, [1.0]), ValueError, r"of 3 classes, and has shape \(1,\)"),
        (lambda x, t: losses.softmax_focal_loss(x, t, reduction="avg"), ValueError, "avg is not a valid value for red"),
        (lambda x, t: losses.z_loss_cross_entropy(x, t, z=-1.0), ValueError, "z must not be negative, and is -1.0"),
        (lambda x, t: losses.z_loss_cross_entropy(x, t, softcap=0.0), ValueError, "softcap must be positive"),
        (lambda x, t: losses.z_loss_cross_entropy(x, t, label_smoothing=2.0), ValueError, "between 0 and 1, and is 2"),
        (lambda x, t: losses.poly1_cross_entropy(x, t, -1.5), ValueError, "epsilon must be at least -1, and is -1.5"),
        (lambda x, t: losses.poly1_cross_entropy(x, t[:1]), ValueError, r"shape \(2,\), and target has \(1,\)"),
        (lambda x, t: losses.poly1_cross_entropy(x[0, 0], t), ValueError, "must have a dimension of classes"),
        (lambda x, t: losses.poly1_cross_entropy(x, t.int()), TypeError, r"convert it with .long\(\)"),
        (lambda x, t: losses.poly1_cross_entropy(x.int(), t), TypeError, r"convert it with .float\(\)"),
        (lambda x, t: losses.poly1_cross_entropy(x, t + 5), IndexError, "out of bounds"),
    ],
)
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.zeros(2, 3), torch.tensor([0, 2]))


KERNELS = {"focal": rows.FOCAL, "z": rows.Z, "poly1": rows.POLY1}
CONSTANTS = {"focal": (1.5, torch.finfo(torch.float64).eps / 4), "z": (0.3,), "poly1": (2.0,)}
# short rows, few classes in many rows, and long rows are three ways through a kernel, which dtypes do not change
CASES = [(torch.float32, shape) for shape in ((90, 10), (300, 5), (20, 100))]
CASES += [(dtype, (20, 10)) for dtype in (torch.float64, torch.bfloat16, torch.float16)]


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_slopes_of_a_row_are_the_derivatives_of_its_loss(name):
    loss, constants = KERNELS[name], CONSTANTS[name]
    nll, lse = normal(50).abs().requires_grad_(), normal(50, seed=1).requires_grad_()
    value = loss.value(nll, lse, *constants)
    by_nll, by_lse = torch.autograd.grad(value.sum(), (nll, lse), allow_unused=True)
    torch.testing.assert_close(loss.slope(nll, lse, *constants), by_nll)
    assert (by_lse is None) == (loss.pull is None)
    if loss.pull is not None:
        torch.testing.assert_close(loss.pull(nll, lse, *constants), by_lse)


def follows_float64(name, shape, dtype, smoothing=0.0):
    """Value and gradients by the kernel, made in the forward pass and made anew, against autograd in float64.

    Each is a handful of roundings in the working precision, and one to the dtype; of gradients relative to the largest.
    """
    logits, target = sample(shape, ignored=[3])
    loss, unit = KERNELS[name], torch.finfo(dtype).eps
    tolerance = 1e-12 if dtype == torch.float64 else 8 * unit
    for reduction in ("mean", "sum", "none"):
        options = -100, reduction, smoothing, CONSTANTS[name]
        x = logits.to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        value, goal = loss.fast(x, target, *options), loss.plain(exact, target, *options)
        assert value.dtype == dtype and "_Fused" in type(value.grad_fn).__name__
        torch.testing.assert_close(value.double(), goal, rtol=tolerance, atol=tolerance)
        for seed in range(2):
            upstream = normal(value.numel(), seed=seed).reshape(value.shape).to(dtype)
            (gradient,) = torch.autograd.grad(value, x, upstream, retain_graph=True)
            (slope,) = torch.autograd.grad(goal, exact, upstream.double(), retain_graph=True)
            atol = tolerance * max(slope.abs().max().item(), torch.finfo(dtype).tiny)
            torch.testing.assert_close(gradient.double(), slope, rtol=tolerance, atol=atol)


@pytest.mark.parametrize(("dtype", "shape"), CASES)
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_the_kernels_follow_float64(name, shape, dtype):
    pytest.importorskip("numba")
    follows_float64(name, shape, dtype)
    if name == "z":
        follows_float64(name, shape, dtype, smoothing=0.2)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("focal", "${MADE}", "nll = loss"),
        ("focal", "${SLOPES}", ""),
        ("z", "${PULL}", ""),
        ("poly1", "if ${NEEDED} or what", "if what"),
    ],
)
def test_mutants_of_the_kernel_do_not_pass(name, before, after, monkeypatch):
    """What is made of a row left out, of its value, its gradient, or the gradient that is made anew."""
    pytest.importorskip("numba")
    kernel = importlib.import_module("optimizers.losses.cross_entropy_cpu")
    assert before in kernel.ROWS
    kept = (kernel._block, kernel._job, rows._kernel)
    monkeypatch.setattr(kernel, "ROWS", kernel.ROWS.replace(before, after))
    for cache in kept:
        cache.cache_clear()
    try:
        with pytest.raises(AssertionError):
            follows_float64(name, (90, 10), torch.float32)
    finally:
        monkeypatch.undo()
        for cache in kept:
            cache.cache_clear()
