"""Losses of embeddings: those that belong together come close, the others part.

Embeddings are ``(N, D)``; what the functions compare are cosines (rows are scaled to length 1, those of length 0 stay)
unless they say otherwise. Half precision is worked in float32, also the products, and rounded once. Logarithms of sums
of exponentials never overflow. Plain torch: differentiable as often as you like, on any device; what is kept for the
backward pass is one N × N tensor, or none. `temperature`, `scale` and `bias` may be tensors of no dimension that learn.

All raise ValueError for shapes that do not fit and a temperature that is not positive.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_floating, check_one_of, check_one_shape, check_reduction, not_negative, positive, working
from .elementwise import reduced
from .module import FunctionLoss

MINING = ("batch_hard", "semi_hard")


def info_nce_loss(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`-\log\frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ij}/\tau}}`: find your key among those of the whole batch.

    s are the cosines of ``query`` i and ``key`` j, both ``(N, D)``; row i of one belongs to row i of the other. With
    `symmetric` the mean of that and of the same with the roles exchanged: CLIP's loss, whose logit scale is the
    reciprocal of `temperature`. Values are ``(N,)``. The two views of SimCLR are `nt_xent_loss`.

    Sources: van den Oord et al., arXiv 1807.03748, equation 4; Radford et al. (CLIP), arXiv 2103.00020, figure 3.
    """
    check_reduction(reduction)
    query, key, dtype = _pair(query, key, ("query", "key"))
    logits = _product(query / _temperature(temperature), key)
    values = logits.logsumexp(1)
    if symmetric:
        values = (values + logits.logsumexp(0)) / 2
    return reduced(values - logits.diagonal(), reduction).to(dtype)


def nt_xent_loss(a: Tensor, b: Tensor, *, temperature: float | Tensor = 0.5, reduction: str = "mean") -> Tensor:
    r"""SimCLR's loss of two views of N examples: each of the 2N finds its partner among the 2N - 1 others.

    ``a`` and ``b`` are ``(N, D)``, rows i the two views of example i. The value of a view is
    :math:`-\log(e^{s_{ij}/\tau}/\sum_{k \ne i} e^{s_{ik}/\tau})` with the cosines s and its partner j. The result of
    ``reduction="none"`` is ``(2N,)``, a's and then b's.

    Source: Chen et al. (SimCLR), arXiv 2002.05709, equation 1.
    """
    check_reduction(reduction)
    a, b, dtype = _pair(a, b, ("a", "b"))
    views = torch.cat((a, b))
    logits = _others(views, temperature)
    return reduced(logits.logsumexp(1) - logits.diagonal(len(a)).repeat(2), reduction).to(dtype)


def supervised_contrastive_loss(
    features: Tensor, labels: Tensor, *, temperature: float | Tensor = 0.1, reduction: str = "mean"
) -> Tensor:
    r""":math:`-\frac{1}{|P(i)|}\sum_{p \in P(i)}\log\frac{e^{s_{ip}/\tau}}{\sum_{a \ne i} e^{s_{ia}/\tau}}`, L_out.

    P(i) are the others with the label of i, and s the cosines of ``features (N, D)``; several views of an example are
    rows with one label. A row without another of its label has a value of 0 and is left out of the mean, which is 0
    where all are. (pytorch-metric-learning leaves out every row whose value is 0; the authors' code multiplies by
    ``temperature / base_temperature``.)

    Source: Khosla et al., arXiv 2004.11362, equation 2.
    """
    check_reduction(reduction)
    check_floating(features, "features")
    groups = _groups(features, labels, "features")
    rows = _unit(features.to(working(features)))
    logsumexp = _others(rows, temperature).logsumexp(1)
    # the positives' sum is a product with the sum of the class: no mask of N × N
    partners = groups.bincount()[groups] - 1
    classes = rows.new_zeros(len(rows), rows.shape[1]).index_add(0, groups, rows)
    positives = (rows * (classes[groups] - rows)).sum(1) / (temperature * partners.clamp_min(1))
    lonely = partners == 0
    values = (logsumexp - positives).masked_fill(lonely, 0)
    return _mean_of(values, ~lonely, reduction).to(features.dtype)


def siglip_loss(
    image: Tensor,
    text: Tensor,
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`-\frac1N\sum_{ij}\log\sigma(z_{ij}(t\,s_{ij} + b))`, z 1 where i = j and else -1: N² yes-or-no questions.

    s are the cosines of ``image`` i and ``text`` j, both ``(N, D)``; `scale` t and `bias` b learn, from the defaults on
    (the paper's model learns log t). Values are those of the images, ``(N,)``: sums over texts, so that "mean" is the
    paper's, over images and not over pairs.

    Source: Zhai et al., arXiv 2303.15343, equation 1 and algorithm 1.
    """
    check_reduction(reduction)
    if not isinstance(scale, Tensor):
        positive("scale", scale)
    image, text, dtype = _pair(image, text, ("image", "text"))
    wrong = _product(image * scale, text) + bias
    wrong.diagonal().neg_()
    return reduced(_softplus(wrong).sum(1), reduction).to(dtype)


def triplet_mining_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float | None = 0.2,
    mining: str = "batch_hard",
    squared: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r""":math:`[m + d(a, p) - d(a, n)]_+` of triplets found in the batch: anchor, one of its label, one of another.

    d is Euclid's distance of rows of ``embeddings (N, D)`` as they are (scale them to length 1 for FaceNet's), or its
    square. A `margin` of None is Hermans' soft one, :math:`\log(1 + e^{d(a, p) - d(a, n)})`.

    `mining` "batch_hard": for each anchor the farthest of its label and the nearest of the others. "semi_hard": for
    each anchor and each other of its label, the nearest of those of other labels that are farther from the anchor;
    where none is farther, the farthest. (pytorch-metric-learning takes all semi-hard ones that are within the margin.)

    Anchors without a partner or without an opponent are left out. The mean is over all triplets, also those of value 0
    (pytorch-metric-learning's is over the others), and 0 where there is no triplet; "none" is one value a triplet, in
    the order of the anchors and then of their partners. Distances are taken to choose without gradient and then, of
    those that were chosen, again: accurate also between close points.

    Sources: Hermans et al., arXiv 1703.07737, equation 5; Schroff et al. (FaceNet), arXiv 1503.03832, section 3.
    """
    check_reduction(reduction)
    check_one_of("mining", mining, MINING)
    check_floating(embeddings, "embeddings")
    if margin is not None:
        not_negative("margin", margin)
    groups = _groups(embeddings, labels, "embeddings")
    rows = embeddings.to(working(embeddings))
    with torch.no_grad():
        triplets = (_batch_hard if mining == "batch_hard" else _semi_hard)(rows, groups)
    anchor, partner, opponent = (rows[index] for index in triplets)
    gap = _distance(anchor - partner, squared) - _distance(anchor - opponent, squared)
    values = _softplus(gap) if margin is None else (gap + margin).relu()
    return _mean_of(values, torch.ones_like(values, dtype=torch.bool), reduction).to(embeddings.dtype)


def _distance(difference: Tensor, squared: bool) -> Tensor:
    return difference.square().sum(1) if squared else torch.linalg.vector_norm(difference, dim=1)


def _distances(rows: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All distances; and which pairs are partners, and which opponents."""
    same = groups[:, None] == groups
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances, same.clone().fill_diagonal_(False), ~same


def _batch_hard(rows: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    distances, partners, opponents = _distances(rows, groups)
    anchors = (partners.any(1) & opponents.any(1)).nonzero()[:, 0]
    if not len(anchors):
        return anchors, anchors, anchors
    farthest = distances.masked_fill(~partners, -torch.inf).argmax(1)
    nearest = distances.masked_fill_(~opponents, torch.inf).argmin(1)
    return anchors, farthest[anchors], nearest[anchors]


def _semi_hard(rows: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    distances, partners, opponents = _distances(rows, groups)
    anchor, partner = (partners & opponents.any(1, keepdim=True)).nonzero().unbind(1)
    if not len(anchor):
        return anchor, partner, anchor
    ascending, order = distances.masked_fill(~opponents, torch.inf).sort(1)
    place = torch.searchsorted(ascending, distances, right=True)  # of the first that is farther
    place = place.minimum(opponents.sum(1, keepdim=True) - 1)  # or of the last
    return anchor, partner, order[anchor, place[anchor, partner]]


def _pair(a: Tensor, b: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor, torch.dtype]:
    """Two sets of N rows, of length 1 and in the working dtype; and the dtype of the result."""
    check_floating(a, names[0])
    check_one_shape(a, b, names)
    if a.dim() != 2:
        raise ValueError(f"{names[0]} and {names[1]} must be (N, D), one row an example, and have {tuple(a.shape)}")
    work = working(a)
    return _unit(a.to(work)), _unit(b.to(work)), a.dtype


def _groups(rows: Tensor, labels: Tensor, name: str) -> Tensor:
    """Labels as the numbers 0, 1, ..."""
    if rows.dim() != 2:
        raise ValueError(f"{name} must be (N, D), one row an example, and has shape {tuple(rows.shape)}")
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"labels must be {len(rows)}, one a row of {name}, and have shape {tuple(labels.shape)}")
    return labels.unique(return_inverse=True)[1]


def _temperature(temperature: float | Tensor) -> float | Tensor:
    return temperature if isinstance(temperature, Tensor) else positive("temperature", temperature)


def _others(rows: Tensor, temperature: float | Tensor) -> Tensor:
    """The cosines of all pairs over the temperature, and -inf for a row with itself."""
    return _product(rows / _temperature(temperature), rows).fill_diagonal_(-torch.inf)


def _product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):  # it would round the cosines to half precision
        return a @ b.T


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; those of length 0 stay, with a gradient that is not huge as `torch`'s `normalize` makes it."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / length.masked_fill(length == 0, 1)


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40)  # torch's 20 is too early for float64


def _mean_of(values: Tensor, counted: Tensor, reduction: str) -> Tensor:
    """As `reduced`, with the mean over what is counted, and 0 where nothing is."""
    return values.sum() / counted.sum().clamp_min(1) if reduction == "mean" else reduced(values, reduction)


class _Pairs(FunctionLoss):
    def trial(self) -> tuple[Tensor, ...]:
        return torch.zeros(1, 1), torch.zeros(1, 1)


class _Labelled(FunctionLoss):
    def trial(self) -> tuple[Tensor, ...]:
        return torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)


class InfoNCELoss(_Pairs):
    """`info_nce_loss` as a module, ``InfoNCELoss(temperature=0.1, symmetric=True)``.

    Example: three queries turn towards their keys::

        >>> key, query = torch.eye(3), torch.ones(3, 3, requires_grad=True)
        >>> loss = InfoNCELoss(temperature=0.5)
        >>> for _ in range(3):
        ...     error = loss(query, key)
        ...     (gradient,) = torch.autograd.grad(error, query)
        ...     query = (query - 3 * gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        1.10
        0.48
        0.34
    """

    function = staticmethod(info_nce_loss)


class NTXentLoss(_Pairs):
    """`nt_xent_loss` as a module, ``NTXentLoss(temperature=0.1)``."""

    function = staticmethod(nt_xent_loss)


class SigLIPLoss(_Pairs):
    """`siglip_loss` as a module; ``SigLIPLoss(bias=nn.Parameter(torch.tensor(-10.0)))`` learns the bias."""

    function = staticmethod(siglip_loss)


class SupervisedContrastiveLoss(_Labelled):
    """`supervised_contrastive_loss` as a module, ``SupervisedContrastiveLoss(temperature=0.1)``."""

    function = staticmethod(supervised_contrastive_loss)


class TripletMiningLoss(_Labelled):
    """`triplet_mining_loss` as a module, ``TripletMiningLoss(margin=0.2, mining="semi_hard")``.

    Example: four points of two labels on a line are sorted::

        >>> points = torch.tensor([[0.0], [1.0], [2.0], [3.0]], requires_grad=True)
        >>> labels, loss = torch.tensor([0, 1, 0, 1]), TripletMiningLoss(margin=1.0)
        >>> for _ in range(3):
        ...     error = loss(points, labels)
        ...     (gradient,) = torch.autograd.grad(error, points)
        ...     points = (points - gradient).detach().requires_grad_()
        ...     print(f"{error:.2f}")
        2.00
        1.38
        0.00
    """

    function = staticmethod(triplet_mining_loss)
