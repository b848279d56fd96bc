"""Averaged stochastic gradient descent."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import maximum, where
from .optimizer import Optimizer


def coefficients(step, eta, mu, direction, stored, lr, lambd, alpha, t0, weight_decay):
    step = step + 1
    new_eta = stored(lr / (1 + lambd * lr * step) ** alpha)
    new_mu = stored(1 / maximum(1.0, step - t0))
    return step, new_eta, new_mu, direction, weight_decay, 1 - lambd * eta, eta, mu


def rule(p, g, ax, direction, weight_decay, keep, eta, mu):
    g = direction * g
    g = where(weight_decay != 0, g + weight_decay * p, g)
    p = keep * p - eta * g
    return p, where(mu == 1, p, ax + mu * (p - ax))


class ASGD(Optimizer, torch.optim.ASGD):
    r"""SGD with the step :math:`\eta_t = \gamma/(1+\lambda\gamma t)^\alpha`, whose average ``ax`` is kept beside it.

    The average is in the state, not in the parameters, and starts after ``t0`` steps. The decay
    :math:`(1-\lambda\eta)` acts even where the gradient is 0. Arguments, state (``step``, ``eta``, ``mu``, ``ax``) and
    errors are those of :class:`torch.optim.ASGD`, and ``fused`` as in :class:`optimizers.Optimizer`.

    Source: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); the schedule is Bottou's.
    """

    capturable_words = "params, mus, etas, and state_steps"
    algorithm = Algorithm(coefficients, rule, scalars={"step": 0.0, "eta": "lr", "mu": 1.0}, slots={"ax": Slot()})

    def __init__(
        self,
        params,
        lr=1e-2,
        lambd=1e-4,
        alpha=0.75,
        t0=1e6,
        weight_decay=0,
        foreach=None,
        maximize=False,
        differentiable=False,
        capturable=False,
        *,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            lambd,
            alpha,
            t0,
            weight_decay,
            foreach,
            maximize,
            differentiable,
            capturable,
        )
        self.accept_fused(fused)
