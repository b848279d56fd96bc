"""Parameters and gradients of every kind: each is stepped as torch's for-loop steps it, or refused before any step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers

from .conftest import NAMES


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def both(name: str, make, **options) -> list[tuple[list[Parameter], torch.optim.Optimizer]]:
    """The parameters that `make()` makes, under ours and, made again, under torch's for-loop."""
    sides = []
    for module, mode in ((optimizers, {}), (torch.optim, {"foreach": False})):
        params = make()
        sides.append((params, getattr(module, name)(params, **options, **mode)))
    return sides


def train(sides, steps: int = 3, change=lambda gradient: gradient, seed: int = 100) -> None:
    """Steps all sides with the same gradients; `change` gives them the form that is to be tried."""
    for step in range(steps):
        for params, optimizer in sides:
            for i, p in enumerate(params):
                p.grad = change(random(*p.shape, seed=seed + 10 * step + i, dtype=p.dtype).to(p.device))
            optimizer.step()


def assert_equal(sides, tolerance: float = 1e-12) -> None:
    """Parameters and state are the same up to roundings, in the same layout."""
    (ours, mine), (theirs, others) = sides
    for p, q in zip(ours, theirs, strict=True):
        pairs = [(p, q), *((mine.state[p][key], t) for key, t in others.state[q].items())]
        assert list(mine.state[p]) == list(others.state[q])
        for x, y in pairs:
            assert x.dtype == y.dtype and x.shape == y.shape
            if x.device.type != "meta":
                torch.testing.assert_close(x.detach(), y.detach(), rtol=tolerance, atol=tolerance)


def executor_of(optimizer, p: Tensor) -> str:
    return next(executor for q, executor, _ in optimizer.executors() if q is p)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes", [[()], [(0,)], [(3,), (0,)], [(0, 4), (), (2, 0, 3)], [(1, 1, 1), (5,), ()]], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_zero_dimensions_and_zero_elements(name, shapes):
    sides = both(name, lambda: [Parameter(random(*shape, seed=i)) for i, shape in enumerate(shapes)])
    train(sides)
    assert_equal(sides)
    assert all(executor_of(sides[0][1], p) == "cpu" for p in sides[0][0])


def test_an_empty_parameter_alone_counts_its_steps():
    p = Parameter(torch.zeros(0, 7))
    optimizer = optimizers.Adam([p])
    for _ in range(3):
        p.grad = torch.zeros(0, 7)
        optimizer.step()
    assert optimizer.state[p]["step"] == 3


# --- dtypes and devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_devices_mix_in_one_optimizer(name):
    """Each parameter ends where it ends alone, in ours bit by bit, and in torch's loop."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.float16, torch.complex128)

    def make(i: int) -> Parameter:
        return Parameter(random(9, seed=i).to(dtypes[i]))

    mixed, without_data = [make(i) for i in range(len(dtypes))], Parameter(torch.empty(5, device="meta"))
    together = getattr(optimizers, name)([*mixed[:2], without_data, *mixed[2:]])
    alone = [both(name, lambda i=i: [make(i)]) for i in range(len(dtypes))]
    for step in range(3):
        without_data.grad = torch.empty(5, device="meta")
        for i, dtype in enumerate(dtypes):
            gradient = random(9, seed=10 * step + i).to(dtype)
            for p in (mixed[i], *(params[0] for params, _ in alone[i])):
                p.grad = gradient.clone()
        for optimizer in (together, *(optimizer for sides in alone for _, optimizer in sides)):
            optimizer.step()
    for i, dtype in enumerate(dtypes):
        ours, theirs = (params[0].detach() for params, _ in alone[i])
        assert torch.equal(mixed[i], ours), dtype
        double = dtype in (torch.float64, torch.complex128)
        tolerance = 1e-12 if double else 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    state = together.state[without_data]
    assert all(t.device.type == "meta" for key, t in state.items() if key not in together.algorithm.scalars)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad", "RMSprop"])
def test_a_gradient_of_another_dtype_counts_as_the_number_it_is(name):
    """torch's loop takes it in some optimizers only, so the reference is the same gradient in the parameter's dtype."""
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this torch has no grad_dtype")
    p, q = Parameter(random(40).bfloat16()), Parameter(random(40).bfloat16())
    p.grad_dtype = torch.float32
    ours, reference = getattr(optimizers, name)([p], lr=0.1), getattr(optimizers, name)([q], lr=0.1)
    for step in range(3):
        gradient = random(40, seed=step).bfloat16()
        p.grad, q.grad = gradient.float(), gradient
        ours.step()
        reference.step()
        assert p.grad.dtype == torch.float32
    assert torch.equal(p, q)


def test_a_model_made_double_in_the_middle_of_a_run_goes_on():
    model = torch.nn.Linear(4, 3)
    twin = torch.nn.Linear(4, 3).double()
    twin.load_state_dict(model.state_dict())
    optimizer, reference = optimizers.Adam(model.parameters(), lr=0.1), torch.optim.Adam(twin.parameters(), lr=0.1)
    for step in range(6):
        if step == 3:
            model.double()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            gradient = random(*p.shape, seed=step)
            p.grad, q.grad = gradient.to(p.dtype), gradient
        optimizer.step()
        reference.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.dtype == torch.float64
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-5)


# --- tensors that are not plain ---------------------------------------------------------------------------------------


class Labelled(Tensor):
    """A subclass that only has another name."""


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_subclass_keeps_its_class_and_so_does_its_state(name):
    sides = both(name, lambda: [Parameter(random(5).as_subclass(Labelled))])
    train(sides, change=lambda gradient: gradient.as_subclass(Labelled))
    assert_equal(sides)
    ((p,), ours), ((q,), theirs) = sides
    assert type(p) is type(q)
    assert [type(t) for t in ours.state[p].values()] == [type(t) for t in theirs.state[q].values()]
    assert executor_of(ours, p) == "eager"


def test_a_lazy_parameter_is_stepped_once_it_has_a_shape():
    model = torch.nn.LazyLinear(2)
    optimizer = optimizers.Adam(model.parameters(), lr=0.1)
    optimizer.step()
    model(torch.ones(1, 3)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 0.1)


def test_a_parameter_that_requires_no_gradient_is_stepped_if_it_has_one():
    p, q = Parameter(torch.ones(3), requires_grad=False), Parameter(torch.ones(3), requires_grad=False)
    p.grad = torch.ones(3)
    optimizers.SGD([p, q], lr=0.5).step()
    assert p.tolist() == [0.5] * 3 and q.tolist() == [1.0] * 3


def test_values_at_the_ends_of_their_range_are_stepped_as_torch_steps_them():
    numbers = [0.0, -0.0, 5e-324, -1e-310, 1e308, -math.inf, math.inf, math.nan, 1.0]
    for name in NAMES:
        sides = both(name, lambda: [Parameter(torch.tensor(numbers, dtype=torch.float64))])
        for params, optimizer in sides:
            for shift in range(3):
                params[0].grad = torch.tensor(numbers, dtype=torch.float64).roll(shift)
                optimizer.step()
        ours, theirs = sides[0][0][0].detach(), sides[1][0][0].detach()
        torch.testing.assert_close(
            ours, theirs, rtol=1e-12, atol=1e-290, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- all or nothing ---------------------------------------------------------------------------------------------------


def of_another_shape() -> Parameter:
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    p.data = torch.ones(4)
    return p


def of_inference_mode() -> Parameter:
    with torch.inference_mode():
        p = Parameter(torch.ones(3), requires_grad=False)
        p.grad = torch.ones(3)
    return p


def over_itself() -> Parameter:
    p = Parameter(torch.ones(1).expand(3))
    p.grad = torch.ones(3)
    return p


def of_eight_bits() -> Parameter:
    p = Parameter(torch.ones(3).to(torch.float8_e4m3fn), requires_grad=False)
    p.grad = torch.ones(3).to(torch.float8_e4m3fn)
    return p


def of_integers() -> Parameter:
    p = Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
    p.grad = torch.ones(3, dtype=torch.int64)
    return p


@pytest.mark.parametrize("bad", [of_another_shape, of_inference_mode, over_itself, of_eight_bits, of_integers])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_parameter_that_cannot_be_stepped_stops_the_step_before_it_begins(bad, place):
    good = Parameter(torch.ones(3))
    good.grad = torch.ones(3)
    params = [bad(), good] if place == "first" else [good, bad()]
    optimizer = optimizers.Adam(params)
    with pytest.raises((RuntimeError, NotImplementedError)):
        optimizer.step()
    assert good.tolist() == [1.0] * 3 and not optimizer.state


def test_a_complex_gradient_for_a_real_parameter_is_refused():
    if not hasattr(torch.Tensor, "grad_dtype"):
        raise AssertionError("this torch refuses it before there is a step")
    p = Parameter(torch.ones(3))
    p.grad_dtype = torch.complex64
    p.grad = torch.full((3,), 1 + 1j)
    with pytest.raises(RuntimeError):
        optimizers.Adam([p]).step()
