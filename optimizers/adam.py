"""Adam and AdamW, with AMSGrad."""

from __future__ import annotations

import torch

from .algorithm import Algorithm, Slot
from .dialect import lerp, maximum, sqrt, where
from .optimizer import Optimizer


def coefficients(step, direction, lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay):
    step = step + 1
    root = sqrt(1 - beta2**step)
    l2 = where(decoupled_weight_decay, 0.0, weight_decay)
    keep = where(decoupled_weight_decay, 1 - lr * weight_decay, 1.0)
    # sqrt(v)/root + eps, both sides times root: one division an element less
    return step, direction, l2, keep, 1 - beta1, beta2, 1 - beta2, lr * (root / (1 - beta1**step)), eps * root


def rule(p, g, exp_avg, exp_avg_sq, max_exp_avg_sq, direction, l2, keep, take1, keep2, take2, step_size, eps):
    g = direction * g
    g = where(l2 != 0, g + l2 * p, g)
    exp_avg = lerp(exp_avg, g, take1)
    exp_avg_sq = keep2 * exp_avg_sq + take2 * g * g
    v = exp_avg_sq
    if max_exp_avg_sq is not None:
        max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
        v = max_exp_avg_sq
    p = keep * p - step_size * exp_avg / (sqrt(v) + eps)
    return p, exp_avg, exp_avg_sq, max_exp_avg_sq


ADAM = Algorithm(
    coefficients,
    rule,
    scalars={"step": 0.0},
    slots={"exp_avg": Slot(), "exp_avg_sq": Slot(), "max_exp_avg_sq": Slot(when="amsgrad")},
)


class Adam(Optimizer, torch.optim.Adam):
    r"""Steps along the mean gradient over the root mean square: :math:`p - \gamma\,\hat m/(\sqrt{\hat v}+\epsilon)`.

    :math:`\hat m = m/(1-\beta_1^t)` and :math:`\hat v = v/(1-\beta_2^t)`; eps is added after the bias correction (Keras
    adds it before). ``weight_decay`` is an L2 penalty unless ``decoupled_weight_decay``. ``amsgrad`` keeps the maximum
    of the raw :math:`v` (optax: of the corrected one). Arguments, state (``step``, ``exp_avg``, ``exp_avg_sq``,
    ``max_exp_avg_sq``) and errors are those of :class:`torch.optim.Adam`.

    Source: Kingma and Ba, "Adam", arXiv 1412.6980, algorithm 1; Reddi, Kale, Kumar, arXiv 1904.09237, algorithm 2.

    Example::

        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> optimizer = Adam([w], lr=0.5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 2))
        5.0
        2.5
        1.02
    """

    algorithm = ADAM
    sparse_error = "Adam does not support sparse gradients, please consider SparseAdam instead"


class AdamW(Optimizer, torch.optim.AdamW):
    r"""Adam whose weight decay does not pass through the moments: first :math:`p \leftarrow (1-\gamma\lambda)\,p`.

    The decay is scaled by the learning rate, as in torch; the paper scales it by the schedule's multiplier alone.
    Arguments, state and errors are those of :class:`torch.optim.AdamW`.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101, algorithm 2.

    Example::

        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> optimizer = AdamW([w], lr=0.5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 2))
        5.0
        2.47
        0.98
    """

    algorithm = ADAM
    sparse_error = Adam.sparse_error
