"""Adadelta: a step in the units of the parameter, without a learning rate to tune."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import sqrt, where
from .optimizer import Optimizer


def coefficients(direction, step, lr, rho, eps, weight_decay):
    return step + 1, direction, weight_decay, rho, 1 - rho, eps, lr


def rule(p, g, square_avg, acc_delta, direction, weight_decay, keep, take, eps, lr):
    g = direction * g
    g = where(weight_decay != 0, g + weight_decay * p, g)
    square_avg = keep * square_avg + take * g * g
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    acc_delta = keep * acc_delta + take * delta * delta
    return p - lr * delta, square_avg, acc_delta


class Adadelta(Optimizer, torch.optim.Adadelta):
    r"""Steps by the gradient times the ratio of two running root mean squares, of past steps and of gradients.

    eps stands inside both roots (unlike RMSprop). Arguments, state (``step``, ``square_avg``, ``acc_delta``) and errors
    are those of :class:`torch.optim.Adadelta`, and ``fused`` as in :class:`optimizers.Optimizer`.

    Source: Zeiler, "ADADELTA", arXiv 1212.5701, algorithm 1; the factor ``lr`` is torch's.
    """

    algorithm = Algorithm(coefficients, rule, scalars={"step": 0.0}, slots={"square_avg": Slot(), "acc_delta": Slot()})

    def __init__(
        self,
        params,
        lr=1.0,
        rho=0.9,
        eps=1e-6,
        weight_decay=0,
        foreach=None,
        *,
        capturable=False,
        maximize=False,
        differentiable=False,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            rho,
            eps,
            weight_decay,
            foreach,
            capturable=capturable,
            maximize=maximize,
            differentiable=differentiable,
        )
        self.accept_fused(fused)
