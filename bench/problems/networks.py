"""Small networks to train. Everything one needs to see a network learn is in `learn`: four steps, again and again.

1. predict            what the network says now
2. measure the loss   one number: how wrong that is
3. gradient           how that number changes with each parameter
4. step               move each parameter a little against its gradient
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from bench.problems import data
from bench.problems.transformer import Transformer
from optimizers import losses
from optimizers.losses import mse_loss

L2 = 1e-3  # keeps the optimum of the logistic regression finite: its training data can be separated


@dataclass(frozen=True)
class Network:
    """A model, its data and what is minimised.

    What is minimised, on a batch or on the whole set, is the mean of `measure` over predictions and targets, and the
    `penalty` of the model. `kind` says what the targets are: values, yes or no, or classes (of one prediction a row,
    or of one for each place of its window). `correct` says which
    predictions are right (None: no classes). `optimum` computes the least loss possible on the training set, where that
    can be known.
    """

    name: str
    title: str
    build: Callable[[int], nn.Module]  # from a seed, on the CPU
    data: Callable[[], data.Data]
    kind: str
    measure: Callable[[Tensor, Tensor], Tensor]
    batch_size: int
    target: str  # what is learnt, in words
    penalty: Callable[[nn.Module], Tensor] | None = None
    correct: Callable[[Tensor, Tensor], Tensor] | None = None
    optimum: Callable[[], float] | None = None
    cost: float = 1.0  # of a step, in times of the other networks' mean

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar that is minimised."""
        error = self.measure(model(inputs), targets)
        return error if self.penalty is None else error + self.penalty(model)

    def accuracy(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
        """Share of right predictions; nan where there are no classes."""
        return self.correct(model(inputs), targets).float().mean().item() if self.correct else float("nan")


def learn(steps: int = 200, lr: float = 0.1, seed: int = 0) -> list[float]:
    """Plain gradient descent on the regression network, written out; the loss of each step, which falls."""
    network = NETWORKS["regression"]
    inputs, targets = network.data()[:2]
    model = network.build(seed)
    losses = []
    for _ in range(steps):
        prediction = model(inputs)
        loss = mse_loss(prediction, targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= lr * gradient
        losses.append(loss.item())
    return losses


def seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """`make` with torch's random numbers set from a seed for its duration only."""

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()

    return build


def _mean(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda prediction, target: getattr(losses, name)(prediction, target, reduction="mean")


def _of_class(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    mean = _mean(name)
    return lambda prediction, target: mean(prediction, target.flatten())


def _right_class(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets.flatten()


def _one_hot(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss against a 1 for the right class and a 0 for each other one, added up over the classes."""
    mean = _mean(name)

    def measure(prediction: Tensor, target: Tensor) -> Tensor:
        classes = prediction.shape[1]
        return classes * mean(prediction, one_hot(target.flatten(), classes).to(prediction.dtype))

    return measure


_OF_VALUES = (
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss", "charbonnier_loss"),
    *("pinball_loss", "cauchy_loss", "geman_mcclure_loss", "welsch_loss", "tukey_loss", "general_robust_loss"),
)
_OF_YES_OR_NO = ("binary_cross_entropy_with_logits", "sigmoid_focal_loss")
_OF_CLASSES = "cross_entropy softmax_focal_loss z_loss_cross_entropy poly1_cross_entropy".split()
# What a network can be trained on, by the kind of its targets: all of them losses of ours.
FITTING: dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "values": {name: _mean(name) for name in _OF_VALUES},
    "yes or no": {name: _mean(name) for name in _OF_YES_OR_NO},
    "classes": {
        **{name: _of_class(name) for name in _OF_CLASSES},
        **{name: _one_hot(name) for name in (*_OF_YES_OR_NO, *_OF_VALUES)},
    },
}
ON = " on "


def variants(names: list[str] | None, wanted: list[str]) -> list[str]:
    """``digits on huber_loss``: each of these networks (None: all but the costly) with each loss that fits it."""
    chosen = [name for name, network in NETWORKS.items() if (network.cost == 1 if names is None else name in names)]
    return [f"{name}{ON}{loss}" for name in chosen for loss in wanted if loss in FITTING[NETWORKS[name].kind]]


def named(name: str) -> Network | None:
    """The network of that name, ``digits`` or ``digits on huber_loss``; None if there is none.

    Trained on another loss than its own, it has the same weights and batches, and no least loss that would be known.
    """
    base, _, loss = name.partition(ON)
    network = NETWORKS.get(base)
    if network is None or not loss:
        return network
    measure = FITTING[network.kind].get(loss)
    return replace(network, name=name, measure=measure, optimum=None) if measure else None


def _logistic_penalty(model: nn.Module) -> Tensor:
    return L2 / 2 * model.weight.square().sum()


def logistic_optimum() -> float:
    """The least regularised loss on the breast-cancer training set, by Newton's method in float64.

    Raises:
        ArithmeticError: no convergence, which a convex problem of this size does not show.
    """
    inputs, targets = (tensor.double() for tensor in data.breast_cancer()[:2])
    features = torch.cat([inputs, torch.ones_like(targets)], 1)
    penalty = torch.full((features.shape[1],), L2, dtype=torch.float64)
    penalty[-1] = 0.0  # the bias is free
    weights = torch.zeros(features.shape[1], dtype=torch.float64)

    def value(weights: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(features @ weights, targets[:, 0]) + (penalty * weights**2).sum() / 2

    for _ in range(100):
        probability = torch.sigmoid(features @ weights)
        gradient = features.T @ (probability - targets[:, 0]) / len(targets) + penalty * weights
        if gradient.abs().max() < 1e-14:
            return value(weights).item()
        curvature = (probability * (1 - probability)).unsqueeze(1) * features
        step = torch.linalg.solve(features.T @ curvature / len(targets) + torch.diag(penalty), gradient)
        size = 1.0
        while value(weights - size * step) > value(weights) + 1e-15 and size > 1e-6:
            size /= 2  # a full Newton step can overshoot far from the optimum
        weights = weights - size * step
    raise ArithmeticError(f"Newton's method ended with a gradient of {gradient.abs().max():.1e} after 100 steps")


RANK = 8  # of the factorisation
NEAR_THE_SADDLE = 0.3  # times torch's usual initial weights


def _factors() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, RANK, bias=False), nn.Linear(RANK, 64, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= NEAR_THE_SADDLE
    return model


def rank_optimum() -> float:
    """The least mean squared error of a linear map of rank `RANK`: what the singular values beyond it hold.

    Eckart & Young 1936; all other stationary points are saddles (Baldi & Hornik 1989).
    """
    inputs = data.pixels().train_inputs.double()
    return (torch.linalg.svdvals(inputs)[RANK:].square().sum() / inputs.numel()).item()


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh()),
        *(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 64)),
    )


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            name="regression",
            title="Regression, 1-64-1",
            build=seeded(lambda: nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))),
            data=data.curve,
            kind="values",
            measure=_mean("mse_loss"),
            batch_size=64,
            target="a noisy curve of one variable; our own mean squared error",
        ),
        Network(
            name="logistic",
            title="Logistic regression, breast cancer",
            build=seeded(lambda: nn.Linear(30, 1)),
            data=data.breast_cancer,
            kind="yes or no",
            measure=_mean("binary_cross_entropy_with_logits"),
            penalty=_logistic_penalty,
            batch_size=64,
            target="malignant or benign; convex, so the gap to the exact optimum is known",
            correct=lambda outputs, targets: (outputs > 0) == (targets > 0.5),
            optimum=logistic_optimum,
        ),
        Network(
            name="digits",
            title="MLP 64-32-10, digits",
            build=seeded(lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))),
            data=data.digits,
            kind="classes",
            measure=_of_class("cross_entropy"),
            batch_size=64,
            target="which digit an 8 × 8 image shows; cross-entropy over ten classes",
            correct=_right_class,
        ),
        Network(
            name="digits_cnn",
            title="CNN 8-16-10, digits",
            build=seeded(_convolutions),
            data=data.digits,
            kind="classes",
            measure=_of_class("cross_entropy"),
            batch_size=64,
            target="the same digits, by two convolutions of stride 2",
            correct=_right_class,
        ),
        Network(
            name="autoencoder",
            title="Autoencoder 64-32-8-32-64, digits",
            build=seeded(_autoencoder),
            data=data.pixels,
            kind="values",
            measure=_mean("mse_loss"),
            batch_size=64,
            target="the image that it is shown, through eight numbers; deep and badly conditioned",
        ),
        Network(
            name="factorisation",
            title="Matrix factorisation of rank 8, digits",
            build=seeded(_factors),
            data=data.pixels,
            kind="values",
            measure=_mean("mse_loss"),
            batch_size=64,
            target="the same by two matrices alone, from near the saddle at 0; the least error is known",
            optimum=rank_optimum,
        ),
        Network(
            name="char_transformer",
            title="Transformer of 2 blocks, Zen of Python",
            build=seeded(lambda: Transformer(data.CHARACTERS, data.PLACES)),
            data=data.zen,
            kind="classes",
            measure=_of_class("cross_entropy"),
            batch_size=16,
            target="the next character of a text, from up to sixteen before it; attention, embeddings, normalisation",
            correct=_right_class,
            cost=18.0,
        ),
    )
}
