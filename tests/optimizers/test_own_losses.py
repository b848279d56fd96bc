"""What all losses beyond torch's have in common: gradients of gradients, reductions, dtypes, inputs, modules."""

from __future__ import annotations

import inspect

import pytest
import torch

from optimizers import losses
from optimizers.losses import robust
from optimizers.losses.module import FunctionLoss

from .agreement import indices, normal, value_and_gradients

# large enough a scale that no example lies at a kink of the hinges, where there is no derivative to compare with
LOGITS, CLASSES = normal(5, 4, scale=2.0), indices(5, classes=4)
IMAGES, LABELS = normal(2, 3, 2, 3), indices(2, 2, 3, classes=3)
MASKS = (normal(2, 3, 2, 3, seed=2) > 0).double()
ROWS, OTHERS, GROUPS = normal(6, 3), normal(6, 3, seed=1), torch.tensor([0, 1, 0, 2, 1, 0])

#: by module: the floating-point inputs that get a gradient, those that do not, and options
CASES = [
    ("SoftmaxFocalLoss", (LOGITS,), (CLASSES,), {"gamma": 1.5, "alpha": torch.tensor([0.1, 0.2, 0.3, 0.4])}),
    ("ZLossCrossEntropyLoss", (LOGITS,), (CLASSES,), {"z": 0.1, "softcap": 3.0, "label_smoothing": 0.1}),
    ("Poly1CrossEntropyLoss", (LOGITS,), (CLASSES,), {"epsilon": 2.0}),
    ("DiceLoss", (IMAGES,), (LABELS,), {"squared": True}),
    ("DiceLoss", (IMAGES,), (MASKS,), {"batch": True}),
    ("GeneralizedDiceLoss", (IMAGES,), (LABELS,), {}),
    ("TverskyLoss", (IMAGES,), (LABELS,), {"alpha": 0.3}),
    ("FocalTverskyLoss", (IMAGES,), (MASKS,), {"ignore_index": 0}),
    ("LovaszHingeLoss", (IMAGES,), (MASKS,), {}),
    ("LovaszSoftmaxLoss", (IMAGES,), (LABELS,), {"batch": True}),
    ("JensenShannonDiv", (LOGITS, normal(5, 4, seed=3)), (), {"beta": 0.2}),
    ("GeneralizedKLDiv", (LOGITS.exp(),), (normal(5, 4, seed=3).abs(),), {}),
    ("InfoNCELoss", (ROWS, OTHERS), (), {"symmetric": True, "temperature": 0.5}),
    ("NTXentLoss", (ROWS, OTHERS), (), {"temperature": 0.5}),
    ("SigLIPLoss", (ROWS, OTHERS), (), {"bias": -1.0}),
    ("SupervisedContrastiveLoss", (ROWS,), (GROUPS,), {"temperature": 0.5}),
    ("TripletMiningLoss", (ROWS,), (GROUPS,), {"margin": 1.0}),
    ("TripletMiningLoss", (ROWS,), (GROUPS,), {"margin": None, "mining": "semi_hard", "squared": True}),
    ("DPOLoss", (normal(5), normal(5, seed=1), normal(5, seed=2), normal(5, seed=3)), (), {"label_smoothing": 0.1}),
    ("DPOLoss", (normal(5), normal(5, seed=1), normal(5, seed=2), normal(5, seed=3)), (), {"kind": "ipo"}),
]
NAMED = pytest.mark.parametrize(
    ("name", "inputs", "fixed", "options"), CASES, ids=lambda x: x if type(x) is str else ""
)


def test_every_loss_with_a_module_of_its_own_is_here():
    classes = {name: getattr(losses, name) for name in losses.__all__ if inspect.isclass(getattr(losses, name))}
    own = {name for name, kind in classes.items() if issubclass(kind, FunctionLoss)}
    assert own - set(vars(robust)) == {case[0] for case in CASES}


@NAMED
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradients_and_their_gradients_are_those_of_the_value(name, inputs, fixed, options, reduction):
    loss = getattr(losses, name)(**options, reduction=reduction)
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(lambda *a: loss(*a, *fixed), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: loss(*a, *fixed), inputs)


@NAMED
def test_sum_and_mean_are_of_the_values(name, inputs, fixed, options):
    none, mean, total = (
        getattr(losses, name)(**options, reduction=r)(*inputs, *fixed) for r in ("none", "mean", "sum")
    )
    torch.testing.assert_close(total, none.sum())
    counted = 5 if name == "SupervisedContrastiveLoss" else none.numel()  # one of the rows has no partner
    torch.testing.assert_close(mean, none.sum() / counted)
    with pytest.raises(ValueError, match="avg is not a valid value for reduction; choose one of none, mean, sum"):
        getattr(losses, name)(**options, reduction="avg")


@NAMED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_smaller_dtypes_are_worked_in_float32_and_rounded_once(name, inputs, fixed, options, dtype):
    """Of inputs exact in the dtype: half a unit of the result's dtype, and some tens of roundings of float32."""
    loss = getattr(losses, name)(**options)
    inputs = tuple(x.to(dtype) for x in inputs)
    others = tuple(x.to(dtype) if x.is_floating_point() else x for x in fixed)
    value, *gradients = value_and_gradients(loss, *inputs, *others)
    exact, *slopes = value_and_gradients(
        loss, *(x.double() if x.is_floating_point() else x for x in (*inputs, *others))
    )
    unit = torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 0.0
    rounding = 50 * torch.finfo(torch.float32).eps
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=1.01 * unit + rounding, atol=rounding)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert gradient.dtype == dtype
        # the upstream gradient was rounded too, and what is tiny in float16 has a coarser unit
        size = slope.abs().max().item()
        atol = 10 * rounding * size + torch.finfo(dtype).tiny * torch.finfo(dtype).eps
        torch.testing.assert_close(gradient.double(), slope, rtol=2.1 * unit + rounding, atol=atol)


@NAMED
def test_inputs_are_not_changed_and_strides_do_not_matter(name, inputs, fixed, options):
    loss = getattr(losses, name)(**options)
    arguments = (*inputs, *fixed)
    before = [x.clone() for x in arguments]
    goal = loss(*arguments)
    assert all(map(torch.equal, arguments, before))
    odd = [torch.stack((x, x), -1)[..., 0] for x in arguments]
    assert not any(x.is_contiguous() for x in odd)
    torch.testing.assert_close(loss(*odd), goal)


@NAMED
def test_the_module_is_the_function_with_options(name, inputs, fixed, options):
    module = getattr(losses, name)(**options)
    torch.testing.assert_close(module(*inputs, *fixed), type(module).function(*inputs, *fixed, **options))
    assert all(f"{option}=" in repr(module) for option in options)
    assert not list(module.parameters())
    with pytest.raises(TypeError, match="has no option colour; its options are"):
        getattr(losses, name)(colour="red")


def test_options_that_are_tensors_move_and_learn_with_the_module():
    alpha = torch.tensor([0.1, 0.9])
    module = losses.SoftmaxFocalLoss(alpha=alpha).double()
    assert module.alpha.dtype == torch.float64 and "alpha" in module.state_dict()
    learned = losses.InfoNCELoss(temperature=torch.nn.Parameter(torch.tensor(0.5)))
    pair = normal(4, 3).float(), normal(4, 3, seed=1).float()
    learned(*pair).backward()
    assert learned.temperature.grad.ne(0)
    scaled = losses.SigLIPLoss(
        scale=torch.nn.Parameter(torch.tensor(10.0)), bias=torch.nn.Parameter(torch.tensor(-9.0))
    )
    scaled(normal(4, 3).float(), normal(4, 3, seed=1).float()).backward()
    assert scaled.scale.grad.ne(0) and scaled.bias.grad.ne(0)


@NAMED
def test_transforms_give_the_same_gradient(name, inputs, fixed, options):
    def loss(x):
        return getattr(losses, name)(**options)(x, *inputs[1:], *fixed)

    x = inputs[0].clone().requires_grad_()
    (goal,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(inputs[0]), goal)
    if "Triplet" not in name:  # whose number depends on the data
        both = torch.func.vmap(torch.func.grad(loss))(torch.stack((inputs[0], inputs[0])))
        torch.testing.assert_close(both, torch.stack((goal, goal)))
