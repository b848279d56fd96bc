"""The pairs that L-BFGS remembers: the compiled loops and the plain ones give the same direction."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from optimizers.executors import generate, threads
from optimizers.executors.history import CompiledHistory, History, largest

compiled = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")


def vectors(n, count, dtype):
    """A gradient, and pairs that belong to a convex function, scaled so that all lengths are about 1."""
    generator = torch.Generator().manual_seed(n)
    draw = lambda: torch.randn(n, generator=generator, dtype=torch.float64) / math.sqrt(n)  # noqa: E731
    pairs = []
    for _ in range(count):
        s = draw()
        pairs.append((s * torch.linspace(1, 2, n, dtype=torch.float64) + 0.1 * draw(), s))
    return draw().to(dtype), [(y.to(dtype), s.to(dtype)) for y, s in pairs]


def remembered(kind, gradient, pairs, size):
    memory = History(size) if kind is History else CompiledHistory(size, gradient)
    for y, s in pairs:
        memory.remember(y + gradient, gradient, 2 * s, 0.5)
    return memory


CHUNK = 8192


@compiled
def test_the_sizes_below_are_about_that_of_a_chunk():
    assert generate.compiled("lbfgs").CHUNK == CHUNK


@compiled
@pytest.mark.parametrize("n", [1, 2, 15, 17, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("count, size", [(0, 3), (1, 3), (3, 3), (5, 3)])
def test_the_compiled_loops_do_what_the_plain_ones_do_in_float64(n, count, size):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        gradient, pairs = vectors(n, count, dtype)
        exact = remembered(History, gradient.double(), [(y.double(), s.double()) for y, s in pairs], size)
        wanted, slope = exact.direction(gradient.double())
        memory = remembered(CompiledHistory, gradient, pairs, size)
        d, own_slope = memory.direction(gradient)
        scale = wanted.norm()
        assert d.dtype == dtype and (d.double() - wanted).norm() <= tolerance * scale
        assert abs(own_slope - slope) <= tolerance * abs(slope)
        assert len(memory.steps) == min(count, size)
        assert memory.al == pytest.approx([float(x) for x in exact.al], rel=100 * tolerance, abs=100 * tolerance)


@compiled
@pytest.mark.parametrize("pool", ["openmp", "none"])
def test_the_number_of_threads_does_not_change_a_bit(pool, monkeypatch):
    if pool == "none":
        monkeypatch.setattr(threads, "openmp", lambda: None)
    elif threads.openmp() is None:
        pytest.skip("torch's OpenMP runtime is not to be found here")
    gradient, pairs = vectors(generate.compiled("lbfgs").SERIAL_BELOW + 7, 3, torch.float32)
    results, before = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        memory = remembered(CompiledHistory, gradient, pairs, 3)
        d, slope = memory.direction(gradient)
        results.append(torch.cat([d.double(), torch.tensor([slope, memory.largest(d)], dtype=torch.float64)]))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_absolute_value_is_that_of_torch(dtype):
    tiny = torch.finfo(dtype).tiny / 4
    for values in ([1.0, -3.0, 2.0], [-0.0], [tiny, -2 * tiny], [math.inf, 1.0], [-math.inf, 5.0]):
        for n in (1, CHUNK + 1):
            vector = torch.tensor(values * n, dtype=dtype)
            assert CompiledHistory(1, vector).largest(vector) == largest(vector) == vector.abs().max()
    for at in (0, 1, 2 * CHUNK):
        vector = torch.ones(2 * CHUNK + 1, dtype=dtype)
        vector[at] = math.nan
        assert math.isnan(CompiledHistory(1, vector).largest(vector)) and math.isnan(largest(vector))


def test_on_a_device_the_two_loops_wait_for_nothing():
    gradient = torch.ones(5, device="meta")  # whose values nobody can ask for
    memory = History(3)
    for _ in range(4):
        memory._add(gradient, gradient, gradient.sum(), gradient.sum())
    d, slope = memory.direction(gradient)
    assert d.shape == (5,) and slope.device.type == "meta" and len(memory.steps) == 3
