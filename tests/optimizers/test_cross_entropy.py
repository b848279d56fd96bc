"""Cross-entropy: every option against float64, the edges against torch, and mutants that must not pass."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from optimizers.losses import cross_entropy

pytest.importorskip("numba")
module = importlib.import_module("optimizers.losses.cross_entropy")
kernel = importlib.import_module("optimizers.losses.cross_entropy_cpu")


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(module, "_pays", lambda *args: True)
    module._kernel.cache_clear()
    yield
    module._kernel.cache_clear()


def data(shape, dtype, ignored=-100, seed=0, mixture=False):
    """Logits, classes (or a mixture of them for every row), and weights of the classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    if mixture:
        target = torch.rand(shape, generator=generator, dtype=torch.float64).softmax(1).to(dtype)
    else:
        target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
        target.view(-1)[::7] = ignored
    return logits.requires_grad_(), target, torch.rand(shape[1], generator=generator, dtype=torch.float64).to(dtype)


def both(logits, target, weight, **options):
    """Value and gradient of ours, and of torch in float64, for one random upstream gradient."""
    answers = []
    generator = torch.Generator().manual_seed(1)
    upstream = None
    for loss, kind in ((cross_entropy, logits.dtype), (functional.cross_entropy, torch.float64)):
        x = logits.detach().to(kind).requires_grad_()
        y = target.to(kind) if target.is_floating_point() else target
        value = loss(x, y, weight=None if weight is None else weight.to(kind), **options)
        if upstream is None:
            assert "_Fused" in type(value.grad_fn).__name__
            upstream = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(kind)
        answers.append((value.detach().double(), torch.autograd.grad(value, x, upstream.to(kind))[0].double()))
    return answers


DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])


def follows_float64(shape, dtype, mixture=False):
    """A handful of roundings in the working precision, one to the dtype; of the gradient, relative to its largest."""
    unit = torch.finfo(dtype).eps
    tolerance = 1e-12 if dtype == torch.float64 else 8 * unit
    for reduction, smoothing, weighted, ignored in itertools.product(
        ("mean", "sum", "none"), (0.0, 0.1), (False, True), (-100,) if mixture else (-100, 0)
    ):
        logits, target, weight = data(shape, dtype, ignored, mixture=mixture)
        if (target == ignored).all():
            continue
        options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
        ours, exact = both(logits, target, weight if weighted else None, **options)
        torch.testing.assert_close(ours[0], exact[0], rtol=tolerance, atol=tolerance)
        largest = max(float(exact[1].abs().max()), 1 / len(target))
        torch.testing.assert_close(ours[1], exact[1], rtol=tolerance, atol=tolerance * largest)


@DTYPES
@pytest.mark.parametrize("shape", [(200, 10), (300, 5), (1, 2), (30, 1), (16, 300), (3, 20_000)])
def test_every_combination_of_options_follows_float64(shape, dtype):
    follows_float64(shape, dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(4, 7, 300), (2, 3, 5, 6), (3, 1, 9), (2, 300, 70)])
def test_classes_that_lie_apart_follow_float64(shape, dtype):
    follows_float64(shape, dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(20, 7), (3, 1), (3, 3000)])
def test_mixtures_of_classes_follow_float64(shape, dtype):
    follows_float64(shape, dtype, mixture=True)


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
        apart = []
        for loss in (cross_entropy, functional.cross_entropy):
            x = torch.tensor([row, [0.0, 1.0, 2.0]]).T[None].contiguous().requires_grad_()
            value = loss(x, torch.tensor([[target, 1]]), reduction="none", label_smoothing=smoothing)
            apart.append((value.detach(), torch.autograd.grad(value, x, torch.tensor([[1.0, 2.0]]))[0]))
        torch.testing.assert_close(*apart, equal_nan=True)


def test_all_rows_ignored_is_nan_with_a_gradient_of_zero_as_in_torch():
    for smoothing in (0.0, 0.1):
        for loss, shape in itertools.product((cross_entropy, functional.cross_entropy), ((4, 3), (4, 3, 2))):
            x = torch.randn(shape, requires_grad=True)
            value = loss(x, torch.full((shape[0], *shape[2:]), -100), label_smoothing=smoothing)
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
    with pytest.raises(IndexError, match=f"Target {bad} is out of bounds"):
        cross_entropy(torch.ones(1, 3, 2), torch.tensor([[1, bad]]))


def test_a_probability_of_0_for_an_infinite_logit_is_as_in_torch():
    results = []
    for loss in (cross_entropy, functional.cross_entropy):
        x = torch.tensor([[0.0, -INF, 1.0]], requires_grad=True)
        value = loss(x, torch.tensor([[0.5, 0.0, 0.5]]))
        results.append((value.detach(), torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*results, equal_nan=True)


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
    x, target, _ = data((6, 5), torch.float64)
    (gradient,) = torch.autograd.grad(cross_entropy(x, target), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    (goal,) = torch.autograd.grad(functional.cross_entropy(x, target), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(goal.square().sum(), x)[0])


class Allocations(TorchDispatchMode):
    """The numbers of elements of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if "empty" in str(func):
            self.sizes.append(result.numel())
        return result


@pytest.mark.parametrize("classes", [80, 20_000])
def test_memory_is_the_logits_and_their_gradient(classes):
    """The kernel allocates one tensor of the logits' size, the gradient, and nothing but the value without one."""
    x, target, _ = data((100, classes), torch.float32)
    cross_entropy(x, target)  # what is kept for the next loss of this size is made once
    with Allocations() as made:
        cross_entropy(x.detach(), target)
        assert made.sizes == [1]
        cross_entropy(x, target)
        assert made.sizes == [1, 1, 100 * classes]


MUTANTS = {
    "off-target gradients dropped": ("ROWS", "scale_exps(out, n, ${REAL}(factor / s), shift)", "clear(out, n)"),
    "weight dropped": ("ROWS", "w = float64(element(weight_at, t)) if weight_at else 1.0", "w = 1.0"),
    "ignored rows counted": ("TARGETS", "int64(t != ignored)", "1"),
    "first upstream for all rows": ("ROWS", "element(upstream, r)", "element(upstream, 0)"),
    "upstream forgotten": (
        "COMMON",
        "upstream, value_scale = get_float64(numbers, 0), 1.0",
        "upstream = value_scale = 1.0",
    ),
    "smoothing left out of the gradient": ("ROWS", "spread * all_weights)", "0)"),
    "ignored rows keep old memory": ("ROWS", "                clear(out, n)", "                clear(out, 0)"),
    "reduction none of columns adds up": ("COLUMNS", "set_element(value_at, begin + i", "set_element(value_at, begin"),
    "columns of the next sample": ("COLUMNS", "(begin - position) * n + position", "begin"),
    "columns forget the smoothing": (
        "COLUMNS",
        "factor = ${REAL}(scale * spread * weight)",
        "factor = ${REAL}(0)",
    ),
    "ignored columns keep old memory": ("COLUMNS", "set_element(out + step * c, i, ${REAL}(0))", "pass"),
    "mixtures weighed once": ("MIXTURES", "q = element(weight_at, j) * (", "q = ("),
    "mixtures taken as whole": ("MIXTURES", "${REAL}(here * weights / s)", "${REAL}(here / s)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_do_not_pass(name, monkeypatch):
    """What other libraries shipped, and more; each must fail the comparison that ours passes."""
    where, before, after = MUTANTS[name]
    source = getattr(kernel, where)
    assert before in source
    monkeypatch.setattr(kernel, where, source.replace(before, after))
    forget()
    try:
        with pytest.raises(AssertionError):
            if where == "COLUMNS":
                follows_float64((4, 7, 90), torch.float32)
            else:
                follows_float64((200, 10), torch.float32, mixture=where == "MIXTURES")
                twice()
    finally:
        monkeypatch.undo()
        forget()


def forget():
    """All that was prepared of the kernels."""
    for kept in (kernel._block, kernel._job, module._kernel):
        kept.cache_clear()


def twice():
    """A gradient that is made anew, for another upstream gradient."""
    logits, target, _ = data((200, 10), torch.float32)
    value = cross_entropy(logits, target)
    first = torch.autograd.grad(value, logits, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(value, logits, torch.tensor(3.0))[0], 3 * first)


def test_a_second_backward_makes_its_own_gradient():
    twice()
