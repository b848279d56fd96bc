"""Divergences between distributions beyond `kl_div`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_floating, check_one_shape, check_reduction, working
from .elementwise import reduced
from .family import GENERALIZED_KL
from .module import FunctionLoss


def jensen_shannon_div(
    input: Tensor, target: Tensor, beta: float = 0.5, *, dim: int = -1, reduction: str = "mean"
) -> Tensor:
    r""":math:`\beta\,KL(P\|M) + (1-\beta)\,KL(Q\|M)` with :math:`M = \beta P + (1-\beta) Q`: both ways, and bounded.

    Q is the softmax of `input` (the student) along `dim` and P that of `target` (the teacher): logits of one shape.
    Log-probabilities are logits too, and may be given as they are; -inf is a probability of 0, and nothing is lost by
    it. A `beta` of one half is Jensen and Shannon's divergence, symmetric and at most log 2; another one is the
    generalized divergence of GKD. Both arguments get gradients.

    Each distribution has one value, and `reduction` "mean" is over them: what `torch.nn.functional.kl_div` calls
    "batchmean". Natural logarithms; scipy's `jensenshannon` is the square root of the value at one half.

    Raises ValueError for a `beta` outside of (0, 1): at the ends the value is 0 whatever P and Q are. (TRL computes
    KL(P‖Q) at 0 and KL(Q‖P) at 1, which are the limits of the value divided by beta and by 1 - beta; that is `kl_div`.)
    Half precision is worked in float32 and rounded once. Plain torch: differentiable as often as you like.

    Sources: Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991); Agarwal et al.,
    "On-policy distillation of language models", arXiv 2306.13649, section 2.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must lie between 0 and 1, both excluded, and is {beta}; at the ends, use kl_div")
    check_reduction(reduction)
    check_floating(input)
    check_one_shape(input, target)
    work = working(input)
    log_q, log_p = _log_softmax(input, dim, work), _log_softmax(target, dim, work)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    terms = beta * log_p.exp() * (log_p - log_m) + (1 - beta) * log_q.exp() * (log_q - log_m)
    return reduced(terms.sum(dim), reduction).to(input.dtype)


def _log_softmax(x: Tensor, dim: int, work: torch.dtype) -> Tensor:
    """Log-probabilities; -inf becomes a number so low that its exponential is 0 anyway."""
    return x.log_softmax(dim, dtype=work).clamp_min(torch.finfo(work).min / 4)


def generalized_kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""The I-divergence :math:`y\log(y/x) - y + x` of positive numbers that need not sum to 1, of each element.

    `input` x is positive and `target` y not negative, of one shape; both are the numbers themselves, not their
    logarithms. Where y is 0 the value is x. Never negative but for rounding, and 0 where x and y are equal; of
    distributions its sum is Kullback and Leibler's divergence. It is the Poisson likelihood less its best value, and
    the loss of non-negative matrix factorization. Not the divergence of GKD: that is `jensen_shannon_div`.

    Only `input` is meant to get a gradient. An `input` that is negative gives nan. Raises ValueError for shapes that
    differ. Sources: Csiszár, "Why least squares and maximum entropy?", Annals of Statistics 19 (1991); Lee and Seung,
    "Algorithms for non-negative matrix factorization", NIPS 2000.
    """
    check_reduction(reduction)
    check_floating(input)
    check_one_shape(input, target)
    return GENERALIZED_KL(input, target.to(input.dtype), reduction)


class JensenShannonDiv(FunctionLoss):
    """`jensen_shannon_div` as a module, ``JensenShannonDiv(beta=0.1)``.

    Example: a student comes closer to its teacher::

        >>> student, teacher = torch.zeros(1, 3, requires_grad=True), torch.tensor([[2.0, 0.0, -1.0]])
        >>> loss = JensenShannonDiv()
        >>> for _ in range(3):
        ...     error = loss(student, teacher)
        ...     (gradient,) = torch.autograd.grad(error, student)
        ...     student = (student - 10 * gradient).detach().requires_grad_()
        ...     print(f"{error:.3f}")
        0.150
        0.011
        0.002
    """

    function = staticmethod(jensen_shannon_div)

    def trial(self) -> tuple[Tensor, ...]:
        return torch.zeros(0, 2), torch.zeros(0, 2)


class GeneralizedKLDiv(FunctionLoss):
    """`generalized_kl_div` as a module."""

    function = staticmethod(generalized_kl_div)
