"""The memory limit of a step: how many bytes a rule has to move, and how fast they move when nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from bench.timing import Arm
from optimizers import Algorithm, Optimizer, Slot

NAME = "stream"


class Traffic(NamedTuple):
    """Tensors of the parameters' size that one step reads once and writes once, if it does so in one pass."""

    read: int
    written: int


_ONE_STATE = Traffic(read=3, written=2)  # parameter, gradient, one state; parameter and state
_TWO_STATES = Traffic(read=4, written=3)

# With `contenders.TIMING_OPTIONS`. ASGD's average is only written until `t0`, but a CPU may fetch a line before it
# writes it; where it does not, ASGD exceeds the stream.
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
}


def bytes_per_step(optimizer: str, elements: int, itemsize: int) -> int:
    """Bytes that one step of ``optimizer`` has to move at least."""
    return sum(TRAFFIC[optimizer]) * elements * itemsize


def tensors_kept(optimizer: str) -> int:
    """Tensors that stay from step to step: the parameter and its state."""
    return TRAFFIC[optimizer].written


# The stream goes through the same kernels as our optimizers, over the same bytes, with one addition for each tensor
# that is written, because a kernel that adds nothing would be optimised away.


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


def arm(optimizer: str, made: Sequence[tuple[list[torch.Tensor], Callable[[], object] | None]]) -> Arm | None:
    """The stream of ``optimizer`` as a contender, over one or more copies of its parameters.

    ``made`` holds for each copy its parameters and what has to run ahead of a step. None where no compiled kernel can
    run the stream.
    """
    steps = []
    for params, _ in made:
        stream = Stream(params, two_states=TRAFFIC[optimizer] == _TWO_STATES)
        if any(executor == "eager" for _, executor, _ in stream.executors()):
            return None
        stream.step()
        steps.append(stream.step)
    return Arm(NAME, steps[0], made[0][1], tuple(steps[1:]))
