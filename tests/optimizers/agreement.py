"""Whether two forms of a loss agree: in value, and in gradient for a random upstream gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from optimizers.losses import ctc, margins, probabilities, vectors


def value_and_gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The loss and its gradient for every floating-point input, of the upstream gradient with seed 0."""
    inputs = tuple(x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs)
    value = loss(*inputs)
    upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = [x for x in inputs if x.requires_grad]
    gradients = torch.autograd.grad(value, wanted, upstream.to(value.dtype), allow_unused=True)
    return value.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients, strict=True))


def assert_agree(ours, theirs, *inputs: Tensor, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    """Both in the dtype of the inputs; the defaults allow for float64's rounding of sums of some hundred terms."""
    for got, goal in zip(value_and_gradients(ours, *inputs), value_and_gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(got, goal, rtol=rtol, atol=atol)
        assert goal.isfinite().all()


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers in float64."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def indices(*shape: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def by_rows_for_the_smallest() -> Iterator[None]:
    """Kernels of losses over rows are asked for whatever the size."""
    before = probabilities.FEW, margins.SMALL, margins.SHORT, ctc.SMALL
    probabilities.FEW = margins.SMALL = margins.SHORT = ctc.SMALL = 0
    forget_rows()
    try:
        yield
    finally:
        probabilities.FEW, margins.SMALL, margins.SHORT, ctc.SMALL = before
        forget_rows()


def forget_rows() -> None:
    """All that was prepared of those kernels, but not their machine code."""
    for kept in (probabilities._nll, margins._multi_margin, margins._multilabel_margin, vectors._kernel, ctc._kernel):
        kept.cache_clear()
