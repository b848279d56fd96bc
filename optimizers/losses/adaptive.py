"""The softmax over very many classes that looks only at those that are likely."""

from __future__ import annotations

from torch import nn


class AdaptiveLogSoftmaxWithLoss(nn.AdaptiveLogSoftmaxWithLoss):
    r"""The negative log-probability of the right class, where classes are sorted by how often they occur.

    The head scores the frequent classes ``0 ... cutoffs[0] - 1`` and one entry for each cluster of rarer ones; a rare
    class costs :math:`-\log P(\text{cluster}) - \log P(\text{class} \mid \text{cluster})`, and a cluster is evaluated
    only for the rows whose target lies in it, through a projection to ``in_features / div_value^i`` features. Returns
    the pair ``output`` (N,), the log-probabilities of the targets, and ``loss``, minus their mean.

    It is torch's own: its matrix products are the work, and no pass over whole logits is left to be saved. Source:
    Grave et al., "Efficient softmax approximation for GPUs", arXiv 1609.04309. See
    `torch.nn.AdaptiveLogSoftmaxWithLoss`.
    """
