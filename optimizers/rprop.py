"""Rprop: resilient backpropagation, steps by the sign of the gradient alone."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import maximum, minimum, sign, where
from .optimizer import Optimizer


def coefficients(step, direction, etaminus, etaplus, step_size_min, step_size_max):
    return step + 1, direction, etaminus, etaplus, 0.0, step_size_min, step_size_max


def rule(p, g, prev, step_size, direction, etaminus, etaplus, zero, step_size_min, step_size_max):
    g = direction * g
    agreement = g * prev
    step_size = where(agreement > zero, etaplus * step_size, where(agreement < zero, etaminus * step_size, step_size))
    step_size = minimum(maximum(step_size, step_size_min), step_size_max)
    g = where(agreement < zero, zero, g)  # after a turn: no step, and no memory of this gradient
    return p - sign(g) * step_size, g, step_size


class Rprop(Optimizer, torch.optim.Rprop):
    r"""Each coordinate keeps its own step size: it grows while the gradient's sign holds and shrinks when it turns.

    ``lr`` is the first step size, clamped to ``step_sizes``; later changes of it have no effect. After a turn the
    gradient counts as 0 (Rprop without backtracking). Arguments, state (``step``, ``prev``, ``step_size``) and errors
    are those of :class:`torch.optim.Rprop`, and ``fused`` as in :class:`optimizers.Optimizer`.

    Source: Riedmiller and Braun, ICNN 1993; the variant is Rprop- of Igel and Hüsken, 2000.
    """

    algorithm = Algorithm(
        coefficients, rule, scalars={"step": 0.0}, slots={"prev": Slot(), "step_size": Slot(init="lr")}
    )

    def __init__(
        self,
        params,
        lr=1e-2,
        etas=(0.5, 1.2),
        step_sizes=(1e-6, 50),
        *,
        capturable=False,
        foreach=None,
        maximize=False,
        differentiable=False,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            etas,
            step_sizes,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )
        self.accept_fused(fused)
