"""Muon: momentum, orthogonalised by Newton-Schulz iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .algorithm import MatrixAlgorithm, Slot
from .dialect import lerp, where
from .optimizer import Optimizer


def coefficients(direction, lr, weight_decay, momentum, nesterov):
    return direction, 1 - lr * weight_decay, 1 - momentum, momentum, nesterov, lr


def rule(p, g, momentum_buffer, update, direction, keep, take, momentum, nesterov, lr):
    g = direction * g
    momentum_buffer = lerp(momentum_buffer, g, take)
    update = where(nesterov != 0, lerp(g, momentum_buffer, momentum), momentum_buffer)
    return keep * p, momentum_buffer, update


def finish(p, g, direction, keep, take, momentum, nesterov, lr):
    return (p - lr * g,)


def orthogonalize(batch: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    r"""Takes the singular values of a batch of matrices near 1, in bfloat16: :math:`X \leftarrow aX + (bA + cA^2)X`.

    :math:`A = XX^\top`, and X begins as the matrix over its Frobenius norm, but at least `eps`. All matrices of the
    batch go through each product together. Returns ``(batch, rows, columns)`` in bfloat16.
    """
    a, b, c = coefficients
    x = batch.float()
    x = (x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)).bfloat16()
    tall, alone = x.size(1) > x.size(2), len(x) == 1
    if tall:
        x = x.mT
    product, added = (torch.mm, torch.addmm) if alone else (torch.bmm, torch.baddbmm)
    if alone:  # which takes less time than a batch of one
        x = x[0]
    for _ in range(steps):
        gram = product(x, x.mT)
        # torch 2.13 forgets an alpha of 0 in bfloat16
        inner = added(gram, gram, gram, beta=b, alpha=c) if c else gram * b
        x = added(x, inner, x, beta=a)
    x = x[None] if alone else x
    return x.mT if tall else x


def adjustment(shape: Sequence[int], adjust_lr_fn: str | None) -> float:
    """What the learning rate is multiplied by for a matrix of this shape."""
    rows, columns = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def transform(batch: Tensor, group: Mapping[str, Any]) -> Tensor:
    update = orthogonalize(batch, group["ns_coefficients"], group["ns_steps"], group["eps"])
    update, scale = update.to(batch.dtype), adjustment(batch.shape[1:], group["adjust_lr_fn"])
    return update if scale == 1 else update.mul_(scale)


class Muon(Optimizer, torch.optim.Muon):
    r"""Steps along the momentum :math:`B`, orthogonalised: :math:`p - \gamma\,s\,UV^\top` where :math:`B = USV^\top`.

    Newton-Schulz iterations in bfloat16 stand for the singular value decomposition, so the singular values of the
    update lie near 1, between about 0.7 and 1.2. All matrices of one shape are orthogonalised together, in batched
    products. s is :math:`\sqrt{\max(1, \text{rows}/\text{columns})}`, or
    :math:`0.2\sqrt{\max(\text{rows}, \text{columns})}` with ``adjust_lr_fn="match_rms_adamw"``. The momentum is a mean
    (Jordan's is a sum; the orthogonalisation does not see the difference), and the weight decay is decoupled, scaled
    by the unadjusted learning rate. For matrices only: biases, gains, and usually embeddings and the head are AdamW's.

    Arguments, state (``momentum_buffer``) and errors are those of :class:`torch.optim.Muon`, and ``fused`` as in
    :class:`optimizers.Optimizer`.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon
    (2024); Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, equation 4.

    Example::

        >>> w = torch.tensor([[1.0, -2.0], [0.5, 1.0]], requires_grad=True)
        >>> optimizer = Muon([w], lr=0.5)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 1))
        6.2
        3.6
        2.0
    """

    algorithm = MatrixAlgorithm(
        coefficients,
        rule,
        scalars={},
        slots={"momentum_buffer": Slot(), "update": Slot(work=True)},
        transform=transform,
        finish=finish,
        options=("ns_coefficients", "ns_steps", "eps", "adjust_lr_fn"),
    )

    def __init__(
        self,
        params,
        lr=1e-3,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=True,
        ns_coefficients=(3.4445, -4.775, 2.0315),
        eps=1e-7,
        ns_steps=5,
        adjust_lr_fn=None,
        *,
        fused=None,
    ):
        super().__init__(params, lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn)
        self.accept_fused(fused)

    def check_gradient(self, p: Tensor, group: Mapping[str, Any]) -> None:
        if p.is_complex():
            raise RuntimeError("Muon does not support complex parameters")
        super().check_gradient(p, group)
        if p.ndim != 2:
            raise ValueError("Param gradient must be a 2D matrix")
        if group["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
