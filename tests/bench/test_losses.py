"""The losses that are measured: what they are fed, and what they are compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import losses
from bench.budgets import BUDGETS
from bench.losses import LOSSES, SIZES, draw, least_bytes, tensors
from bench.problems.networks import FITTING
from bench.ulp import FORMATS, rounded

ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@ALL
@pytest.mark.parametrize("dtype", FORMATS)
def test_what_is_drawn_is_held_exactly_and_depends_on_the_seed_only(loss, dtype):
    shape = loss.verified_shapes[-1]
    x, y = draw(loss, shape, dtype, 0)
    assert x.shape == shape and np.array_equal(x, rounded(x, dtype))
    again, other = draw(loss, shape, dtype, 0), draw(loss, shape, dtype, 1)
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1]) and not np.array_equal(x, other[0])
    input, target = tensors(loss, (x, y), dtype, "cpu")
    assert input.requires_grad and input.is_leaf and not target.requires_grad
    assert np.array_equal(input.detach().double().numpy(), x) and np.array_equal(target.double().numpy(), y)


@ALL
def test_the_reference_is_finite_and_has_a_gradient_with_every_reduction(loss):
    """Else a check would compare nan with nan, or nothing with nothing."""
    input, target = tensors(loss, draw(loss, loss.verified_shapes[0], "float64", 0), "float64", "cpu")
    values = loss.reference(input, target, reduction="none")
    for reduction in loss.reductions:
        value = loss.reference(input, target, reduction=reduction)
        (gradient,) = torch.autograd.grad(value.sum(), input)
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all() and gradient.abs().max() > 0
        assert value.shape == (values.shape if reduction == "none" else ())


def test_formulas_are_no_loss_of_ours():
    """A formula that is ours under another name would prove nothing."""
    for loss in LOSSES.values():
        for module in (loss.reference, getattr(loss.reference, "func", loss.reference)):
            assert not module.__module__.startswith("optimizers"), loss.name


def test_every_name_is_a_loss_and_every_size_has_one():
    for budget in BUDGETS.values():
        assert set(budget.loss_names or ()) <= set(LOSSES) and set(budget.loss_sizes) <= set(SIZES)
    assert {size for loss in LOSSES.values() for size in loss.sizes} == set(SIZES)
    assert {name for fitting in FITTING.values() for name in fitting} <= set(LOSSES)


def test_short_names_are_names_of_their_own():
    assert [losses.short(name) for name in ("mse_loss", "kl_div")] == ["mse", "kl_div"]
    assert losses.short("binary_cross_entropy_with_logits") == "bce_with_logits"
    assert len({losses.short(name) for name in LOSSES}) == len(LOSSES)


def test_the_least_traffic():
    """Elementwise: two tensors in, one out; of logits one in, one out; of vectors all in, one out."""
    assert least_bytes(LOSSES["mse_loss"], 1000, 4) == 12_000
    assert least_bytes(LOSSES["cross_entropy"], 1000, 4) == 8000
    assert least_bytes(LOSSES["mse_loss"], 1000, 2) == 6000
    assert least_bytes(LOSSES["cosine_embedding_loss"], 1000, 4) == 12_000
    assert least_bytes(LOSSES["triplet_margin_loss"], 1000, 4) == 16_000
