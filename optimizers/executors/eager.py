"""The readable reference: runs a rule as plain torch, on any device, dtype and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Algorithm, FactoredAlgorithm, MatrixAlgorithm

#: what the arithmetic is done in: one rounding at the end, as the fused multiply-adds of a kernel would nearly give
_WORK = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
_DOUBLE = ("cpu", "cuda", "meta")  # devices that know float64


def coefficients(
    algorithm: Algorithm, group: Mapping[str, Any], scalars: list[Tensor], direction: float, first: bool, traced: bool
) -> list[Any]:
    """Advances the scalar state in place and returns this step's coefficients.

    `traced`: the scalars stay tensors, so that a graph can capture and autograd can follow what is made of them.
    """
    hyper = algorithm.hyper_values(group)
    if traced:
        double = all(s.device.type in _DOUBLE for s in scalars)
        wide = [s.to(torch.float64 if double else s.dtype, copy=True) for s in scalars]
        values: dict[str, Any] = dict(zip(algorithm.scalars, wide, strict=True))
        kind = scalars[-1].dtype if scalars else torch.float32
        stored: Callable = lambda x: x.to(kind).to(x.dtype) if isinstance(x, Tensor) else x  # noqa: E731
    else:
        values = {name: s.item() for name, s in zip(algorithm.scalars, scalars, strict=True)}
        hyper = [x.item() if isinstance(x, Tensor) else x for x in hyper]
        # the first is the step; a checkpoint that torch reloaded may have cast the others
        single = bool(scalars) and scalars[-1].dtype == torch.float32
        stored = (lambda x: float(np.float32(x))) if single else float
    values |= dict(zip(algorithm.hyper, hyper, strict=True))
    values |= {"direction": direction, "first": float(first), "stored": stored}
    answer = algorithm.coefficients(**{name: values[name] for name in algorithm.inputs})
    for scalar, new in zip(scalars, answer, strict=False):
        scalar.copy_(new) if isinstance(new, Tensor) else scalar.fill_(new)
    return list(answer[len(scalars) :])


def step(
    algorithm: Algorithm,
    p: Any,
    g: Tensor,
    slots: list[Tensor | None],
    coefs: list[Any],
    group: Mapping[str, Any],
    track: bool = False,
) -> None:
    """Steps one parameter in place. `track`: autograd follows, and so nothing it saved may be overwritten."""
    if g.is_sparse:
        return _step_sparse(algorithm, p, g, slots, coefs, group, track)
    if p.is_complex() and p.is_conj():
        whole = p.resolve_conj()
        step(algorithm, whole, g, slots, coefs, group, track)
        p.copy_(whole)
        return None
    if p.is_complex():
        p, g = torch.view_as_real(p), torch.view_as_real(g.resolve_conj())
        slots = [s if s is None else torch.view_as_real(s) for s in slots]
    work = _WORK.get(p.dtype, p.dtype)
    if p.device.type not in _DOUBLE and p.dtype == torch.float32:
        work = torch.float32
    inputs = [x if x is None else x.to(work) for x in (p, g, *slots)]
    if track:
        inputs = [x if x is None else x.clone() for x in inputs]
    if isinstance(algorithm, FactoredAlgorithm):
        results = _factored(algorithm, inputs, coefs, torch.finfo(p.dtype).eps)
    else:
        results = algorithm.rule(*inputs, *coefs)
    if isinstance(algorithm, MatrixAlgorithm):
        update = results[-1].to(p.dtype)
        update = algorithm.transform(update[None], group)[0].to(work)
        results = (*algorithm.finish(results[0], update, *coefs), *results[1:])
    for target, new in zip([p, *slots], results, strict=True):
        if target is not None:
            target.copy_(new)
    return None


def _factored(algorithm: FactoredAlgorithm, inputs: list[Any], coefs: list[Any], epsilon: float) -> tuple[Any, ...]:
    """The new parameter and second moments of one tensor; nothing waits for the device."""
    p, g, row, col, var = inputs
    direction, take, rho, keep, eps1, eps2, d = coefs
    if p.numel() == 0:
        return p, row, col, var
    eps1 = epsilon if eps1 != eps1 else eps1
    g = direction * g
    if row is not None:
        row = algorithm.moment(row, g.square().mean(-1, keepdim=True), take)
        col = algorithm.moment(col, g.square().mean(-2, keepdim=True), take)
        v = algorithm.estimate(row, col, row.mean(-2, keepdim=True), eps1)
    else:
        v = var = algorithm.moment(var, g.square(), take)
    u = algorithm.update(g, v, eps1)
    size = algorithm.step_size(p.square().mean(), u.square().mean(), rho, eps2, d)
    return (*algorithm.rule(p, u, size, keep), row, col, var)


def _step_sparse(algorithm: Algorithm, p: Tensor, g: Tensor, slots, coefs, group, track: bool) -> None:
    """Gathers the rows that have a gradient, steps them, scatters them back."""
    if not g.sparse_dim():
        return step(algorithm, p, g.to_dense(), slots, coefs, group, track)
    g = g.coalesce()
    at = tuple(g.indices())
    rows = [x if x is None else x[at] for x in (p, *slots)]
    step(algorithm, rows[0], g.values(), rows[1:], coefs, group, track)
    for target, new in zip([p, *slots], rows, strict=True):
        if target is not None:
            target[at] = new
