"""The softmax over very many classes that looks only at those that are likely."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.adaptive import _ASMoutput

from .cross_entropy import cross_entropy


class AdaptiveLogSoftmaxWithLoss(nn.AdaptiveLogSoftmaxWithLoss):
    r"""The negative log-probability of the right class, where classes are sorted by how often they occur.

    The head scores the frequent classes ``0 ... cutoffs[0] - 1`` and one entry for each cluster of rarer ones; a rare
    class costs :math:`-\log P(\text{cluster}) - \log P(\text{class} \mid \text{cluster})`, and a cluster is evaluated
    only for the rows whose target lies in it, through a projection to ``in_features / div_value^i`` features. Returns
    the pair ``output`` (N,), the log-probabilities of the targets, and ``loss``, minus their mean.

    The logits of the head and of each cluster go through `cross_entropy`, which keeps no log-probabilities of the
    classes that are not asked for. Arguments, errors, `log_prob` and `predict` are torch's. Source: Grave et al.,
    "Efficient softmax approximation for GPUs", arXiv 1609.04309. See `torch.nn.AdaptiveLogSoftmaxWithLoss`.
    """

    def forward(self, input_: Tensor, target_: Tensor) -> _ASMoutput:
        rows = input_.dim() == 2 and target_.shape == input_.shape[:1] and target_.dtype == torch.int64
        if not rows or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return super().forward(input_, target_)
        cluster = torch.bucketize(target_, torch.tensor(self.cutoffs, device=target_.device), right=True)
        members = [(cluster == i).nonzero().squeeze(1) for i in range(1, len(self.cutoffs))]
        frequent = int(((cluster == 0) & (target_ >= 0)).sum())
        if frequent + sum(len(found) for found in members) != len(target_):
            return super().forward(input_, target_)  # which refuses a target that is no class
        entry = torch.where(cluster == 0, target_, self.shortlist_size - 1 + cluster)
        nll = cross_entropy(self.head(input_), entry, reduction="none")
        for tail, first, found in zip(self.tail, self.cutoffs, members, strict=False):
            if len(found):
                inside = cross_entropy(tail(input_[found]), target_[found] - first, reduction="none")
                nll = nll.index_add(0, found, inside)
        return _ASMoutput(-nll, nll.mean())
