"""The elementwise losses of three tensors: slopes against autograd, kernels against float64, every set of gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from optimizers import losses
from optimizers.losses import elementwise
from optimizers.losses.triples import TRIPLES

CONSTANTS = {"gaussian_nll": (0.1, 0.9), "margin_ranking": (0.5,), "weighted_bce_with_logits": (3.0,)}
NAMES = pytest.mark.parametrize("name", sorted(TRIPLES))


def samples(name, n=5000, dtype=torch.float64):
    """Tensors of the kind that the loss is made for, exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)
    x, z = (2 * torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    y, w = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
    tensors = {
        "gaussian_nll": (x, z, 3 * w),
        "margin_ranking": (x, z, (y - 0.5).sign()),
        "weighted_bce": (x.sigmoid() * 0.98 + 0.01, y, w),
    }.get(name, (x, y, w))
    return [t.to(dtype).double() for t in tensors]


def differentiable(name):
    return [slope is not None for slope in TRIPLES[name].slopes]


def exact(name, tensors, wanted, reduction="sum", upstream=None):
    """Value and gradients in float64, by autograd of the plain form."""
    tensors = [t.clone().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
    value = TRIPLES[name].plain(tensors, (reduction, CONSTANTS.get(name, ())))
    those = [t for t in tensors if t.requires_grad]
    return value.detach(), *torch.autograd.grad(value, those, torch.ones_like(value) if upstream is None else upstream)


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", 0)
    monkeypatch.setattr(elementwise, "SMALL_ALONE", 0)


@NAMES
def test_the_slopes_are_the_derivatives_of_the_value(name):
    tensors, loss, constants = samples(name), TRIPLES[name], CONSTANTS.get(name, ())
    value, *gradients = exact(name, tensors, differentiable(name))
    torch.testing.assert_close(loss.value(*tensors, *constants).sum(), value)
    slopes = [slope(*tensors, *constants) for slope in loss.slopes if slope is not None]
    for slope, gradient in zip(slopes, gradients, strict=True):
        torch.testing.assert_close(slope, gradient, rtol=1e-9, atol=1e-11)


CASES = [(name, torch.float32) for name in sorted(TRIPLES)]
CASES += [("gaussian_nll", dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_kernel_follows_float64_for_every_set_of_gradients(name, dtype):
    """A few roundings of numbers up to 64 times as large as the result or 1; then one rounding to the dtype."""
    pytest.importorskip("numba")
    tensors = samples(name, dtype=dtype)
    sets = [(True, False, False)]
    if differentiable(name)[1]:
        sets += [(False, True, False), (True, True, False)]
    if differentiable(name)[2]:
        sets = [(True, False, True), (True, True, True)] if dtype == torch.float32 else [(True, False, True)]
    for wanted, reduction in itertools.product(sets, ("mean", "sum", "none")):
        given = [t.to(dtype).requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
        value = TRIPLES[name](given[0], tuple(given[1:]), reduction, CONSTANTS.get(name, ()))
        assert value.dtype == dtype and "_Fused" in type(value.grad_fn).__name__
        upstream = torch.linspace(-2, 3, value.numel(), dtype=torch.float64).reshape(value.shape).to(dtype)
        gradients = torch.autograd.grad(value, [t for t in given if t.requires_grad], upstream)
        goals = exact(name, tensors, wanted, reduction, upstream.double())
        work = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        for got, want in zip((value.detach(), *gradients), goals, strict=True):
            assert got.dtype == dtype
            size = want.abs()
            room = 2 * torch.finfo(dtype).eps * size + 64 * work * (size + size.mean() + 1e-3) + torch.finfo(dtype).tiny
            assert ((got.double() - want).abs() <= room).all(), (wanted, reduction)


def calls():
    """Losses that a kernel computes, by their public names, and what they are called with, in float64."""
    generator = torch.Generator().manual_seed(0)
    x, z, v = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    x[0, 0], v = 0.0, v.abs() + 0.2  # a logit of 0 is where many a formula has a kink that the loss has not
    y, p = torch.rand(4, 3, generator=generator, dtype=torch.float64), (x * 0.5).sigmoid()
    sign, weight = (y - 0.5).sign(), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    near = z.clone()
    near[1] = x[1]  # no error at all
    yield from (
        (losses.mse_loss, (x, near), (0,), {}),
        (losses.huber_loss, (x, near), (0,), {"delta": 0.7}),
        (losses.smooth_l1_loss, (x, near), (0,), {"beta": 0.7}),
        (losses.binary_cross_entropy, (p, y), (0,), {}),
        (losses.binary_cross_entropy, (p, y, weight), (0,), {}),
        (losses.binary_cross_entropy, (p, y), (0,), {"exact": True}),
        (losses.binary_cross_entropy_with_logits, (x, y), (0,), {}),
        (losses.binary_cross_entropy_with_logits, (x, y), (0,), {"exact": True}),
        (losses.binary_cross_entropy_with_logits, (x, y, weight), (0,), {"pos_weight": weight[2]}),
        (losses.binary_cross_entropy_with_logits, (x, y), (0,), {"pos_weight": weight}),
        (losses.binary_cross_entropy_with_logits, (x, y), (0,), {"pos_weight": weight[:1]}),
        (losses.multilabel_soft_margin_loss, (x, y), (0,), {}),
        (losses.kl_div, (x, y), (0,), {}),
        (losses.poisson_nll_loss, (x, y), (0,), {}),
        (losses.soft_margin_loss, (x, sign), (0,), {}),
        (losses.soft_margin_loss, (x, sign), (0,), {"exact": True}),
        (losses.gaussian_nll_loss, (x, z, v), (0, 1, 2), {"full": True}),
        (losses.margin_ranking_loss, (x, z, sign), (0, 1), {"margin": 0.3}),
        (losses.sigmoid_focal_loss, (x, y.round()), (0,), {}),
        (losses.cauchy_loss, (x, near), (0,), {}),
        (losses.tukey_loss, (x, near), (0,), {}),
    )


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("loss", "args", "places", "options"), list(calls()))
def test_gradients_and_their_gradients_are_those_of_finite_differences(loss, args, places, options, reduction):
    """gradcheck's own tolerances; a second backward makes its gradient in another loop, with other roundings."""
    pytest.importorskip("numba")
    options = {"reduction": reduction} | options
    inputs = [args[i].clone().requires_grad_() for i in places]

    def function(*tensors):
        given = list(args)
        for i, tensor in zip(places, tensors, strict=True):
            given[i] = tensor
        return loss(*given, **options)

    if reduction == "mean":  # that of each element goes to torch where a kernel must find wrong values
        assert "_Fused" in names_of(function(*inputs).grad_fn)
    assert torch.autograd.gradcheck(function, inputs, nondet_tol=1e-14)
    assert torch.autograd.gradgradcheck(function, inputs, nondet_tol=1e-14)


def names_of(node):
    """The autograd functions behind a value."""
    return "" if node is None else type(node).__name__ + "".join(names_of(n) for n, _ in node.next_functions)


@pytest.mark.parametrize("small", [0, 10**9])
@pytest.mark.parametrize("create_graph", [False, True])
def test_the_gradient_at_a_logit_of_zero_is_right_by_every_way(small, create_graph, monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", small)
    monkeypatch.setattr(elementwise, "SMALL_ALONE", small)
    for loss, args, options, goal in (
        (losses.binary_cross_entropy_with_logits, (1.0,), {}, -0.5),
        (losses.binary_cross_entropy_with_logits, (1.0,), {"exact": True}, -0.5),
        (losses.binary_cross_entropy_with_logits, (0.0,), {"pos_weight": torch.tensor(3.0)}, 0.5),
        (losses.binary_cross_entropy_with_logits, (1.0,), {"pos_weight": torch.tensor(3.0)}, -1.5),
        (losses.multilabel_soft_margin_loss, (0.0,), {}, 0.5),
        (losses.soft_margin_loss, (-1.0,), {"exact": True}, 0.5),
        (losses.sigmoid_focal_loss, (1.0,), {"alpha": -1.0, "gamma": 0.0, "reduction": "mean"}, -0.5),
    ):
        x = torch.zeros(5, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(x, torch.full((5,), *args), **options), x, create_graph=create_graph)
        torch.testing.assert_close(gradient.detach(), torch.full((5,), goal / 5))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("bad", [-1e-6, 1 + 1e-6, 2.0, math.inf, math.nan])
def test_what_is_no_probability_is_refused(bad, reduction):
    good, wrong = torch.full((4,), 0.5), torch.tensor([0.5, bad, 0.5, 0.5])
    for options in ({}, {"exact": True}, {"weight": torch.ones(4)}, {"weight": torch.ones(4), "exact": True}):
        with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
            losses.binary_cross_entropy(wrong, good, reduction=reduction, **options)
        with pytest.raises(RuntimeError, match="all elements of target should be between 0 and 1"):
            losses.binary_cross_entropy(good, wrong, reduction=reduction, **options)


def test_a_negative_variance_is_refused_and_a_missing_number_is_not():
    x, var = torch.zeros(3), torch.tensor([1.0, -1e-9, 1.0])
    for reduction in ("mean", "sum", "none"):
        with pytest.raises(ValueError, match="var has negative entry/entries"):
            losses.gaussian_nll_loss(x, x, var, reduction=reduction)
    assert losses.gaussian_nll_loss(x, torch.tensor([0.0, math.nan, 0.0]), var.abs()).isnan()
    assert losses.gaussian_nll_loss(x, x, torch.tensor([1.0, math.nan, 1.0])).isnan()


EDGES = [-math.inf, -1e4, -100.0, -0.0, 0.0, 1.0, 100.0, math.inf, math.nan]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_values_and_gradients_at_the_edges_are_torchs(reduction, create_graph):
    def both(name, x, *others, **options):
        results = []
        for home in (losses, functional):
            a = torch.tensor([x], requires_grad=True)
            value = getattr(home, name)(a, *[torch.tensor([t]) for t in others], reduction=reduction, **options)
            results.append((value.detach(), torch.autograd.grad(value.sum(), a, create_graph=create_graph)[0].detach()))
        torch.testing.assert_close(*results, equal_nan=True, msg=lambda m: f"{name} {x} {others} {options}\n{m}")

    for x, y in itertools.product(EDGES, (0.0, 0.5, 1.0)):
        both("binary_cross_entropy_with_logits", x, y)
        both("binary_cross_entropy_with_logits", x, y, pos_weight=torch.tensor(2.0))
        both("binary_cross_entropy_with_logits", x, y, weight=torch.tensor([0.0]))
        both("multilabel_soft_margin_loss", x, y)
        both("margin_ranking_loss", x, y, 1.0, margin=1.0)
    for x, y in itertools.product((0.0, 1e-45, 1e-30, 0.5, 1 - 2**-24, 1.0), (0.0, 0.5, 1.0)):
        both("binary_cross_entropy", x, y)
        both("binary_cross_entropy", x, y, weight=torch.tensor([3.0]))
    for x, y, v in itertools.product((-1e30, 0.0, math.inf), (0.0, 1.0), (0.0, 1e-9, 1.0, math.inf)):
        both("gaussian_nll_loss", x, y, v)


@pytest.mark.parametrize("small", [0, 10**9])
def test_exact_is_exact(small, monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", small)
    monkeypatch.setattr(elementwise, "SMALL_ALONE", small)

    def of(loss, x, y, **options):
        x = torch.tensor(x, requires_grad=True)
        value = loss(x, torch.tensor(y), reduction="sum", exact=True, **options)
        return value.item(), torch.autograd.grad(value, x)[0].tolist()

    assert of(losses.binary_cross_entropy, [0.0, 1.0], [0.0, 1.0]) == (0.0, [1.0, -1.0])
    assert of(losses.binary_cross_entropy, [0.0, 1.0], [1.0, 0.0]) == (math.inf, [-math.inf, math.inf])
    assert of(losses.binary_cross_entropy, [0.5], [1.0], weight=torch.tensor(2.0))[1] == [-4.0]
    value, (slope,) = of(losses.binary_cross_entropy, [2.0**-120], [1.0])
    assert value == pytest.approx(120 * math.log(2)) and slope == -(2.0**120)
    inf = math.inf
    logits = losses.binary_cross_entropy_with_logits
    for options in ({}, {"pos_weight": torch.tensor([2.0])}, {"weight": torch.tensor([3.0])}):
        assert of(logits, [inf, -inf], [1.0, 0.0], **options) == (0.0, [0.0, 0.0])
    assert of(logits, [inf, -inf], [0.0, 1.0]) == (inf, [1.0, -1.0])
    assert of(losses.multilabel_soft_margin_loss, [inf, -inf], [1.0, 0.0]) == (0.0, [0.0, 0.0])
    assert of(losses.multilabel_soft_margin_loss, [inf, -inf], [0.0, 1.0]) == (inf, [0.5, -0.5])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_exact_is_torchs_where_torch_is_exact(reduction):
    x, y = samples("weighted_bce_with_logits", 60)[:2]
    x, y, w = x.view(20, 3), y.view(20, 3), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for name, input in (
        ("binary_cross_entropy", x.sigmoid()),
        ("binary_cross_entropy_with_logits", x),
        ("multilabel_soft_margin_loss", x),
    ):
        pos_weights = [{}, {"pos_weight": w}] if name == "binary_cross_entropy_with_logits" else [{}]
        for options, weight in itertools.product(pos_weights, (None, w)):
            options = {"weight": weight, "reduction": reduction, **options}
            values = (
                getattr(losses, name)(input, y, exact=True, **options),
                getattr(functional, name)(input, y, **options),
            )
            torch.testing.assert_close(*values)


def test_exact_minds_the_older_options_and_refuses_what_torch_refuses():
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    for name in ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss"):
        loss = getattr(losses, name)
        with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
            value = loss(x, y, size_average=False, exact=True)
        torch.testing.assert_close(value, loss(x, y, reduction="sum"))
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"):
        with pytest.raises(ValueError, match="avg is not (a )?valid"):
            getattr(losses, name)(x, y, reduction="avg", exact=True)
        if name != "multilabel_soft_margin_loss":
            with pytest.raises(ValueError, match="size"):
                getattr(losses, name)(x, y[:1], exact=True)


def test_weights_that_no_kernel_takes_go_to_torch():
    x, y, w = samples("weighted_bce_with_logits", 12)
    x, y, w = x.view(4, 3).float(), y.view(4, 3).float(), w.view(4, 3).float()
    for options in (
        {"weight": w.double()},
        {"weight": w[:, :1]},
        {"weight": w[0], "pos_weight": w[1]},
        {"weight": w.t().contiguous().t()},
    ):
        values = [home.binary_cross_entropy_with_logits(x, y, **options) for home in (losses, functional)]
        torch.testing.assert_close(*values)
        if "pos_weight" not in options:
            p = x.sigmoid()
            values = [home.binary_cross_entropy(p, y, **options) for home in (losses, functional)]
            torch.testing.assert_close(*values)
    with pytest.raises(RuntimeError, match="must match the size"):
        losses.binary_cross_entropy_with_logits(x, y, weight=torch.ones(2))
    for options in ({"weight": w.expand(1, 4, 3)}, {"pos_weight": torch.tensor([[[2.0]]])}):
        with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
            losses.binary_cross_entropy_with_logits(x, y, **options)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'pos_weight'"):
        losses.binary_cross_entropy_with_logits(x, y, pos_weight=w.clone().requires_grad_())
