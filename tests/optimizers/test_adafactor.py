"""Adafactor: torch's numbers from sums that are taken in pieces, and each parameter's own epsilon."""

from __future__ import annotations

import itertools

import pytest
import torch

import optimizers
from optimizers.executors import factored

SHAPES = [(4, 3), (3,), (), (5, 4, 3, 3), (1, 7), (7, 1), (2, 3, 1, 5), (64, 10), (100,)]
LARGE = [(300, 257), (2, 400, 300), (100_001,), (1, 70_000), (70_000, 1)]  # cut into several items
OPTIONS = [
    {},
    {"lr": 0.5, "maximize": True, "weight_decay": 0.1, "eps": (1e-3, 1e-2), "d": 1.2},
    {"lr": 0.3, "beta2_decay": -0.3, "eps": (None, 1e-2)},
]


def steps(build, shapes, n=5, dtype=torch.float64, frozen=(), **options):
    """The parameters and the optimizer after `n` steps; parameter i gets no gradient in step i of `frozen`."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    optimizer = build(params, **options)
    for step in range(n):
        for i, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator).to(dtype)
            p.grad = None if (i, step) in frozen else g
        optimizer.step()
    return params, optimizer


def loop(params, **options):
    return torch.optim.Adafactor(params, foreach=False, **options)


def assert_same(mine, theirs, tolerance):
    """Parameters and every state tensor."""
    for p, q in zip(mine[0], theirs[0], strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        mine_state, other = mine[1].state[p], theirs[1].state[q]
        assert list(mine_state) == list(other)
        for key in other:
            assert mine_state[key].shape == other[key].shape and mine_state[key].dtype == other[key].dtype
            torch.testing.assert_close(mine_state[key], other[key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_float64_follows_torchs_loop(options, fused):
    """The sums are taken in another order, and a quotient of square roots stands for torch's reciprocal root."""
    late = {(1, 0), (3, 2), (3, 3)}
    mine = steps(optimizers.Adafactor, SHAPES, frozen=late, fused=fused, **options)
    assert_same(mine, steps(loop, SHAPES, frozen=late, **options), 1e-12)


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_tensors_cut_into_items_follow_torchs_loop(options):
    mine = steps(optimizers.Adafactor, LARGE, n=2, fused=True, **options)
    assert_same(mine, steps(loop, LARGE, n=2, **options), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_in_lower_precision_rounds_the_float64_step_once_or_nearly(dtype):
    """One step from state 0. The factored estimate is worked in float32 and stored in `dtype`: two roundings, and a
    square root that halves them, make the update; 4 units in the last place of the larger of parameter and 1."""
    eps = (1e-3, 1e-3)
    fused = None if dtype == torch.float32 else False  # half types are plain torch
    mine = steps(optimizers.Adafactor, SHAPES + LARGE, n=1, dtype=dtype, fused=fused, lr=0.1, eps=eps)[0]
    exact = steps(optimizers.Adafactor, SHAPES + LARGE, n=0, dtype=dtype)[0]
    exact = [torch.nn.Parameter(p.detach().double()) for p in exact]
    generator = torch.Generator().manual_seed(0)
    for s in SHAPES + LARGE:
        torch.randn(s, generator=generator)
    for p in exact:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype).double()
    loop(exact, lr=0.1, eps=eps).step()
    for p, q in zip(mine, exact, strict=True):
        error = (p.detach().double() - q).abs() / q.detach().abs().clamp(min=1)
        assert error.max() <= 4 * torch.finfo(dtype).eps


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(steps(optimizers.Adafactor, LARGE, n=2, dtype=torch.float32, fused=True)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_every_parameter_has_the_epsilon_of_its_own_dtype_where_torch_takes_the_firsts():
    def updates(build, **options):
        params = [torch.nn.Parameter(torch.ones(8, dtype=d)) for d in (torch.bfloat16, torch.float32)]
        for p in params:
            p.grad = torch.full_like(p, 1e-4)
        build(params, lr=0.1, **options).step()
        return params[1].detach()

    def alone(build, **options):
        p = torch.nn.Parameter(torch.ones(8))
        p.grad = torch.full_like(p, 1e-4)
        build([p], lr=0.1, **options).step()
        return p.detach()

    expected = alone(loop)
    for fused in (None, False):
        assert torch.allclose(updates(optimizers.Adafactor, fused=fused), expected, rtol=1e-6)
    assert not torch.allclose(updates(loop), expected), "torch has mended T9: compare with it again"


def test_plain_torch_does_not_wait_for_the_device():
    """A meta tensor has no numbers: whoever asked for one would raise."""
    for shape in ((4, 3), (5,)):
        p = torch.nn.Parameter(torch.empty(shape, device="meta"))
        p.grad = torch.empty_like(p)
        optimizer = optimizers.Adafactor([p])
        optimizer.step()
        assert optimizer.executors()[0][1] == "eager" and optimizer.state[p]["step"] == 1


def test_empty_tensors_and_odd_layouts_step_beside_others():
    base = torch.randn(6, 4, dtype=torch.float64)
    kinds = [torch.empty(0, 3), torch.empty(0), base.clone().t(), base.clone()[:, ::2], base.clone()]
    for p in (params := [torch.nn.Parameter(k.double()) for k in kinds]):
        p.grad = torch.ones_like(p) + p.detach()
    others = [torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in params[2:]]
    for q, p in zip(others, params[2:], strict=True):
        q.grad = p.grad.clone(memory_format=torch.contiguous_format)
    optimizer = optimizers.Adafactor(params)
    optimizer.step()
    loop(others).step()
    for p, q in zip(params[2:], others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    names = {p.shape: executor for p, executor, _ in optimizer.executors()}
    assert names[torch.Size([4, 6])] == "eager" and names[torch.Size([6, 4])] == "cpu"


def test_items_cover_every_row_of_every_matrix_once():
    for shape in [*SHAPES, *LARGE, (0, 3), (3, 0), (0,), (40, 3, 3), (70_000, 2, 2)]:
        matrix = len(shape) > 1
        items = factored._items(7, shape, matrix)
        seen = sum((last - first) * (end - begin) for _, first, last, begin, end, *_ in items)
        numel = torch.Size(shape).numel()
        assert seen == (numel // shape[-1] if matrix and numel else numel if not matrix else 0)
        assert all(a != b for a, b in itertools.pairwise(items))


def test_complex_and_sparse_are_refused_in_torchs_words():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="Adafactor does not support complex parameters"):
        optimizers.Adafactor([p]).step()
    q = torch.nn.Parameter(torch.ones(3, 2))
    q.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="Adafactor does not support sparse gradients"):
        optimizers.Adafactor([q]).step()


def test_sums_of_wide_matrices_are_given_back_after_the_step():
    """Kept, those of one row of a million columns would take twice the parameter's memory."""
    jobs = []
    for shape in [(1, 50_000), (500, 500)]:
        p = torch.nn.Parameter(torch.randn(shape))
        p.grad = torch.randn(shape)
        optimizer = optimizers.Adafactor([p])
        optimizer.step()
        jobs += optimizer._plan.jobs
    assert [job.scratch is None for job in jobs] == [True, False]
    assert jobs[1].scratch.nbytes <= 0.25 * 500 * 500
