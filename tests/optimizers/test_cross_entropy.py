"""Cross-entropy: every option against float64, the edges against torch, and mutants that must not pass."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch.nn import functional

from optimizers.losses import cross_entropy

pytest.importorskip("numba")
module = importlib.import_module("optimizers.losses.cross_entropy")
kernel = importlib.import_module("optimizers.losses.cross_entropy_cpu")


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)


def data(rows, classes, dtype, ignored=-100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[::7] = ignored
    return logits.requires_grad_(), target, torch.rand(classes, generator=generator, dtype=torch.float64).to(dtype)


def both(logits, target, weight, **options):
    """Value and gradient of ours, and of torch in float64, for one random upstream gradient."""
    answers = []
    generator = torch.Generator().manual_seed(1)
    upstream = None
    for loss, kind in ((cross_entropy, logits.dtype), (functional.cross_entropy, torch.float64)):
        x = logits.detach().to(kind).requires_grad_()
        value = loss(x, target, weight=None if weight is None else weight.to(kind), **options)
        if upstream is None:
            assert "_Fused" in type(value.grad_fn).__name__
            upstream = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(kind)
        answers.append((value.detach().double(), torch.autograd.grad(value, x, upstream.to(kind))[0].double()))
    return answers


@pytest.mark.parametrize("shape", [(200, 10), (1, 2), (30, 1), (16, 300), (3, 20_000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_combination_of_options_follows_float64(shape, dtype):
    """A handful of roundings in the working precision, one to the dtype; of the gradient, relative to its largest."""
    unit = torch.finfo(dtype).eps
    tolerance = 1e-12 if dtype == torch.float64 else 8 * unit
    for reduction, smoothing, weighted, ignored in itertools.product(
        ("mean", "sum", "none"), (0.0, 0.1), (False, True), (-100, 0)
    ):
        logits, target, weight = data(*shape, dtype, ignored)
        if (target == ignored).all():
            continue
        options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
        ours, exact = both(logits, target, weight if weighted else None, **options)
        torch.testing.assert_close(ours[0], exact[0], rtol=tolerance, atol=tolerance)
        largest = max(float(exact[1].abs().max()), 1 / len(target))
        torch.testing.assert_close(ours[1], exact[1], rtol=tolerance, atol=tolerance * largest)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "row",
    [[0.0, -INF, 1.0], [-INF, -INF, -INF], [INF, 0.0, 1.0], [NAN, 0.0, 1.0], [-INF, 2.0, 3.0], [1e30, -1e30, 0.0]],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_infinite_and_missing_logits_are_as_in_torch(row, smoothing):
    for target in range(3):
        results = []
        for loss in (cross_entropy, functional.cross_entropy):
            x = torch.tensor([row, [0.0, 1.0, 2.0]], requires_grad=True)
            value = loss(x, torch.tensor([target, 1]), reduction="none", label_smoothing=smoothing)
            results.append((value.detach(), torch.autograd.grad(value, x, torch.tensor([1.0, 2.0]))[0]))
        torch.testing.assert_close(*results, equal_nan=True)


def test_all_rows_ignored_is_nan_with_a_gradient_of_zero_as_in_torch():
    for smoothing in (0.0, 0.1):
        for loss in (cross_entropy, functional.cross_entropy):
            x = torch.randn(4, 3, requires_grad=True)
            value = loss(x, torch.full((4,), -100), label_smoothing=smoothing)
            assert value.isnan() and torch.autograd.grad(value, x)[0].eq(0).all()


def test_no_rows_and_weights_of_zero_are_as_in_torch():
    for options in ({}, {"reduction": "sum"}, {"reduction": "none"}):
        values = [loss(torch.ones(0, 3), torch.ones(0, dtype=torch.int64), **options)
                  for loss in (cross_entropy, functional.cross_entropy)]  # fmt: skip
        torch.testing.assert_close(*values, equal_nan=True)
    weight, target = torch.tensor([0.0, 1.0]), torch.tensor([0, 0])
    values = [loss(torch.ones(2, 2), target, weight) for loss in (cross_entropy, functional.cross_entropy)]
    torch.testing.assert_close(*values, equal_nan=True)


@pytest.mark.parametrize("bad", [3, -1, -101, 2**40])
def test_a_target_that_is_no_class_is_named(bad):
    with pytest.raises(IndexError, match=f"Target {bad} is out of bounds"):
        cross_entropy(torch.ones(2, 3), torch.tensor([1, bad]))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_targets_are_checked_whatever_the_shape(shape, monkeypatch):
    """Before anything is computed, where a GPU would not tell; the right ones and probabilities pass."""
    logits, target = torch.zeros(shape), torch.zeros(shape[:1] + shape[2:] if len(shape) > 1 else (), dtype=torch.int64)
    assert cross_entropy(logits, target, check_targets=True) > 0
    assert cross_entropy(logits, torch.full_like(logits, 1 / 3), check_targets=True) > 0
    target = target.clone().fill_(-100)
    assert cross_entropy(logits, target, check_targets=True).isnan()
    target.view(-1)[-1] = 3
    monkeypatch.setattr(functional, "cross_entropy", lambda *args, **options: None)
    monkeypatch.setattr(module, "by_kernel", lambda *args: None)
    with pytest.raises(IndexError, match="Target 3 is out of bounds"):
        cross_entropy(logits, target, check_targets=True)


def test_the_gradient_has_a_gradient():
    x, target, _ = data(6, 5, torch.float64)
    (gradient,) = torch.autograd.grad(cross_entropy(x, target), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    (goal,) = torch.autograd.grad(functional.cross_entropy(x, target), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(goal.square().sum(), x)[0])


def test_memory_is_the_logits_and_their_gradient():
    """The kernel allocates one tensor of the logits' size, the gradient, and nothing without one."""
    sizes = []
    original = kernel.memory.fresh

    def fresh(like):
        sizes.append(like.numel())
        return original(like)

    x, target, _ = data(100, 50, torch.float32)
    try:
        kernel.memory.fresh = fresh
        cross_entropy(x.detach(), target)
        assert sizes == []
        cross_entropy(x, target).backward()
        assert sizes == [5000]
    finally:
        kernel.memory.fresh = original


MUTANTS = {
    "off-target gradients dropped": ("factor * element(out, i) - shift", "${REAL}(0)"),
    "weight dropped": ("w = float64(element(weight_at, t)) if weight_at else 1.0", "w = 1.0"),
    "ignored rows counted": ("int64(word(target_at, r) != ignored)", "1"),
    "first upstream for all rows": ("element(upstream, r)", "element(upstream, 0)"),
    "smoothing left out of the gradient": ("spread * all_weights)", "0)"),
    "ignored rows keep old memory": ("                clear(out, n)", "                clear(out, 0)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_do_not_pass(name, monkeypatch):
    """What other libraries shipped; each must fail the comparison that ours passes."""
    before, after = MUTANTS[name]
    assert before in kernel._SOURCE
    monkeypatch.setattr(kernel, "_SOURCE", kernel._SOURCE.replace(before, after))
    kernel._block.cache_clear()
    try:
        with pytest.raises((AssertionError, IndexError)):
            test_every_combination_of_options_follows_float64((200, 10), torch.float32)
    finally:
        monkeypatch.undo()
        kernel._block.cache_clear()
