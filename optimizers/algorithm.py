"""What an optimizer is made of: scalar state, tensor state, coefficients and a rule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

#: Arguments of `coefficients` that are an item of a group's tuple: argument -> (group key, index).
ITEMS = {
    "beta1": ("betas", 0),
    "beta2": ("betas", 1),
    "etaminus": ("etas", 0),
    "etaplus": ("etas", 1),
    "step_size_min": ("step_sizes", 0),
    "step_size_max": ("step_sizes", 1),
    "eps1": ("eps", 0),
    "eps2": ("eps", 1),
}

#: Arguments of `coefficients` that the executor supplies.
#: ``direction``: 1, or -1 to maximize, divided by the gradient scale; ``first``: 1 in the step that made the state;
#: ``stored``: rounds a number to the dtype that the scalar state is kept in.
SUPPLIED = ("direction", "first", "stored")


@dataclass(frozen=True)
class Slot:
    """A state tensor: its initial value, the option that makes it exist, and its shape.

    `init` is a number or the key of the group entry to take it from; `when` is a group key, or None for always;
    `shape` makes it of the parameter's shape, or None if such a parameter does not have it. Without it, it has the
    parameter's shape. A `work` slot is no state: it is handed to a `MatrixAlgorithm`'s transform and forgotten.
    """

    init: float | str = 0.0
    when: str | None = None
    shape: Callable[[Sequence[int]], Sequence[int] | None] | None = None
    work: bool = False

    def exists(self, group: Mapping[str, Any], shape: Sequence[int] | None) -> bool:
        """Whether a parameter of this shape (None: some parameter) has it under the options of this group."""
        if self.when is not None and not group[self.when]:
            return False
        return self.shape is None or shape is None or self.shape(shape) is not None


@dataclass(frozen=True, eq=False)
class Algorithm:
    """An elementwise optimizer, written once for all executors, in the dialect of `optimizers.dialect`.

    coefficients: scalar state and hyper-parameters in; ``(*new scalar state, *coefficients)`` out. It runs once for
        each distinct row of inputs, in float64. Its argument names say what it wants: a name in `scalars`, one of
        `SUPPLIED`, one of `ITEMS`, or a group key.
    rule: one element of parameter ``p``, gradient ``g`` and each slot (None where absent), then the coefficients, by
        name; ``(new p, *new slots)`` out.
    scalars: state kept as 0-d tensors, with its initial value (a number, or the group key it is taken from).
    slots: state tensors in the order of the rule's arguments.
    sparse: whether rows without gradient stay as they are, so that a sparse gradient may step its own rows alone.
    """

    coefficients: Callable[..., tuple]
    rule: Callable[..., tuple]
    scalars: Mapping[str, float | str]
    slots: Mapping[str, Slot]
    sparse: Callable[[Mapping[str, Any]], bool] | None = None

    #: the types of device there are kernels for, whether they take half precision, and whether they see rows of a
    #: matrix, which then have to lie one after the other
    kernels: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    half_kernels: ClassVar[bool] = True
    by_rows: ClassVar[bool] = False

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The arguments of `coefficients`, in order."""
        return tuple(inspect.signature(self.coefficients).parameters)

    @cached_property
    def hyper(self) -> tuple[str, ...]:
        """Those of its arguments that come from a parameter group."""
        return tuple(name for name in self.inputs if name not in self.scalars and name not in SUPPLIED)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The coefficients, by the names the rule gives them."""
        return tuple(inspect.signature(self.rule).parameters)[2 + len(self.slots) :]

    def present(self, group: Mapping[str, Any], shape: Sequence[int] | None = None) -> tuple[bool, ...]:
        """Which slots a parameter of this shape (None: some parameter) has under the options of this group."""
        return tuple(slot.exists(group, shape) for slot in self.slots.values())

    def hyper_values(self, group: Mapping[str, Any]) -> list[Any]:
        """The hyper-parameters of a group as `coefficients` wants them: numbers or 0-d tensors; nan for None."""
        values = [group[ITEMS[name][0]][ITEMS[name][1]] if name in ITEMS else group[name] for name in self.hyper]
        return [math.nan if value is None else value for value in values]


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixAlgorithm(Algorithm):
    """Two elementwise rules, and between them something that is done to whole matrices.

    `rule` leaves what is to be transformed in a `work` slot; `transform` takes a batch of such matrices of one shape,
    ``(batch, rows, columns)``, and the group's options; `finish(p, g, *coefficients)`, of the same coefficients as
    `rule`, gets the result in the place of the gradient. The work slot is the last one, and there are no scalars.
    options: the group entries that `transform` reads.
    """

    transform: Callable[[Tensor, Mapping[str, Any]], Tensor]
    finish: Callable[..., tuple]
    options: tuple[str, ...]

    by_rows = True

    @cached_property
    def first(self) -> Algorithm:
        """The elementwise algorithm before the transform."""
        return Algorithm(self.coefficients, self.rule, {}, self.slots)

    @cached_property
    def last(self) -> Algorithm:
        """The elementwise algorithm after it."""
        return Algorithm(self.coefficients, self.finish, {}, {})


@dataclass(frozen=True, eq=False, kw_only=True)
class FactoredAlgorithm(Algorithm):
    """An optimizer whose second moment is kept by rows and columns, and whose step is scaled by root mean squares.

    A tensor of two or more dimensions is a batch of matrices, the last two: it has ``row_var`` and ``col_var``. Any
    other has ``variance``. Those are the slots; the arithmetic, in the dialect:

    moment(var, square, take): the new moving average, of an element's square or of a row's or column's mean square.
    estimate(row, col, row_mean, eps1): the second moment of an element, from its row's and its column's.
    update(g, var, eps1): the direction of an element.
    step_size(p_square, u_square, rho, eps2, d): what the update is multiplied by, from mean squares of the tensor.
    rule(p, u, step_size, keep): the new parameter, in a tuple.

    `coefficients` gives the names that these functions use, and ``direction``; eps1 is nan for the dtype's epsilon.
    """

    moment: Callable[..., Any]
    estimate: Callable[..., Any]
    update: Callable[..., Any]
    step_size: Callable[..., Any]

    outputs = ("direction", "take", "rho", "keep", "eps1", "eps2", "d")
    kernels = ("cpu",)
    half_kernels = False  # the second moment would be rounded before it is used
    by_rows = True
