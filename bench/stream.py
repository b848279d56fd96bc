"""The memory limit of a step: how many bytes a rule has to move, and how fast they move when nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from bench.timing import Arm
from optimizers import Algorithm, Optimizer, Slot

NAME = "stream"


class Traffic(NamedTuple):
    """Tensors of the parameters' size that one step reads and writes at least."""

    read: int
    written: int


_ONE_STATE = Traffic(read=3, written=2)  # parameter, gradient, one state; parameter and state
_TWO_STATES = Traffic(read=4, written=3)

# Of a matrix Adafactor reads the gradient for its rows and columns, again for the size of the update, which needs them
# all, and again for the step; the parameter for its own size and for the step. Of a vector it reads the second moment
# twice too, and writes it.
_MATRIX, _VECTOR = Traffic(read=5, written=1), Traffic(read=6, written=2)

# With `Traits.timed_with`. ASGD's average is only written until `t0`, but a CPU may fetch a line before it writes it;
# where it does not, ASGD exceeds the stream. What Muon and L-BFGS do is arithmetic, and is not measured in bytes.
TRAFFIC: dict[str, Traffic] = {
    "SGD": _ONE_STATE,
    "Adam": _TWO_STATES,
    "AdamW": _TWO_STATES,
    "Adamax": _TWO_STATES,
    "NAdam": _TWO_STATES,
    "RAdam": _TWO_STATES,
    "Adagrad": _ONE_STATE,
    "Adadelta": _TWO_STATES,
    "RMSprop": _TWO_STATES,
    "Rprop": _TWO_STATES,
    "ASGD": _ONE_STATE,
    "SparseAdam": _TWO_STATES,
}
# Tensors of the parameters' size that stay from step to step, at most, where `TRAFFIC` does not tell.
KEPT = {"Adafactor": 2, "Muon": 2, "LBFGS": 1 + 2 * 100 + 4}  # with a history of 100 pairs
KEPT_BY_OTHERS = 4  # a guess, of a class of the user's own
STREAMED = ({*TRAFFIC} - {"SparseAdam"}) | {"Adafactor"}  # of scattered rows there is no stream


def bytes_per_step(optimizer: str, params: Sequence[torch.Tensor]) -> int | None:
    """Bytes that one step of these parameters, with the gradients they have, has to move at least; None: no claim."""
    if optimizer == "Adafactor":
        return sum(_adafactor(param) * param.element_size() for param in params)
    if optimizer not in TRAFFIC:
        return None
    return sum(sum(TRAFFIC[optimizer]) * _stepped(param) * param.element_size() + _indices(param) for param in params)


def _adafactor(param: torch.Tensor) -> int:
    if param.dim() < 2:
        return sum(_VECTOR) * param.numel()
    rows, columns = param.shape[-2:]
    state = param.numel() // columns + param.numel() // rows  # read and written
    return sum(_MATRIX) * param.numel() + 2 * state


def _stepped(param: torch.Tensor) -> int:
    """Elements that the gradient reaches."""
    gradient = param.grad
    return gradient._values().numel() if gradient is not None and gradient.is_sparse else param.numel()


def _indices(param: torch.Tensor) -> int:
    """Bytes of the indices of a sparse gradient."""
    gradient = param.grad
    return gradient._indices().nbytes if gradient is not None and gradient.is_sparse else 0


def tensors_kept(optimizer: str) -> int:
    """Tensors of the parameters' size that stay from step to step: the parameter and its state."""
    return TRAFFIC[optimizer].written if optimizer in TRAFFIC else KEPT.get(optimizer, KEPT_BY_OTHERS)


# The stream goes through the same kernels as our optimizers, with one addition for each tensor that is written, because
# a kernel that adds nothing would be optimised away.


def coefficients(direction):
    return (direction,)


def rule(p, g, first, second, direction):
    g = direction * g
    if second is not None:
        second = second + g
    return p + g, first + g, second


class Stream(Optimizer):
    """Reads and writes what an optimizer with one or two states does, and computes nothing worth the name."""

    algorithm = Algorithm(coefficients, rule, scalars={}, slots={"first": Slot(), "second": Slot(when="two_states")})

    def __init__(self, params, two_states: bool):
        super().__init__(params, {"two_states": two_states, "maximize": False})


def _two_states(optimizer: str) -> bool:
    return TRAFFIC.get(optimizer) == _TWO_STATES


def bytes_streamed(optimizer: str, elements: int, itemsize: int) -> int:
    """Bytes that the stream beside this optimizer moves."""
    return sum(_TWO_STATES if _two_states(optimizer) else _ONE_STATE) * elements * itemsize


def arm(optimizer: str, made: Sequence[tuple[list[torch.Tensor], Callable[[], object] | None]]) -> Arm | None:
    """The stream of ``optimizer`` as a contender, over one or more copies of its parameters.

    ``made`` holds for each copy its parameters and what has to run ahead of a step. None where the optimizer is not
    limited by memory, or no compiled kernel can run the stream.
    """
    if optimizer not in STREAMED:
        return None
    steps = []
    for params, _ in made:
        stream = Stream(params, two_states=_two_states(optimizer))
        if any(executor == "eager" for _, executor, _ in stream.executors()):
            return None
        stream.step()
        steps.append(stream.step)
    return Arm(NAME, steps[0], made[0][1], tuple(steps[1:]))
