"""A character-level transformer, as small as one can be: what comes next, at every place of a window of text.

Decoder only, with causal attention and the normalisation ahead of each part (Vaswani et al. 2017, arXiv 1706.03762;
Radford et al. 2019). It has parameters only and no dropout, so that many copies can be stacked.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

WIDTH, HEADS, BLOCKS = 16, 2, 2


class Block(nn.Module):
    """Attention to what came before, then two layers for each place by itself; both are added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.asked = nn.Linear(WIDTH, 3 * WIDTH, bias=False)  # queries, keys and values
        self.answer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        """From and to [windows, places, WIDTH]."""
        inputs = inputs + self.answer(self.attention(self.before_attention(inputs)))
        return inputs + self.down(gelu(self.up(self.before_layers(inputs))))

    def attention(self, inputs: Tensor) -> Tensor:
        """The mean of the values of each place and those before it, weighted by how well its query fits their keys."""
        windows, places, _ = inputs.shape
        heads = self.asked(inputs).view(windows, places, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads[0], heads[1], heads[2]
        later = inputs.new_full((places, places), -math.inf).triu(1)
        weights = torch.softmax(queries @ keys.mT / math.sqrt(WIDTH // HEADS) + later, -1)
        return (weights @ values).transpose(1, 2).reshape(windows, places, WIDTH)


class Transformer(nn.Module):
    """From windows of characters, int64 [windows, `places`], to the logits of the next [windows × places, characters].

    The rows are window by window, as those of the flattened targets.
    """

    def __init__(self, characters: int, places: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(places, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, windows: Tensor) -> Tensor:
        inside = self.blocks(self.characters(windows) + self.places.weight)
        return self.head(self.last(inside)).flatten(0, 1)
