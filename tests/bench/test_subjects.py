"""What is timed is what an optimizer can step, and the loss that L-BFGS is timed with does not come to an end."""

import pytest
import torch

from bench import subjects
from bench.budgets import FULL
from bench.contenders import OPTIMIZERS, TRAITS, Takes
from bench.problems.parameter_sets import ROWS_TOUCHED, SHAPES
from bench.subjects import MADE_FOR, PARAMETER_SETS, maker, unsuitable

ELEMENTWISE = [name for name, traits in TRAITS.items() if traits.takes is Takes.TENSORS]


def subject(optimizer, name):
    return maker(optimizer, name, "cpu", torch.float32, 0)()


def test_every_set_has_an_optimizer_and_every_optimizer_a_set():
    suits = {(name, one) for name in OPTIMIZERS for one in PARAMETER_SETS if not unsuitable(name, one)}
    assert {name for name, _ in suits} == set(OPTIMIZERS)
    assert {one for _, one in suits} == set(PARAMETER_SETS) >= set(FULL.parameter_sets)
    for name in ELEMENTWISE:
        assert {one for other, one in suits if other == name} == set(PARAMETER_SETS) - set(MADE_FOR)
    assert {one for name, one in suits if name == "SparseAdam"} == {"embedding"}
    assert {one for name, one in suits if name == "LBFGS"} == {"mlp", "vector-100k"}


def test_a_reason_names_what_the_optimizer_takes():
    assert unsuitable("Muon", "resnet18") == "Muon takes matrices only, which resnet18 does not have"
    assert "sparse gradients only" in unsuitable("Adam", "embedding")
    assert unsuitable("Adam", "resnet18") == ""


@pytest.mark.parametrize("name", ["matrices-400x32", "matrices-200x64", "matrices-100x256"])
def test_a_set_of_matrices_is_named_after_them(name):
    number, _, side = name.removeprefix("matrices-").partition("x")
    assert SHAPES[name] == ((int(side), int(side)),) * int(number)


def test_muon_gets_the_hidden_matrices_and_no_embedding():
    assert [tuple(p.shape) for p in subject("Muon", "mlp").params] == [(128, 64), (128, 128), (10, 128)]
    hidden = [shape for shape in SHAPES["gpt2"][subjects.EMBEDDINGS["gpt2"] :] if len(shape) == 2]
    assert len(hidden) == 48 and (50257, 768) not in hidden and (1024, 768) not in hidden


def test_a_sparse_gradient_is_as_a_backward_pass_leaves_it():
    (param,) = subject("SparseAdam", "embedding").params
    gradient = param.grad
    assert gradient.is_sparse and not gradient.is_coalesced() and gradient.shape == param.shape == (100_000, 64)
    rows = gradient._indices()[0]
    assert rows.unique().numel() == rows.numel() == ROWS_TOUCHED and not torch.equal(rows, rows.sort().values)
    assert gradient._values().abs().min() >= 0.5 and gradient._values().abs().max() <= 1.5


def test_each_maker_gives_every_contender_the_same_numbers_in_memory_of_its_own():
    for optimizer, name in (("Adam", "mlp"), ("Muon", "mlp"), ("LBFGS", "mlp"), ("SparseAdam", "embedding")):
        make = maker(optimizer, name, "cpu", torch.float32, 3)
        one, other = make(), make()
        for a, b in zip(one.params, other.params, strict=True):
            assert torch.equal(a, b) and a.data_ptr() != b.data_ptr() and a.is_leaf and a.requires_grad
        assert (one.closure is None) == (optimizer != "LBFGS")


def test_many_groups_are_as_many_groups_as_tensors():
    params = [torch.zeros(2), torch.zeros(3)]
    assert subjects.groups("many-groups", params) == [{"params": [params[0]]}, {"params": [params[1]]}]
    assert subjects.groups("mlp", params) is params


def test_the_closure_sets_the_gradients_of_its_loss():
    made = subject("LBFGS", "mlp")
    loss = made.closure()
    flat = torch.cat([p.detach().flatten() for p in made.params]).double()
    slopes = torch.cat([p.grad.flatten() for p in made.params]).double()
    assert loss.item() == pytest.approx((flat * slopes).sum().item() / 2, rel=1e-4)
    ratio = slopes / flat
    assert subjects.CURVATURES[0] * 0.99 < ratio.min() < ratio.max() < subjects.CURVATURES[1] * 1.01
    with torch.no_grad():
        made.params[0][0, 0] += 1.0
    before = made.params[0].grad[0, 0].item()
    made.closure()
    assert made.params[0].grad[0, 0].item() == pytest.approx(before + ratio[0].item(), rel=1e-4)


def test_lbfgs_does_the_same_work_in_every_step_that_is_timed():
    """Each step makes all its iterations, and once the memory is full each adds a pair."""
    made = subjects.with_closure(((40, 50),), "cpu", torch.float32, 0)
    optimizer = torch.optim.LBFGS(made.params, **TRAITS["LBFGS"].timed_with)
    state = optimizer.state[made.params[0]]
    for step in range(1, 300):
        newest = state["old_dirs"][-1] if step > 2 else None
        optimizer.step(made.closure)
        assert state["n_iter"] == state["func_evals"] == 4 * step
        assert state["old_dirs"][-1] is not newest
        if step >= 26:
            assert len(state["old_dirs"]) == 100
