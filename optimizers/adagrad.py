"""Adagrad: each coordinate's own learning rate, from all its gradients so far."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import sqrt, where
from .optimizer import Optimizer


def coefficients(step, direction, lr, lr_decay, eps, weight_decay):
    step = step + 1
    return step, direction, weight_decay, lr / (1 + (step - 1) * lr_decay), eps


def rule(p, g, sum, direction, weight_decay, step_size, eps):
    g = direction * g
    g = where(weight_decay != 0, g + weight_decay * p, g)
    sum = sum + g * g
    return p - step_size * g / (sqrt(sum) + eps), sum


class Adagrad(Optimizer, torch.optim.Adagrad):
    r"""Steps by the gradient over the root of the sum of all squared gradients.

    The learning rate is :math:`\gamma/(1+(t-1)\,\eta)` with ``lr_decay`` :math:`\eta`. State (``step``, ``sum``) exists
    from construction. Arguments and errors are those of :class:`torch.optim.Adagrad`; a parameter group's own
    ``initial_accumulator_value`` counts here (torch reads the optimizer's default for all groups).

    Source: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 12 (2011), eq. 1 with a diagonal matrix.

    Example::

        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> optimizer = Adagrad([w], lr=0.5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 2))
        5.0
        2.5
        1.52
    """

    algorithm = Algorithm(
        coefficients,
        rule,
        scalars={"step": 0.0},
        slots={"sum": Slot(init="initial_accumulator_value")},
        sparse=lambda group: True,
    )

    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0,
        weight_decay=0,
        initial_accumulator_value=0,
        eps=1e-10,
        foreach=None,
        *,
        maximize=False,
        differentiable=False,
        fused=None,
    ):
        super().__init__(
            params,
            lr,
            lr_decay,
            weight_decay,
            initial_accumulator_value,
            eps,
            foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        self.state.clear()  # torch filled it with the optimizer's value for every group
        for group in self.param_groups:
            for p in group["params"]:
                self.initialize(p, group)
