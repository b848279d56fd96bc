"""The elementwise losses of three tensors, which want up to three gradients: as `family`, for more than a target.

x is the prediction, y the target, v a variance, w a weight, z a second prediction; what follows are constants.
"""

from __future__ import annotations

from torch.nn import functional as F

from ..dialect import absolute, exp, log, log1p, maximum, minimum, softplus, where
from .elementwise import Elementwise, reduced
from .family import bce_with_pos_weight, bce_with_pos_weight_slope


def gaussian_nll(x, y, v, eps, constant):
    var = maximum(v, eps)
    loss = 0.5 * (log(var) + (x - y) * (x - y) / var) + constant
    return where(v >= 0, loss, log(-1))  # nan, which a sum keeps, tells of a negative variance


def gaussian_nll_slope(x, y, v, eps, constant):
    return (x - y) / maximum(v, eps)


def gaussian_nll_target_slope(x, y, v, eps, constant):
    return (y - x) / maximum(v, eps)


def gaussian_nll_var_slope(x, y, v, eps, constant):
    r = (x - y) / maximum(v, eps)
    return 0.5 * (1 / maximum(v, eps) - r * r)  # as though nothing had been clamped


def margin_ranking(x, z, y, margin):
    return maximum(-y * (x - z) + margin, 0)


def margin_ranking_slope(x, z, y, margin):
    return where(-y * (x - z) + margin >= 0, -y, 0 * y)


def margin_ranking_other_slope(x, z, y, margin):
    return where(-y * (x - z) + margin >= 0, y, 0 * y)


def weighted_bce(x, y, w):
    loss = (y - 1) * maximum(log1p(-x), -100) - y * maximum(log(x), -100)
    return where(minimum(minimum(x, 1 - x), minimum(y, 1 - y)) >= 0, w * loss, log(-1))


def weighted_bce_slope(x, y, w):
    return w * (x - y) / maximum((1 - x) * x, 1e-12)


def weighted_bce_with_logits(x, y, w, pos_weight):
    return w * ((1 - y) * x + (1 + (pos_weight - 1) * y) * softplus(-x))


def weighted_bce_with_logits_slope(x, y, w, pos_weight):
    e = exp(-absolute(x))
    p, q = where(x >= 0, 1 + 0 * e, e) / (1 + e), where(x >= 0, e, 1 + 0 * e) / (1 + e)
    return w * ((1 - y) * p - pos_weight * y * q)


def _gaussian_nll(x, y, v, reduction, eps, constant):
    """torch's, whose clamp lets the gradient of the variance through."""
    return reduced(F.gaussian_nll_loss(x, y, v, eps=eps, reduction="none") + constant, reduction)


GAUSSIAN_NLL = Elementwise(
    gaussian_nll, gaussian_nll_slope, (gaussian_nll_target_slope, gaussian_nll_var_slope), _gaussian_nll
)
MARGIN_RANKING = Elementwise(margin_ranking, margin_ranking_slope, (margin_ranking_other_slope, None))
WEIGHTED_BCE = Elementwise(
    weighted_bce,
    weighted_bce_slope,
    (None, None),
    lambda x, y, w, reduction: F.binary_cross_entropy(x, y, w, reduction=reduction),
)
WEIGHTED_BCE_WITH_LOGITS = Elementwise(weighted_bce_with_logits, weighted_bce_with_logits_slope, (None, None))
BCE_WITH_POS_WEIGHTS = Elementwise(bce_with_pos_weight, bce_with_pos_weight_slope, (None, None))

TRIPLES = {name.lower(): loss for name, loss in list(globals().items()) if isinstance(loss, Elementwise)}
