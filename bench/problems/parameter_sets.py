"""The lists of tensors that a step is timed on, by the names the field knows them by."""

from __future__ import annotations

import itertools
import math

import torch

Shape = tuple[int, ...]


def _mlp(sizes: tuple[int, ...]) -> tuple[Shape, ...]:
    """Weights and biases of a multilayer perceptron, in the order of ``Module.parameters()``."""
    shapes: list[Shape] = []
    for inputs, outputs in itertools.pairwise(sizes):
        shapes += [(outputs, inputs), (outputs,)]
    return tuple(shapes)


def _resnet18() -> tuple[Shape, ...]:
    """ResNet-18 for ImageNet (He et al., 2016, arXiv:1512.03385), 1000 classes."""

    def convolution(outputs: int, inputs: int, kernel: int) -> list[Shape]:
        return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]  # then weight and bias of its batch norm

    shapes = convolution(64, 3, 7)
    inputs = 64
    for outputs in (64, 128, 256, 512):
        shapes += convolution(outputs, inputs, 3) + convolution(outputs, outputs, 3)
        if inputs != outputs:
            shapes += convolution(outputs, inputs, 1)  # the shortcut that changes the width
        shapes += convolution(outputs, outputs, 3) + convolution(outputs, outputs, 3)
        inputs = outputs
    return tuple([*shapes, (1000, 512), (1000,)])


def _gpt2() -> tuple[Shape, ...]:
    """GPT-2 small (Radford et al., 2019): 12 layers, width 768; the head is tied to the token embedding."""
    width = 768
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    perceptron: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    layer = [*norm, *attention, *norm, *perceptron]
    return tuple([(50257, width), (1024, width), *(layer * 12), *norm])


SHAPES: dict[str, tuple[Shape, ...]] = {
    "mlp": _mlp((64, 128, 128, 10)),
    "many-small": ((64,),) * 300,
    "many-medium": ((4096,),) * 300,
    "resnet18": _resnet18(),
    "one-big": ((33_554_432,),),
    "gpt2": _gpt2(),
    "many-groups": ((64,),) * 465,
    "matrices-400x32": ((32, 32),) * 400,
    "matrices-200x64": ((64, 64),) * 200,
    "matrices-100x256": ((256, 256),) * 100,
    "embedding": ((100_000, 64),),
    "vector-100k": ((100_000,),),
}
ROWS_TOUCHED = 4096  # of an embedding, by its sparse gradient


def elements(name: str) -> int:
    """Number of elements of the whole set."""
    return sum(math.prod(shape) for shape in SHAPES[name])


def make(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    sparse_rows: int | None = None,
) -> list[torch.Tensor]:
    """Parameters of the set ``name`` with their gradients set, the same for the same seed.

    ``sparse_rows``: gradients are sparse and hold so many rows, in random order and not coalesced, as a backward pass
    through an embedding leaves them.

    Gradients have a random sign and a size between 0.5 and 1.5: neither zero nor denormal, and nothing that an
    optimizer makes of them is, because denormal arithmetic is many times slower and would be timed instead.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown parameter set {name!r}; known are: {', '.join(SHAPES)}")
    generator = torch.Generator(device=device).manual_seed(seed)
    params = []
    for shape in SHAPES[name]:
        param = torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)
        held = param if sparse_rows is None else param[:sparse_rows]
        size = torch.empty_like(held).uniform_(0.5, 1.5, generator=generator)
        sign = torch.empty_like(held).uniform_(-1.0, 1.0, generator=generator)
        gradient = torch.copysign(size, sign)
        if sparse_rows is not None:
            rows = torch.randperm(len(param), generator=generator, device=device)[None, :sparse_rows]
            gradient = torch.sparse_coo_tensor(rows, gradient, shape, check_invariants=False)
        param.requires_grad_()
        param.grad = gradient
        params.append(param)
    return params


def copy_of(params: list[torch.Tensor]) -> list[torch.Tensor]:
    """Parameters with memory of their own and the *same* gradients: a step reads gradients and never writes them."""
    copies = []
    for param in params:
        copy = param.detach().clone().requires_grad_()
        copy.grad = param.grad
        copies.append(copy)
    return copies
