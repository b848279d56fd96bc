"""Ours and torch's SparseAdam side by side on the same sparse gradients."""

from __future__ import annotations

import torch

from optimizers import SparseAdam

BUILDS = (SparseAdam, torch.optim.SparseAdam)


def gradient(p, entries, seed, dimensions=1):
    """A gradient with random entries, some of them for the same place."""
    generator = torch.Generator().manual_seed(seed)
    at = [torch.randint(0, n, (entries,), generator=generator) for n in p.shape[:dimensions]]
    at = torch.stack(at) if at else torch.empty((0, entries), dtype=torch.int64)
    values = torch.randn((entries, *p.shape[dimensions:]), generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(at, values.to(p.dtype), p.shape)


def pair(*shapes, dtype=torch.float64, **options):
    """The same parameters twice, under ours and under torch's."""
    sides = []
    for build in BUILDS:
        generator = torch.Generator().manual_seed(0)
        params = [
            torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes
        ]
        sides.append((params, build(params, **options)))
    return sides


def train(*sides, steps, seed=0, entries=6, dimensions=1):
    for step in range(seed, seed + steps):
        for params, optimizer in sides:
            for p in params:
                p.grad = gradient(p, entries, step, dimensions)
            optimizer.step()


def assert_same(ours, theirs, tolerance=1e-12):
    for p, q in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        mine, other = ours[1].state[p], theirs[1].state[q]
        assert list(mine) == list(other)
        assert type(mine["step"]) is int and mine["step"] == other["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert (mine[key].dtype, mine[key].stride()) == (other[key].dtype, other[key].stride())
            torch.testing.assert_close(mine[key], other[key], rtol=tolerance, atol=tolerance)
