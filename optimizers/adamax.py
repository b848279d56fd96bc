"""Adamax: Adam under the infinity norm."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import absolute, lerp, maximum, where
from .optimizer import Optimizer


def coefficients(step, direction, lr, beta1, beta2, eps, weight_decay):
    step = step + 1
    return step, direction, weight_decay, 1 - beta1, beta2, eps, lr / (1 - beta1**step)


def rule(p, g, exp_avg, exp_inf, direction, weight_decay, take1, keep2, eps, step_size):
    g = direction * g
    g = where(weight_decay != 0, g + weight_decay * p, g)
    exp_avg = lerp(exp_avg, g, take1)
    exp_inf = maximum(keep2 * exp_inf, absolute(g) + eps)
    return p - step_size * exp_avg / exp_inf, exp_avg, exp_inf


class Adamax(Optimizer, torch.optim.Adamax):
    r"""Adam with the decayed maximum of :math:`|g|+\epsilon` in place of the root mean square.

    eps stands inside the maximum and nowhere else. Arguments, state (``step``, ``exp_avg``, ``exp_inf``) and errors
    are those of :class:`torch.optim.Adamax`, and ``fused`` as in :class:`optimizers.Optimizer`.

    Source: Kingma and Ba, "Adam", arXiv 1412.6980, algorithm 2.
    """

    algorithm = Algorithm(coefficients, rule, scalars={"step": 0.0}, slots={"exp_avg": Slot(), "exp_inf": Slot()})

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        foreach=None,
        *,
        maximize=False,
        differentiable=False,
        capturable=False,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        self.accept_fused(fused)
