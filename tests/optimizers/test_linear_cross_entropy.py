"""Linear + cross-entropy in chunks: every option against float64 with all logits, and never all logits at once."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch.nn import functional

pytest.importorskip("numba")
if not hasattr(functional, "linear_cross_entropy"):
    pytest.skip("this torch has no linear_cross_entropy", allow_module_level=True)
module = importlib.import_module("optimizers.losses.linear_cross_entropy")
linear_cross_entropy = module.linear_cross_entropy


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Of seven rows: the last chunk is a shorter one."""
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "CHUNK", 7 * 30)
    monkeypatch.setattr(module, "FEWEST_ROWS", 1)


def data(dtype, ignored=-100, rows=40, features=6, classes=30):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    target = torch.randint(0, classes, (rows,), generator=generator)
    target[::7] = ignored
    return normal(rows, features), normal(classes, features), normal(classes), target, normal(classes).abs()


def results(function, tensors, target, weight, upstream=None, **options):
    """The value, and the gradients of input, weight and bias."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    bias = leaves[2] if len(leaves) == 3 else None
    value = function(leaves[0], leaves[1], target, linear_bias=bias, weight=weight, **options)
    if upstream is None:
        upstream = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).reshape(value.shape) + 0.3
    return value, torch.autograd.grad(value, leaves, upstream.to(value.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_combination_of_options_follows_float64(reduction, dtype):
    """In half precision the logits, of size 6 here, are rounded, and sums of 40 rows of their gradients."""
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 0.04}[dtype]
    for smoothing, weighted, ignored, biased in itertools.product((0.0, 0.1), (False, True), (-100, 3), (True, False)):
        *tensors, bias, target, weight = data(dtype, ignored)
        tensors = [*tensors, bias] if biased else tensors
        weight = weight if weighted else None
        options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
        value, gradients = results(linear_cross_entropy, tensors, target, weight, **options)
        assert "_Fused" in type(value.grad_fn).__name__
        goal, exact = results(
            functional.linear_cross_entropy,
            [t.double() for t in tensors],
            target,
            None if weight is None else weight.double(),
            **options,
        )
        torch.testing.assert_close(value.double(), goal, rtol=tolerance, atol=tolerance)
        for got, want in zip(gradients, exact, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


def test_only_what_is_wanted_is_made_and_no_gradient_without_one():
    input, linear_weight, bias, target, _ = data(torch.float64)
    linear_weight.requires_grad_()
    value = linear_cross_entropy(input, linear_weight, target, linear_bias=bias)
    value.backward()
    goal = functional.linear_cross_entropy(input, linear_weight, target, linear_bias=bias)
    torch.testing.assert_close(linear_weight.grad, torch.autograd.grad(goal, linear_weight)[0])
    assert not linear_cross_entropy(input, linear_weight.detach(), target).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(input, linear_weight, target, linear_bias=bias), goal)


def test_a_second_backward_and_the_gradient_of_a_gradient():
    input, linear_weight, bias, target, _ = data(torch.float64)
    input.requires_grad_()
    value = linear_cross_entropy(input, linear_weight, target, linear_bias=bias)
    first = torch.autograd.grad(value, input, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(value, input, torch.tensor(3.0).double())[0], 3 * first)
    seconds = []
    for function in (linear_cross_entropy, functional.linear_cross_entropy):
        value = function(input, linear_weight, target, linear_bias=bias)
        (gradient,) = torch.autograd.grad(value, input, create_graph=True)
        seconds.append(torch.autograd.grad(gradient.square().sum(), input)[0])
    torch.testing.assert_close(*seconds)


def test_all_rows_ignored_and_no_rows_are_as_in_torch():
    input, linear_weight, bias, target, _ = data(torch.float64)
    for x, t in ((input, torch.full_like(target, -100)), (input[:0], target[:0])):
        answers = [
            results(function, [x, linear_weight, bias], t, None)
            for function in (linear_cross_entropy, functional.linear_cross_entropy)
        ]
        torch.testing.assert_close(*answers, equal_nan=True)


@pytest.mark.parametrize("bad", [30, -1])
def test_a_target_that_is_no_class_is_named(bad):
    input, linear_weight, _, target, weight = data(torch.float32)
    target[20] = bad
    for weights in (None, weight):
        with pytest.raises(IndexError, match=f"Target {bad} is out of bounds"):
            linear_cross_entropy(input, linear_weight, target, weight=weights)


def test_no_more_than_a_chunk_of_logits_is_ever_held():
    """Every tensor that is made, as the profiler sees them: none of 40 x 30 logits, but of 7 x 30 at most."""
    *tensors, target, weight = data(torch.float32, features=2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        results(linear_cross_entropy, tensors, target, weight)
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert max(sizes) == 4 * 7 * 30


MUTANTS = {
    "one chunk's weight gradient only": ("by_weight.addmm_(", "by_weight.copy_(0 * by_weight).addmm_("),
    "the bias forgotten": ("by_bias += change.sum(0)", "pass"),
    "upstream of the first rows for all": ("upstream[rows]", "upstream[: len(logits)]"),
    "rows counted that are ignored": ("target[target != ignored]", "target"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_do_not_pass(name, monkeypatch):
    before, after = MUTANTS[name]
    with open(module.__file__, encoding="utf-8") as file:
        source = file.read()
    assert before in source
    mutant = type(module)("optimizers.losses.mutant")
    mutant.__package__ = "optimizers.losses"
    exec(compile(source.replace(before, after), "mutant", "exec"), mutant.__dict__)
    for setting in ("SMALL", "CHUNK", "FEWEST_ROWS"):
        monkeypatch.setattr(mutant, setting, getattr(module, setting))
    monkeypatch.setitem(globals(), "linear_cross_entropy", mutant.linear_cross_entropy)
    with pytest.raises(AssertionError):
        for reduction in ("mean", "none"):
            test_every_combination_of_options_follows_float64(reduction, torch.float64)
