"""What an optimizer is timed on: the tensors of a parameter set that it can step, and all that a step needs besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from bench import in_training
from bench.contenders import TRAITS, Takes
from bench.problems import parameter_sets
from bench.problems.parameter_sets import ROWS_TOUCHED, SHAPES

IN_TRAINING = "in-training"
PARAMETER_SETS = (*SHAPES, IN_TRAINING)

# Sets that are there for one kind of optimizer, or for one question.
MADE_FOR = {
    "matrices-400x32": Takes.MATRICES,
    "matrices-200x64": Takes.MATRICES,
    "matrices-100x256": Takes.MATRICES,
    "embedding": Takes.SPARSE,
    "vector-100k": Takes.CLOSURE,
}
GROUPED = ("many-groups",)  # each tensor in a parameter group of its own
# The usual sets that hold something for those too; Muon leaves embeddings, vectors and convolutions to others.
ALSO_FOR = {"mlp": (Takes.MATRICES, Takes.CLOSURE), "gpt2": (Takes.MATRICES,)}
EMBEDDINGS = {"gpt2": 2}  # so many of the first tensors are embedding tables

# Of the loss below. With the lr it is timed with, L-BFGS keeps every pair and does not arrive for thousands of steps.
CURVATURES = (10.0, 1e3)


class Subject(NamedTuple):
    """Parameters with gradients, what has to run ahead of each step, and the closure that a step takes."""

    params: list[torch.Tensor]
    before: Callable[[], None] | None = None
    closure: Callable[[], torch.Tensor] | None = None


def unsuitable(optimizer: str, name: str) -> str:
    """Why an optimizer is not timed on a parameter set; empty if it is."""
    takes, made_for = TRAITS[optimizer].takes, MADE_FOR.get(name, Takes.TENSORS)
    if takes is made_for or takes in ALSO_FOR.get(name, ()):
        return ""
    if made_for is not Takes.TENSORS:
        return f"{name} is there for optimizers that take {made_for}"
    return f"{optimizer} takes {takes}, which {name} does not have"


def groups(name: str, params: list[torch.Tensor]) -> list:
    """What the optimizer is built over."""
    return [{"params": [param]} for param in params] if name in GROUPED else params


def maker(optimizer: str, name: str, device: str, dtype: torch.dtype, seed: int) -> Callable[[], Subject]:
    """A function that makes the subject once more for each contender: own parameters, the same numbers."""
    takes = TRAITS[optimizer].takes
    if name == IN_TRAINING:
        return lambda: Subject(*in_training.make(device, dtype, seed))
    if takes is Takes.CLOSURE:
        return lambda: with_closure(SHAPES[name], device, dtype, seed)
    shared = parameter_sets.make(name, device, dtype, seed, sparse_rows=ROWS_TOUCHED if takes is Takes.SPARSE else None)
    if takes is Takes.MATRICES:
        shared = [param for param in shared[EMBEDDINGS.get(name, 0) :] if param.dim() == 2]
    return lambda: Subject(parameter_sets.copy_of(shared))


def with_closure(shapes: tuple[tuple[int, ...], ...], device: str, dtype: torch.dtype, seed: int) -> Subject:
    """Parameters with a loss that costs two passes over them, whatever their number: half the sum of c x^2.

    They are views of one vector, and so are their gradients, so the closure takes two calls of torch.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    vector = torch.empty(sum(sizes), device=device, dtype=dtype).normal_(generator=generator)
    low, high = (torch.tensor(value).log().item() for value in CURVATURES)
    curvature = torch.empty_like(vector).uniform_(low, high, generator=generator).exp_()
    gradient = torch.empty_like(vector)
    params = []
    for part, slope, shape in zip(vector.split(sizes), gradient.split(sizes), shapes, strict=True):
        param = part.detach().view(shape).requires_grad_()
        param.grad = slope.view(shape)
        params.append(param)

    def closure() -> torch.Tensor:
        torch.mul(curvature, vector, out=gradient)
        return torch.dot(vector, gradient) / 2

    return Subject(params, closure=closure)
