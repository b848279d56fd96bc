"""SparseAdam steps the rows that have a gradient, like torch's loop, and touches no others."""

from __future__ import annotations

import importlib.util
import io
import math
import subprocess
import sys
import textwrap

import pytest
import torch

from optimizers import SparseAdam
from optimizers.executors import kernels, sparse

from .sparse_sides import BUILDS, assert_same, gradient, pair, train

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_sparse_tensors")


@pytest.fixture(params=["cpu", "eager"])
def executor(request, monkeypatch):
    """Both ways of stepping: by the kernels, and without them."""
    if request.param == "eager":
        monkeypatch.setattr(kernels, "executor", lambda device: "numba is not installed")
    elif importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    return request.param


@pytest.mark.parametrize(
    "shape, dimensions",
    [
        ((9, 5), 1),
        ((9, 2, 3), 1),
        ((30,), 1),
        ((1, 70), 1),
        ((5, 4, 3), 2),
        ((5, 6), 2),
        ((4, 1, 2), 2),
        ((), 0),
        ((3,), 0),
    ],
)
def test_any_split_into_sparse_and_dense_dimensions_steps_like_torch(shape, dimensions, executor):
    ours, theirs = pair(shape, shape, lr=0.1)
    train(ours, theirs, steps=12, dimensions=dimensions)
    assert [name for _, name, _ in ours[1].executors()] == [executor] * 2
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"maximize": True},
        {"betas": (0.0, 0.5)},
        {"betas": (0.5, 0.1)},
        {"eps": 0.3},
        {"lr": torch.tensor([0.2], dtype=torch.float64)},
    ],
)
def test_every_option_does_what_it_does_in_torch(options, executor):
    ours, theirs = pair((8, 3), **options)
    train(ours, theirs, steps=10)
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_rounds_the_textbook_step_once(dtype, executor):
    p = torch.nn.Parameter(torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).to(dtype))
    optimizer = SparseAdam([p], lr=0.1)
    for t in range(1, 5):
        g = gradient(p, 3, t).coalesce()
        rows, value = g.indices()[0], g.values().double()
        state = optimizer.state.get(p)
        m = state["exp_avg"].double()[rows] if state else 0.0
        v = state["exp_avg_sq"].double()[rows] if state else 0.0
        before = p.detach().double().clone()
        m, v = 0.9 * m + 0.1 * value, 0.999 * v + 0.001 * value**2
        wanted = before.clone()
        wanted[rows] -= 0.1 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (v.sqrt() + 1e-8)
        p.grad = g
        optimizer.step()
        unit = torch.finfo(dtype).eps
        tolerance = {"rtol": 1.1 * unit, "atol": 4e-6}
        torch.testing.assert_close(p.detach().double(), wanted, **tolerance)
        others = [row for row in range(6) if row not in rows]
        assert others and torch.equal(p.detach().double()[others], before[others])
        torch.testing.assert_close(optimizer.state[p]["exp_avg"].double()[rows], m, rtol=1.1 * unit, atol=1e-7)


def test_float32_state_beside_half_precision_parameters_is_kept():
    p = torch.nn.Parameter(torch.ones(4, 20, dtype=torch.bfloat16))
    optimizer = SparseAdam([p], lr=0.1)
    optimizer.state[p] = {"step": 0, "exp_avg": torch.zeros(4, 20), "exp_avg_sq": torch.zeros(4, 20)}
    p.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 20, dtype=torch.bfloat16), (4, 20))
    optimizer.step()
    assert optimizer.executors()[0][1:] == ("cpu", "")
    assert optimizer.state[p]["exp_avg"].dtype == torch.float32
    assert optimizer.state[p]["exp_avg"][1].tolist() == pytest.approx([0.1] * 20, rel=1e-6)
    assert p[1].tolist() == pytest.approx([0.9] * 20, abs=0.004) and p[0].tolist() == [1.0] * 20


LAYOUTS = {
    "transposed": (lambda t: t.t().contiguous().t(), "its rows are not contiguous: its strides are (1, 9)"),
    "every other column": (lambda t: t.repeat_interleave(2, 1)[:, ::2], "the parameter is not dense in memory"),
    "offset": (lambda t: torch.cat([t, t])[9:], ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_steps_like_torch_and_says_why_no_kernel_does_it(layout):
    shape, reason = LAYOUTS[layout]
    sides = []
    for build in BUILDS:
        p = torch.nn.Parameter(shape(torch.arange(36.0, dtype=torch.float64).reshape(9, 4)))
        sides.append(([p], build([p], lr=0.1)))
    train(*sides, steps=6)
    assert sides[0][1].executors()[0][2] == reason
    torch.testing.assert_close(sides[0][0], sides[1][0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["expanded", "negative", "every other row"])
def test_values_of_any_layout_count_as_what_they_show(kind, executor):
    sides = pair((5, 4), lr=0.1)
    for params, optimizer in sides:
        values = {
            "expanded": torch.tensor([[2.0]], dtype=torch.float64).expand(2, 4),
            "negative": torch._neg_view(torch.arange(8.0, dtype=torch.float64).reshape(2, 4)),
            "every other row": torch.arange(16.0, dtype=torch.float64).reshape(4, 4)[::2],
        }[kind]
        params[0].grad = torch.sparse_coo_tensor([[3, 1]], values, (5, 4), is_coalesced=True)
        optimizer.step()
    assert_same(*sides)


def test_an_embedding_trains_like_under_torch(executor):
    sides = []
    for build in BUILDS:
        torch.manual_seed(0)
        model = torch.nn.Embedding(20, 6, sparse=True, dtype=torch.float64)
        optimizer = build(model.parameters(), lr=0.05)
        for step in range(15):
            words = torch.randint(0, 20, (4, 7), generator=torch.Generator().manual_seed(step))
            loss = (model(words).sum(1) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        sides.append(([model.weight], optimizer))
    assert_same(*sides)


def test_a_gradient_without_entries_moves_nothing_but_counts(executor):
    ours, theirs = pair((5, 2), (4, 0), lr=0.1)
    for params, optimizer in (ours, theirs):
        for p, entries in zip(params, (0, 3), strict=True):
            p.grad = gradient(p, entries, 0)
        before = params[0].detach().clone()
        optimizer.step()
        assert torch.equal(params[0], before)
    assert_same(ours, theirs)
    assert ours[1].state[ours[0][0]]["step"] == 1
    train(ours, theirs, steps=3)
    assert_same(ours, theirs)


def test_parameters_without_a_gradient_get_no_state():
    params = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = SparseAdam(params)
    params[1].grad = gradient(params[1], 2, 0)
    optimizer.step()
    assert list(optimizer.state) == [params[1]]
    assert [id(p) for p, *_ in optimizer.executors()] == [id(params[1])]


def test_the_gradient_is_left_as_it_was(executor):
    (params, optimizer), _ = pair((5, 2))
    params[0].grad = g = gradient(params[0], 8, 0)
    values, indices = g._values().clone(), g._indices().clone()
    optimizer.step()
    assert params[0].grad is g and not g.is_coalesced()
    assert torch.equal(g._values(), values) and torch.equal(g._indices(), indices)


def test_autograd_notices_that_parameter_and_state_were_written(executor):
    (params, optimizer), _ = pair((5, 2))
    p = params[0]
    p.grad = gradient(p, 3, 0)
    optimizer.step()
    before = [t._version for t in (p, *list(optimizer.state[p].values())[1:])]
    saved = (p * p).sum()
    optimizer.step()
    after = [t._version for t in (p, *list(optimizer.state[p].values())[1:])]
    assert all(a > b for a, b in zip(after, before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


@pytest.mark.parametrize("size", [1, 4, 5])
def test_gradients_larger_than_the_table_are_stepped_in_parts(size, monkeypatch):
    monkeypatch.setattr(sparse, "ROWS", size)
    ours, theirs = pair((40, 3), (30,), (20, 2), lr=0.1)
    train(ours, theirs, steps=5, entries=13)
    assert_same(ours, theirs)


def test_rows_that_follow_each_other_are_one_row_of_the_table(monkeypatch):
    filled = []
    run = sparse._run
    monkeypatch.setattr(sparse, "_run", lambda job, rows: (filled.append(rows), run(job, rows))[1])
    ours, theirs = pair((9, 3), lr=0.1)
    for params, optimizer in (ours, theirs):
        params[0].grad = torch.sparse_coo_tensor([[2, 3, 4, 8, 0]], torch.ones(5, 3, dtype=torch.float64), (9, 3))
        optimizer.step()
    assert filled == [3]
    assert_same(ours, theirs)


def test_the_number_of_threads_does_not_change_a_bit():
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        p = torch.nn.Parameter(torch.ones(3000, 64))
        optimizer = SparseAdam([p], lr=0.1)
        for step in range(2):
            p.grad = gradient(p, 2500, step)
            optimizer.step()
        results.append(p.detach())
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
def test_rows_without_a_gradient_are_neither_read_nor_written():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORBIDDEN)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.split() == ["cpu", "eager"]


FORBIDDEN = """
    import ctypes, mmap, torch
    from optimizers import SparseAdam
    from optimizers.executors import kernels
    libc, page, touched = ctypes.CDLL(None), mmap.PAGESIZE, (1, 3, 4, 6)
    width = page // 4

    def rows():
        memory = mmap.mmap(-1, 8 * page)
        table = torch.frombuffer(memory, dtype=torch.float32).view(8, width)
        for row in set(range(8)) - set(touched):
            address = ctypes.c_void_p(table.data_ptr() + row * page)
            assert libc.mprotect(address, ctypes.c_size_t(page), 0) == 0  # 0: no access
        return table

    def step():
        p, m, v = torch.nn.Parameter(rows()), rows(), rows()
        optimizer = SparseAdam([p], lr=0.5)
        optimizer.state[p] = {"step": 0, "exp_avg": m, "exp_avg_sq": v}
        for at in ([6, 1, 3, 1], [3, 4]):
            p.grad = torch.sparse_coo_tensor([at], torch.ones(len(at), width), (8, width))
            optimizer.step()
        print(optimizer.executors()[0][1])
        assert [round(p[row, -1].item(), 2) for row in touched] == [-0.5, -1.0, -0.37, -0.5], p[list(touched), -1]

    step()
    kernels.executor = lambda device: "no kernels"
    step()
"""


@pytest.mark.parametrize("index", [3, -1])
def test_a_row_that_does_not_exist_is_refused_before_anything_changes(index, executor):
    params = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = SparseAdam(params)
    for p in params:
        p.grad = gradient(p, 2, 0)
    params[1].grad._indices()[0, 1] = index  # torch checks indices only when the gradient is made
    with pytest.raises(IndexError, match=f"index {index} is out of bounds for dimension 0 with size 3"):
        optimizer.step()
    assert not optimizer.state and params[0].tolist() == [[1.0] * 2] * 3


@pytest.mark.parametrize("direction", ["torch to ours", "ours to torch"])
def test_checkpoints_cross_in_the_middle_of_a_run_and_100_more_steps_are_equal(direction, executor):
    ours, theirs = pair((7, 3), (9,), lr=0.1)
    train(ours, theirs, steps=5)
    source, target = (theirs, ours) if direction == "torch to ours" else (ours, theirs)
    file = io.BytesIO()
    torch.save(source[1].state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for p, q in zip(target[0], source[0], strict=True):
            p.copy_(q)
    target[1].load_state_dict(torch.load(file, weights_only=True))
    train(ours, theirs, steps=100, seed=5, entries=3)
    assert_same(ours, theirs, 1e-10)


def test_a_kernel_that_cannot_be_made_costs_speed_and_says_so(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(kernels, "job", broken)
    ours, theirs = pair((5, 2), lr=0.1)
    with pytest.warns(UserWarning, match=r"slower: its kernel could not be made \(RuntimeError: no compiler\)"):
        train(ours, theirs, steps=1)
    train(ours, theirs, steps=2, seed=1)
    assert_same(ours, theirs)
