"""L-BFGS: steps along the gradient times an inverse Hessian that is put together from the last steps."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import groups
from .executors.history import History, history, largest, refuse
from .optimizer import Optimizer

#: torch's line search, which is private; without it, torch's own step is taken
strong_wolfe: Any = getattr(importlib.import_module("torch.optim.lbfgs"), "_strong_wolfe", None)


class LBFGS(Optimizer, torch.optim.LBFGS):
    r"""Steps along :math:`-H g`, where :math:`H` approximates the inverse Hessian by the last ``history_size`` steps.

    Each `step` makes up to ``max_iter`` iterations, for which it calls the closure again and again. In every one the
    pair of the last step s and the gradient's difference y is remembered if :math:`y\cdot s > 10^{-10}`, the two-loop
    recursion starts from :math:`(y\cdot s / y\cdot y)\,I`, and the parameters move by ``lr`` times the direction (in
    the very first iteration by :math:`\min(1, 1/\lVert g\rVert_1)` times that), or as far as a line search for the
    strong Wolfe conditions finds good with ``line_search_fn="strong_wolfe"``. All parameters are one vector, in one
    group. Arguments, state (kept under the first parameter: ``func_evals``, ``n_iter``, ``d``, ``t``, ``old_dirs``,
    ``old_stps``, ``ro``, ``H_diag``, ``prev_flat_grad``, ``prev_loss``, ``al``) and errors are those of
    :class:`torch.optim.LBFGS`.

    If the closure raises, the iterations before stand, with their part of the state: in a line search the parameters
    go back to where it began, without one they stay where the failing closure saw them.

    Source: Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 35 (1980); Liu and Nocedal,
    "On the limited memory BFGS method for large scale optimization", Math. Programming 45 (1989); Nocedal and Wright,
    "Numerical Optimization" (2006), algorithms 7.4 (two loops) and 3.5 (line search).

    Example::

        >>> w = torch.tensor([-1.0, 1.0], requires_grad=True)
        >>> optimizer = LBFGS([w], max_iter=10, line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2  # Rosenbrock's valley
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(4):
        ...     print(f"{optimizer.step(closure).item():.2f}")
        4.00
        2.31
        0.24
        0.00
    """

    def executors(self) -> list[tuple[Tensor, str, str]]:
        """For each parameter: what remembers and multiplies (``eager``, ``cpu``) and, if eager, the reason."""
        params = self.param_groups[0]["params"]
        dtype = functools.reduce(torch.promote_types, [p.dtype for p in params])
        reason = refuse(params[0].device, dtype.to_real())
        return [(p, "eager" if reason else "cpu", reason) for p in params]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._params = self.param_groups[0]["params"]  # torch's copies lose them
        self._numel_cache = None

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Makes up to ``max_iter`` iterations, and returns the loss before them.

        `closure` clears the gradients, computes the loss, calls `backward` and returns the loss.
        """
        if torch.compiler.is_compiling():
            return _uncompiled_step(self, closure)  # raw pointers are nothing to trace
        return _step(self, closure)


def _step(self: LBFGS, closure: Callable[[], Any]) -> Any:
    if len(self.param_groups) != 1:
        raise AssertionError(f"Expected exactly one param_group, but got {len(self.param_groups)}")
    group = self.param_groups[0]
    if group["line_search_fn"] not in (None, "strong_wolfe"):
        raise RuntimeError("only 'strong_wolfe' is supported")
    groups.check_finite(type(self), group, 0)
    with torch.no_grad():
        if group["line_search_fn"] and strong_wolfe is None:
            return inspect.unwrap(torch.optim.LBFGS.step)(self, closure)
        return _Minimization(self.state[group["params"][0]], group, closure).run()


_uncompiled_step = torch._disable_dynamo(_step)


class _Minimization:
    """One step: what it works with, and how far it has come."""

    def __init__(self, state: dict[str, Any], group: dict[str, Any], closure: Callable[[], Any]):
        self.state, self.group, self.closure, self.params = state, group, closure, group["params"]
        self.targets = [torch.view_as_real(p) if p.is_complex() else p for p in self.params]
        self.sizes = [target.numel() for target in self.targets]
        self.described: tuple = ()  # of the gradient

    def run(self) -> Any:
        """Iterates until one of the limits is reached; returns the loss as the closure gave it at first."""
        self.state.setdefault("func_evals", 0)
        self.state.setdefault("n_iter", 0)
        first_loss, gradient = self._evaluate()
        loss = float(first_loss)
        self.state["func_evals"] += 1
        if largest(gradient) <= self.group["tolerance_grad"]:
            return first_loss
        try:
            self._iterate(loss, gradient)
        finally:
            self._finish()
        return first_loss

    def _evaluate(self) -> tuple[Any, Tensor]:
        with torch.enable_grad():
            loss = self.closure()
        gradient = torch.cat([_flat_gradient(p) for p in self.params])
        described = type(gradient), gradient.shape, gradient.dtype, gradient.device
        if described != (self.described or described):
            raise RuntimeError("the closure changed the shape, dtype or device of a parameter; do that between steps")
        self.described = described
        return loss, gradient

    def _iterate(self, loss: float, gradient: Tensor) -> None:
        group, state = self.group, self.state
        lr, max_iter, max_eval = group["lr"], group["max_iter"], group["max_eval"]
        lr = lr.detach().squeeze().clone() if isinstance(lr, Tensor) else lr  # a schedule may fill it, `t` must stay
        d: Any = state.get("d")
        t: Any = state.get("t")
        previous: Any = state.get("prev_flat_grad")
        fresh = state["n_iter"] == 0 or d is None or previous is None
        pairs = history(group["history_size"], gradient, None if fresh else state)
        iterations, evaluations = 0, 1
        while iterations < max_iter:
            iterations += 1
            if fresh:
                d = -gradient
                slope = gradient.dot(d)
                reach: Any = 1.0 / gradient.abs().sum()
                t = min(1.0, reach) * lr
                fresh = False
            else:
                pairs.remember(gradient, previous, d, t)
                d, slope = pairs.direction(gradient)
                t = lr
            previous, previous_loss = gradient, loss
            if slope > -group["tolerance_change"]:
                self._keep(d, t, pairs, previous, previous_loss)
                return
            if group["line_search_fn"]:
                loss, gradient, t, used = self._search(d, t, loss, gradient, slope, max_eval - evaluations)
                self._keep(d, t, pairs, previous, previous_loss)
            else:
                self._move(self._parts(d), t)
                self._keep(d, t, pairs, previous, previous_loss)
                used = 0
                if iterations != max_iter:
                    new_loss, gradient = self._evaluate()
                    loss, used = float(new_loss), 1
            evaluations += used
            state["func_evals"] += used
            if iterations == max_iter or evaluations >= max_eval:
                return
            if pairs.largest(gradient) <= group["tolerance_grad"]:
                return
            change = group["tolerance_change"]
            if pairs.largest(d) * abs(float(t)) <= change or abs(loss - previous_loss) < change:
                return

    def _search(self, d: Tensor, t: Any, loss: float, gradient: Tensor, slope: Any, most: int) -> tuple:
        """Moves the parameters to where the line search ends, or back if it raises."""
        parts, start = self._parts(d), [target.clone() for target in self.targets]
        at: Any = None

        def go(x: Any) -> None:
            nonlocal at
            if at is not None:
                for target, before in zip(self.targets, start, strict=True):
                    target.copy_(before)
            if x is not None:
                self._move(parts, x)
            at = x

        def evaluate(_: Any, x: Any, __: Any) -> tuple[float, Tensor]:
            go(x)
            loss, gradient = self._evaluate()
            return float(loss), gradient

        slope = slope if isinstance(slope, Tensor) else gradient.new_tensor(slope)
        try:
            loss, gradient, t, used = strong_wolfe(evaluate, None, t, d, loss, gradient, slope, max_ls=most)
            if t is not at:  # it mostly ends where it looked last
                go(t)
        except BaseException:  # Ctrl-C too may not leave the point where it was only looked at
            go(None)
            raise
        return loss, gradient, t, used

    def _parts(self, d: Tensor) -> list[Tensor]:
        """A vector cut into the shapes of the parameters."""
        return [part.view_as(target) for part, target in zip(d.split_with_sizes(self.sizes), self.targets, strict=True)]

    def _move(self, parts: list[Tensor], t: Any) -> None:
        length = t.item() if isinstance(t, Tensor) else t
        for target, part in zip(self.targets, parts, strict=True):
            target.add_(part, alpha=length)

    def _keep(self, d: Tensor, t: Any, pairs: History, gradient: Tensor, loss: float) -> None:
        """Puts what a complete iteration leaves for the next into the state."""
        self.state["n_iter"] += 1
        self.state.update(d=d, t=t, **pairs.saved(), prev_flat_grad=gradient, prev_loss=loss)

    def _finish(self) -> None:
        """Turns the numbers in the state into the tensors that torch has there."""
        state = self.state
        like: Any = state.get("prev_flat_grad")
        for key in ("ro", "al"):
            if any(isinstance(value, float) for value in state.get(key) or ()):
                state[key] = list(torch.tensor(state[key], dtype=like.dtype).unbind())
        if isinstance(state.get("H_diag"), float):
            state["H_diag"] = like.new_tensor(state["H_diag"])
        missing = self.group["history_size"] - len(state.get("al", ()))
        if "al" in state and 0 < missing < math.inf:  # torch has a place for each pair there may be
            state["al"] = [*state["al"], *[None] * int(missing)]


def _flat_gradient(p: Tensor) -> Tensor:
    """A gradient as a vector of real numbers, zero where there is none."""
    g = torch.zeros_like(p) if p.grad is None else p.grad
    if g.layout is not torch.strided:
        g = g.to_dense()
    if g.is_complex():
        g = torch.view_as_real(g.resolve_conj())
    return g.reshape(-1)
