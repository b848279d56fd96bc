"""The elementwise losses: for each its value and, under it, its slope with respect to the prediction.

x is the prediction, y the target; what follows are constants. The plain-torch form, the compiled kernel and the curves
of the charts are all made of these lines, and a test holds each slope against autograd of its value.
"""

from __future__ import annotations

from torch.nn import functional as F

from ..dialect import (
    absolute,
    exp,
    exp_negative,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    sign,
    softplus,
    sqrt,
    tanh,
    where,
)
from .elementwise import Elementwise
from .fused import REDUCTIONS


def mse(x, y):
    return (x - y) * (x - y)


def mse_slope(x, y):
    return 2 * (x - y)


def l1(x, y):
    return absolute(x - y)


def l1_slope(x, y):
    return sign(x - y)


def smooth_l1(x, y, beta):
    d = x - y
    return where(absolute(d) < beta, 0.5 * d * d / beta, absolute(d) - 0.5 * beta)


def smooth_l1_slope(x, y, beta):
    d = x - y
    return where(absolute(d) >= beta, sign(d), d / beta)  # nan stays


def huber(x, y, delta):
    d = x - y
    slope = where(d > delta, delta, where(d < -delta, -delta, d))  # nan stays, without being asked for
    return slope * (d - 0.5 * slope)


def huber_slope(x, y, delta):
    d = x - y
    return where(d > delta, delta, where(d < -delta, -delta, d))


def bce(x, y):
    loss = (y - 1) * maximum(log1p(-x), -100) - y * maximum(log(x), -100)
    # nan, which a sum keeps, tells of what is no probability
    return where(minimum(minimum(x, 1 - x), minimum(y, 1 - y)) >= 0, loss, log(0 * x - 1))


def bce_slope(x, y):
    return (x - y) / maximum((1 - x) * x, 1e-12)


def exact_bce(x, y):
    # a logarithm with the weight 0 is not taken
    loss = (y - 1) * log1p(-where(y == 1, 0 * x, x)) - y * log(where(y == 0, 1 + 0 * x, x))
    return where(minimum(minimum(x, 1 - x), minimum(y, 1 - y)) >= 0, loss, log(0 * x - 1))


def exact_bce_slope(x, y):
    return (1 - y) / (1 - where(y == 1, 0 * x, x)) - y / where(y == 0, 1 + 0 * x, x)


def bce_with_logits(x, y):
    return (1 - y) * x + softplus(-x)


def bce_with_logits_slope(x, y):
    e = exp_negative(-absolute(x))  # as in the value, so that the compiler takes it once
    return where(x >= 0, 1 + 0 * e, e) / (1 + e) - y


def exact_bce_with_logits(x, y):
    # an infinite logit costs nothing where it is right
    return where(y == 0, 0 * y, y * softplus(-x)) + where(y == 1, 0 * y, (1 - y) * softplus(x))


def bce_with_pos_weight(x, y, pos_weight):
    return (1 - y) * x + (1 + (pos_weight - 1) * y) * softplus(-x)


def bce_with_pos_weight_slope(x, y, pos_weight):
    e = exp_negative(-absolute(x))
    p, q = where(x >= 0, 1 + 0 * e, e) / (1 + e), where(x >= 0, e, 1 + 0 * e) / (1 + e)
    return (1 - y) * p - pos_weight * y * q


def multilabel_soft_margin(x, y):
    return y * softplus(-x) + (1 - y) * softplus(x)


def kl_div(x, y):
    return where(y == 0, 0 * x, y * log(y)) - x * y


def kl_div_slope(x, y):
    return -y


def exact_kl_div(x, y):
    return where(y == 0, 0 * y, y * (log(y) - x))  # nothing is lost where the target is 0, whatever the prediction


def kl_div_log(x, y):
    return exp(y) * (y - x)


def kl_div_log_slope(x, y):
    return -exp(y)


def generalized_kl(x, y):
    return where(y == 0, x, y * (log(y) - log(x)) - y + x)


def generalized_kl_slope(x, y):
    return 1 - y / x


def poisson_nll_log(x, y):
    return exp(x) - y * x


def poisson_nll_log_slope(x, y):
    return exp(x) - y


def poisson_nll(x, y, eps):
    return x - y * log(x + eps)


def poisson_nll_slope(x, y, eps):
    return 1 - y / (x + eps)


def soft_margin(x, y):
    return log1p(exp(-y * x))  # overflows where -yx is above 88, as torch does


def soft_margin_slope(x, y):
    z = exp(-y * x)
    return -y * z / (1 + z)


def exact_soft_margin(x, y):
    return softplus(-y * x)


def exact_soft_margin_slope(x, y):
    return -y / (1 + exp(y * x))


def hinge_embedding(x, y, margin):
    # nothing is 0 times the target, which is finite
    return where(y != 1, maximum(margin - x, 0), 0 * y) + where(y != -1, x, 0 * y)


def hinge_embedding_slope(x, y, margin):
    return where(y != 1, where(x <= margin, -1 + 0 * y, 0 * y), 0 * y) + where(y != -1, 1 + 0 * y, 0 * y)


def log_cosh(x, y):
    e = x - y
    d = where(e > 0, e, -e)  # of the absolute value autograd takes neither side at 0
    return d + log1p(0.5 * expm1(-2 * d))  # exact near 0, where the two would cancel


def log_cosh_slope(x, y):
    return tanh(x - y)


def pinball(x, y, quantile):
    return where(y >= x, quantile * (y - x), (quantile - 1) * (y - x))


def pinball_slope(x, y, quantile):
    return where(y >= x, -quantile + 0 * x, 1 - quantile + 0 * x)


def charbonnier(x, y, eps):
    return sqrt((x - y) * (x - y) + eps * eps)


def charbonnier_slope(x, y, eps):
    return (x - y) / sqrt((x - y) * (x - y) + eps * eps)


def cauchy(x, y, scale):
    r = (x - y) / scale
    return log1p(0.5 * r * r)


def cauchy_slope(x, y, scale):
    r = (x - y) / scale
    return r / (1 + 0.5 * r * r) / scale


def geman_mcclure(x, y, scale):
    r = (x - y) / scale
    return 2 * r * r / (r * r + 4)


def geman_mcclure_slope(x, y, scale):
    r = (x - y) / scale
    return 16 * r / ((r * r + 4) * (r * r + 4)) / scale


def welsch(x, y, scale):
    r = (x - y) / scale
    return -expm1(-0.5 * r * r)


def welsch_slope(x, y, scale):
    r = (x - y) / scale
    return r * exp_negative(-0.5 * r * r) / scale


def tukey(x, y, c):
    r = (x - y) / c
    s = 1 - minimum(r * r, 1)
    return c * c / 6 * (1 - s * s * s)


def tukey_slope(x, y, c):
    r = (x - y) / c
    s = maximum(1 - r * r, 0)
    return (x - y) * s * s


def barron(x, y, shape, scale):
    r = (x - y) / scale
    b = absolute(shape - 2)
    return b / shape * expm1(0.5 * shape * log1p(r * r / b))


def barron_slope(x, y, shape, scale):
    r = (x - y) / scale
    b = absolute(shape - 2)
    return r / scale * exp((0.5 * shape - 1) * log1p(r * r / b))


def focal(x, y, alpha, gamma):
    # t is the logit of the right answer, and q = 1 - p how wrong the prediction is
    t = (2 * y - 1) * x
    nll = softplus(-t)
    log_q = -softplus(t)
    weight = where(alpha < 0, 1 + 0 * y, alpha * y + (1 - alpha) * (1 - y))
    return weight * exp_negative(gamma * log_q) * nll


def focal_slope(x, y, alpha, gamma):
    s = 2 * y - 1
    t = s * x
    nll = softplus(-t)
    log_q = -softplus(t)
    e = exp_negative(-absolute(t))
    q = where(t >= 0, e, 1 + 0 * e) / (1 + e)
    weight = where(alpha < 0, 1 + 0 * y, alpha * y + (1 - alpha) * (1 - y))
    return -weight * s * exp_negative(gamma * log_q) * (gamma * (1 - q) * nll + q)


OF_KL = (*REDUCTIONS, "batchmean")

MSE = Elementwise(mse, mse_slope)
L1 = Elementwise(l1, l1_slope)
SMOOTH_L1 = Elementwise(smooth_l1, smooth_l1_slope)
HUBER = Elementwise(huber, huber_slope)
BCE = Elementwise(bce, bce_slope, original=lambda x, y, reduction: F.binary_cross_entropy(x, y, reduction=reduction))
EXACT_BCE = Elementwise(exact_bce, exact_bce_slope)
BCE_WITH_LOGITS = Elementwise(bce_with_logits, bce_with_logits_slope)
EXACT_BCE_WITH_LOGITS = Elementwise(exact_bce_with_logits, bce_with_logits_slope)
BCE_WITH_POS_WEIGHT = Elementwise(bce_with_pos_weight, bce_with_pos_weight_slope)
MULTILABEL_SOFT_MARGIN = Elementwise(multilabel_soft_margin, bce_with_logits_slope)
KL_DIV = Elementwise(kl_div, kl_div_slope, reductions=OF_KL)
KL_DIV_LOG = Elementwise(kl_div_log, kl_div_log_slope, reductions=OF_KL)
GENERALIZED_KL = Elementwise(generalized_kl, generalized_kl_slope)
POISSON_NLL_LOG = Elementwise(poisson_nll_log, poisson_nll_log_slope)
POISSON_NLL = Elementwise(poisson_nll, poisson_nll_slope)
EXACT_KL_DIV = Elementwise(exact_kl_div, kl_div_slope, reductions=OF_KL)
SOFT_MARGIN = Elementwise(soft_margin, soft_margin_slope)
EXACT_SOFT_MARGIN = Elementwise(exact_soft_margin, exact_soft_margin_slope)
HINGE_EMBEDDING = Elementwise(hinge_embedding, hinge_embedding_slope)
LOG_COSH = Elementwise(log_cosh, log_cosh_slope)
PINBALL = Elementwise(pinball, pinball_slope)
CHARBONNIER = Elementwise(charbonnier, charbonnier_slope)
CAUCHY = Elementwise(cauchy, cauchy_slope)
GEMAN_MCCLURE = Elementwise(geman_mcclure, geman_mcclure_slope)
WELSCH = Elementwise(welsch, welsch_slope)
TUKEY = Elementwise(tukey, tukey_slope)
BARRON = Elementwise(barron, barron_slope)
FOCAL = Elementwise(focal, focal_slope)

FAMILY = {name.lower(): loss for name, loss in list(globals().items()) if isinstance(loss, Elementwise)}
