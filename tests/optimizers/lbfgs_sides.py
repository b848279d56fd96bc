"""Ours and torch's L-BFGS side by side on the same problem."""

from __future__ import annotations

import pytest
import torch

from optimizers import LBFGS

BUILDS = (LBFGS, torch.optim.LBFGS)
WOLFE = {"line_search_fn": "strong_wolfe"}
SHAPES = ((3, 4), (5,), ())
PLAIN = "numba is not installed"
NEAR = {"rtol": 1e-11, "atol": 1e-11}  # the closure's own products depend on how its memory is aligned


class Side:
    """Parameters, an optimizer, and a logistic regression whose data change with `seed`."""

    def __init__(self, build, shapes=SHAPES, dtype=torch.float64, layout=lambda t: t, **options):
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
        self.params = [torch.nn.Parameter(layout(t)) for t in start]
        self.optimizer = build(self.params, **options)
        self.seed, self.calls, self.fails_at, self.steepness = 0, 0, None, 1.0

    def loss(self):
        x = torch.cat([(torch.view_as_real(p) if p.is_complex() else p).reshape(-1) for p in self.params])
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randn(60, len(x), generator=generator, dtype=torch.float64).to(x.dtype)
        return torch.nn.functional.softplus(-rows @ x).mean() + 0.05 * x.square().sum()

    def closure(self):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        assert torch.is_grad_enabled()
        self.optimizer.zero_grad()
        loss = self.steepness * self.loss()
        loss.backward()
        return loss

    def step(self, steps=1, new_data=False):
        loss = None
        for _ in range(steps):
            loss = self.optimizer.step(self.closure)
            self.seed += new_data
        return loss

    @property
    def state(self):
        return self.optimizer.state[self.params[0]]

    def values(self):
        return [p.detach().clone() for p in self.params]


def pair(**options):
    return [Side(build, **options) for build in BUILDS]


def assert_same(ours, theirs, tolerance=1e-10):
    """The same parameters, calls of the closure, and state: its keys, types, dtypes and values."""
    near = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(ours.params, theirs.params, **near)
    assert ours.calls == theirs.calls
    mine, other = ours.state, theirs.state
    assert mine.keys() == other.keys()
    for key in mine:
        assert type(mine[key]) is type(other[key]), key
        a, b = (x if isinstance(x, list) else [x] for x in (mine[key], other[key]))
        assert [type(x) for x in a] == [type(x) for x in b], key
        for x, y in zip(a, b, strict=True):
            if isinstance(x, torch.Tensor):
                assert (x.dtype, x.shape) == (y.dtype, y.shape)
                torch.testing.assert_close(x, y, **near)
            else:
                assert x == pytest.approx(y, rel=tolerance, abs=tolerance) if x is not None else y is None
