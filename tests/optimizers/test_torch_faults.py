"""What torch's own fused, foreach and for-loop optimizers get wrong on the CPU, and ours do not.

Each test demands that ours agrees with torch's for-loop (or, where that is wrong, with arithmetic), and records whether
the installed torch is still wrong: the summary of the test run lists it. No test fails for torch's sake.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optimizers
from tests.conftest import FAULT

FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
Side = tuple[list[Parameter], torch.optim.Optimizer]


@pytest.fixture
def record(record_property):
    """Notes whether one of torch's optimizers still has a fault."""

    def note(who: str, what: str, there: bool) -> None:
        record_property(FAULT, (who, what, "still there" if there else f"gone in torch {torch.__version__}"))

    return note


def three(name: str, make, **options) -> list[Side]:
    """The same parameters under ours, torch's for-loop and torch's fused kernel; `make` makes them afresh."""
    sides = []
    for module, mode in ((optimizers, {}), (torch.optim, {"foreach": False}), (torch.optim, {"fused": True})):
        params = make()
        sides.append((params, getattr(module, name)(params, **options, **mode)))
    return sides


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train(side: Side, gradients, steps: int = 3) -> list[Parameter]:
    """Steps with the gradients that `gradients(step)` makes, and returns the parameters."""
    params, optimizer = side
    for step in range(steps):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
    return params


def same(a: list[Parameter], b: list[Parameter], tolerance: float = 2e-6) -> bool:
    """Whether parameters are equal up to a few roundings."""
    return all(torch.allclose(p.float(), q.float(), rtol=tolerance, atol=tolerance) for p, q in zip(a, b, strict=True))


def silently_wrong(fused: Side, right: list[Parameter], gradients, steps: int = 3) -> bool:
    """Whether torch's fused kernel steps to somewhere else, and does not refuse to."""
    try:
        return not same(train(fused, gradients, steps), right)
    except (RuntimeError, TypeError, ValueError):
        return False


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sgd_steps_every_element_of_a_half_precision_parameter(dtype, record):
    sizes = (16, 32, 64, 100, 1000)
    ours, loop, fused = three("SGD", lambda: [Parameter(torch.ones(n, dtype=dtype)) for n in sizes], lr=0.5)

    def gradients(step: int) -> list[Tensor]:
        return [torch.full((n,), 0.25, dtype=dtype) for n in sizes]

    right = train(loop, gradients, 1)
    assert same(train(ours, gradients, 1), right, 0.0) and all((p == 0.875).all() for p in right)
    what = f"leaves whole vectors of {str(dtype)[6:]} elements as they are"
    record("fused SGD", what, silently_wrong(fused, right, gradients, 1))


LAYOUTS = {
    "a channels_last parameter and a contiguous gradient": (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t,
    ),
    "a transposed gradient": (lambda t: t, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)),
    "a gradient in channels_last": (lambda t: t, lambda t: t.contiguous(memory_format=torch.channels_last)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FUSED)
def test_gradients_in_another_layout_reach_their_own_elements(name, layout, record):
    of_parameter, of_gradient = LAYOUTS[layout]
    ours, loop, fused = three(name, lambda: [Parameter(of_parameter(random(4, 3, 5, 5)))], lr=0.1)

    def gradients(step: int) -> list[Tensor]:
        return [of_gradient(random(4, 3, 5, 5, seed=step + 1))]

    right = train(loop, gradients)
    assert same(train(ours, gradients), right)
    record(f"fused {name}", f"mixes up the elements of {layout}", silently_wrong(fused, right, gradients))


@pytest.mark.parametrize("name", FUSED)
def test_a_contiguous_checkpoint_goes_on_in_a_channels_last_model(name, record):
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}

    def channels_last(t: Tensor) -> Tensor:
        return t.contiguous(memory_format=torch.channels_last)

    sides = []
    for side in three(name, lambda: [Parameter(random(4, 3, 5, 5))], **options):
        before = train(side, lambda step: [random(4, 3, 5, 5, seed=step + 1)])
        after = [Parameter(channels_last(before[0].detach().clone()))]
        optimizer = type(side[1])(
            after, **options, foreach=side[1].defaults["foreach"], fused=side[1].defaults["fused"]
        )
        optimizer.load_state_dict(side[1].state_dict())
        sides.append((after, optimizer))

    def gradients(step: int) -> list[Tensor]:
        return [channels_last(random(4, 3, 5, 5, seed=step + 9))]

    ours, loop, fused = sides
    right = train(loop, gradients)
    assert same(train(ours, gradients), right)
    what = "reads the state of a contiguous checkpoint in the order of channels_last"
    record(f"fused {name}", what, silently_wrong(fused, right, gradients))


@pytest.mark.parametrize("name", FUSED)
def test_an_expanded_gradient_is_the_one_number_it_shows(name, record):
    memory = random(1000, seed=1)  # so that what is read beyond the first element is ours to read
    ours, loop, fused = three(name, lambda: [Parameter(random(64))], lr=0.1)

    def gradients(step: int) -> list[Tensor]:
        return [memory[step : step + 1].expand(64)]

    right = train(loop, gradients)
    assert same(train(ours, gradients), right)
    record(f"fused {name}", "reads beyond an expanded gradient", silently_wrong(fused, right, gradients))


@pytest.mark.parametrize("name", FUSED)
def test_a_sliced_parameter_leaves_its_neighbours_alone(name, record):
    bases: list[Tensor] = []

    def make() -> list[Parameter]:
        bases.append(torch.ones(50, 2))
        return [Parameter(bases[-1][:, 0])]

    def gradients(step: int) -> list[Tensor]:
        return [torch.ones(50)]

    ours, loop, fused = three(name, make, lr=0.1)
    right = train(loop, gradients)
    assert same(train(ours, gradients), right)
    assert (bases[0][:, 1] == 1).all() and (bases[0][:, 0] != 1).all()
    silently_wrong(fused, right, gradients)
    record(f"fused {name}", "writes to the neighbours of a sliced parameter", bool((bases[2][:, 1] != 1).any()))


@pytest.mark.parametrize("name", FUSED)
def test_backward_through_a_stepped_parameter_is_refused(name, record):
    silent = []
    for params, optimizer in three(name, lambda: [Parameter(torch.full((4,), 3.0))], lr=1.0):
        loss = params[0].square().sum()
        params[0].grad = torch.ones(4)
        optimizer.step()
        try:
            loss.backward()
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            silent.append(False)
        else:
            silent.append(True)
    assert silent[:2] == [False, False]
    record(f"fused {name}", "does not tell autograd that it changed a parameter", silent[2])


def scaled_step(optimizer: torch.optim.Optimizer, p: Parameter, gradient: float, scale: float, found: float) -> None:
    """A step as a GradScaler has it done: the optimizer divides by the scale, and skips where an infinity was found."""
    p.grad = torch.full_like(p, gradient)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(found)
    optimizer.step()


@pytest.mark.parametrize("name", FUSED)
def test_a_scaled_gradient_is_divided_and_left_as_it_is(name, record):
    (p,), (q,), (reference,) = ([Parameter(torch.ones(40))] for _ in range(3))
    scaled_step(getattr(optimizers, name)([p], lr=0.1, fused=True), p, 8.0, 4.0, 0.0)
    assert (p.grad == 8.0).all() and p.grad._version == 0
    reference.grad = torch.full((40,), 2.0)
    getattr(torch.optim, name)([reference], lr=0.1, foreach=False).step()
    assert same([p], [reference])
    scaled_step(getattr(torch.optim, name)([q], lr=0.1, fused=True), q, 8.0, 4.0, 0.0)
    written = bool((q.grad != 8.0).any())
    record(f"fused {name}", "divides a gradient in place and does not tell autograd", written and q.grad._version == 0)


def test_a_first_step_skipped_for_an_overflow_leaves_no_state(record):
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # what is left uninitialised is NaN now
    try:
        params = []
        for module in (optimizers, torch.optim):
            p = Parameter(torch.ones(40))
            optimizer = module.SGD([p], lr=0.1, momentum=0.9, fused=True)
            scaled_step(optimizer, p, torch.inf, 1.0, 1.0)
            assert module is torch.optim or (not optimizer.state and (p == 1).all())
            scaled_step(optimizer, p, 1.0, 1.0, 0.0)
            params.append(p)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    ours, fused = params
    assert torch.allclose(ours, torch.tensor(0.9))
    what = "keeps uninitialised memory as momentum when its first step is skipped"
    record("fused SGD", what, bool(fused.isnan().any()))


def test_a_parameter_may_get_its_first_gradient_after_another(record):
    ours, loop, fused = three("SGD", lambda: [Parameter(torch.ones(4)), Parameter(torch.ones(3))], lr=0.1, momentum=0.9)

    def gradients(step: int) -> list[Tensor | None]:
        return [torch.ones(4), torch.ones(3) if step else None]

    right = train(loop, gradients)
    assert same(train(ours, gradients), right)
    try:
        there = not same(train(fused, gradients), right)
    except TypeError:
        there = True
    record("fused SGD", "fails with momentum when one gradient comes later than another", there)


def test_nesterov_momentum_leaves_the_gradient_alone(record):
    written = []
    for module in (optimizers, torch.optim):
        p = Parameter(torch.ones(4))
        optimizer = module.SGD([p], lr=0.1, momentum=0.9, nesterov=True, foreach=True)
        for _ in range(2):
            p.grad = torch.ones(4)
            optimizer.step()
        written.append(bool((p.grad != 1).any()))
    assert not written[0]
    record("foreach SGD", "writes to the gradient with Nesterov momentum", written[1])


def test_a_group_has_its_own_initial_accumulator_value(record):
    sums = []
    for module in (optimizers, torch.optim):
        p = Parameter(torch.ones(3))
        optimizer = module.Adagrad([{"params": [p], "initial_accumulator_value": 5.0}], foreach=False)
        sums.append(optimizer.state[p]["sum"].tolist())
    assert sums[0] == [5.0] * 3
    record("Adagrad", "gives every group the initial accumulator of the optimizer", sums[1] != [5.0] * 3)


def test_the_centered_variance_does_not_become_negative(record):
    start, gradient = random(1000), random(1000, seed=1)
    results = []
    for module in (optimizers, torch.optim):
        p = Parameter(start.clone())
        optimizer = module.RMSprop([p], centered=True, alpha=0.9, lr=1e-4)
        p.grad = gradient
        for _ in range(300):
            optimizer.step()
        results.append(p.detach())
    assert results[0].isfinite().all()
    record("centered RMSprop", "becomes NaN under constant gradients", bool(results[1].isnan().any()))


def test_the_smallest_second_moment_depends_on_no_other_parameter(record):
    """In torch's loop it is the epsilon of the first parameter's dtype for all of them."""

    def stepped(module, first: torch.dtype) -> Tensor:
        p, q = Parameter(torch.ones(4, dtype=first)), Parameter(random(4, 3))
        p.grad, q.grad = torch.ones_like(p), 1e-4 * random(4, 3, seed=1)
        module.Adafactor([p, q], lr=0.1, foreach=False).step()
        return q.detach()

    assert torch.equal(stepped(optimizers, torch.float32), stepped(optimizers, torch.bfloat16))
    assert torch.allclose(stepped(optimizers, torch.float32), stepped(torch.optim, torch.float32), rtol=1e-5)
    there = not torch.equal(stepped(torch.optim, torch.float32), stepped(torch.optim, torch.bfloat16))
    record("Adafactor", "steps a parameter by the precision of the first one in its list", there)
