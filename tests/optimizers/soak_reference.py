"""What a random run is compared with: each step beside the same step of torch's for-loop."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import optimizers
from optimizers.executors import eager

from .strategies import DTYPES

#: what torch's loop steps each dtype in, to compare with: once in float64 (complex numbers as pairs, because inf times
#: a complex number is nan in places where inf times a pair is not), and once in the precision that ours has
DOUBLE = dict.fromkeys(DTYPES, torch.float64)
SINGLE = dict.fromkeys(DTYPES, torch.float32) | {
    dtype: dtype for dtype in (torch.float64, torch.complex64, torch.complex128)
}


def real(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t.resolve_neg()


def wide(t: Tensor) -> Tensor:
    """A float64 copy of a tensor's elements; complex ones as pairs."""
    return real(t.detach()).to(torch.float64, copy=True, memory_format=torch.contiguous_format)


def rows(optimizer) -> list[tuple[dict[str, Any], Tensor]]:
    return [(group, p) for group in optimizer.param_groups for p in group["params"]]


def torchs_step(optimizer: optimizers.Optimizer, work: dict[torch.dtype, torch.dtype]) -> list[dict[str, Tensor]]:
    """What torch's for-loop would make of each parameter (under the key "p") and its state, in other dtypes."""

    def copied(t: Any, dtype: torch.dtype) -> Any:
        if not isinstance(t, Tensor) or t.is_sparse:
            return copy.copy(t)
        t = t.detach().resolve_neg().resolve_conj()
        t = torch.view_as_real(t) if t.is_complex() and not dtype.is_complex else t
        return t.to(dtype, copy=True, memory_format=torch.contiguous_format)

    groups, pairs = [], []
    for group in optimizer.param_groups:
        params = []
        for p in group["params"]:
            q = torch.nn.Parameter(copied(p, work[p.dtype]))
            q.grad = None if p.grad is None else copied(p.grad, q.dtype)
            params.append(q)
            pairs.append((group, p, q))
        loop = {"foreach": False, "fused": None} if "foreach" in group else {}
        groups.append({**group, "params": params, **loop})
    reference = getattr(torch.optim, type(optimizer).__name__)(groups)
    for group, p, q in pairs:
        state = optimizer.state.get(p, {})
        if isinstance(optimizer, optimizers.Rprop) and p.grad is not None and not state:
            # the first step size is kept in the dtype of the parameter, which is not that of the reference
            lr = complex(group["lr"], group["lr"]) if p.is_complex() else group["lr"]
            state = {"step": torch.tensor(0.0), "prev": torch.zeros_like(p), "step_size": torch.full_like(p, lr)}
        if state:
            reference.state[q] = {
                key: t.clone() if key in optimizer.algorithm.scalars else copied(t, q.dtype) for key, t in state.items()
            }
    reference.step()
    return [{"p": q.detach(), **reference.state.get(q, {})} for _, _, q in pairs]


class Before:
    """One parameter before a step, as float64, and what decides how exact the step has to be."""

    def __init__(self, optimizer: optimizers.Optimizer, group: dict[str, Any], p: Tensor):
        self.optimizer, self.group, self.dtype = optimizer, group, p.dtype
        self.fresh = optimizer.lacks_state(p, group)
        algorithm = optimizer.algorithm
        state = optimizer.state.get(p, {})
        self.p, self.g = wide(p), None if p.grad is None else wide(p.grad)

        def first(init):
            return float(group[init]) if isinstance(init, str) else init

        def slot(key, init):
            return wide(state[key]) if state.get(key) is not None else wide(torch.full_like(p, first(init)))

        self.slots = [
            slot(key, declared.init) if there else None
            for (key, declared), there in zip(algorithm.slots.items(), algorithm.present(group), strict=True)
        ]
        self.scalars = [
            state[key].clone() if key in state else torch.tensor(first(init)) for key, init in algorithm.scalars.items()
        ]

    def tolerances(self) -> dict[str, Tensor]:
        """How far a step may go astray: as far as it does when its inputs are off a little, one after the other.

        A little is 1e-12 for float64, and eight float32 roundings otherwise. That is what a careful evaluation in
        another order may lose where terms cancel. Of the parameter itself only one rounding counts.
        """
        algorithm = self.optimizer.algorithm
        work = torch.finfo(torch.float64 if self.dtype in (torch.float64, torch.complex128) else torch.float32)
        unit, smallest = work.eps, work.smallest_normal * work.eps
        little = 1e-12 if work.bits == 64 else 8 * unit
        direction = -1.0 if self.group["maximize"] else 1.0
        coefs = eager.coefficients(algorithm, self.group, self.scalars, direction, self.fresh, False)
        inputs = [self.p, self.g, *self.slots]

        def outcome(*inputs):
            new, *slots = algorithm.rule(*inputs, *coefs)
            return [new - inputs[0], *[s for s in slots if s is not None]]

        plain = outcome(*inputs)
        total = [little * x.abs() for x in plain]
        for i, x in enumerate(inputs):
            if x is not None:
                off = x * (1 + little) + x.sign() * 2**30 * smallest  # where they are subnormal, products lose digits
                moved = outcome(*[off if i == j else y for j, y in enumerate(inputs)])
                total = [t + (a - b).abs() for t, a, b in zip(total, moved, plain, strict=True)]
        total[0] = total[0] + unit * torch.maximum(self.p.abs(), (self.p + plain[0]).abs())
        names = [key for key, s in zip(algorithm.slots, self.slots, strict=True) if s is not None]
        tolerances = dict(zip(["p", *names], total, strict=True))
        if eps := self.group.get("eps"):  # what is subnormal loses digits before it is divided by no more than this
            for key in tolerances.keys() & {"p", "momentum_buffer"}:
                tolerances[key] = tolerances[key] + 2**10 * smallest / eps
        if self.group.get("centered"):  # where the variance is a difference that rounding decides
            exact = centered(self)
            for key, value in [*centered(self, little).items(), *centered(self, -little).items()]:
                tolerances[key] = tolerances.get(key, 0.0) + (value - exact[key]).abs()
        return tolerances


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, nan included."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def last_place(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance to the next number of that dtype."""
    info = torch.finfo(dtype)
    return (torch.exp2(torch.floor(torch.log2(x.abs()))) * info.eps).clamp(min=info.smallest_normal * info.eps)


def near(ours: Tensor, reference: Tensor, tolerance: Tensor) -> Tensor:
    """Where a result is the reference, rounded to its dtype, give or take."""
    exact = wide(reference)
    mine = wide(ours)
    dtype = real(ours).dtype
    if dtype in (torch.float16, torch.bfloat16):
        tolerance = tolerance + last_place(torch.maximum(mine.abs(), exact.abs()), dtype) / 2
    tolerance = tolerance + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    rounded = exact.to(dtype).double()
    return (mine == rounded) | (mine.isnan() & rounded.isnan()) | ((mine - exact).abs() <= tolerance)


def centered(before: Before, off: float = 0.0) -> dict[str, Tensor]:
    """The centered step of RMSprop with a variance that rounding cannot make negative: torch's loop is nan there.

    `off`: how much too large the variance is, as a share of what the mean square of the gradient is.
    """
    group, (square_avg, momentum_buffer, grad_avg) = before.group, before.slots
    g = -before.g if group["maximize"] else before.g
    g = g + group["weight_decay"] * before.p if group["weight_decay"] else g
    square_avg = group["alpha"] * square_avg + (1 - group["alpha"]) * g**2
    grad_avg = group["alpha"] * grad_avg + (1 - group["alpha"]) * g
    update = g / ((square_avg * (1 + off) - grad_avg**2).clamp(min=0).sqrt() + group["eps"])
    if momentum_buffer is not None:
        update = update + group["momentum"] * momentum_buffer
    return {"p": before.p - group["lr"] * update, "momentum_buffer": update}


def allowance(optimizer: optimizers.Optimizer, key: str, t: Tensor) -> Tensor:
    """How far a tensor may be from the reference if it has no rule: scalars are rounded to float32 somewhere."""
    rounding = max(torch.finfo(t.dtype).eps, 2.0**-23)
    return wide(t).abs() * rounding if key in optimizer.algorithm.scalars else torch.tensor(0.0)


def step_and_compare(optimizer: optimizers.Optimizer) -> None:
    """Steps, and compares every parameter and state tensor with torch's for-loop.

    A float32 step (and that of halves, which is done in float32) has to be where torch's float64 loop is or, where
    squares overflow or vanish, where its float32 loop is.
    """
    before = [Before(optimizer, group, p) for group, p in rows(optimizer)]
    gradients = [(p.grad, None if p.grad is None else wide(p.grad)) for _, p in rows(optimizer)]
    doubles, singles = torchs_step(optimizer, DOUBLE), torchs_step(optimizer, SINGLE)
    optimizer.step()
    for i, (group, p) in enumerate(rows(optimizer)):
        state = check_state(optimizer, p, doubles[i])
        gradient, values = gradients[i]
        assert p.grad is gradient and (gradient is None or equal(wide(gradient), values)), "the gradient was written to"
        tolerances = {} if gradient is None else before[i].tolerances()
        for key, t in state.items():
            tolerance = tolerances.get(key, allowance(optimizer, key, t))
            good = near(t, doubles[i][key], tolerance) | near(t, singles[i][key], tolerance)
            if group.get("centered") and gradient is not None and key in ("p", "momentum_buffer"):
                good |= near(t, centered(before[i])[key], tolerance) & wide(doubles[i][key]).isnan()
                # infinity less the square of the mean is infinity or nan, as the compiler fuses it or not
                good |= wide(t).isnan() & wide(singles[i]["square_avg"]).isinf()
            if group.get("eps") == 0:  # of what is divided by zero, one may become infinity and another nan
                finite = wide(doubles[i][key]).isfinite() & wide(singles[i][key]).isfinite()
                good |= ~wide(t).isfinite() & ~finite
            if not good.all():
                at = tuple(torch.nonzero(~good)[0].tolist())
                seen = {"ours": t, "torch in float64": doubles[i][key], "torch in its dtype": singles[i][key]}
                if gradient is not None and key not in optimizer.algorithm.scalars:
                    slots = dict(zip(optimizer.algorithm.slots, before[i].slots, strict=True))
                    seen |= {"tolerance": tolerance, "p before": before[i].p, "gradient": values, **slots}
                numbers_there = {name: wide(x)[at].item() for name, x in seen.items() if x is not None}
                options = {k: v for k, v in group.items() if k != "params"}
                raise AssertionError(f"{key} of parameter {i} ({p.dtype}) at {at}: {numbers_there} {options}")


def check_state(optimizer: optimizers.Optimizer, p: Tensor, reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameter (under the key "p") and its state, which has to have the keys of the reference, in that order."""
    state = {key: t for key, t in optimizer.state.get(p, {}).items() if t is not None}
    if p.grad is not None or state:  # torch's Adagrad makes the state before there is a gradient
        assert list(state) == [key for key, t in reference.items() if key != "p" and t is not None]
    return {"p": p.detach(), **state}


def step_and_compare_whole(optimizer: optimizers.Optimizer) -> None:
    """The same for float64 parameters whose elements depend on each other.

    An element may be off by 1e-11 of what it was or is, because sums are taken in another order, and by 1e-300, because
    products of numbers so small have few digits.
    """
    old = snapshot(optimizer)
    doubles = torchs_step(optimizer, DOUBLE)
    optimizer.step()
    for i, (_, p) in enumerate(rows(optimizer)):
        for key, t in check_state(optimizer, p, doubles[i]).items():
            if not isinstance(t, Tensor):
                assert t == doubles[i][key], key
                continue
            now = wide(doubles[i][key])
            size = torch.maximum(wide(old[i][key]).abs(), now.abs()) if key in old[i] else now.abs()
            good = near(t, doubles[i][key], 1e-11 * size + 1e-300)
            # from or to infinity, who weighs both ends has nan where who adds a part of the difference has not
            good |= ~wide(t).isfinite() & ~now.isfinite()
            assert good.all(), f"{key} of parameter {i}: {t[~good]} instead of {now[~good]}, was {old[i]}"


def snapshot(optimizer) -> list[dict[str, Any]]:
    """Copies of the parameters (under the key "p") and their state."""
    return [{"p": p.detach().clone(), **copy.deepcopy(optimizer.state.get(p, {}))} for _, p in rows(optimizer)]
