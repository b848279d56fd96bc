"""Notices, in plain Python, that something a plan was made of has changed; `native` does the same in microseconds."""

from __future__ import annotations

from itertools import chain, repeat
from operator import attrgetter, is_
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
        self.values = list(chain.from_iterable(map(_values, self.entries)))
        self.members = [list(items) for items in lists]
        self.tables: list[Table] = []

    def add(self, rows: np.ndarray, p_word: int, tensors: list[list[Tensor]]) -> None:
        """Watches a table: for each row its parameter, then all it writes besides."""
        self.tables.append(Table(rows, p_word, tensors))

    def unchanged(self) -> bool:
        """Whether state and parameter lists still hold the very objects of the plan."""
        entries = self.state.values()
        if len(entries) != len(self.entries) or not all(map(is_, self.entries, entries)):
            return False
        values = list(chain.from_iterable(map(_values, entries)))
        return (
            len(values) == len(self.values)
            and all(map(is_, self.values, values))
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
        try:
            if not all([table.refresh(written) for table in self.tables]):
                return False
        except RuntimeError:  # a sparse gradient has no strides
            return False
        torch.autograd.graph.increment_version(written)
        return True

    def release(self) -> None:
        """Lets go of the gradients."""
        for table in self.tables:
            table.gradients = []


def _values(entries: Any) -> Any:
    """The state of one parameter; what somebody keeps under a key that is no parameter has none."""
    return entries.values() if isinstance(entries, dict) else ()


_data, _stride, _numel, _is_neg = Tensor.data_ptr, Tensor.stride, Tensor.numel, Tensor.is_neg
_grad, _dtype = attrgetter("grad"), attrgetter("dtype")


class Table:
    """The tensors of one table as a plan saw them, asked in bulk; that they are the same objects is known before."""

    def __init__(self, rows: np.ndarray, p_word: int, tensors: list[list[Tensor]]):
        self.rows, self.p_word, self.tensors = rows, p_word, tensors
        self.params = [row[0] for row in tensors]
        self.written = list(chain.from_iterable(tensors))
        self.shaped = [t for row in tensors for t in row if t.dim() or not row[0].dim()]  # not the scalars
        self.data, self.described = list(map(_data, self.written)), self.describe(self.shaped)
        self.gradients: list[Any] = []
        self.complete = False  # whether the last refresh found a gradient for every row
        self.strides, self.dtypes = list(map(_stride, self.params)), list(map(_dtype, self.params))

    @staticmethod
    def describe(tensors: list[Tensor]) -> tuple[list, ...]:
        """What a kernel relies on besides the address, and what can change while the object stays."""
        return tuple(list(map(ask, tensors)) for ask in (_stride, _numel, _dtype))

    def refresh(self, written: list[Tensor]) -> bool:
        """Fills in the gradients' addresses and adds what will be written; False if something is not as planned."""
        if list(map(_data, self.written)) != self.data or self.describe(self.shaped) != self.described:
            return False
        gradients = self.gradients = list(map(_grad, self.params))  # alive until the kernel has read them
        plain = all(map(is_, map(type, gradients), repeat(Tensor)))
        if (
            plain
            and list(map(_stride, gradients)) == self.strides
            and list(map(_dtype, gradients)) == self.dtypes
            and not any(map(_is_neg, gradients))
        ):
            addresses = list(map(_data, gradients))
            if all(addresses):
                if not self.complete:
                    self.rows[:, ACTIVE] = self.complete = True
                self.rows[:, self.p_word + 1] = addresses
                written += self.written
                return True
        self.complete = False
        for row, (p, g) in enumerate(zip(self.params, gradients, strict=True)):
            self.rows[row, ACTIVE] = g is not None
            if g is not None:
                if g.dtype != p.dtype or refusal(g, p):
                    return False
                self.rows[row, self.p_word + 1] = g.data_ptr()
                written += self.tensors[row]
        return True
