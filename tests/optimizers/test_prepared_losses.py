"""What is kept of a loss for the next one of its size must not outlive what it was made for."""

from __future__ import annotations

import importlib
import threading

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

from optimizers import losses
from optimizers.losses import cpu, rows

pytest.importorskip("numba")

LOGITS, N = (64, 10), 2048
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])


def logits(seed=0, shape=LOGITS, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def classes(seed=1, n=LOGITS[0]):
    return torch.randint(0, LOGITS[1], (n,), generator=torch.Generator().manual_seed(seed))


def numbers(seed=0, dtype=torch.float32):
    return logits(seed, (N,), dtype)


def agree(name, input, target, *, kernel=True, **options):
    """Value and gradients of ours are torch's for an upstream gradient that is not 1, and a kernel made them or not."""
    answers = []
    for module in (losses, functional):
        x = input.detach().requires_grad_()
        value = getattr(module, name)(x, target, **options)
        if module is losses:
            assert ("_Fused" in type(value.grad_fn).__name__) == kernel, value.grad_fn
        wanted = [t for t in (x, target) if t.requires_grad]
        answers.append((value.detach(), *torch.autograd.grad(value, wanted, torch.full_like(value, 1.5))))
    half = input.dtype in (torch.bfloat16, torch.float16)
    # torch rounds half types at every step, ours once; the defaults allow for other orders of sums
    torch.testing.assert_close(*answers, **({"rtol": 0.03, "atol": 0.03} if half else {}))


@pytest.fixture(autouse=True)
def prepared():
    """Both losses have been asked for, so that whatever is kept of them is there."""
    agree("cross_entropy", logits(), classes())
    agree("huber_loss", numbers(), numbers(1))


@DTYPES
def test_other_dtypes_of_one_shape(dtype):
    agree("cross_entropy", logits(dtype=dtype), classes())
    agree("cross_entropy", logits(dtype=dtype), logits(1).softmax(1).to(dtype))
    agree("huber_loss", numbers(dtype=dtype), numbers(1, dtype))


def test_a_target_of_another_dtype_or_shape_is_not_read_as_the_last_one():
    agree("cross_entropy", logits(), classes().to(torch.uint8), kernel=False)
    ours, theirs = (m.huber_loss(numbers(), numbers(1, torch.float64)) for m in (losses, functional))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="batch_size"):
        losses.cross_entropy(logits(), classes(n=63))
    with pytest.warns(UserWarning, match="broadcast"):
        losses.huber_loss(numbers().view(64, 32), numbers(1)[:32])


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "sum"},
        {"reduction": "none"},
        {"ignore_index": 3},
        {"label_smoothing": 0.2},
        {"weight": torch.linspace(0.5, 2, LOGITS[1])},
    ],
    ids=str,
)
def test_other_options_of_one_shape(options):
    agree("cross_entropy", logits(), classes(), **options)
    agree("cross_entropy", logits(), classes())


def test_other_constants_of_one_shape():
    for delta in (0.5, 2.0, 1.0):
        agree("huber_loss", numbers(), numbers(1), delta=delta)
    for reduction in ("sum", "none", "mean"):
        agree("huber_loss", numbers(), numbers(1), reduction=reduction)


def test_batchmean_is_over_the_examples_of_each_shape():
    for shape in ((64, 32), (32, 64), (N,)):
        x, y = numbers().view(shape), numbers(1).abs().view(shape)
        for dtype in (torch.float32, torch.float16):  # of float16, gradients are made in the backward pass
            agree("kl_div", x.to(dtype), y.to(dtype), reduction="batchmean")


def test_losses_of_rows_are_asked_for_what_they_take():
    x, t = logits(), classes()
    assert rows.Z.fast(x, t, -100, "mean", 0.0, (0.1,)) is not None
    assert rows.Z.fast(x, t[:3], -100, "mean", 0.0, (0.1,)) is None
    assert rows.Z.fast(x, t, -100, "mean", 0.0, (torch.tensor(0.1),)) is None
    assert rows.Z.fast(x, t, torch.tensor(-100), "mean", 0.0, (0.1,)) is None


def test_a_number_in_a_tensor_is_read_anew():
    for value in (0.3, 0.6):
        smoothing = torch.tensor(value)
        agree("cross_entropy", logits(), classes(), label_smoothing=smoothing, kernel=False)
    delta = torch.tensor(0.5)
    for _ in range(2):
        ours = losses.huber_loss(numbers(), numbers(1), delta=delta)
        torch.testing.assert_close(ours, functional.huber_loss(numbers(), numbers(1), delta=float(delta)))
        delta += 1


def test_odd_memory_of_one_shape_goes_to_torch():
    agree("cross_entropy", logits(shape=(10, 64)).t(), classes(), kernel=False)
    agree("cross_entropy", logits(), classes(n=128)[::2], kernel=False)
    agree("huber_loss", torch.stack((numbers(), numbers(2)), 1)[:, 0], numbers(1), kernel=False)
    agree("huber_loss", numbers(), numbers(1)[:1].expand(N), kernel=False)
    agree("huber_loss", torch._neg_view(numbers()), numbers(1), kernel=False)
    agree("huber_loss", numbers(), torch._neg_view(numbers(1)), kernel=False)
    assert losses.huber_loss(numbers().to("meta"), numbers(1).to("meta")).is_meta
    assert losses.cross_entropy(logits().to("meta"), classes().to("meta")).is_meta
    for x, y in ((numbers(), numbers(1).to("meta")), (numbers().to("meta"), numbers(1))):
        with pytest.raises(RuntimeError, match="device"):
            losses.huber_loss(x, y)


def test_weights_of_one_shape_are_looked_at():
    weight = torch.linspace(0.5, 2, 2 * LOGITS[1])
    agree("cross_entropy", logits(), classes(), weight=weight[::2], kernel=False)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        losses.cross_entropy(logits(), classes(), weight=weight[: LOGITS[1]].requires_grad_())
    with pytest.raises(RuntimeError, match="weight tensor should be defined either for all"):
        losses.cross_entropy(logits(), classes(), weight=weight)


def test_a_target_that_wants_a_gradient_gets_it():
    agree("huber_loss", numbers(), numbers(1).requires_grad_(), kernel=False)
    agree("cross_entropy", logits(), logits(1).softmax(1), kernel=True)
    agree("cross_entropy", logits(), logits(1).softmax(1).detach().requires_grad_(), kernel=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, where it first differentiates forwards
@pytest.mark.parametrize("name", ["cross_entropy", "huber_loss"])
def test_transforms_tracing_and_autocast_after_a_kernel(name):
    loss, reference = getattr(losses, name), getattr(functional, name)
    x, y = (logits(), classes()) if name == "cross_entropy" else (numbers(), numbers(1))
    goal, slope = reference(x, y), torch.func.grad(reference)(x, y)
    torch.testing.assert_close(torch.func.grad(loss)(x, y), slope)
    torch.testing.assert_close(torch.vmap(loss)(x[None], y[None])[0], goal)
    _, tangent = torch.func.jvp(lambda a: loss(a, y), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, slope.sum(), rtol=1e-4, atol=1e-6)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(x, torch.ones_like(x)), y)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope.sum(), rtol=1e-4, atol=1e-6)
    with torch.autocast("cpu"):
        assert loss(x.bfloat16(), y if name == "cross_entropy" else y.bfloat16()).dtype == torch.float32
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    z = x.clone().requires_grad_()
    value = compiled(z, y)
    assert "_Fused" not in type(value.grad_fn).__name__
    torch.testing.assert_close((value.detach(), torch.autograd.grad(value, z)[0]), (goal, slope))


class Marked(torch.Tensor):
    """A subclass, whose operations nobody may pass by."""


def test_subclasses_go_to_torch():
    for x, y in ((Marked(numbers()), numbers(1)), (numbers(), Marked(numbers(1)))):
        assert type(losses.huber_loss(x, y)) is Marked
    assert type(losses.cross_entropy(logits(), classes().as_subclass(Marked))) is Marked


@pytest.mark.parametrize("name", ["cross_entropy", "huber_loss"])
def test_results_share_no_memory_with_later_ones(name):
    results = []
    for seed in range(4):
        x = (logits(seed) if name == "cross_entropy" else numbers(seed)).requires_grad_()
        value = getattr(losses, name)(x, classes() if name == "cross_entropy" else numbers(9))
        (gradient,) = torch.autograd.grad(value, x)
        value = value.detach()
        results.append((value, gradient, value.clone(), gradient.clone()))
    for value, gradient, value_then, gradient_then in results:
        assert torch.equal(value, value_then) and torch.equal(gradient, gradient_then)
    assert len({t.data_ptr() for result in results for t in result[:2]}) == 8


def test_a_gradient_is_given_away_once():
    """Accumulated into and changed by whoever got it, it must not come back."""
    x = logits().requires_grad_()
    value = losses.cross_entropy(x, classes())
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], kept)


def test_after_a_target_that_is_no_class_all_is_as_before():
    bad = classes()
    bad[5] = 10
    for _ in range(3):
        with pytest.raises(IndexError, match="Target 10 is out of bounds"):
            losses.cross_entropy(logits(), bad)
        agree("cross_entropy", logits(), classes())


def test_threads_in_one_loss_at_a_time_do_not_meet():
    """The memory of a job is one thread's at a time: here a second one comes in the middle of the first."""
    goals = {seed: functional.cross_entropy(logits(seed), classes()) for seed in range(2)}
    drive, found = cpu._drive, {}

    def meanwhile():
        found[1] = losses.cross_entropy(logits(1), classes())

    def interrupted(at):
        cpu._drive = drive
        other = threading.Thread(target=meanwhile)
        other.start()
        other.join()
        return drive(at)

    try:
        cpu._drive = interrupted
        found[0] = losses.cross_entropy(logits(0), classes())
    finally:
        cpu._drive = drive
    torch.testing.assert_close(found, goals)


def test_as_many_sizes_as_are_kept_and_more():
    module = importlib.import_module("optimizers.losses.fused")
    for n in range(1, 40):  # so few rows are torch's
        x, y = logits(n, (n, 3)), classes(n=n) % 3
        assert "_Fused" not in type(losses.cross_entropy(x.requires_grad_(), y).grad_fn).__name__
    for n in range(200, 200 + module.MOST_SIZES + 40):
        x, y = logits(n, (n, 3)), classes(n=n) % 3
        torch.testing.assert_close(losses.cross_entropy(x, y), functional.cross_entropy(x, y))
    agree("cross_entropy", logits(), classes())
