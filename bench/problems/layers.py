"""Layers of many copies of one network at once, with their gradients written out.

Activations are [copies, batch, features], parameters and their gradients [copies, ...]. Autograd would give the same
numbers in more time: it makes new gradients in every step, which must be copied to where the optimizer looks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

Parameters = Sequence[Tensor]


@dataclass(frozen=True)
class Layer:
    """Forward: of parameters and inputs; it may overwrite the inputs if `in_place`.

    Backward: from parameters, inputs, outputs and the gradient of the outputs to that of the inputs. It fills the
    parameters' gradients first. The last argument says whether the gradient of the inputs is wanted.
    """

    forward: Callable[[Parameters, Tensor], Tensor]
    backward: Callable[[Parameters, Parameters, Tensor, Tensor, Tensor, bool], Tensor]
    in_place: bool = False


def _linear(parameters: Parameters, inputs: Tensor) -> Tensor:
    weight = parameters[0].mT
    return torch.baddbmm(parameters[1].unsqueeze(1), inputs, weight) if parameters[1:] else torch.bmm(inputs, weight)


def _linear_backward(
    parameters: Parameters, gradients: Parameters, inputs: Tensor, outputs: Tensor, above: Tensor, wanted: bool
) -> Tensor:
    torch.bmm(above.mT, inputs, out=gradients[0])
    if parameters[1:]:
        torch.sum(above, 1, out=gradients[1])
    return torch.bmm(above, parameters[0]) if wanted else above


LAYERS: dict[type[nn.Module], Layer] = {
    nn.Linear: Layer(_linear, _linear_backward),
    nn.ReLU: Layer(
        lambda _, inputs: inputs.relu_(),
        lambda _, __, inputs, outputs, above, wanted: torch.ops.aten.threshold_backward(above, outputs, 0),
        in_place=True,
    ),
    nn.Tanh: Layer(
        lambda _, inputs: inputs.tanh_(),
        lambda _, __, inputs, outputs, above, wanted: torch.ops.aten.tanh_backward(above, outputs),
        in_place=True,
    ),
}


def chain(model: nn.Module) -> list[nn.Module] | None:
    """The layers of `model` one after the other, if all of them are written out here; else None."""
    parts = list(model) if isinstance(model, nn.Sequential) else [model]
    if not all(type(part) in LAYERS for part in parts):
        return None
    # what works in place needs the outputs of a linear layer before it, which nobody else reads
    alone = [part for before, part in pairwise([None, *parts]) if _in_place(part) and type(before) is not nn.Linear]
    return None if alone else parts


def _in_place(part: nn.Module) -> bool:
    return LAYERS[type(part)].in_place


def forward(layers: Sequence[Layer], parameters: Sequence[Parameters], inputs: Tensor) -> list[Tensor]:
    """What each layer gets, and at the end what the last one gives."""
    activations = [inputs]
    for layer, own in zip(layers, parameters, strict=True):
        activations.append(layer.forward(own, activations[-1]))
    return activations


def backward(
    layers: Sequence[Layer],
    parameters: Sequence[Parameters],
    gradients: Sequence[Parameters],
    activations: Sequence[Tensor],
    above: Tensor,
) -> None:
    """Fills the gradients of all parameters, from that of the predictions."""
    for place in reversed(range(len(layers))):
        inputs, outputs = activations[place : place + 2]
        above = layers[place].backward(parameters[place], gradients[place], inputs, outputs, above, place > 0)
