"""NAdam: Adam with Nesterov momentum and a momentum schedule."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import lerp, sqrt, where
from .optimizer import Optimizer


def coefficients(
    step,
    mu_product,
    direction,
    stored,
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    momentum_decay,
    decoupled_weight_decay,
):
    step = step + 1
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    mu_product = stored(mu_product * stored(mu))
    root = sqrt(1 - beta2**step)
    l2 = where(decoupled_weight_decay, 0.0, weight_decay)
    keep = where(decoupled_weight_decay, 1 - lr * weight_decay, 1.0)
    along_g = lr * ((1 - mu) / (1 - mu_product) * root)
    along_m = lr * (mu_next / (1 - mu_product * mu_next) * root)
    return step, mu_product, direction, l2, keep, 1 - beta1, beta2, 1 - beta2, along_g, along_m, eps * root


def rule(p, g, exp_avg, exp_avg_sq, direction, l2, keep, take1, keep2, take2, along_g, along_m, eps):
    g = direction * g
    g = where(l2 != 0, g + l2 * p, g)
    exp_avg = lerp(exp_avg, g, take1)
    exp_avg_sq = keep2 * exp_avg_sq + take2 * g * g
    p = keep * p - (along_g * g + along_m * exp_avg) / (sqrt(exp_avg_sq) + eps)
    return p, exp_avg, exp_avg_sq


class NAdam(Optimizer, torch.optim.NAdam):
    r"""Adam that looks one momentum step ahead, with :math:`\mu_t = \beta_1(1 - 0.5\cdot 0.96^{t\psi})`.

    The schedule's running product is the state ``mu_product``; optax and timm leave the schedule out. Arguments, state
    (``step``, ``mu_product``, ``exp_avg``, ``exp_avg_sq``) and errors are those of :class:`torch.optim.NAdam`, and
    ``fused`` as in :class:`optimizers.Optimizer`.

    Source: Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016, algorithm 2.
    """

    capturable_words = "params, mu_products and state_steps"
    algorithm = Algorithm(
        coefficients,
        rule,
        scalars={"step": 0.0, "mu_product": 1.0},
        slots={"exp_avg": Slot(), "exp_avg_sq": Slot()},
    )

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        momentum_decay=4e-3,
        decoupled_weight_decay=False,
        *,
        foreach=None,
        maximize=False,
        capturable=False,
        differentiable=False,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            momentum_decay,
            decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )
        self.accept_fused(fused)
