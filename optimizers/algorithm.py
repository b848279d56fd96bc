"""What an optimizer is made of: scalar state, tensor state, coefficients and a rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Arguments of `coefficients` that are an item of a group's tuple: argument -> (group key, index).
ITEMS = {
    "beta1": ("betas", 0),
    "beta2": ("betas", 1),
    "etaminus": ("etas", 0),
    "etaplus": ("etas", 1),
    "step_size_min": ("step_sizes", 0),
    "step_size_max": ("step_sizes", 1),
}

#: Arguments of `coefficients` that the executor supplies.
#: ``direction``: 1, or -1 to maximize, divided by the gradient scale; ``first``: 1 in the step that made the state;
#: ``stored``: rounds a number to the dtype that the scalar state is kept in.
SUPPLIED = ("direction", "first", "stored")


@dataclass(frozen=True)
class Slot:
    """A state tensor of the parameter's shape: its initial value, and the option that makes it exist.

    `init` is a number or the key of the group entry to take it from; `when` is a group key, or None for always.
    """

    init: float | str = 0.0
    when: str | None = None


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

    def present(self, group: Mapping[str, Any]) -> tuple[bool, ...]:
        """Which slots exist under the options of this group."""
        return tuple(slot.when is None or bool(group[slot.when]) for slot in self.slots.values())

    def hyper_values(self, group: Mapping[str, Any]) -> list[Any]:
        """The hyper-parameters of a group as `coefficients` wants them: numbers or 0-d tensors."""
        return [group[ITEMS[name][0]][ITEMS[name][1]] if name in ITEMS else group[name] for name in self.hyper]
