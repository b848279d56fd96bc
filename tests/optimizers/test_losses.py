"""Our mean squared error is torch's: values, gradients, dtypes, warnings and errors."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch.nn import functional

from optimizers.losses import MSELoss, mse, mse_loss

REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def pair(*shape: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def value_and_gradients(loss, input, target, **options):
    """Both with an upstream gradient that is not 1."""
    input, target = input.clone().requires_grad_(), target.clone().requires_grad_()
    value = loss(input, target, **options)
    upstream = torch.linspace(-2, 3, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value, *torch.autograd.grad(value, (input, target), upstream)


@REDUCTIONS
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 0, 4), (2, 3, 4)])
def test_value_and_gradients(reduction, shape):
    ours = value_and_gradients(mse_loss, *pair(*shape), reduction=reduction)
    torchs = value_and_gradients(functional.mse_loss, *pair(*shape), reduction=reduction)
    torch.testing.assert_close(ours, torchs, rtol=1e-14, atol=1e-14, equal_nan=True)


@REDUCTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(reduction, dtype):
    ours = value_and_gradients(mse_loss, *pair(50, dtype=dtype), reduction=reduction)
    torchs = value_and_gradients(functional.mse_loss, *pair(50, dtype=dtype), reduction=reduction)
    torch.testing.assert_close(ours, torchs)


@REDUCTIONS
@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float64), (torch.float16, torch.float32), (torch.float32, torch.int64)]
)
def test_mixed_dtypes(reduction, dtypes):
    input, target = (tensor.to(dtype) for tensor, dtype in zip(pair(6), dtypes, strict=True))
    ours, torchs = (loss(input, target, reduction=reduction) for loss in (mse_loss, functional.mse_loss))
    torch.testing.assert_close(ours, torchs)


@REDUCTIONS
def test_weights(reduction):
    weight = torch.tensor([1.0, 3.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    ours = value_and_gradients(mse_loss, *pair(5), reduction=reduction, weight=weight)
    torchs = value_and_gradients(functional.mse_loss, *pair(5), reduction=reduction, weight=weight)
    torch.testing.assert_close(ours, torchs, rtol=1e-14, atol=1e-14)


@REDUCTIONS
def test_module(reduction):
    ours, torchs = (made(reduction=reduction) for made in (MSELoss, torch.nn.MSELoss))
    torch.testing.assert_close(value_and_gradients(ours, *pair(4)), value_and_gradients(torchs, *pair(4)))


def test_gradcheck():
    input, target = (tensor.requires_grad_() for tensor in pair(3, 2))
    assert torch.autograd.gradcheck(mse_loss, (input, target))
    assert torch.autograd.gradgradcheck(mse_loss, (input, target))


def test_different_shapes_warn_as_torch_does():
    (input, _), (target, _) = pair(3, 1), pair(3)
    values = []
    for loss in (mse_loss, functional.mse_loss):
        with pytest.warns(UserWarning, match="different to the input size") as caught:
            values.append(loss(input, target))
        values.append(str(caught[0].message))
        assert caught[0].filename == __file__
    assert values[:2] == values[2:]


def test_shapes_that_do_not_broadcast():
    for loss in (mse_loss, functional.mse_loss):
        with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="must match the size of tensor b"):
            loss(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@REDUCTIONS
def test_only_real_floating_point(dtype, reduction):
    values = torch.ones(2, dtype=dtype)
    for loss in (mse_loss, functional.mse_loss):
        with pytest.raises(NotImplementedError):
            loss(values, values, reduction=reduction)


def test_unknown_reduction():
    for loss in (mse_loss, functional.mse_loss):
        with pytest.raises(ValueError, match="avg is not a valid value for reduction"):
            loss(*pair(2), reduction="avg")


def test_weight_of_another_shape():
    for loss in (mse_loss, functional.mse_loss):
        with pytest.raises(ValueError, match="same size"):
            loss(*pair(2), weight=torch.ones(3))


@pytest.mark.parametrize("flags", [(None, False), (False, None), (True, None), (False, False), (None, True)])
def test_old_flags(flags):
    size_average, reduce = flags
    results = []
    for loss in (mse_loss, functional.mse_loss):
        with pytest.warns(UserWarning, match="will be deprecated") as caught:
            results.append((loss(*pair(4), size_average=size_average, reduce=reduce), str(caught[0].message)))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    with pytest.warns(UserWarning, match="will be deprecated"):
        assert MSELoss(*flags).reduction == torch.nn.MSELoss(*flags).reduction


def test_the_example_in_the_docstring():
    found = doctest.testmod(mse, extraglobs={"torch": torch})
    assert found.attempted > 0 and found.failed == 0
