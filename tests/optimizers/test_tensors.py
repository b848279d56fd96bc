"""Parameters and gradients of every kind: each is stepped as torch's for-loop steps it, or refused before any step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers

from .conftest import NAMES
from .strategies import LAYOUTS, gaps_are_untouched, place
from .test_threads import python


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


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_views_into_larger_memory_are_stepped_and_their_neighbours_left_alone(name, layout):
    sides = both(name, lambda: [Parameter(place(random(3, 4, 5), layout)), Parameter(place(random(7), layout))])
    train(sides)
    assert_equal(sides)
    assert all(gaps_are_untouched(p) for p in sides[0][0])


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_one_flat_buffer_are_stepped_by_a_kernel(name):
    def make() -> list[Parameter]:
        buffer = random(3 + 12 + 1 + 20)
        return [Parameter(buffer[3:15].view(3, 4)), Parameter(buffer[15]), Parameter(buffer[16:])]

    sides = both(name, make)
    train(sides)
    assert_equal(sides)
    assert all(executor_of(sides[0][1], p) == "cpu" for p in sides[0][0])


def test_state_takes_the_layout_of_its_parameter():
    p = Parameter(random(2, 3, 4, 5).to(memory_format=torch.channels_last))
    optimizer = optimizers.Adam([p])
    train([([p], optimizer)])
    assert optimizer.state[p]["exp_avg"].stride() == p.stride()
    assert executor_of(optimizer, p) == "eager"  # its last gradient was contiguous
    p.grad = torch.ones_like(p)
    assert executor_of(optimizer, p) == "cpu"


# --- shared memory ----------------------------------------------------------------------------------------------------


def test_a_module_used_twice_has_one_parameter_that_is_stepped_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    optimizer = optimizers.SGD(model.parameters(), lr=0.5)
    before = model[0].weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    expected = before - 0.5 * model[0].weight.grad
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize("name", NAMES)
def test_two_parameters_over_one_memory_are_stepped_one_after_the_other(name):
    def make() -> list[Parameter]:
        memory = random(6)
        return [Parameter(memory), Parameter(memory.view(2, 3)), Parameter(memory[1:4])]

    sides = both(name, make)
    train(sides)
    assert_equal(sides)


def test_memory_shared_between_processes_is_written_in_place():
    sides = both("Adam", lambda: [Parameter(random(5).share_memory_())])
    addresses = [params[0].data_ptr() for params, _ in sides]
    train(sides)
    assert_equal(sides)
    assert sides[0][0][0].is_shared() and [params[0].data_ptr() for params, _ in sides] == addresses


def test_numpy_sees_the_steps_of_a_parameter_over_its_array():
    array = np.ones(4, np.float32)
    p = Parameter(torch.from_numpy(array))
    p.grad = torch.ones(4)
    optimizers.SGD([p], lr=0.25).step()
    assert array.tolist() == [0.75] * 4


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


# --- conjugate and negative views -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["gradient", "parameter", "both"])
def test_conjugate_views_count_as_the_numbers_they_show(name, of):
    """torch's own loop refuses most of these, so the reference gets the same numbers without the view."""

    def conjugate(t: Tensor) -> Tensor:
        return torch.conj(t.conj().resolve_conj())

    start = random(5, dtype=torch.complex128)
    p = Parameter(conjugate(start) if of != "gradient" else start.clone())
    q = Parameter(start.clone())
    ours, theirs = getattr(optimizers, name)([p], lr=0.1), getattr(torch.optim, name)([q], lr=0.1, foreach=False)
    assert p.is_conj() == (of != "gradient")
    for step in range(3):
        gradient = random(5, seed=step, dtype=torch.complex128)
        p.grad, q.grad = conjugate(gradient) if of != "parameter" else gradient, gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(p.detach().resolve_conj(), q.detach(), rtol=1e-12, atol=1e-12)


def test_autograd_makes_conjugate_gradients():
    """So they are no curiosity: this is how one comes about."""
    p = Parameter(random(5, dtype=torch.complex128))
    (p.conj() * random(5, seed=1, dtype=torch.complex128)).sum().abs().backward()
    assert p.grad is not None and p.grad.is_conj()
    before, expected = p.detach().clone(), p.grad.resolve_conj()
    optimizers.SGD([p], lr=0.5).step()
    torch.testing.assert_close(p.detach(), before - 0.5 * expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["gradient", "parameter", "both"])
def test_negative_views_count_as_the_numbers_they_show(name, of):
    def negative(t: Tensor) -> Tensor:
        return torch._neg_view(-t)

    sides = both(name, lambda: [Parameter(negative(random(5)) if of != "gradient" else random(5))])
    train(sides, change=negative if of != "parameter" else lambda t: t)
    assert_equal(sides)


def test_the_imaginary_part_of_a_conjugate_is_stepped_in_the_memory_it_views():
    z = torch.ones(3, dtype=torch.complex64)
    p = Parameter(z.conj().imag)
    p.grad = torch.ones(3)
    optimizers.SGD([p], lr=0.5).step()
    assert p.tolist() == [-0.5] * 3 and z.tolist() == [1 + 0.5j] * 3


# --- inference mode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_state_made_in_inference_mode_serves_outside(name):
    """torch's loop fails in the second step, so its twin takes both steps outside."""
    sides = both(name, lambda: [Parameter(random(5))])
    for step in range(3):
        gradient = random(5, seed=step)
        for params, optimizer in sides:
            params[0].grad = gradient.clone()
            with torch.inference_mode(step == 0 and optimizer is sides[0][1]):
                optimizer.step()
    assert_equal(sides)


def test_gradients_and_parameters_made_in_inference_mode():
    p = Parameter(torch.ones(3))
    optimizer = optimizers.SGD([p], lr=0.5, momentum=0.5)
    with torch.inference_mode():
        gradient = torch.ones(3)
        q = Parameter(torch.ones(3), requires_grad=False)
        q.grad = torch.ones(3)
        other = optimizers.SGD([q], lr=0.5)
        other.step()
    p.grad = gradient
    optimizer.step()
    assert p.tolist() == q.tolist() == [0.5] * 3
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        other.step()


# --- memory that changes under a parameter ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_data_swapped_between_steps_is_what_is_stepped(name, checks):
    sides = both(name, lambda: [Parameter(random(4, 6)), Parameter(random(3))])
    train(sides)
    old = [params[0].data for params, _ in sides]
    kept = [data.clone() for data in old]
    for params, _ in sides:
        params[0].data = random(4, 6, seed=50)
    train(sides, seed=200)
    for params, _ in sides:
        params[0].data = random(6, 4, seed=60).t()
    train(sides, seed=300)
    assert_equal(sides)
    assert all(map(torch.equal, old, kept))


@pytest.mark.parametrize("name", NAMES)
def test_memory_given_up_and_got_back_between_steps(name, checks):
    """As sharded training does it: without gradient and memory for a while, then with other memory."""
    sides = both(name, lambda: [Parameter(random(40)), Parameter(random(3))])
    train(sides)
    saved = [params[0].detach().clone() for params, _ in sides]
    for params, optimizer in sides:
        params[0].untyped_storage().resize_(0)
        params[0].grad = None
        params[1].grad = random(3, seed=70)
        optimizer.step()
    hold = torch.empty(40, dtype=torch.float64)  # so that it is not the same memory
    for (params, _), value in zip(sides, saved, strict=True):
        params[0].untyped_storage().resize_(40 * 8)
        params[0].data.copy_(value)
    train(sides, seed=200)
    assert_equal(sides)
    del hold


def test_a_gradient_for_a_parameter_without_memory_is_refused():
    """In a process of its own, because writing to its address, which is 0, would end it."""
    done = python(
        """
        import torch, optimizers
        p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
        optimizer = optimizers.Adam([q, p])
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
        before = q.detach().clone()
        p.untyped_storage().resize_(0)
        try:
            optimizer.step()
        except RuntimeError as error:
            assert "no memory" in str(error), error
            assert torch.equal(q, before)
        else:
            raise SystemExit("it stepped")
        """
    )
    assert done.returncode == 0, (done.returncode, done.stderr)


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
