"""Stochastic gradient descent, with momentum and Nesterov momentum."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import where
from .optimizer import Optimizer


def coefficients(direction, first, lr, momentum, dampening, weight_decay, nesterov):
    keep = where(first != 0, 0.0, momentum)  # the buffer starts as the first gradient, undamped
    take = where(first != 0, 1.0, 1 - dampening)
    return direction, weight_decay, keep, take, momentum, lr, where(nesterov, 1.0, 0.0)


def rule(p, g, momentum_buffer, direction, weight_decay, keep, take, momentum, lr, nesterov):
    g = direction * g
    g = where(weight_decay != 0, g + weight_decay * p, g)
    if momentum_buffer is not None:
        momentum_buffer = keep * momentum_buffer + take * g
        g = where(nesterov != 0, g + momentum * momentum_buffer, momentum_buffer)
    return p - lr * g, momentum_buffer


class SGD(Optimizer, torch.optim.SGD):
    r"""Gradient descent: :math:`p \leftarrow p - \gamma\, b`, with :math:`b \leftarrow \mu b + (1-\tau) g`.

    The first buffer is the gradient itself, undamped. The learning rate stands outside the buffer (Sutskever et al.
    2013, eq. 1-2, put it inside); ``nesterov`` steps along :math:`g + \mu b`. Arguments, state (``momentum_buffer``)
    and errors are those of :class:`torch.optim.SGD`; see :class:`optimizers.Optimizer` for ``foreach``, ``fused`` and
    ``differentiable``.

    Source: Robbins and Monro 1951; Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and
    momentum in deep learning", ICML 2013.

    Example::

        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> optimizer = SGD([w], lr=0.25)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 4))
        5.0
        1.25
        0.3125
    """

    algorithm = Algorithm(
        coefficients,
        rule,
        scalars={},
        slots={"momentum_buffer": Slot(when="momentum")},
        sparse=lambda group: group["momentum"] == 0 and group["weight_decay"] == 0,
    )
