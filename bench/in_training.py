"""A small network in training, to time a step where it is really taken: between a backward and a forward pass.

There the caches hold activations instead of parameters, gradients are new memory in each step, and torch's worker
threads have just been busy. Timed alone, a step is spared all that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

WIDTH, LAYERS, HEADS, VOCABULARY = 128, 4, 4, 256
BATCH, LENGTH = 8, 32


class Transformer(nn.Module):
    """Token embedding, four encoder layers, head: 0.86 M parameters in 51 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True) for _ in range(LAYERS))
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (batch, length, vocabulary) of tokens (batch, length)."""
        return self.head(self.layers(self.embedding(tokens)))


def make(device: str, dtype: torch.dtype, seed: int) -> tuple[list[torch.Tensor], Callable[[], None]]:
    """The parameters of a new network, and a function that gives them new gradients: one forward and backward pass.

    The same seed gives the same network and data; torch's own random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Transformer()
        tokens = torch.randint(VOCABULARY, (2, BATCH, LENGTH))
    network = network.to(device=device, dtype=dtype)
    inputs, targets = tokens.to(device)
    loss = nn.CrossEntropyLoss()

    def new_gradients() -> None:
        network.zero_grad(set_to_none=True)
        loss(network(inputs).flatten(0, 1), targets.flatten()).backward()

    new_gradients()
    return list(network.parameters()), new_gradients
