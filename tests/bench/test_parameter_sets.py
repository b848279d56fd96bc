import pytest
import torch

from bench.problems.parameter_sets import SHAPES, copy_of, elements, make

SMALL = ("mlp", "many-small", "many-medium")


@pytest.mark.parametrize(
    ("name", "tensors", "numbers"),
    [
        ("mlp", 6, 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10),
        ("many-small", 300, 300 * 64),
        ("many-medium", 300, 300 * 4096),
        ("resnet18", 62, 11_689_512),
        ("one-big", 1, 33_554_432),
        ("gpt2", 148, 124_439_808),
    ],
)
def test_sets_have_the_published_sizes(name, tensors, numbers):
    assert len(SHAPES[name]) == tensors
    assert elements(name) == numbers


def test_mlp_has_the_shapes_of_the_module():
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 128), torch.nn.Linear(128, 10))
    assert [tuple(param.shape) for param in layers.parameters()] == list(SHAPES["mlp"])


def test_resnet18_begins_and_ends_as_published():
    shapes = SHAPES["resnet18"]
    assert shapes[0] == (64, 3, 7, 7)
    assert shapes[-2:] == ((1000, 512), (1000,))
    assert shapes.count((128, 64, 1, 1)) == shapes.count((256, 128, 1, 1)) == shapes.count((512, 256, 1, 1)) == 1


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_neither_zero_nor_denormal_nor_of_one_sign(name):
    params = make(name)
    assert [tuple(param.shape) for param in params] == list(SHAPES[name])
    grads = torch.cat([param.grad.flatten() for param in params])
    assert grads.abs().min() >= 0.5 and grads.abs().max() <= 1.5
    assert 0.4 < (grads > 0).float().mean() < 0.6
    assert all(param.is_leaf and param.requires_grad and param.grad.shape == param.shape for param in params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_seed_and_dtype(dtype):
    first, again, other = (make("mlp", "cpu", dtype, seed) for seed in (1, 1, 2))
    assert all(param.dtype == param.grad.dtype == dtype for param in first)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and torch.equal(a.grad, b.grad)
        assert not torch.equal(a, c) and not torch.equal(a.grad, c.grad)


def test_copies_share_gradients_and_nothing_else():
    params = make("mlp")
    before = [param.detach().clone() for param in params]
    copies = copy_of(params)
    torch.optim.SGD(copies, lr=1.0).step()
    for param, old, copy in zip(params, before, copies, strict=True):
        assert torch.equal(param, old) and not torch.equal(copy, old)
        assert copy.grad is param.grad


def test_unknown_set_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown parameter set 'resnet19'.*resnet18"):
        make("resnet19")
