"""Many copies of one small network, trained together: one batched gradient and one `optimizer.step()` for all of them.

The weights of the copies lie stacked in one tensor [copies, ...] for each parameter of the network, and so do their
gradients. The copies stay modules: their parameters are views of the stack, so an optimizer steps each of them as if it
were alone. That is exact for every optimizer that treats each parameter by itself. What is minimised is a mean over the
rows of a batch, so the mean over the rows of all copies, times their number, has each copy's own gradient. Copies do
not disturb each other, not even with nan.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench.problems import layers
from bench.problems.data import Data
from bench.problems.networks import Network


class Steps(Protocol):
    """What `train` asks of an optimizer."""

    def step(self) -> object: ...


class Stack:
    """`models` of one shape as copies that share their memory: `models[i]` is a view of place i of the stack.

    Raises ValueError for models with buffers, which `functional_call` would not keep apart.
    """

    def __init__(self, network: Network, models: list[nn.Module]) -> None:
        if any(True for _ in models[0].buffers()):
            raise ValueError(f"{network.name} has buffers; networks that are stacked have parameters only")
        self.network, self.models = network, models
        self._values = {name: torch.stack([_named(model, name) for model in models]) for name in _names(models[0])}
        self._gradients = {name: torch.zeros_like(value) for name, value in self._values.items()}
        for place, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.data = self._values[name][place]
                parameter.grad = self._gradients[name][place]
        parts = None if network.penalty else layers.chain(models[0])
        self._layers = [layers.LAYERS[type(part)] for part in parts or ()]
        self._objective = _Objective(network, models[0])
        if parts:
            self._by_layer = _by_layer(self._values, parts), _by_layer(self._gradients, parts)

    def gradients(self, inputs: Tensor, targets: Tensor) -> None:
        """Sets the gradient of every copy, from its own batch: inputs and targets are [copies, batch, ...]."""
        targets = targets.flatten(0, 1)
        if not self._layers:
            self._gradients_by_autograd(inputs, targets)
            return
        with torch.no_grad():
            activations = layers.forward(self._layers, self._by_layer[0], inputs)
        predictions = activations[-1].flatten(0, 1).requires_grad_()
        (above,) = torch.autograd.grad(self.network.measure(predictions, targets) * len(self.models), predictions)
        with torch.no_grad():
            layers.backward(self._layers, *self._by_layer, activations, above.view_as(activations[-1]))

    def _gradients_by_autograd(self, inputs: Tensor, targets: Tensor) -> None:
        values = {name: value.detach().requires_grad_() for name, value in self._values.items()}

        def objective(values: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self._objective, values, (inputs,))

        predictions, penalties = vmap(objective)({f"model.{name}": v for name, v in values.items()}, inputs)
        errors = self.network.measure(predictions.flatten(0, 1), targets) * len(self.models)
        found = torch.autograd.grad(errors + penalties.sum(), list(values.values()))
        for gradient, own in zip(self._gradients.values(), found, strict=True):
            gradient.copy_(own)


class _Objective(nn.Module):
    """Predictions and penalty of a model at once, as a module whose parameters can be swapped."""

    def __init__(self, network: Network, model: nn.Module) -> None:
        super().__init__()
        self.model, self._penalty = model, network.penalty

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        predictions = self.model(inputs)
        return predictions, self._penalty(self.model) if self._penalty else predictions.new_zeros(())


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _named(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(name).detach()


def _by_layer(stacked: dict[str, Tensor], parts: list[nn.Module]) -> list[list[Tensor]]:
    """The stacked tensors of each layer, in the order of its own parameters."""
    left = iter(stacked.values())
    return [[next(left) for _ in part.parameters()] for part in parts]


def draw_picks(samples: int, size: int, steps: int, random_numbers: random.Random) -> Tensor:
    """Which samples each step sees [steps, size]: epochs in fresh order, the incomplete batch at an end left out."""
    picks: list[list[int]] = []
    while len(picks) < steps:
        order = random_numbers.sample(range(samples), samples)
        picks += [order[at : at + size] for at in range(0, samples - size + 1, size)]
    return torch.tensor(picks[:steps])


def train(
    stack: Stack, optimizer: Steps, data: Data, picks: Tensor, looks: Iterable[int]
) -> Iterator[tuple[int, float]]:
    """One step of all copies for each of `picks` [steps, seeds, batch]; copy i sees the batches of seed i % seeds.

    Yields the steps done and the seconds they took, at the start, after as many steps as each of `looks` says, and at
    the end. What the caller does in between is off the clock, and so is the gathering of the samples.
    """
    seconds, step, copies = 0.0, 0, len(stack.models)
    picks = picks.to(data.train_inputs.device)
    yield step, seconds
    for end in [*(look for look in looks if look < len(picks)), len(picks)]:
        some = picks[step:end]
        batches = list(zip(data.train_inputs[some], data.train_targets[some], strict=True))
        wait(data)
        begin = time.perf_counter()
        for inputs, targets in batches:
            stack.gradients(spread(inputs, copies), spread(targets, copies))
            optimizer.step()
        wait(data)
        seconds += time.perf_counter() - begin
        step = end
        yield step, seconds


def spread(batches: Tensor, copies: int) -> Tensor:
    """From one batch for each seed [seeds, ...] to one for each copy [copies, ...]; those of one seed share memory."""
    seeds = len(batches)
    return batches.expand(copies // seeds, *batches.shape).reshape(copies, *batches.shape[1:])


def wait(data: Data) -> None:
    """Let the GPU finish what is queued, so that the clock sees it."""
    if data.train_inputs.is_cuda:
        torch.cuda.synchronize(data.train_inputs.device)
