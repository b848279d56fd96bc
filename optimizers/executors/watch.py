"""Notices, in plain Python, that something a plan was made of has changed; `native` does the same in microseconds."""

from __future__ import annotations

from itertools import chain
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .generate import ACTIVE
from .tensors import refusal


class Watch:
    """The objects a plan expects: state, lists of parameters, and parameters that have neither gradient nor state."""

    def __init__(self, state: dict[Tensor, dict[str, Any]], lists: list[list[Tensor]], dormant: list[Tensor]):
        self.state, self.lists, self.dormant = state, lists, dormant
        self.entries = list(state.values())
        self.values = list(chain.from_iterable(map(dict.values, self.entries)))
        self.count = sum(map(len, self.entries))
        self.members = [list(items) for items in lists]
        self.tables: list[tuple[np.ndarray, int, list[list[Tensor]], list[tuple]]] = []

    def add(self, rows: np.ndarray, p_word: int, tensors: list[list[Tensor]]) -> None:
        """Watches a table: for each row its parameter, then all it writes besides."""
        described = [tuple(map(_described, row)) for row in tensors]
        self.tables.append((rows, p_word, tensors, described))

    def unchanged(self) -> bool:
        """Whether state and parameter lists still hold the very objects of the plan."""
        entries = self.state.values()
        return (
            len(entries) == len(self.entries)
            and all(map(is_, self.entries, entries))
            and sum(map(len, entries)) == self.count
            and all(map(is_, self.values, chain.from_iterable(map(dict.values, entries))))
            and all(
                len(items) == len(members) and all(map(is_, items, members))
                for items, members in zip(self.lists, self.members, strict=True)
            )
        )

    def refresh(self) -> bool:
        """Fills in this step's gradients, or says that something is not as planned and nothing was bumped for it."""
        if any(p.grad is not None for p in self.dormant):
            return False
        written: list[Tensor] = []
        for rows, p_word, tensors, described in self.tables:
            active, addresses = [], []
            for row, expected in zip(tensors, described, strict=True):
                p = row[0]
                g = p.grad
                active.append(g is not None)
                if g is None:
                    addresses.append(0)
                    continue
                if tuple(map(_described, row)) != expected or g.dtype != p.dtype or refusal(g, p):
                    return False
                addresses.append(g.data_ptr())
                written += row
            rows[:, ACTIVE] = active
            rows[:, p_word + 1] = addresses
        torch.autograd.graph.increment_version(written)
        return True


def _described(t: Tensor) -> tuple:
    """All that a kernel relies on."""
    return type(t), t.data_ptr(), t.dtype, t.shape, t.stride(), t.device, t.is_neg(), t.is_conj()
