"""Direct preference optimization against its formula, at small and large batches."""

from __future__ import annotations

import math

import pytest
import torch

from optimizers import losses

from .agreement import assert_agree, normal


def four(n=9):
    return tuple(normal(n, seed=seed, scale=20.0) for seed in range(4))


@pytest.mark.parametrize(("smoothing", "beta"), [(0.0, 0.1), (0.1, 0.5), (0.5, 0.01)])
def test_dpo_is_its_formula(smoothing, beta):
    def looped(*rows):
        values = []
        for chosen, rejected, reference_chosen, reference_rejected in zip(*rows, strict=True):
            h = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
            values.append((1 - smoothing) * (1 + (-h).exp()).log() + smoothing * (1 + h.exp()).log())
        return torch.stack(values)

    def ours(*rows):
        return losses.dpo_loss(*rows, beta=beta, label_smoothing=smoothing, reduction="none")

    assert_agree(ours, looped, *four())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_ipo_is_its_formula(reduction):
    def looped(a, b, c, d):
        values = torch.stack([((a[i] - b[i]) - (c[i] - d[i]) - 1 / (2 * 0.3)) ** 2 for i in range(len(a))])
        return {"none": values, "mean": values.mean(), "sum": values.sum()}[reduction]

    assert_agree(lambda *rows: losses.dpo_loss(*rows, beta=0.3, kind="ipo", reduction=reduction), looped, *four())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_batch_large_enough_for_a_kernel_gives_the_same(reduction):
    """The kernel's sums are in another order: some roundings."""

    def plain(a, b, c, d):
        h = 0.1 * (a - b - (c - d))
        values = -0.9 * torch.nn.functional.logsigmoid(h) - 0.1 * torch.nn.functional.logsigmoid(-h)
        return {"none": values, "mean": values.mean(), "sum": values.sum()}[reduction]

    def ours(*rows):
        return losses.dpo_loss(*rows, label_smoothing=0.1, reduction=reduction)

    assert_agree(ours, plain, *four(5000))


def test_large_margins_lose_nothing():
    zero = torch.zeros(2)
    chosen = torch.tensor([1e6, -1e6], requires_grad=True)
    value = losses.dpo_loss(chosen, zero, zero, zero, beta=1.0, reduction="none")
    assert value.tolist() == [0, 1e6]
    assert torch.autograd.grad(value.sum(), chosen)[0].tolist() == [0, -1]
    equal = losses.dpo_loss(zero, zero, zero, zero)
    torch.testing.assert_close(equal, torch.tensor(math.log(2)))


def test_half_precision_is_rounded_once():
    rows = tuple(x.bfloat16() for x in four())
    value = losses.dpo_loss(*rows)
    goal = losses.dpo_loss(*(x.double() for x in rows))
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value.double(), goal, rtol=torch.finfo(torch.bfloat16).eps / 2 * 1.01, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, "beta must be positive, and is 0.0"),
        ({"label_smoothing": 0.6}, "between 0 and 0.5, and is 0.6"),
        ({"kind": "kto"}, "kind must be one of sigmoid, ipo, and is kto"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "must be 0 for ipo, and is 0.1"),
        ({"reduction": "avg"}, "avg is not a valid value for reduction"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        losses.dpo_loss(*four(), **options)
    with pytest.raises(ValueError, match=words):
        losses.DPOLoss(**options)


def test_shapes_that_differ_are_named():
    rows = four()
    with pytest.raises(ValueError, match=r"policy_chosen and reference_chosen must have one shape.*\(9,\) and \(1,\)"):
        losses.dpo_loss(rows[0], rows[1], rows[2][:1], rows[3])
