"""The losses that are verified and timed: one line each, with what they are compared with and what they are fed.

The reference is torch's own function or, where torch has none, the textbook formula written as plain torch. It is never
made of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.ulp import rounded
from optimizers import losses as ours

Function = Callable[..., Tensor]  # of prediction, target and `reduction`
Array = NDArray[np.float64]

IGNORED = -100  # the class index that counts for nothing, torch's default
SHARE_IGNORED = 0.1

# What is timed: elements, rows x classes, vectors x their length, or times x sequences x classes.
ELEMENTS: dict[str, tuple[int, ...]] = {"4Ki": (4096,), "64Ki": (65_536,), "1Mi": (1 << 20,), "4Mi": (1 << 22,)}
LOGITS: dict[str, tuple[int, ...]] = {
    "64x10": (64, 10),
    "4096x10": (4096, 10),
    "512x1000": (512, 1000),
    "1024x32000": (1024, 32_000),
}
VECTORS: dict[str, tuple[int, ...]] = {"64x64": (64, 64), "4096x256": (4096, 256)}
SEQUENCES: dict[str, tuple[int, ...]] = {"50x16x20": (50, 16, 20), "150x32x29": (150, 32, 29)}
SIZES = ELEMENTS | LOGITS | VECTORS | SEQUENCES

# What is verified: large enough that a kernel takes it, and no multiple of a vector register or a block. Rows of logits
# up to 64 classes are taken together, longer ones alone.
VERIFIED_ELEMENTS, VERIFIED_LOGITS, VERIFIED_VECTORS = ((65_573,),), ((1025, 10), (67, 1003)), ((67, 33), (129, 300))
VERIFIED_SEQUENCES = ((40, 3, 9), (31, 5, 70))
VERIFIED_SCORES = ((411, 10), (67, 103))  # what torch adds up one number after the other would be off itself

DTYPES = ("float32", "float64", "bfloat16", "float16")


OTHERS = {"vector": 1, "two vectors": 2}
MOST_RIGHT = 3  # classes of an example that has several
TIMES_OF_LABEL = 4  # as many times as this for each label of a sequence


@dataclass(frozen=True)
class Loss:
    """A loss of ours, what it is compared with, and what it takes.

    `target` names the kind of target, see `draw`. `cancels` says where the result is a difference of larger numbers, so
    that its own last place means nothing: "value", "gradient", or "hits" for the gradient where the target is not 0.
    """

    name: str
    function: Function
    reference: Function
    target: str
    cancels: tuple[str, ...] = ()
    of_torch: bool = True  # False: the reference is a formula
    by_kernel: tuple[str, ...] = (
        "none",
        "mean",
        "batchmean",
        "sum",
    )  # the reductions that torch itself is not asked for
    reductions: tuple[str, ...] = ("none", "mean", "sum")
    liger: str = ""  # the name of Liger's function, which exists on CUDA only
    dtypes: tuple[str, ...] = DTYPES  # those that the reference takes
    scores: bool = False  # the reference adds up all that a row gives, one after the other

    @property
    def of_classes(self) -> bool:
        """Whether it takes rows of logits and class indices."""
        return self.target in ("class", "class or ignored", "classes", "sequence")

    @property
    def others(self) -> int:
        """How many vectors each vector is compared with; 0 for losses of anything else."""
        return OTHERS.get(self.target, 0)

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """The sizes it can be timed on."""
        if self.target == "sequence":
            return SEQUENCES
        return VECTORS if self.others else LOGITS if self.of_classes else ELEMENTS

    @property
    def verified_shapes(self) -> tuple[tuple[int, ...], ...]:
        if self.scores:
            return VERIFIED_SCORES
        if self.target == "sequence":
            return VERIFIED_SEQUENCES
        return VERIFIED_VECTORS if self.others else VERIFIED_LOGITS if self.of_classes else VERIFIED_ELEMENTS

    @property
    def average(self) -> str:
        """The reduction it is timed with: the mean."""
        return self.reductions[1]

    @property
    def against(self) -> str:
        """The reference in words."""
        return "torch.nn.functional" if self.of_torch else "formula in plain torch"


def short(name: str) -> str:
    """``mse`` for ``mse_loss``, and the one long name in its usual short form."""
    return name.removesuffix("_loss").replace("binary_cross_entropy", "bce")


def least_bytes(loss: Loss, elements: int, itemsize: int) -> int:
    """Bytes that value and gradient together have to move at least: everything in once, the gradient out once.

    Elementwise that is prediction, target and gradient: 12 an element in float32. Of logits it is the logits and their
    gradient, 8 a logit: a row stays in the cache between the sum of its exponentials and its gradient. The class
    indices are a thousandth of it, and left out. Of vectors it is all of them, and the gradient of the first.
    """
    return (2 if loss.of_classes else 2 + max(1, loss.others)) * elements * itemsize


def formula(elementwise: Callable[..., Tensor], **constants: float) -> Function:
    """The loss of a formula for single elements."""

    def loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        values = elementwise(input, target, **constants)
        return values if reduction == "none" else values.mean() if reduction == "mean" else values.sum()

    return loss


def _log_cosh(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).cosh().log()


def _pinball(x: Tensor, y: Tensor, quantile: float) -> Tensor:
    return torch.where(y >= x, quantile * (y - x), (1 - quantile) * (x - y))


def _charbonnier(x: Tensor, y: Tensor, eps: float) -> Tensor:
    return ((x - y).square() + eps**2).sqrt()


def _cauchy(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return (((x - y) / scale).square() / 2).log1p()


def _geman_mcclure(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return 2 - 8 / (((x - y) / scale).square() + 4)  # of the quotient in one piece, autograd's gradient would cancel


def _welsch(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return 1 - (-((x - y) / scale).square() / 2).exp()  # autograd's gradient of expm1 would cancel


def _tukey(x: Tensor, y: Tensor, c: float) -> Tensor:
    inside = 1 - ((x - y) / c).square().clamp(max=1)
    return c**2 / 6 * (1 - inside**3)


def _barron(x: Tensor, y: Tensor, shape: float, scale: float) -> Tensor:
    b = abs(shape - 2)
    return b / shape * ((((x - y) / scale).square() / b + 1) ** (shape / 2) - 1)


def _i_divergence(x: Tensor, y: Tensor) -> Tensor:
    return torch.special.xlogy(y, y) - y * x.log() - y + x


def _focal(x: Tensor, y: Tensor, alpha: float, gamma: float) -> Tensor:
    margin = (2 * y - 1) * x
    weight = alpha * y + (1 - alpha) * (1 - y)
    return -weight * torch.sigmoid(-margin) ** gamma * F.logsigmoid(margin)


def _softmax_focal(nll: Tensor, logits: Tensor, gamma: float) -> Tensor:
    return (1 - (-nll).exp()) ** gamma * nll


def _z_loss(nll: Tensor, logits: Tensor, z: float) -> Tensor:
    return nll + z * logits.logsumexp(1).square()


def _poly1(nll: Tensor, logits: Tensor, epsilon: float) -> Tensor:
    return nll + epsilon * (1 - (-nll).exp())


@functools.cache
def _class_weights(classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """From 0.5 to 1.94 in sixteenths, which every dtype holds exactly."""
    return (0.5 + torch.arange(classes, dtype=torch.float64) % 24 / 16).to(device, dtype)


def _weighted(function: Function) -> Function:
    def loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        weight = _class_weights(input.shape[1], input.dtype, input.device)
        return function(input, target, weight=weight, reduction=reduction)

    return loss


def _of_torch(name: str, target: str, *cancels: str, of: str = "", **options: Any) -> Loss:
    """A loss that has one name here and in torch, with these options."""
    mine, theirs = (functools.partial(getattr(module, of or name), **options) for module in (ours, F))
    return Loss(name, mine, theirs, target, cancels)


@functools.cache
def _labels(n: int, device: torch.device) -> Tensor:
    """1 and -1, one after the other."""
    return 1 - 2 * (torch.arange(n, device=device) % 2)


def _of_vectors(name: str, target: str, *, labelled: bool = False, **options: Any) -> Loss:
    """A loss that has one name here and in torch, of the first of two or three vectors."""

    def bound(module: Any) -> Function:
        function = functools.partial(getattr(module, name), **options)

        def loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
            labels = (_labels(len(input), input.device),) if labelled else ()
            return function(input, *target.unbind(), *labels, reduction=reduction)

        return loss

    return Loss(name, bound(ours), bound(F), target, ("value", "gradient"))


def _of_sequences(function: Function) -> Function:
    """CTC of sequences that are as long as there are times, and of all their labels."""

    def loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        times, n, _ = input.shape
        return function(input, target, (times,) * n, (target.shape[1],) * n, reduction=reduction)

    return loss


def _own(name: str, plain: Callable[..., Tensor], target: str, *cancels: str, **constants: float) -> Loss:
    """A loss that torch does not have, with the formula of its elements."""
    mine = functools.partial(getattr(ours, name), **constants)
    return Loss(name, mine, formula(plain, **constants), target, cancels, of_torch=False)


def _of_rows(name: str, plain: Callable[..., Tensor], **constants: float) -> Loss:
    """A loss that torch does not have, of rows of logits: the formula is of torch's cross-entropy and the logits."""

    def of_row(logits: Tensor, target: Tensor, **constants: float) -> Tensor:
        return plain(F.cross_entropy(logits, target, reduction="none"), logits, **constants)

    mine = functools.partial(getattr(ours, name), **constants)
    return Loss(name, mine, formula(of_row, **constants), "class", ("value", "gradient"), of_torch=False)


_CROSS = {"target": "class", "cancels": ("value", "hits"), "liger": "liger_cross_entropy"}
_KL_REDUCTIONS = ("none", "batchmean", "sum")  # its "mean" is a mistake that torch warns of

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", ours.cross_entropy, F.cross_entropy, **_CROSS),
        Loss(
            "cross_entropy_smoothed",
            functools.partial(ours.cross_entropy, label_smoothing=0.1),
            functools.partial(F.cross_entropy, label_smoothing=0.1),
            "class",
            ("value", "gradient"),
        ),
        Loss(
            "cross_entropy_weighted",
            _weighted(ours.cross_entropy),
            _weighted(F.cross_entropy),
            "class",
            ("value", "hits"),
        ),
        Loss("cross_entropy_ignoring", ours.cross_entropy, F.cross_entropy, "class or ignored", ("value", "hits")),
        Loss("nll_loss", ours.nll_loss, F.nll_loss, "class", by_kernel=()),
        Loss(
            "multi_margin_loss",
            ours.multi_margin_loss,
            F.multi_margin_loss,
            "class",
            ("value", "gradient"),
            dtypes=DTYPES[:2],
            scores=True,
        ),
        Loss(
            "multilabel_margin_loss",
            ours.multilabel_margin_loss,
            F.multilabel_margin_loss,
            "classes",
            ("value", "gradient"),
            dtypes=DTYPES[:2],
            scores=True,
        ),
        Loss(
            "ctc_loss",
            _of_sequences(ours.ctc_loss),
            _of_sequences(F.ctc_loss),
            "sequence",
            ("gradient",),
            dtypes=DTYPES[:1],  # torch's float64, the reference, is itself a hundred units in the last place off
        ),
        _of_vectors("cosine_embedding_loss", "vector", labelled=True, margin=-0.1),
        _of_vectors("triplet_margin_loss", "two vectors"),
        _of_rows("softmax_focal_loss", _softmax_focal, gamma=2.0),
        _of_rows("z_loss_cross_entropy", _z_loss, z=1e-2),
        _of_rows("poly1_cross_entropy", _poly1, epsilon=1.0),
        _of_torch("mse_loss", "value"),
        _of_torch("l1_loss", "value"),
        _of_torch("smooth_l1_loss", "value", beta=0.7),
        _of_torch("huber_loss", "value", delta=0.7),
        _of_torch("binary_cross_entropy_with_logits", "0 or 1", "value", "hits"),
        Loss(
            "binary_cross_entropy",
            ours.binary_cross_entropy,
            F.binary_cross_entropy,
            "0 or 1, of a probability",
            ("value",),
            by_kernel=("mean", "sum"),
        ),
        Loss("kl_div", ours.kl_div, F.kl_div, "probability", ("value",), reductions=_KL_REDUCTIONS),
        _of_torch("poisson_nll_loss", "count", "value", "gradient"),
        _of_torch("hinge_embedding_loss", "-1 or 1"),
        _of_torch("soft_margin_loss", "-1 or 1", "value"),
        _own("log_cosh_loss", _log_cosh, "value", "value"),
        _own("pinball_loss", _pinball, "value", quantile=0.9),
        _own("charbonnier_loss", _charbonnier, "value", eps=1e-3),
        _own("cauchy_loss", _cauchy, "value", scale=1.5),
        _own("geman_mcclure_loss", _geman_mcclure, "value", "value", scale=1.5),
        _own("welsch_loss", _welsch, "value", "value", scale=1.5),
        _own("tukey_loss", _tukey, "value", "value", "gradient", c=4.685),
        _own("general_robust_loss", _barron, "value", "value", shape=1.5, scale=1.5),
        _own("generalized_kl_div", _i_divergence, "amount", "value", "gradient"),
        _own("sigmoid_focal_loss", _focal, "0 or 1", "hits", alpha=0.25, gamma=2.0),
    )
}


def draw(loss: Loss, shape: tuple[int, ...], dtype: str, seed: int) -> tuple[Array, Array]:
    """Predictions that `dtype` holds exactly, and targets that it does too or (of classes) indices.

    Errors and logits span three orders of magnitude. Where a function of torch overflows in half precision at large
    predictions, they stay below that.
    """
    random = np.random.default_rng(seed)
    wide = random.standard_normal(shape) * 10.0 ** random.uniform(-2, 1, shape)
    if loss.others:
        others = random.standard_normal((loss.others, *shape))
        return rounded(random.standard_normal(shape), dtype), rounded(others, dtype)
    if loss.target == "classes":
        right = random.integers(0, shape[1], shape)
        right[:, MOST_RIGHT:] = -1
        return rounded(4 * random.standard_normal(shape), dtype), right.astype(np.float64)
    if loss.target == "sequence":
        times, n, classes = shape
        logits = torch.from_numpy(random.standard_normal(shape))
        labels = random.integers(1, classes, (n, times // TIMES_OF_LABEL))
        return rounded(logits.log_softmax(2).numpy(), dtype), labels.astype(np.float64)
    if loss.of_classes:
        classes = random.integers(0, shape[1], shape[0])
        if loss.target == "class or ignored":
            classes[random.random(shape[0]) < SHARE_IGNORED] = IGNORED
        return rounded(4 * random.standard_normal(shape), dtype), classes.astype(np.float64)
    x, y = {
        "value": lambda: (wide + 1, random.standard_normal(shape) * 0.1 + 1),
        "0 or 1": lambda: (wide, random.integers(0, 2, shape)),
        "-1 or 1": lambda: (wide.clip(-8, 8), random.choice((-1.0, 1.0), shape)),
        "probability": lambda: (-np.abs(wide), random.random(shape) * (random.random(shape) > 0.02)),
        "0 or 1, of a probability": lambda: (random.uniform(0.05, 0.95, shape), random.integers(0, 2, shape)),
        "amount": lambda: (np.exp(wide.clip(-4, 4)), random.poisson(3.0, shape)),
        "count": lambda: (wide.clip(-4, 4), random.poisson(3.0, shape)),
    }[loss.target]()
    return rounded(np.asarray(x, np.float64), dtype), rounded(np.asarray(y, np.float64), dtype)


def tensors(loss: Loss, drawn: tuple[Array, Array], dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """Prediction, which requires a gradient, and target."""
    kind = getattr(torch, dtype)
    input, target = (torch.from_numpy(values) for values in drawn)
    target = target.to(device, torch.int64 if loss.of_classes else kind, copy=True)
    return input.to(device, kind, copy=True).requires_grad_(), target
