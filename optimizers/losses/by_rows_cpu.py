"""The CPU kernels of losses over rows: one pass over the rows makes their values and, if wanted, the gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..executors import generate
from ..executors.sources import definition, storage
from . import memory
from .by_rows_source import BLOCK, HINGES, LABELS, MANY_RIGHT, NLL, ONE_RIGHT, VECTORS
from .cpu import HEAD, RUN, STAGES, Job

if TYPE_CHECKING:
    from .vectors import Hinge, OfVectors

#: elements of a piece, about, and of one that is little more than cleared, and the fewest rows of that where classes
#: lie apart; pieces at most, where each has scratch
PIECE, CLEARED, FEWEST_COLUMNS, MOST_PIECES = 16_384, 65_536, 4096, 64


class ByRows:
    """A loss of tensors of one shape with its options, as autograd takes it.

    plain: the loss by torch, of the tensors.
    rows: the shape of what all rows give. unit: elements of a row. words, constants, scratch: what the block adds to a
    job. gradients: of how many of the tensors it makes them, the first ones.
    """

    def __init__(
        self,
        plain: Callable[..., Tensor],
        block: Any,
        rows: torch.Size,
        dtype: torch.dtype,
        reduction: str,
        unit: int,
        tensors: int,
        *,
        gradients: int = 1,
        words: Sequence[int],
        constants: Sequence[float] = (),
        piece: int | None = None,
        scratch: int = 0,
    ):
        self._plain, self.gradients = plain, gradients
        self.each, self.rows, self.like = reduction == "none", rows, torch.empty((), dtype=dtype)
        self.large = rows.numel() * unit * dtype.itemsize >= memory.ASK_FROM
        self.job = Job(
            block,
            rows.numel(),
            piece or max(1, PIECE // unit),
            unit,
            numbers=(0.0, 0.0, *constants),
            before=(self.each, reduction == "mean", *words),
            pointers=2 + tensors + gradients,
            scratch=scratch,
        )

    def plain(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return self._plain(*tensors)

    def forward(self, tensors: Sequence[Tensor | None], wanted: Sequence[bool]):
        value = self.like.new_empty(self.rows) if self.each else torch.empty_like(self.like)
        outs = [None] * len(tensors) if self.each else self._outs(tensors, wanted)
        if self._run(1.0, value.data_ptr(), 0, tensors, outs):
            return self._plain(*tensors), None  # torch refuses it, in its own words
        return value, None if self.each else outs

    def backward(self, tensors: Sequence[Tensor | None], wanted: Sequence[bool], upstream: Tensor):
        outs = self._outs(tensors, wanted)
        if upstream.dim():
            upstream = upstream.contiguous()
            self._run(1.0, 0, upstream.data_ptr(), tensors, outs)
        else:
            self._run(upstream.item(), 0, 0, tensors, outs)
        return outs

    def _outs(self, tensors: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor | None]:
        fresh = memory.fresh if self.large else torch.empty_like
        return [fresh(t) if w and t is not None else None for t, w in zip(tensors, wanted, strict=True)]

    def _run(self, scale: float, value: int, upstream: int, tensors, outs) -> int:
        pointers = [0 if t is None else t.data_ptr() for t in (*tensors, *outs[: self.gradients])]
        return self.job(scale, value, upstream, *pointers)


def nll(
    plain: Callable[..., Tensor], shape: torch.Size, dtype: torch.dtype, reduction: str, ignore_index: int
) -> ByRows:
    """Of log-probabilities ``(N, C, ...)``, classes, and weights of the classes."""
    classes, apart = shape[1], shape[2:].numel()
    return ByRows(
        plain,
        _block(NLL, dtype, ("CLASSES", "IGNORED", "APART"), _OF_CLASSES),
        torch.Size((shape[0], *shape[2:])),
        dtype,
        reduction,
        unit=classes,
        tensors=3,
        words=(classes, ignore_index, apart),
        piece=max(1 if apart == 1 else FEWEST_COLUMNS, CLEARED // classes),
    )


def multi_margin(
    plain: Callable[..., Tensor], shape: torch.Size, dtype: torch.dtype, reduction: str, hinge: Hinge, margin: float
) -> ByRows:
    """Of scores ``(N, C)``, classes, and weights of the classes."""
    block = _block(HINGES + ONE_RIGHT, dtype, ("CLASSES",), _OF_CLASSES, hinge, "factor * slope")
    classes = shape[1]
    return ByRows(
        plain, block, shape[:1], dtype, reduction, unit=classes, tensors=3, words=(classes,), constants=(margin,)
    )


def multilabel_margin(
    plain: Callable[..., Tensor], shape: torch.Size, dtype: torch.dtype, reduction: str, hinge: Hinge
) -> ByRows:
    """Of scores ``(N, C)`` and as many class indices."""
    rows, classes = shape
    piece = max(1, PIECE // classes**2, -(-rows // MOST_PIECES))
    return ByRows(
        plain,
        _block(HINGES + MANY_RIGHT, dtype, ("CLASSES", "PIECE"), ("INPUT", "TARGET"), hinge, "element(out, i) + slope"),
        shape[:1],
        dtype,
        reduction,
        unit=classes,
        tensors=2,
        words=(classes, piece),
        piece=piece,
        scratch=-(-rows // piece) * classes,
    )


def vectors(
    loss: OfVectors,
    plain: Callable[..., Tensor],
    shape: torch.Size,
    dtype: torch.dtype,
    reduction: str,
    constants: tuple[float, ...],
    integers: bool,
) -> ByRows:
    """Of vectors ``(..., D)`` and, if the loss has them, labels ``(...)``, which may be integers."""
    n, length = len(loss.pulls), shape[-1]
    return ByRows(
        plain,
        _block_of_vectors(loss, dtype, len(constants)),
        shape[:-1],
        dtype,
        reduction,
        unit=length,
        tensors=n + loss.labelled,
        gradients=n,
        words=(length, integers),
        constants=constants,
    )


_OF_CLASSES = ("INPUT", "TARGET", "WEIGHT")


@functools.cache
def _block(
    source: str,
    dtype: torch.dtype,
    words: tuple[str, ...],
    tensors: tuple[str, ...],
    hinge: Hinge | None = None,
    slope: str = "",
) -> Any:
    """The compiled block of a source that has names for its words and tensors; `slope` is what is kept of one."""
    names = _places(words, tensors, 1)
    if hinge:
        functions = [definition(f, name) for f, name in zip(hinge, ("hinge", "hinge_slope"), strict=True)]
        names |= {"SLOPE": slope, "HINGE": functions[0], "HINGE_SLOPE": functions[1]}
    return _load(source, dtype, names)


@functools.cache
def _block_of_vectors(loss: OfVectors, dtype: torch.dtype, constants: int) -> Any:
    """The compiled block of a loss of vectors."""
    real = storage(generate.name(dtype))["REAL"]
    n = len(loss.pulls)
    xs, cs = [f"x{k}" for k in range(n)], [f"c{i}" for i in range(constants)]
    sums, slopes = ([f"{name}{k}" for k in range(loss.sums)] for name in ("s", "g"))
    at, tail = ", ".join(f"{x}_at" for x in xs), "".join(f", {c}" for c in cs)
    narrow = "".join(f", {real}({c})" for c in cs)
    read = ", ".join(f"element({x}_at, i)" for x in xs)
    functions = {"terms": loss.terms, "loss": loss.loss} | {f"pull{k}": pull for k, pull in enumerate(loss.pulls)}
    pulled = [
        f"@njit(**INNER)\ndef pulled{k}({at}, out, n, {', '.join(slopes)}{tail}):\n    for i in range(n):\n"
        f"        set_element(out, i, pull{k}({read}, {', '.join(slopes)}{tail}))\n\n"
        for k in range(n)
    ]
    names = _places(("LENGTH", "INTEGERS"), (*[f"X{k}" for k in range(n)], *["LABEL"] * loss.labelled), n) | {
        "FUNCTIONS": "\n\n".join(f"@traced\n{definition(function, name)}" for name, function in functions.items()),
        "AT": at,
        "READ": read,
        "C": tail,
        "CAST": narrow,
        "SUMS_0": " = ".join(sums) + " = 0.0",
        "PARTS_0": " = ".join(f"p{k}" for k in range(loss.sums)) + f" = {real}(0)",
        "TERMS": ", ".join(f"t{k}" for k in range(loss.sums)),
        "ADD": "; ".join(f"p{k} = add(p{k}, t{k})" for k in range(loss.sums)),
        "ADD_PARTS": "; ".join(f"s{k} = add(s{k}, float64(p{k}))" for k in range(loss.sums)),
        "SUMMED": ", ".join(sums),
        "SLOPES": ", ".join(slopes),
        "PULLED": "\n".join(pulled),
        "NUMBERS": "; ".join(f"{c} = get_float64(numbers, {3 + i})" for i, c in enumerate(cs)) or "pass",
        "PLACES": "; ".join(f"x{k}_at = ${{X{k}}} + skip; out{k} = ${{OUT{k}}}" for k in range(n)),
        "LABELLED": "label_of(args, r)" if loss.labelled else "0.0",
        "ANY": " or ".join(f"out{k}" for k in range(n)),
        "SCALED": "; ".join(f"r{k} = {real}(here * {slope})" for k, slope in enumerate(slopes)),
        "PULL": "\n            ".join(
            f"if out{k}: pulled{k}({at}, out{k} + skip, n, {', '.join(f'r{j}' for j in range(loss.sums))}{narrow})"
            for k in range(n)
        ),
    }
    names["PLACES"] = Template(names["PLACES"]).substitute(names)
    return _load(VECTORS + LABELS * loss.labelled, dtype, names)


def _places(words: tuple[str, ...], tensors: tuple[str, ...], gradients: int) -> dict[str, str]:
    """How a block reads its arguments, by their names."""
    names = ["EACH", "MEAN", *words, "VALUE", "UPSTREAM", *tensors, *[f"OUT{k}" for k in range(gradients)], "SCRATCH"]
    return {name: f"word(args, {i})" for i, name in enumerate(names, 1)}


def _load(source: str, dtype: torch.dtype, names: dict[str, str]) -> Any:
    text = Template(HEAD + source + BLOCK).substitute(
        storage(generate.name(dtype)) | STAGES | {"RUN": str(RUN)} | names
    )
    return generate.load(text, "by_rows", *generate.numba_ingredients()).block
