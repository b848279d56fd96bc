"""What the CUDA kernels of the losses must do, each a function of a device: interpreted on the CPU, or on a GPU."""

from __future__ import annotations

import functools
import importlib
import itertools
from contextlib import ExitStack, contextmanager

import torch
from torch.nn import functional

from optimizers import losses

from .test_loss_family import CASES as MEMBERS
from .test_loss_family import follows_float64

INF, NAN = float("inf"), float("nan")
cross_entropy = losses.cross_entropy


def members(name, dtype, device):
    for reduction in ("mean", "sum", "none"):
        follows_float64(name, reduction, dtype, device)


def piece_boundaries(device):
    """Lengths around a block and a piece, mean and sum, with and without an upstream gradient of 1."""
    cuda = importlib.import_module("optimizers.losses.cuda")
    for n in (1, 33, cuda.BLOCK, cuda.BLOCK + 1, cuda.PIECE - 1, cuda.PIECE, 2 * cuda.PIECE + 5):
        x = torch.linspace(-3, 5, n, dtype=torch.float64)
        exact = (x * x + 1).sqrt()  # which is not 0 for what a mask leaves out
        for reduction, upstream in itertools.product(("mean", "sum"), (1.0, -2.5)):
            a = x.to(device, torch.float32).requires_grad_()
            value = losses.charbonnier_loss(a, torch.zeros_like(a), eps=1.0, reduction=reduction)
            (gradient,) = torch.autograd.grad(value, a, torch.tensor(upstream, device=device))
            share = n if reduction == "mean" else 1
            torch.testing.assert_close(value.item(), exact.sum().item() / share, rtol=1e-6, atol=0)
            goal = (upstream / share * x / exact).float()
            torch.testing.assert_close(gradient.cpu(), goal, rtol=1e-6, atol=1e-6 / share)


@contextmanager
def constants(module, **values):
    """Other constants in a module of kernels."""
    kernels = importlib.import_module(f"optimizers.losses.{module}")
    before = {key: getattr(kernels, key) for key in values}
    vars(kernels).update(values)
    try:
        yield
    finally:
        vars(kernels).update(before)


def more_partial_sums_than_are_added_at_once(device):
    with constants("cuda", PIECE=64, BLOCK=64, ADDED=16):
        a = torch.ones(64 * 16 + 70, device=device)
        assert losses.mse_loss(a, torch.zeros_like(a), reduction="sum") == len(a)


def empty(device):
    a = torch.ones(0, device=device, requires_grad=True)
    assert losses.mse_loss(a, a.detach()).isnan()
    value = losses.mse_loss(a, a.detach(), reduction="sum")
    assert value == 0 and torch.autograd.grad(value, a)[0].shape == (0,)
    logits, target = torch.ones(0, 3, device=device), torch.ones(0, dtype=torch.int64, device=device)
    assert cross_entropy(logits, target).isnan() and cross_entropy(logits, target, reduction="sum") == 0
    assert cross_entropy(logits, target, reduction="none").shape == (0,)


def unaligned(device):
    """Tensors that begin in the middle of others."""
    x = torch.randn(5002, device=device)
    a = x[1:5001].requires_grad_()
    value = losses.mse_loss(a, x[2:])
    torch.testing.assert_close(value, functional.mse_loss(a, x[2:]))
    torch.testing.assert_close(torch.autograd.grad(value, a)[0], 2 * (a - x[2:]).detach() / 5000)


def halves_under_a_large_upstream_gradient(device):
    """A GradScaler's: what is too small for float16 before it is scaled is not lost, in a mean over many."""
    n, rows, classes = 20_000, 2000, 30
    for dtype, tolerance in ((torch.float16, 2**-10), (torch.bfloat16, 2**-6)):
        a = torch.linspace(0.01, 1, n, device=device).to(dtype).requires_grad_()
        up = torch.tensor(2.0**15, device=device, dtype=dtype)
        (gradient,) = torch.autograd.grad(losses.mse_loss(a, torch.zeros_like(a)), a, up)
        torch.testing.assert_close(gradient.double(), 2**16 * a.detach().double() / n, rtol=tolerance, atol=0)
        logits = torch.zeros(rows, classes, device=device, dtype=dtype, requires_grad=True)
        target = torch.zeros(rows, dtype=torch.int64, device=device)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, target), logits, up)
        torch.testing.assert_close(gradient[0, 1].item(), 2**15 / (rows * classes), rtol=tolerance, atol=0)


def backward_twice(device):
    x, y = torch.randn(500, device=device, requires_grad=True), torch.randn(500, device=device)
    loss = losses.mse_loss(x, y)
    first = torch.autograd.grad(loss, x, torch.tensor(3.0, device=device), retain_graph=True)[0].clone()
    second = torch.autograd.grad(loss, x, torch.tensor(-1.0, device=device))[0]
    torch.testing.assert_close(first, -3 * second)
    (gradient,) = torch.autograd.grad(losses.mse_loss(x, y), x, torch.tensor(NAN, device=device))
    assert gradient.isnan().all()


def the_same_bits_again(device):
    x, y = torch.randn(20_000, device=device), torch.randn(20_000, device=device)
    assert len({losses.huber_loss(x, y).item() for _ in range(3)}) == 1
    target = torch.randint(0, 50, (400,), device=device)
    assert len({cross_entropy(x.view(400, 50), target).item() for _ in range(3)}) == 1


def options(classes, dtype, device, rows=23):
    """All combinations against float64, upstream gradients not 1.

    A handful of roundings in the working precision, one to the dtype; of the gradient, relative to what one row of it
    can be at most.
    """
    unit = torch.finfo(dtype).eps
    tolerance = 1e-12 if dtype == torch.float64 else 8 * unit
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype)
    weight = torch.rand(classes, generator=generator, dtype=torch.float64).to(dtype)
    for reduction, smoothing, weighted, ignored in itertools.product(
        ("mean", "sum", "none"), (0.0, 0.1), (False, True), (-100, 0)
    ):
        target = torch.randint(0, classes, (rows,), generator=generator)
        target[::7] = ignored
        chosen = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
        shape = (rows,) if reduction == "none" else ()
        upstream = (1.5 + torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
        answers = []
        for loss, kind, where in ((cross_entropy, dtype, device), (functional.cross_entropy, torch.float64, "cpu")):
            x = logits.to(where, kind).requires_grad_()
            value = loss(x, target.to(where), weight=weight.to(where, kind) if weighted else None, **chosen)
            assert loss is not cross_entropy or "_Fused" in type(value.grad_fn).__name__
            gradient = torch.autograd.grad(value, x, upstream.to(where, kind))[0]
            answers.append((value.detach().double().cpu(), gradient.double().cpu()))
        (value, gradient), (exact_value, exact_gradient) = answers
        torch.testing.assert_close(value, exact_value, rtol=tolerance, atol=tolerance, equal_nan=True)
        most = 2.5 / float(rows if reduction == "mean" else 1)
        torch.testing.assert_close(gradient, exact_gradient, rtol=tolerance, atol=tolerance * most)


def small_blocks():
    """Rows of more than 16 classes are read in blocks of 8."""
    return constants("cross_entropy_cuda", SHORT=4, WHOLE=64, BLOCK=8)


def spread(classes, dtype, device):
    """Rows that fit, over several threads."""
    with constants("cross_entropy_cuda", SHORT=1):
        options(classes, dtype, device)


def blocks(classes, dtype, device):
    with small_blocks():
        options(classes, dtype, device)


def edge_rows(device, classes=3):
    """-inf, inf, nan and huge logits in the first, the second and the last place, as in torch."""
    rows = [
        [0.0, -INF, 1.0],
        [-INF, -INF, -INF],
        [INF, 0.0, 1.0],
        [NAN, 0.0, 1.0],
        [-INF, 2.0, 3.0],
        [1e30, -1e30, 0.0],
        [2e38, 2e38, 1e38],
        [INF, INF, -INF],
        [1000.0, 1001.0, 999.5],
    ]
    x = torch.full((len(rows), classes), -INF)
    places = [0, 1, classes - 1]
    x[:, places] = torch.tensor(rows)
    if classes > 3:
        x[-1] += 1000 * torch.isinf(x[-1]).nan_to_num()
    for place, smoothing in itertools.product(places, (0.0, 0.2)):
        results = []
        for loss, where in ((cross_entropy, device), (functional.cross_entropy, "cpu")):
            a = x.to(where).requires_grad_()
            target = torch.full((len(x),), place, device=where)
            value = loss(a, target, reduction="none", label_smoothing=smoothing)
            up = torch.linspace(1, 2, len(x), device=where)
            results.append((value.detach().cpu(), torch.autograd.grad(value, a, up)[0].cpu()))
        torch.testing.assert_close(*results, equal_nan=True)


def edge_rows_in_blocks(device):
    """The first whole block is -inf, which must not make nan."""
    with small_blocks():
        edge_rows(device, classes=30)
        x = torch.full((1, 24), -INF, device=device)
        x[0, -1] = 2.0
        assert cross_entropy(x, torch.tensor([23], device=device)) == 0


def large_logits_keep_their_digits(device):
    """Shifted by 16000, where float32 has steps of 1e-3, a row has the same loss and gradient, smoothing included."""
    x = (torch.linspace(-2, 3.37, 32, device=device).view(1, 32) * 256).round() / 256  # exact when shifted
    for smoothing in (0.0, 0.3):
        results = []
        for shift in (0.0, 1000.0, -16000.0):
            a = (x + shift).requires_grad_()
            value = cross_entropy(a, torch.tensor([1], device=device), label_smoothing=smoothing)
            results.append((value.detach(), torch.autograd.grad(value, a)[0]))
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=2e-6, atol=1e-7)


def large_logits_in_blocks(device):
    with small_blocks():
        large_logits_keep_their_digits(device)


def all_ignored(device):
    for smoothing in (0.0, 0.1):
        x = torch.full((4, 3), NAN, device=device).requires_grad_()
        value = cross_entropy(x, torch.full((4,), -100, device=device), label_smoothing=smoothing)
        assert value.isnan() and torch.autograd.grad(value, x)[0].eq(0).all()


def weights_of_zero(device):
    """nan, as in torch, and a gradient of 0, as of rows that are all ignored."""
    x = torch.ones(2, 3, device=device, requires_grad=True)
    value = cross_entropy(x, torch.tensor([0, 0], device=device), torch.tensor([0.0, 1.0, 2.0], device=device))
    assert value.isnan() and torch.autograd.grad(value, x)[0].eq(0).all()


def bad_targets(device):
    """A row whose target is no class is nan and the others are as they were; on request it is named."""
    for bad in (3, -1, -101, 2**40, 2**62, -(2**62)):
        x = torch.tensor([[0.0, 1.0, 2.0]], device=device).repeat(3, 1).requires_grad_()
        target = torch.tensor([1, bad, 2], device=device)
        weight = torch.tensor([1.0, 2.0, 3.0], device=device)
        for chosen in ({}, {"label_smoothing": 0.1}, {"weight": weight}, {"weight": weight, "label_smoothing": 0.1}):
            each = cross_entropy(x, target, reduction="none", **chosen)
            assert each.isnan().tolist() == [False, True, False]
            value = cross_entropy(x, target, **chosen)
            assert value.isnan()
            (gradient,) = torch.autograd.grad(value, x)
            assert gradient.isnan().all(1).tolist() == [False, True, False] and not gradient[[0, 2]].isnan().any()
        for loss in (functools.partial(cross_entropy, check_targets=True), losses.CrossEntropyLoss(check_targets=True)):
            try:
                loss(x, target)
            except IndexError as error:
                assert f"Target {bad} is out of bounds." in str(error)
            else:
                raise AssertionError("nothing was raised")
    assert losses.CrossEntropyLoss(check_targets=True)(x, torch.tensor([1, -100, 2], device=device)) > 0


def many_targets_are_counted(device):
    """By more than one program."""
    rows = 2 * 2048 + 5
    target = torch.arange(rows, device=device) % 3
    weight = torch.tensor([1.0, 2.0, 4.0], device=device)
    x = torch.linspace(-1, 1, 3 * rows, device=device).view(rows, 3)
    exact = x.double().cpu(), target.cpu()
    with constants("cross_entropy_cuda", COUNTED=2048, THREADS=512):
        for ours, goal in (
            (cross_entropy(x, target, ignore_index=1), functional.cross_entropy(*exact, ignore_index=1)),
            (cross_entropy(x, target, weight), functional.cross_entropy(*exact, weight.double().cpu())),
        ):
            torch.testing.assert_close(ours.double().cpu(), goal, rtol=1e-6, atol=0)


def nll(shape, dtype, device):
    """All options against float64, with upstream gradients that are not 1, and a target that is no class."""
    generator = torch.Generator().manual_seed(0)
    tolerance = 1e-12 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps
    x, weight = torch.randn(shape, generator=generator).to(dtype), torch.rand(shape[1], generator=generator).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target.view(-1)[::5] = 1
    for reduction, weighted, ignored in itertools.product(("mean", "sum", "none"), (False, True), (-100, 1)):
        upstream = 1.5 + torch.rand(target.shape if reduction == "none" else (), generator=generator).to(dtype)
        answers = []
        for loss, kind, where in ((losses.nll_loss, dtype, device), (functional.nll_loss, torch.float64, "cpu")):
            a, w = x.to(where, kind).requires_grad_(), weight.to(where, kind) if weighted else None
            value = loss(a, target.to(where), w, ignore_index=ignored, reduction=reduction)
            assert loss is functional.nll_loss or "_Fused" in type(value.grad_fn).__name__
            gradient = torch.autograd.grad(value, a, upstream.to(where, kind))[0]
            answers.append((value.detach().double().cpu(), gradient.double().cpu()))
        torch.testing.assert_close(*answers, rtol=tolerance, atol=tolerance / 100)


def nll_bad_targets(device):
    """A row whose target is no class is nan and the others are as they were; on request it is named."""
    for bad in (3, -1, 2**62):
        x = torch.tensor([[0.0, 1.0, 2.0]], device=device).repeat(3, 1).requires_grad_()
        target, weight = torch.tensor([1, bad, 2], device=device), torch.tensor([1.0, 2.0, 3.0], device=device)
        assert losses.nll_loss(x, target, weight, reduction="none").isnan().tolist() == [False, True, False]
        value = losses.nll_loss(x, target, weight)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isnan() and gradient.isnan().all(1).tolist() == [False, True, False]
        assert not gradient[[0, 2]].isnan().any()
        try:
            losses.NLLLoss(check_targets=True)(x, target)
        except IndexError as error:
            assert f"Target {bad} is out of bounds." in str(error)
        else:
            raise AssertionError("nothing was raised")


def name(dtype):
    return str(dtype).removeprefix("torch.")


CASES = {f"{m} {name(dtype)}": functools.partial(members, m, dtype) for m, dtype in MEMBERS}
ALONE = (
    piece_boundaries, more_partial_sums_than_are_added_at_once, empty, unaligned, backward_twice, the_same_bits_again,
    halves_under_a_large_upstream_gradient, edge_rows, edge_rows_in_blocks, large_logits_keep_their_digits,
    large_logits_in_blocks, all_ignored, weights_of_zero, bad_targets, many_targets_are_counted,
    nll_bad_targets,
)  # fmt: skip
CASES |= {case.__name__: case for case in ALONE}
CASES |= {f"{c} classes": functools.partial(options, c, torch.float32) for c in (1, 2, 7, 10, 16)}
CASES |= {f"{c} classes in blocks": functools.partial(blocks, c, torch.float32) for c in (17, 31, 32, 33)}
CASES |= {f"{c} classes over threads": functools.partial(spread, c, torch.float32) for c in (2, 7, 16)}
for dtype in (torch.float64, torch.bfloat16, torch.float16):
    CASES |= {f"11 classes {name(dtype)}": functools.partial(options, 11, dtype)}
    CASES |= {f"27 classes in blocks {name(dtype)}": functools.partial(blocks, 27, dtype)}
CASES |= {
    f"nll {shape} {name(dtype)}": functools.partial(nll, shape, dtype)
    for shape, dtype in (((520, 3), torch.float32), ((3, 4, 2, 3), torch.float64), ((7, 5), torch.float16))
}
#: blocks as long as they are, with a row more than 64 so that programs have several
LONG = {f"{c} classes, {rows} rows": functools.partial(options, c, torch.float32, rows=rows)
        for c, rows in ((5, 67), (300, 23), (2049, 3), (16384, 2), (16385, 2), (3 * 4096 * 2 + 7, 2))}  # fmt: skip


@contextmanager
def kernels_for_the_smallest():
    modules = {"elementwise": ("SMALL", "SMALL_ALONE", "SMALL_ON_GPU"), "cross_entropy": ("SMALL",),
               "probabilities": ("SMALL",)}  # fmt: skip
    with ExitStack() as stack:
        for module, names in modules.items():
            stack.enter_context(constants(module, **dict.fromkeys(names, 0)))
        yield
