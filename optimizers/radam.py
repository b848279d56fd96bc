"""RAdam: Adam that waits until its variance can be trusted."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import lerp, maximum, sqrt, where
from .optimizer import Optimizer


def coefficients(step, direction, lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay):
    step = step + 1
    bias_correction2 = 1 - beta2**step
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / bias_correction2
    # up to 5 the ratio is not used, and might be a division by zero
    ratio = (rho - 4) * (rho - 2) * rho_inf / where(rho > 5, (rho_inf - 4) * (rho_inf - 2) * rho, 1.0)
    rectified = where(rho > 5, 1.0, 0.0)
    l2 = where(decoupled_weight_decay, 0.0, weight_decay)
    keep = where(decoupled_weight_decay, 1 - lr * weight_decay, 1.0)
    plain = lr / (1 - beta1**step)
    adaptive = plain * (sqrt(bias_correction2) * sqrt(maximum(ratio, 0.0)))
    return step, direction, l2, keep, 1 - beta1, beta2, 1 - beta2, rectified, plain, adaptive, eps


def rule(p, g, exp_avg, exp_avg_sq, direction, l2, keep, take1, keep2, take2, rectified, plain, adaptive, eps):
    g = direction * g
    g = where(l2 != 0, g + l2 * p, g)
    exp_avg = lerp(exp_avg, g, take1)
    exp_avg_sq = keep2 * exp_avg_sq + take2 * g * g
    update = where(rectified != 0, adaptive * exp_avg / (sqrt(exp_avg_sq) + eps), plain * exp_avg)
    return keep * p - update, exp_avg, exp_avg_sq


class RAdam(Optimizer, torch.optim.RAdam):
    r"""Adam while the length :math:`\rho_t` of its average exceeds 5, momentum SGD before that.

    The bound is strict (optax: ``>=``), and eps is added before the bias correction of the second moment. Arguments,
    state (``step``, ``exp_avg``, ``exp_avg_sq``) and errors are those of :class:`torch.optim.RAdam`, and ``fused`` as
    in :class:`optimizers.Optimizer`.

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", arXiv 1908.03265, algorithm 2.
    """

    algorithm = Algorithm(coefficients, rule, scalars={"step": 0.0}, slots={"exp_avg": Slot(), "exp_avg_sq": Slot()})

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
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
            decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )
        self.accept_fused(fused)
