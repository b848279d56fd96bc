"""RMSprop, plain or centered, with momentum."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import lerp, maximum, sqrt, where
from .optimizer import Optimizer


def coefficients(step, direction, lr, momentum, alpha, eps, weight_decay):
    return step + 1, direction, weight_decay, alpha, 1 - alpha, eps, momentum, lr, 0.0


def rule(p, g, square_avg, momentum_buffer, grad_avg, direction, weight_decay, keep, take, eps, momentum, lr, zero):
    g = direction * g
    g = where(weight_decay != 0, g + weight_decay * p, g)
    square_avg = keep * square_avg + take * g * g
    variance = square_avg
    if grad_avg is not None:
        grad_avg = lerp(grad_avg, g, take)
        variance = maximum(square_avg - grad_avg * grad_avg, zero)  # rounding must not make it negative
    update = g / (sqrt(variance) + eps)
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + update
        update = momentum_buffer
    return p - lr * update, square_avg, momentum_buffer, grad_avg


class RMSprop(Optimizer, torch.optim.RMSprop):
    r"""Steps by the gradient over the root of its running mean square; ``centered`` divides by the deviation instead.

    eps stands outside the root, the average starts at 0 and is not bias-corrected (TensorFlow: inside, at 1). The
    variance of the centered form is never below 0: torch's loop takes the root of what rounding left, which for
    constant float32 gradients becomes nan. Arguments, state (``step``, ``square_avg``, ``momentum_buffer``,
    ``grad_avg``) and errors are those of :class:`torch.optim.RMSprop`, and ``fused`` as in
    :class:`optimizers.Optimizer`.

    Source: Hinton, "Neural networks for machine learning", lecture 6e (2012); centered: Graves, arXiv 1308.0850,
    eq. 38-45.
    """

    algorithm = Algorithm(
        coefficients,
        rule,
        scalars={"step": 0.0},
        slots={
            "square_avg": Slot(),
            "momentum_buffer": Slot(when="momentum"),
            "grad_avg": Slot(when="centered"),
        },
    )

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0,
        momentum=0,
        centered=False,
        capturable=False,
        foreach=None,
        maximize=False,
        differentiable=False,
        *,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
            differentiable,
        )
        self.accept_fused(fused)
