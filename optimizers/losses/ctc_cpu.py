"""CTC by a CPU kernel: the sequences of a batch are shared by the threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from string import Template
from typing import Any

import torch
from torch import Tensor

from ..executors import generate, threads
from ..executors.sources import storage
from . import memory
from .cpu import HEAD, STAGES, Job
from .ctc_source import CTC

#: pieces at most, each of which has scratch
MOST_PIECES = 16

WORDS = "EACH MEAN ZERO_INFINITY BATCH_FIRST PADDED TIMES CLASSES BLANK LONGEST LABELS STRIDE PIECE".split()
POINTERS = "VALUE UPSTREAM INPUT TARGETS INPUT_LENGTHS TARGET_LENGTHS OUT SCRATCH".split()


class Ctc:
    """The loss of log-probabilities of one shape, as autograd takes it.

    plain: the loss by torch. shape: ``(T, N, C)``, or ``(N, T, C)`` with `batch_first`. labels: of how many is the
    longest sequence at most, and of how many are all, where they follow each other. Targets and lengths are int64.
    """

    def __init__(
        self,
        plain: Callable[..., Tensor],
        shape: torch.Size,
        dtype: torch.dtype,
        reduction: str,
        blank: int,
        zero_infinity: bool,
        batch_first: bool,
        target_shape: torch.Size,
        longest: int,
    ):
        self._plain = plain
        times, n = (shape[1], shape[0]) if batch_first else shape[:2]
        classes, padded = shape[2], len(target_shape) == 2
        pieces = min(n, MOST_PIECES, threads.count())
        piece = -(-n // pieces)
        self.each, self.rows, self.like = reduction == "none", n, torch.empty((), dtype=dtype)
        self.large = shape.numel() * dtype.itemsize >= memory.ASK_FROM
        row = 2 * (2 * longest + 3)  # of states, in numbers
        fixed = 4 * (longest + 1) + 2 * row + classes
        strides = [fixed + row * rows for rows in (2, times + 1)]
        self.scratch = [1 + n + pieces * stride for stride in strides]
        options = (self.each, reduction == "mean", zero_infinity, batch_first, padded)
        self.jobs = [
            Job(
                _block(dtype),
                n,
                piece,
                times * (2 * longest + 1 + classes),
                before=(*options, times, classes, blank, longest, target_shape.numel(), 8 * stride, piece),
                pointers=len(POINTERS),
            )
            for stride in strides
        ]

    def plain(self, tensors: Sequence[Tensor]) -> Tensor:
        return self._plain(*tensors)

    def forward(self, tensors: Sequence[Tensor], wanted: Sequence[bool]):
        value = self.like.new_empty(self.rows) if self.each else torch.empty_like(self.like)
        out = self._out(tensors[0]) if wanted[0] and not self.each else None
        if self._run(1.0, value, None, tensors, out):
            return self._by_torch(tensors, None if out is None else self.like.new_ones(()))
        return value, None if self.each else (out, None, None, None)

    def backward(self, tensors: Sequence[Tensor], wanted: Sequence[bool], upstream: Tensor):
        out, each = self._out(tensors[0]), upstream.contiguous() if upstream.dim() else None
        if self._run(1.0 if upstream.dim() else upstream.item(), None, each, tensors, out):
            return self._by_torch(tensors, upstream)[1]
        return out, None, None, None

    def _out(self, like: Tensor) -> Tensor:
        return memory.fresh(like) if self.large else torch.empty_like(like)

    def _run(self, scale: float, value, upstream, tensors: Sequence[Tensor], out) -> bool:
        """Whether torch has to be asked: it refuses this, or these log-probabilities are none."""
        gradient = out is not None
        scratch = torch.empty(self.scratch[gradient], dtype=torch.float64)
        scratch[0] = 0
        given = (value, upstream, *tensors, out, scratch)
        refused = self.jobs[gradient](scale, *(0 if t is None else t.data_ptr() for t in given))
        return bool(refused) or scratch[0].item() != 0

    def _by_torch(self, tensors: Sequence[Tensor], upstream: Tensor | None):
        """The value, and the gradients if there is an upstream gradient."""
        with torch.enable_grad():
            input = tensors[0].detach().requires_grad_(upstream is not None)
            value = self._plain(input, *tensors[1:])
        if upstream is None:
            return value.detach(), None
        return value.detach(), (*torch.autograd.grad(value, input, upstream), None, None, None)


@functools.cache
def _block(dtype: torch.dtype) -> Any:
    places = {name: f"word(args, {i})" for i, name in enumerate([*WORDS, *POINTERS], 1)}
    # after the pointers comes the scratch of the job, which it has none of, and then the number of sequences
    names = storage(generate.name(dtype)) | STAGES | places | {"N": str(len(places) + 2)}
    return generate.load(Template(HEAD + CTC).substitute(names), "ctc", *generate.numba_ingredients()).block
