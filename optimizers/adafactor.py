"""Adafactor: adaptive steps whose second moment is kept by rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .algorithm import FactoredAlgorithm, Slot
from .dialect import lerp, maximum, sqrt, where
from .optimizer import Optimizer


def coefficients(step, direction, lr, beta2_decay, eps1, eps2, d, weight_decay):
    step = step + 1
    rho = 1 / sqrt(step)
    return step, direction, step**beta2_decay, where(rho < lr, rho, lr), 1 - lr * weight_decay, eps1, eps2, d


def moment(var, square, take):
    return lerp(var, square, take)


def estimate(row, col, row_mean, eps1):
    return row * col / maximum(row_mean, eps1)


def update(g, var, eps1):
    return g / sqrt(maximum(var, eps1 * eps1))


def step_size(p_square, u_square, rho, eps2, d):
    size, excess = sqrt(p_square), sqrt(u_square) / d
    return rho * where(size > eps2, size, eps2) / where(excess > 1, excess, 1.0)


def rule(p, u, step_size, keep):
    return (keep * p - step_size * u,)


def is_matrix(shape):
    return len(shape) > 1


class Adafactor(Optimizer, torch.optim.Adafactor):
    r"""Steps along the gradient over the root of a second moment that is kept as one number a row and one a column.

    With :math:`R` and :math:`C` the moving averages of the rows' and columns' mean squares,
    :math:`V = RC/\text{mean}(R)` and :math:`U = G/\sqrt V`; the step is :math:`\rho_t\max(\epsilon_2,
    \text{RMS}(p))\,U/\max(1, \text{RMS}(U)/d)` with :math:`\rho_t = \min(\gamma, 1/\sqrt t)`, and the averages decay by
    :math:`1 - t^{\beta_2}`. Of more than two dimensions, the last two are rows and columns. ``eps[0]`` bounds V from
    below by its square; None is the epsilon of the parameter's own dtype (torch takes the first parameter's for all).
    There is no first moment.

    Arguments, state (``step``, and ``row_var`` and ``col_var``, or ``variance`` below two dimensions) and errors are
    those of :class:`torch.optim.Adafactor`, and ``fused`` as in :class:`optimizers.Optimizer`; on CUDA it is plain
    torch, without waiting for the device.

    Source: Shazeer and Stern, "Adafactor", arXiv 1804.04235, algorithms 4 and 5.

    Example::

        >>> w = torch.tensor([[1.0, -2.0], [0.5, 1.0]], requires_grad=True)
        >>> optimizer = Adafactor([w], lr=0.5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 1))
        6.2
        2.2
        1.2
    """

    algorithm = FactoredAlgorithm(
        coefficients,
        rule,
        scalars={"step": 0.0},
        slots={
            "row_var": Slot(shape=lambda shape: (*shape[:-1], 1) if is_matrix(shape) else None),
            "col_var": Slot(shape=lambda shape: (*shape[:-2], 1, shape[-1]) if is_matrix(shape) else None),
            "variance": Slot(shape=lambda shape: None if is_matrix(shape) else shape),
        },
        moment=moment,
        estimate=estimate,
        update=update,
        step_size=step_size,
    )

    def __init__(
        self,
        params,
        lr=1e-2,
        beta2_decay=-0.8,
        eps=(None, 1e-3),
        d=1.0,
        weight_decay=0.0,
        *,
        foreach=None,
        maximize=False,
        fused=None,
    ):
        super().__init__(params, lr, beta2_decay, eps, d, weight_decay, foreach=foreach, maximize=maximize)
        self.accept_fused(fused)

    def check_gradient(self, p: Tensor, group: Mapping[str, Any]) -> None:
        if p.is_complex():
            raise RuntimeError("Adafactor does not support complex parameters")
        super().check_gradient(p, group)
