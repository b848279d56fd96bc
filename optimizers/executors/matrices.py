"""Steps whole matrices with the compiled executors: a rule, a transform of batches of one shape, another rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..algorithm import MatrixAlgorithm
from . import kernels
from .generate import ACTIVE, FIRST, GROUP, NUMEL, ROW_HEAD

#: matrices are transformed in batches of about this many elements, whose memory lives only as long as the batch
PIECE = 1 << 20


class Job:
    """One table of matrices on one device."""

    direct = False

    def __init__(
        self,
        algorithm: MatrixAlgorithm,
        present: tuple[bool, ...],
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        scalar_dtype: torch.dtype,
        rows: np.ndarray,
        hyper: np.ndarray,
        shapes: Sequence[torch.Size],
        groups: Sequence[Mapping[str, Any]],
        device: torch.device,
    ):
        self.algorithm, self.rows, self.shapes, self.groups = algorithm, rows, shapes, groups
        self.dtype, self.state_dtype, self.device = dtype, state_dtype, device
        self.pieces = []
        for members in _pieces(shapes, rows[:, GROUP]):
            first = np.ascontiguousarray(rows[members])
            last = np.zeros((len(members), ROW_HEAD + 2), np.int64)
            jobs = [
                kernels.job(device, like, there, dtype, state_dtype, scalar_dtype, table, hyper)
                for like, there, table in (
                    (algorithm.first, present, first),
                    (algorithm.last, (), last),
                )
            ]
            self.pieces.append((members, first, last, jobs))

    def run(self) -> None:
        """Steps the active rows, one piece after the other."""
        for members, first, last, (begin, end) in self.pieces:
            first[:] = self.rows[members]
            there = np.flatnonzero(first[:, ACTIVE] & (first[:, NUMEL] > 0))
            if not len(there):
                continue
            shape = self.shapes[members[0]]
            batch = torch.empty(len(there), *shape, dtype=self.state_dtype, device=self.device)
            first[there, -1] = _addresses(batch)
            begin.run()
            self.rows[members, FIRST] = first[:, FIRST]
            batch = self.algorithm.transform(batch, self.groups[first[0, GROUP]]).to(self.dtype).contiguous()
            last[:] = first[:, : last.shape[1]]
            last[there, -1] = _addresses(batch)
            end.run()


def _addresses(batch: torch.Tensor) -> np.ndarray:
    """Where each matrix of a contiguous batch begins."""
    return batch.data_ptr() + np.arange(len(batch)) * (batch[0].numel() * batch.element_size())


def _pieces(shapes: Sequence[torch.Size], groups: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that are transformed together: of one shape and one group, no more than fit into a piece."""
    alike = defaultdict(list)
    for row, (shape, group) in enumerate(zip(shapes, groups.tolist(), strict=True)):
        alike[tuple(shape), group].append(row)
    for members in alike.values():
        size = max(1, PIECE // max(1, shapes[members[0]].numel()))
        for begin in range(0, len(members), size):
            yield np.array(members[begin : begin + size])
