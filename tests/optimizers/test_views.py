"""Views, shared or changing memory, inference mode: parameters are stepped as torch's for-loop steps them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers

from .conftest import NAMES
from .strategies import LAYOUTS, gaps_are_untouched, place
from .test_tensors import assert_equal, both, executor_of, random, train
from .test_threads import python

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
