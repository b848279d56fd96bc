"""Losses of logits and class indices beyond cross-entropy; all are arithmetic on what cross-entropy gives each row.

Logits are ``(C,)`` or ``(N, C, ...)`` and targets int64 class indices of the same shape without C, as in torch. Rows
whose target is `ignore_index` cost 0 and get no gradient; the mean is over the others, and nan where there are none,
as torch's. Half precision is worked in float32 and rounded once. On a CPU rows of logits ``(N, C)`` are read once, by a
kernel; for the rest everything around `cross_entropy` is plain torch. All are differentiable as often as you like.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import between, check_classes, check_reduction, class_dim, not_negative, positive, working
from .module import FunctionLoss
from .rows import FOCAL, POLY1, Z, reduced


def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | Sequence[float] | None = None,
    gamma: float = 2.0,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`-\alpha_t (1 - p_t)^\gamma \log p_t`, p the softmax: cross-entropy in which easy examples count less.

    `alpha` is a weight for each class, or None for none. `gamma` of 0 is cross-entropy. A probability that float32
    cannot tell from 1 counts as 1.

    Libraries differ: the mean here is over the examples, as in the paper's ablations, and not divided by the weights as
    `torch.nn.functional.cross_entropy` does nor by the number of classes as kornia does, whose alpha is one number:
    ``1 - alpha`` for class 0 and ``alpha`` for all others.

    Raises ValueError for a negative `gamma`, shapes that do not fit and an `alpha` of another length than C. Source:
    Lin et al., "Focal loss for dense object detection", arXiv 1708.02002, equation 5, of many classes.
    """
    not_negative("gamma", gamma)
    check_reduction(reduction)
    check_classes(input, target)
    constants = float(gamma), torch.finfo(working(input)).eps / 4
    if alpha is None:
        return FOCAL(input, target, ignore_index, reduction, 0.0, constants)
    values = FOCAL(input.to(working(input)), target, ignore_index, "none", 0.0, constants)
    weights = torch.as_tensor(alpha, dtype=values.dtype, device=values.device)
    classes = input.shape[class_dim(input)]
    if weights.shape != (classes,):
        raise ValueError(
            f"alpha must be one weight for each of {classes} classes, and has shape {tuple(weights.shape)}"
        )
    kept = target != ignore_index
    values = values * weights[torch.where(kept, target, 0).long()]
    return reduced(values, kept, reduction).to(input.dtype)


def z_loss_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    z: float = 1e-4,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy plus :math:`z \log^2\sum_j e^{x_j}`, which keeps logits from drifting, of logits capped softly.

    With a `softcap` c every logit x is first replaced by :math:`c\tanh(x/c)`, which stays within ±c. `label_smoothing`
    gives that share of the target to all classes alike, as in `torch.nn.functional.cross_entropy`. The penalty is part
    of the value, as in flash-attn and Liger.

    Raises ValueError for a negative `z`, a `softcap` that is not positive, `label_smoothing` outside of [0, 1] and
    shapes that do not fit. Sources: Chowdhery et al., "PaLM", arXiv 2204.02311, section 5 (z of 1e-4); Gemma Team,
    "Gemma 2", arXiv 2408.00118, section 2 (softcap of 30).
    """
    not_negative("z", z)
    between("label_smoothing", label_smoothing, 0, 1)
    check_reduction(reduction)
    check_classes(input, target)
    logits = input
    if softcap is not None:
        logits = input.to(working(input))
        logits = positive("softcap", softcap) * torch.tanh(logits / softcap)
    return Z(logits, target, ignore_index, reduction, float(label_smoothing), (float(z),)).to(input.dtype)


def poly1_cross_entropy(
    input: Tensor, target: Tensor, epsilon: float = 1.0, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    r""":math:`-\log p_t + \epsilon (1 - p_t)`, p the softmax: cross-entropy with another first coefficient.

    Cross-entropy is :math:`\sum_j (1 - p_t)^j / j`; this adds `epsilon` to the coefficient of the first term. The
    default is that of the paper's code; optax's is 2, the paper's choice for ImageNet. Raises ValueError for an
    `epsilon` below -1, where a surer right answer would cost more, and for shapes that do not fit. Source: Leng et al.,
    "PolyLoss", arXiv 2204.12511 (Poly-1).
    """
    if not epsilon >= -1:
        raise ValueError(f"epsilon must be at least -1, and is {epsilon}")
    check_reduction(reduction)
    check_classes(input, target)
    return POLY1(input, target, ignore_index, reduction, 0.0, (float(epsilon),))


class _Classification(FunctionLoss):
    def trial(self) -> tuple[Tensor, ...]:
        alpha = getattr(self, "alpha", None)
        return torch.zeros(0, 2 if alpha is None else len(alpha)), torch.zeros(0, dtype=torch.int64)


class SoftmaxFocalLoss(_Classification):
    """`softmax_focal_loss` as a module, ``SoftmaxFocalLoss(gamma=1.0)``.

    Example: where the model is sure and right, little is left to learn from::

        >>> sure, unsure = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.3, 0.0]])
        >>> loss, right = SoftmaxFocalLoss(), torch.tensor([0])
        >>> [f"{loss(logits, right):.5f}" for logits in (sure, unsure)]
        ['0.00011', '0.10039']
    """

    function = staticmethod(softmax_focal_loss)


class ZLossCrossEntropyLoss(_Classification):
    """`z_loss_cross_entropy` as a module, ``ZLossCrossEntropyLoss(z=1e-4, softcap=30.0)``.

    Example: cross-entropy does not mind that all logits are 20 too large; the penalty brings them back::

        >>> logits, target = torch.full((2, 3), 20.0, requires_grad=True), torch.tensor([0, 2])
        >>> loss = ZLossCrossEntropyLoss(z=0.1)
        >>> for _ in range(3):
        ...     error = loss(logits, target)
        ...     (gradient,) = torch.autograd.grad(error, logits)
        ...     logits = (logits - 2 * gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        45.61
        39.80
        34.74
    """

    function = staticmethod(z_loss_cross_entropy)


class Poly1CrossEntropyLoss(_Classification):
    """`poly1_cross_entropy` as a module, ``Poly1CrossEntropyLoss(epsilon=2.0)``."""

    function = staticmethod(poly1_cross_entropy)
