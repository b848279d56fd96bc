"""Losses of preferences: which of two answers is better."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import between, check_floating, check_one_of, check_one_shape, check_reduction, positive, working
from .elementwise import reduced
from .family import BCE_WITH_LOGITS
from .module import FunctionLoss

KINDS = ("sigmoid", "ipo")


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    kind: str = "sigmoid",
    reduction: str = "mean",
) -> Tensor:
    r"""Direct preference optimization: :math:`-\log\sigma(\beta h)`, h how much more the policy prefers the chosen one.

    The arguments are log-probabilities of whole answers, of one shape ``(N,)`` and one dtype: of the chosen and of the
    rejected one, under the policy that is trained and under the reference;
    :math:`h = (\pi_c - \pi_r) - (\text{ref}_c - \text{ref}_r)`. Give the reference's without gradient.

    `label_smoothing` e is how often the preferences are thought to be wrong: the loss is
    :math:`-(1-e)\log\sigma(\beta h) - e\log\sigma(-\beta h)`, "conservative DPO", as in TRL.
    `kind` "ipo" is :math:`(h - 1/(2\beta))^2`, which does not push h to infinity; beta is the paper's tau, and the
    log-probabilities are sums over tokens, as in the paper; TRL gives it their means. It takes no label smoothing.

    Raises ValueError for a `beta` that is not positive, `label_smoothing` outside of [0, 1/2], an unknown kind and
    shapes that differ. Half precision is worked in float32 and rounded once.

    Sources: Rafailov et al., arXiv 2305.18290, equation 7; Mitchell, "A note on DPO with noisy preferences" (2023);
    Azar et al., arXiv 2310.12036, equation 17.
    """
    positive("beta", beta)
    between("label_smoothing", label_smoothing, 0, 0.5)
    check_one_of("kind", kind, KINDS)
    check_reduction(reduction)
    check_floating(policy_chosen, "policy_chosen")
    others = {
        "policy_rejected": policy_rejected,
        "reference_chosen": reference_chosen,
        "reference_rejected": reference_rejected,
    }
    for name, other in others.items():
        check_one_shape(policy_chosen, other, ("policy_chosen", name))
    work = working(policy_chosen)
    policy = policy_chosen.to(work) - policy_rejected.to(work)
    margin = policy - (reference_chosen.to(work) - reference_rejected.to(work))
    if kind == "ipo":
        if label_smoothing:
            raise ValueError(f"label_smoothing is of kind sigmoid and must be 0 for ipo, and is {label_smoothing}")
        return reduced((margin - 1 / (2 * beta)).square(), reduction).to(policy_chosen.dtype)
    right = torch.full_like(margin, 1 - label_smoothing, requires_grad=False)
    return BCE_WITH_LOGITS(beta * margin, right, reduction).to(policy_chosen.dtype)


class DPOLoss(FunctionLoss):
    """`dpo_loss` as a module, ``DPOLoss(beta=0.1)``.

    Example: the chosen answer becomes more probable than under the reference::

        >>> policy, reference = torch.tensor([-5.0, -4.0], requires_grad=True), torch.tensor([-5.0, -4.0])
        >>> loss = DPOLoss(beta=0.5)
        >>> for _ in range(3):
        ...     error = loss(*policy[:, None], *reference[:, None])
        ...     (gradient,) = torch.autograd.grad(error, policy)
        ...     policy = (policy - 4 * gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        0.69
        0.31
        0.19
    """

    function = staticmethod(dpo_loss)

    def trial(self) -> tuple[Tensor, ...]:
        return (torch.zeros(0),) * 4
