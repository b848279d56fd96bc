"""Our losses are torch's: its own sample inputs, error inputs and modules, with kernels even for the smallest."""

from __future__ import annotations

import doctest
import importlib
import itertools

import pytest
import torch
from torch.nn import functional
from torch.testing._internal.common_methods_invocations import op_db

from optimizers import losses
from optimizers.losses import elementwise, fused

from .agreement import by_rows_for_the_smallest

#: torch's entries, some of which are variants of one function; each has its own samples
OPS = {
    f"{name}-{op.variant_test_name}" if op.variant_test_name else name: op
    for op in op_db
    if (name := op.name.removeprefix("nn.functional.")) != op.name and name in losses.__all__
}
#: how many of its samples run, where there are hundreds: every so many
EVERY = {"linear_cross_entropy": 5, "linear_cross_entropy-chunked": 5, "linear_cross_entropy-chunked_none": 5}
EVERY["gaussian_nll_loss"] = 3
MODULES = [name for name in losses.__all__ if hasattr(torch.nn, name)]
#: modules of more than an input and a target of its shape; `test_torch_modules.py` has them
OTHERS = ("CTCLoss", "CosineEmbeddingLoss", "GaussianNLLLoss", "MarginRankingLoss", "MultiLabelMarginLoss")
OTHERS += ("MultiMarginLoss", "NLLLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss")
#: what a constructor cannot do without
NEEDED = {"AdaptiveLogSoftmaxWithLoss": (16, 6, [2, 4]), "LinearCrossEntropyLoss": (4, 3)}


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", 0)
    module = importlib.import_module("optimizers.losses.cross_entropy")
    monkeypatch.setattr(module, "_pays", lambda *args: True)
    module._kernel.cache_clear()
    with by_rows_for_the_smallest():
        yield
    module._kernel.cache_clear()


def results(function, sample):
    """The value, and the gradients of all that wants one for a random upstream gradient."""
    given = (sample.input, *sample.args, *sample.kwargs.values())
    inputs = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    value = function(sample.input, *sample.args, **sample.kwargs)
    if not value.requires_grad:
        return (value,)
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
    return value, *torch.autograd.grad(value, inputs, upstream, allow_unused=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entry", OPS)
def test_torchs_samples(entry, dtype):
    if dtype not in OPS[entry].supported_dtypes("cpu"):
        pytest.skip(f"torch has no {entry} in {dtype}")
    name, n = entry.split("-")[0], 0
    samples = OPS[entry].sample_inputs("cpu", dtype, requires_grad=True)
    for sample in itertools.islice(samples, 0, None, EVERY.get(entry, 1)):
        ours, theirs = results(getattr(losses, name), sample), results(getattr(functional, name), sample)
        # the defaults allow for other orders of sums; torch works bfloat16 in bfloat16, we in float32
        options = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
        if entry == "ctc_loss" and dtype == torch.float32:  # torch's gradient has three digits, ours seven
            options = {"rtol": 5e-3, "atol": 5e-4}
        torch.testing.assert_close(ours, theirs, equal_nan=True, **options)
        n += 1
    assert n > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("entry", [entry for entry, op in OPS.items() if op.error_inputs_func is not None])
def test_torchs_error_inputs(entry):
    for case in OPS[entry].error_inputs("cpu"):
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            getattr(losses, entry.split("-")[0])(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("name", MODULES)
def test_modules_stand_in_for_torchs(name):
    needed = NEEDED.get(name, ())
    ours, theirs = getattr(losses, name)(*needed), getattr(torch.nn, name)(*needed)
    assert isinstance(ours, getattr(torch.nn, name)) and repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", [name for name in MODULES if name not in NEEDED and name not in OTHERS])
def test_modules_pass_their_options_on(name, reduction):
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    options = {
        "HuberLoss": {"delta": 0.3},
        "SmoothL1Loss": {"beta": 0.3},
        "HingeEmbeddingLoss": {"margin": 2.0},
        "PoissonNLLLoss": {"log_input": False, "eps": 0.5},
        "KLDivLoss": {"log_target": True},
        "BCELoss": {"weight": torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)},
        "BCEWithLogitsLoss": {"pos_weight": torch.tensor(2.0, dtype=torch.float64)},
        "MultiLabelSoftMarginLoss": {"weight": torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)},
        "CrossEntropyLoss": {"label_smoothing": 0.1, "ignore_index": 2},
    }.get(name, {})
    if name == "CrossEntropyLoss":
        target = torch.tensor([0, 1, 2, 3, 0, 2])
    elif name in ("HingeEmbeddingLoss", "SoftMarginLoss"):
        target = (target - 0.5).sign()
    elif name == "BCELoss":
        input = input.detach().sigmoid().requires_grad_()
    elif name == "PoissonNLLLoss":
        input = input.detach().abs().requires_grad_()
    values = []
    for module in (losses, torch.nn):
        value = getattr(module, name)(reduction=reduction, **options)(input, target)
        values.append((value, *torch.autograd.grad(value.sum() * 3, input)))
    torch.testing.assert_close(*values)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "kl_div", "soft_margin_loss"])
def test_empty_broadcast_and_mixed_inputs_are_as_in_torch(name):
    ours, theirs = getattr(losses, name), getattr(functional, name)
    for input, target in (
        (torch.ones(0), torch.ones(0)),
        *([] if name == "soft_margin_loss" else [(torch.ones(3, 1), torch.ones(3))]),
        (torch.ones(4), torch.ones(4, dtype=torch.float64)),
        (torch.tensor(2.0), torch.tensor(1.0)),
    ):
        torch.testing.assert_close(ours(input, target), theirs(input, target), equal_nan=True)
    with pytest.raises(ValueError, match="avg is not a valid value for reduction"):
        ours(torch.ones(2), torch.ones(2), reduction="avg")


def test_what_torch_gets_wrong_without_need_is_right_on_request():
    x, y = torch.tensor([200.0, -200.0], requires_grad=True), torch.tensor([-1.0, -1.0])
    assert losses.soft_margin_loss(x, y).isinf() and functional.soft_margin_loss(x, y).isinf()
    value = losses.soft_margin_loss(x, y, exact=True)
    assert value == 100 and torch.autograd.grad(value, x)[0].tolist() == [0.5, 0.0]
    log_p, p = torch.tensor([float("-inf"), 0.0]), torch.tensor([0.0, 1.0])
    assert losses.kl_div(log_p, p, reduction="sum").isnan()
    assert losses.kl_div(log_p, p, reduction="sum", exact=True) == 0
    assert losses.kl_div(log_p, p, reduction="batchmean", exact=True) == 0


def test_the_mean_of_many_halves_does_not_overflow():
    x = torch.full((200_000,), 200.0, dtype=torch.float16)
    assert losses.l1_loss(x, torch.zeros_like(x)) == 200


@pytest.mark.parametrize("module", ["binary", "cross_entropy", "margins", "pointwise", "probabilities", "robust"])
def test_the_examples_in_the_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"optimizers.losses.{module}"), extraglobs={"torch": torch})
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_made_where_gradients_are_off(mode):
    """An evaluation that looks at a leaf would take three times as long."""
    asked = []

    class Kernel:
        def forward(self, tensors, wanted):
            asked.append(wanted)
            return tensors[0].detach().sum(), [torch.ones(3) if one else None for one in wanted]

    x = torch.ones(3, requires_grad=True)
    with mode():
        assert not fused.by_kernel(Kernel(), x, None).requires_grad
    fused.by_kernel(Kernel(), x, None).backward()
    assert asked == [(False, False), (True, False)] and (x.grad == 1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["l1", "mse", "huber", "smooth_l1", "hinge_embedding"])
def test_what_is_not_finite_shows_in_the_gradient_as_in_torch(name, bad):
    x, y = torch.linspace(-2, 2, 4096), torch.tensor([1.0, -1.0]).repeat(2048)
    x[100:102] = bad
    found = []
    for library in (losses, functional):
        own = x.clone().requires_grad_()
        values = getattr(library, f"{name}_loss")(own, y, reduction="none")
        getattr(library, f"{name}_loss")(own, y, reduction="sum").backward()
        found.append((values.detach(), own.grad))
    torch.testing.assert_close(found[0], found[1], equal_nan=True)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("place", range(3))
def test_nan_in_a_triplet_shows_in_the_gradients_as_in_torch(place, swap):
    vectors = torch.randn(3, 128, 64, generator=torch.Generator().manual_seed(0))
    vectors[place, 5, 7] = float("nan")
    found = []
    for library in (losses, functional):
        own = [vector.clone().requires_grad_() for vector in vectors]
        library.triplet_margin_loss(*own, swap=swap, reduction="sum").backward()
        found.append([vector.grad for vector in own])
    torch.testing.assert_close(found[0], found[1], equal_nan=True, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5000), (512, 10), (300, 10, 30)])
def test_the_weight_of_a_class_that_no_target_has_changes_nothing(shape):
    """One over the number of its examples is infinite."""
    x, target = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.zeros(shape[0], *shape[2:]).long()
    weight = torch.ones(shape[1])
    weight[7] = float("inf")
    found = []
    for library in (losses, functional):
        own = x.clone().requires_grad_()
        library.cross_entropy(own, target, weight).backward()
        found.append(own.grad)
    torch.testing.assert_close(found[0], found[1])
