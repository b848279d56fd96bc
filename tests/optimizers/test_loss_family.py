"""The elementwise losses: slopes against autograd, kernels against float64, and what autograd may ask of them."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from optimizers.losses import cpu, cross_entropy, elementwise, mse_loss
from optimizers.losses.family import FAMILY

CONSTANTS = {
    "smooth_l1": (0.7,),
    "huber": (0.7,),
    "bce_with_pos_weight": (3.0,),
    "poisson_nll": (1e-8,),
    "hinge_embedding": (1.0,),
    "pinball": (0.3,),
    "charbonnier": (0.1,),
    "cauchy": (1.5,),
    "geman_mcclure": (1.5,),
    "welsch": (1.5,),
    "tukey": (4.0,),
    "barron": (1.2, 0.8),
    "focal": (0.25, 2.0),
}
PROBABILITY_TARGETS = ("bce_with_logits", "exact_bce_with_logits", "bce_with_pos_weight", "multilabel_soft_margin")
PROBABILITY_TARGETS += ("kl_div", "exact_kl_div", "poisson_nll_log")
NAMES = pytest.mark.parametrize("name", sorted(FAMILY))


def samples(name, n=5000, dtype=torch.float64):
    """Predictions and targets of the kind that the loss is made for, exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(n, generator=generator, dtype=torch.float64)
    y = torch.rand(n, generator=generator, dtype=torch.float64)
    if name == "poisson_nll_log":
        x = x.clamp(max=5)  # float16 ends at 65504
    if name in ("bce", "exact_bce", "poisson_nll", "generalized_kl"):
        x = x.sigmoid() * 0.98 + 0.01
    elif name in ("hinge_embedding", "soft_margin", "exact_soft_margin"):
        y = (y - 0.5).sign()
    elif name == "focal":
        y = (y > 0.5).double()
    elif name not in PROBABILITY_TARGETS:
        y = y * 4 - 2
    return x.to(dtype).double(), y.to(dtype).double()


def exact(name, x, y, reduction="sum", upstream=None):
    """Value and gradient in float64, by autograd of the value."""
    x = x.clone().requires_grad_()
    value = elementwise.reduced(FAMILY[name].value(x, y, *CONSTANTS.get(name, ())), reduction)
    (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value) if upstream is None else upstream)
    return value.detach(), gradient


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", 0)
    monkeypatch.setattr(elementwise, "SMALL_ALONE", 0)


@NAMES
def test_the_slope_is_the_derivative_of_the_value(name):
    x, y = samples(name)
    slope = FAMILY[name].slope(x, y, *CONSTANTS.get(name, ()))
    torch.testing.assert_close(slope, exact(name, x, y)[1], rtol=1e-9, atol=1e-11)


OTHER_DTYPES = ("huber", "focal", "kl_div", "log_cosh")  # a kernel differs by dtype only in how it loads and stores
CASES = [(name, torch.float32) for name in sorted(FAMILY)]
CASES += [(name, dtype) for name in OTHER_DTYPES for dtype in (torch.float64, torch.bfloat16, torch.float16)]


def follows_float64(name, reduction, dtype, device="cpu"):
    """Each element is worked in float32 (float64 for float64): a few roundings, of numbers as large as the largest
    intermediate, which for these samples is below 64 times the result or 1; then one rounding to the dtype."""
    x, y = samples(name, dtype=dtype)
    a = x.to(device, dtype).requires_grad_()
    value = FAMILY[name](a, y.to(device, dtype), reduction, CONSTANTS.get(name, ()))
    assert value.dtype == dtype and "_Fused" in type(value.grad_fn).__name__
    upstream = torch.linspace(-2, 3, value.numel(), dtype=torch.float64).reshape(value.shape).to(dtype)
    (gradient,) = torch.autograd.grad(value, a, upstream.to(device))
    goal, slope = exact(name, x, y, reduction, upstream.double())
    work = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    unit = torch.finfo(dtype).eps
    for got, want in ((value.detach().double().cpu(), goal), (gradient.double().cpu(), slope)):
        size = want.abs()
        tolerance = 2 * unit * size + 64 * work * (size + size.mean() + 1e-3) + torch.finfo(dtype).tiny
        assert ((got - want).abs() <= tolerance).all(), ((got - want).abs() / tolerance).max()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_kernel_follows_float64(name, reduction, dtype):
    pytest.importorskip("numba")
    follows_float64(name, reduction, dtype)


def test_a_large_upstream_gradient_lifts_those_of_float16_before_they_are_rounded():
    x, y = torch.full((1 << 20,), 2.0**-6, dtype=torch.float16).requires_grad_(), torch.zeros(1 << 20).half()
    mse_loss(x, y).backward(torch.tensor(2.0**14, dtype=torch.float16))  # 2^-25 a number, and 2^-11 lifted
    assert (x.grad == 2.0**-11).all()
    x, target = torch.tensor([[8.0, 0.0]]).half().repeat(1 << 19, 1).requires_grad_(), torch.zeros(1 << 19).long()
    cross_entropy(x, target).backward(torch.tensor(2.0**14, dtype=torch.float16))
    wrong = 2.0**14 * torch.sigmoid(torch.tensor(-8.0)) / (1 << 19)
    torch.testing.assert_close(x.grad[5], torch.stack([-wrong, wrong]).half())


def test_backward_twice_and_an_upstream_gradient_are_right():
    x, y = torch.randn(5000, requires_grad=True), torch.randn(5000)
    loss = mse_loss(x, y)
    first = torch.autograd.grad(loss, x, torch.tensor(3.0), retain_graph=True)[0]
    kept = first.clone()
    second = torch.autograd.grad(loss, x, torch.tensor(-1.0))[0]
    goal = 2 * (x.detach() - y) / 5000
    torch.testing.assert_close(kept, 3 * goal)
    torch.testing.assert_close(second, -goal)
    assert torch.equal(first, kept)
    x.grad = None
    loss = mse_loss(x, y)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * goal)


def test_the_gradient_has_a_gradient():
    x, y = torch.randn(5000, dtype=torch.float64, requires_grad=True), torch.randn(5000, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mse_loss(x, y, reduction="sum"), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    torch.testing.assert_close(second, 8 * (x.detach() - y))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, where it first differentiates forwards
def test_transforms_tracing_autocast_and_odd_tensors_go_to_torch():
    x, y = torch.randn(5000), torch.randn(5000)
    goal = torch.nn.functional.mse_loss(x, y)
    gradient = torch.func.grad(lambda a: mse_loss(a, y))(x)
    torch.testing.assert_close(gradient, 2 * (x - y) / 5000)
    torch.testing.assert_close(torch.vmap(mse_loss)(x.view(2, 2500), y.view(2, 2500)).mean(), goal)
    value, tangent = torch.func.jvp(lambda a: mse_loss(a, y), (x,), (torch.ones_like(x),))
    torch.testing.assert_close((value, tangent), (goal, (2 * (x - y) / 5000).sum()))
    torch.testing.assert_close(mse_loss(x.view(50, 100).t(), y.view(50, 100).t()), goal)
    with torch.autocast("cpu"):
        assert mse_loss(x.bfloat16(), y.bfloat16()).dtype == torch.float32


def test_inputs_are_not_changed_and_a_change_after_the_fact_changes_no_gradient():
    x, y = torch.randn(5000, requires_grad=True), torch.randn(5000)
    before = x.detach().clone(), y.clone(), x._version
    loss = mse_loss(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1]) and x._version == before[2]
    with torch.no_grad():
        x += 1
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)  # it was made when the loss was
    torch.testing.assert_close(gradient, 2 * (before[0] - y) / 5000)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)


def test_the_number_of_threads_changes_no_bit():
    pytest.importorskip("numba")
    x, y = torch.randn(300_000), torch.randn(300_000)
    before, values = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            values.append(mse_loss(x, y))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*values)


@pytest.mark.parametrize("x", [0.1, 0.3, 0.7, 1.1, 1.3, 3.3])
@pytest.mark.parametrize(("name", "units"), [("mse", 1), ("bce_with_logits", 8)])
def test_a_mean_over_many_is_that_over_few(name, units, x):
    """Equal numbers are all rounded to the same side. A lane of a vector adds at most 32 before float64 goes on,
    which leaves an error of a few units; over a whole piece it would be 15 to 30. Light losses add in float64."""
    pytest.importorskip("numba")
    x = torch.full((1 << 20,), x)
    mean, each = (FAMILY[name](x, torch.zeros_like(x), reduction, ()) for reduction in ("mean", "none"))
    assert abs(mean.double() / each[0].double() - 1) <= units * 2**-24


def test_sums_leave_vectors_of_heavy_losses_their_length():
    """Of conversions to float64 there are those of sums over a run, one at a time, and none of vectors."""
    pytest.importorskip("numba")
    for what in cpu.SUM, cpu.SUM_AND_GRADIENT:
        compiled = numba_compiled(cpu._block(FAMILY["kl_div"], what, torch.float32, 0, (True, False)))
        if "%rax" not in compiled and "%rdi" not in compiled:
            pytest.skip("the names of instructions are looked for in x86 assembly")
        assert re.search(r"v?cvtss2sd", compiled) and re.search(r"v?mulps\s", compiled)
        assert not re.search(r"v?cvtps2pd", compiled)


def numba_compiled(block):
    """The assembly of a block, compiled anew: what comes from the cache has none."""
    import numba

    options = sys.modules[block._pyfunc.__module__].OPTIONS
    return numba.cfunc(block._sig, **options)(block._pyfunc)._library.get_asm_str()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huber_keeps_nan_and_ends_at_its_delta(dtype):
    pytest.importorskip("numba")
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, 0.3, -0.3, 0.7, -0.7, 0.8, -0.8, 0.0] * 4, dtype=dtype, requires_grad=True)
    value = FAMILY["huber"](x, torch.zeros_like(x), "none", (0.7,))
    expected = torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=0.7)
    torch.testing.assert_close(value, expected, equal_nan=True)
    gradients = [torch.autograd.grad(v.sum(), x)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, equal_nan=True)


@pytest.mark.parametrize("name", ["bce_with_logits", "exact_soft_margin", "focal", "log_cosh", "charbonnier", "cauchy"])
def test_autograd_of_the_value_is_the_slope_at_a_prediction_of_0_too(name):
    """Where a smooth loss is written with terms that have a kink there: logits of a last layer of zeros are all 0."""
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, -1.0 if name == "exact_soft_margin" else 0.0], dtype=torch.float64)
    if name not in ("bce_with_logits", "exact_soft_margin", "focal"):
        y = torch.zeros_like(y)
    constants = CONSTANTS.get(name, ())
    (gradient,) = torch.autograd.grad(FAMILY[name].value(x, y, *constants).sum(), x, create_graph=True)
    slope = FAMILY[name].slope(x, y, *constants)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-15)
    (curvature,) = torch.autograd.grad(gradient.sum(), x)
    around = [FAMILY[name].slope(x + side, y, *constants).detach() for side in (1e-6, -1e-6)]
    torch.testing.assert_close(curvature, (around[0] - around[1]) / 2e-6, rtol=1e-5, atol=1e-6)
