"""Connectionist temporal classification: the likelihood of labels of which nobody knows when they were said.

Arguments, shapes, dtypes, errors and values at the edges are those of `torch.nn.functional.ctc_loss` and
`torch.nn.CTCLoss`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..executors.kernels import SINGLE_AND_DOUBLE
from .fused import MOST_SIZES, REDUCTIONS, Kernel, by_kernel, on, on_cpu, unwatched_pair

#: below so much work, in states or so, torch takes less time than what stands around a kernel
SMALL = 1500

INTEGERS = (torch.int64, torch.int32)


def ctc_loss(
    log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False
) -> Tensor:
    """Minus the log of the summed probability of all alignments of a sequence ``(T, N, C)`` with its labels.

    Labels follow in their order, repeated or with blanks between them. An impossible alignment costs ``inf`` and its
    gradient is nan, or both are 0 with `zero_infinity`. The gradient is right for the logits before a log-softmax, but
    not for log-probabilities that are free to be anything. On a CPU a kernel makes value and gradient together, in
    float64 without logarithms, of ``(T, N, C)`` or of the transpose of ``(N, T, C)``; a GPU is left to torch. Source:
    Graves et al., "Connectionist temporal classification", ICML 2006. See `torch.nn.functional.ctc_loss`.
    """
    fast = _fast(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    if fast is not None:
        return fast
    return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def _fast(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity) -> Tensor | None:
    """The loss by a kernel, or None where none fits."""
    if reduction not in REDUCTIONS or not isinstance(targets, Tensor) or log_probs.dim() not in (2, 3):
        return None
    if _work(log_probs, targets) <= SMALL or log_probs.dtype not in SINGLE_AND_DOUBLE:
        return None
    batch = log_probs if log_probs.dim() == 3 else log_probs[:, None]
    batch_first = not batch.is_contiguous()
    input = batch.transpose(0, 1) if batch_first else batch
    if not unwatched_pair(input, targets) or not on_cpu(input) or targets.dtype not in INTEGERS:
        return None
    n = batch.shape[1]
    lengths = _lengths(input_lengths, n), _lengths(target_lengths, n)
    if lengths[0] is None or lengths[1] is None or type(input_lengths) is not type(target_lengths):
        return None
    options = reduction, blank, zero_infinity, batch_first
    longest = targets.shape[1] if targets.dim() == 2 else int(lengths[1].max())
    kernel = _kernel(input.shape, input.dtype, *options, targets.shape, longest)
    if kernel is None:
        return None
    value = by_kernel(kernel, input, targets.long(), *lengths)
    return value[0] if reduction == "none" and log_probs.dim() == 2 else value


def _work(log_probs: Tensor, targets: Tensor) -> int:
    """What there is to do: the states of all times and, if the gradient is wanted, as many again and all classes."""
    states = len(log_probs) * targets.numel()
    wanted = log_probs.requires_grad and torch.is_grad_enabled()
    return 2 * states + log_probs.numel() // 16 if wanted else states


def _lengths(those, n: int) -> Tensor | None:
    """The lengths of n sequences as int64 on the CPU; None for what torch would refuse, or convert."""
    if not isinstance(those, Tensor):
        numbers = isinstance(those, (tuple, list)) and len(those) == n and all(type(one) is int for one in those)
        return torch.tensor(those, dtype=torch.int64) if numbers else None
    plain = type(those) is Tensor and those.is_cpu and those.dtype in INTEGERS and those.numel() == n
    return those.reshape(n).long() if plain else None


@functools.lru_cache(MOST_SIZES)
def _kernel(
    shape: torch.Size,
    dtype: torch.dtype,
    reduction: str,
    blank: int,
    zero_infinity: bool,
    batch_first: bool,
    target_shape: torch.Size,
    longest: int,
) -> Kernel | None:
    """The kernel for tensors of such shapes and dtypes with these options; None where torch is asked."""
    if shape.numel() == 0 or type(blank) is not int or not 0 <= blank < shape[2] or len(target_shape) not in (1, 2):
        return None
    n = shape[0] if batch_first else shape[1]
    if len(target_shape) == 2 and target_shape[0] != n:
        return None

    def plain(log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        log_probs = log_probs.transpose(0, 1) if batch_first else log_probs
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)

    options = reduction, blank, zero_infinity, batch_first
    return on(torch.device("cpu"), "ctc_").Ctc(plain, shape, dtype, *options, target_shape, longest)


class CTCLoss(nn.CTCLoss):
    """`ctc_loss` as a module."""

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        options = {"blank": self.blank, "reduction": self.reduction, "zero_infinity": self.zero_infinity}
        return ctc_loss(log_probs, targets, input_lengths, target_lengths, **options)
