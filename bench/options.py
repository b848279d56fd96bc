"""The option sets that every optimizer is verified with: defaults, each option, combinations, several groups.

eps is set large wherever it is set, because at its default a misplaced eps hides below the rounding error. No decay
is a power of two: a product with one is exact, which favours whoever happens to multiply in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


def describe(options: Mapping[str, Any]) -> str:
    """``momentum=0.9 nesterov weight_decay=0.1``: a true flag is its name alone."""
    words = [name if value is True else f"{name}={value}".replace(" ", "") for name, value in options.items()]
    return " ".join(words) or "defaults"


@dataclass(frozen=True)
class OptionSet:
    """What the optimizer is built with, and on what it is run."""

    options: Mapping[str, Any] = field(default_factory=dict)  # of the first group
    groups: tuple[Mapping[str, Any], ...] = ()  # further groups: what is different there
    tensors: str = "awkward"  # awkward | big | layouts: the shapes, see `workload.TENSORS`
    sees: str = "elements"  # elements | rows | tensors | matrices | everything: what the rule takes together
    gradients: str = "random"  # random | constant
    tensor_lr: bool = False  # lr is a 0-dimensional float64 tensor
    rich: bool = False  # one of these stands for all where time is short

    @property
    def label(self) -> str:
        words = describe(self.options)
        if self.tensor_lr:
            words += " (tensor lr)"
        if self.groups:
            words += "".join(f" | {describe(group)}" for group in self.groups)
        if self.tensors != "awkward":
            words += f" ({self.tensors})"
        if self.gradients == "constant":
            words += " (constant gradient)"
        return words


def _sets(*singles: Mapping[str, Any], rich: Mapping[str, Any], more: tuple[OptionSet, ...]) -> tuple[OptionSet, ...]:
    """Defaults, then each of `singles`, the richest combination, and the sets every optimizer needs."""
    alone = (OptionSet(options) for options in singles)
    return (OptionSet(), *alone, OptionSet(rich, rich=True), *more, OptionSet(tensors="big"))


def _seen(sees: str, sets: tuple[OptionSet, ...]) -> tuple[OptionSet, ...]:
    """The same sets, on tensors for a rule that is not elementwise or takes sparse gradients."""
    return tuple(replace(one, sees=sees) for one in sets)


def _tensor_lr(**options: Any) -> OptionSet:
    return OptionSet(options, tensor_lr=True)


def _groups(*groups: Mapping[str, Any]) -> OptionSet:
    return OptionSet(groups[0], groups[1:])


_ADAM_ALONE = (
    {"betas": (0.7, 0.9), "eps": 1e-2},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"maximize": True},
)

OPTION_SETS: dict[str, tuple[OptionSet, ...]] = {
    "SGD": _sets(
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"maximize": True},
        rich={"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
        more=(
            OptionSet({"lr": 0.05, "momentum": 0.6, "dampening": 0.1, "weight_decay": 0.01, "maximize": True}),
            _tensor_lr(lr=0.01, momentum=0.9, weight_decay=0.01),
            _groups(
                {"momentum": 0.9},
                {"lr": 0.1, "momentum": 0},
                {"lr": 0.003, "nesterov": True, "weight_decay": 0.1, "maximize": True},
            ),
            OptionSet({"lr": 0.1, "momentum": 0.9}, tensors="layouts"),
        ),
    ),
    "Adam": _sets(
        *_ADAM_ALONE,
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        rich={"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        more=(
            _tensor_lr(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, amsgrad=True),
            _groups(
                {"amsgrad": True},
                {"lr": 0.1, "betas": (0.6, 0.8), "eps": 0.1},
                {"lr": 0.003, "weight_decay": 0.1, "amsgrad": False, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "AdamW": _sets(
        {"betas": (0.7, 0.9), "eps": 1e-2},
        {"weight_decay": 0.0},
        {"amsgrad": True},
        {"maximize": True},
        rich={"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "amsgrad": True, "maximize": True},
        more=(
            _tensor_lr(lr=0.01, weight_decay=0.1, amsgrad=True),
            _groups(
                {"amsgrad": True},
                {"lr": 0.1, "betas": (0.6, 0.8), "eps": 0.1},
                {"lr": 0.003, "weight_decay": 0.5, "amsgrad": False, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "Adamax": _sets(
        {"betas": (0.7, 0.9), "eps": 1e-2},
        {"weight_decay": 0.1},
        {"maximize": True},
        rich={"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        more=(
            _tensor_lr(lr=0.01, weight_decay=0.1),
            _groups(
                {"eps": 1e-3},
                {"lr": 0.1, "betas": (0.6, 0.8)},
                {"lr": 0.003, "weight_decay": 0.1, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "NAdam": _sets(
        {"betas": (0.7, 0.9), "eps": 1e-2},
        {"momentum_decay": 0.1},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"maximize": True},
        rich={
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.1,
            "momentum_decay": 0.02,
            "decoupled_weight_decay": True,
            "maximize": True,
        },
        more=(
            _tensor_lr(lr=0.01, weight_decay=0.1),
            _groups(
                {"weight_decay": 0.1},
                {"lr": 0.1, "betas": (0.6, 0.8), "momentum_decay": 0.05},
                {"lr": 0.003, "eps": 0.1, "decoupled_weight_decay": True, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "RAdam": _sets(
        {"betas": (0.7, 0.9), "eps": 1e-2},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"maximize": True},
        rich={
            "lr": 0.05,
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.1,
            "decoupled_weight_decay": True,
            "maximize": True,
        },
        more=(
            _tensor_lr(lr=0.01, weight_decay=0.1),
            _groups(
                {"weight_decay": 0.1},
                {"lr": 0.1, "betas": (0.7, 0.6), "eps": 0.1},  # the longest average is 4 steps: never rectified
                {"lr": 0.003, "decoupled_weight_decay": True, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "Adagrad": _sets(
        {"lr_decay": 0.1},
        {"weight_decay": 0.1},
        {"initial_accumulator_value": 0.5},
        {"eps": 1e-2},
        {"maximize": True},
        rich={
            "lr": 0.05,
            "lr_decay": 0.01,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.1,
            "eps": 1e-3,
            "maximize": True,
        },
        more=(
            _tensor_lr(lr=0.01, lr_decay=0.1, weight_decay=0.1),
            _groups(
                {"lr_decay": 0.01},
                {"lr": 0.1, "eps": 0.1},
                {"lr": 0.003, "weight_decay": 0.1, "maximize": True},
            ),
            # torch ignores the value of the second group
            _groups({"initial_accumulator_value": 0.1}, {"initial_accumulator_value": 5.0}),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "Adadelta": _sets(
        {"rho": 0.6, "eps": 1e-2},
        {"weight_decay": 0.1},
        {"maximize": True},
        rich={"lr": 0.3, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        more=(
            _tensor_lr(lr=0.5, weight_decay=0.1),
            _groups(
                {"eps": 1e-3},
                {"lr": 0.1, "rho": 0.6},
                {"lr": 3.0, "weight_decay": 0.1, "maximize": True},
            ),
            OptionSet({"lr": 3.0}, tensors="layouts"),
        ),
    ),
    "RMSprop": _sets(
        {"alpha": 0.8, "eps": 1e-2},
        {"momentum": 0.9},
        {"centered": True},
        {"weight_decay": 0.1},
        {"maximize": True},
        rich={
            "lr": 0.05,
            "alpha": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.9,
            "centered": True,
            "maximize": True,
        },
        more=(
            _tensor_lr(lr=0.01, momentum=0.9, weight_decay=0.1),
            _groups(
                {"momentum": 0.9},
                {"lr": 0.1, "alpha": 0.8, "momentum": 0, "centered": True},
                {"lr": 0.003, "eps": 0.1, "weight_decay": 0.1, "centered": True, "maximize": True},
            ),
            # the variance goes to zero and rounding takes it below: torch's square root gives nan
            OptionSet({"alpha": 0.5, "centered": True}, gradients="constant"),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "Rprop": _sets(
        {"etas": (0.3, 1.5)},
        {"step_sizes": (0.005, 0.02)},
        {"lr": 100.0},  # the first step is clamped to step_sizes
        {"maximize": True},
        rich={"lr": 0.05, "etas": (0.3, 1.1), "step_sizes": (1e-3, 0.1), "maximize": True},
        more=(
            _tensor_lr(lr=0.02, etas=(0.4, 1.3)),
            _groups(
                {"etas": (0.3, 1.1)},
                {"lr": 0.1, "step_sizes": (1e-3, 0.2)},
                {"lr": 0.003, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "ASGD": _sets(
        {"lambd": 0.1, "alpha": 0.5},
        {"t0": 3.0},
        {"weight_decay": 0.1},
        {"maximize": True},
        rich={"lr": 0.05, "lambd": 0.01, "alpha": 0.6, "t0": 2.0, "weight_decay": 0.1, "maximize": True},
        more=(
            _tensor_lr(lr=0.02, lambd=0.1, t0=4.0),
            _groups(
                {"t0": 3.0},
                {"lr": 0.1, "lambd": 0.05, "t0": 1e6},
                {"lr": 0.003, "alpha": 0.5, "weight_decay": 0.1, "maximize": True},
            ),
            OptionSet({"lr": 0.1}, tensors="layouts"),
        ),
    ),
    "Adafactor": _seen(
        "tensors",
        _sets(
            {"beta2_decay": -0.3},
            {"eps": (0.3, 0.1)},
            {"d": 1.5},
            {"weight_decay": 0.1},
            {"maximize": True},
            {"lr": 0.9},  # from the second step on 1/sqrt(step) is smaller
            rich={
                "lr": 0.05,
                "beta2_decay": -0.6,
                "eps": (1e-3, 0.02),
                "d": 1.2,
                "weight_decay": 0.1,
                "maximize": True,
            },
            more=(
                _tensor_lr(lr=0.02, weight_decay=0.1),
                _groups(
                    {"d": 2.0},
                    {"lr": 0.1, "eps": (None, 0.5)},
                    {"lr": 0.003, "beta2_decay": -0.4, "weight_decay": 0.3, "maximize": True},
                ),
                OptionSet({"lr": 0.1}, tensors="layouts"),
            ),
        ),
    ),
    # The parameters are of the order of 1e-3, so a decay has to be large to show beside an update.
    "Muon": _seen(
        "matrices",
        _sets(
            {"momentum": 0.7},
            {"momentum": 0.7, "nesterov": False},
            {"weight_decay": 30.0},
            {"adjust_lr_fn": "original"},
            {"adjust_lr_fn": "match_rms_adamw"},
            {"ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 3},
            {"eps": 30.0},  # larger than some of the norms
            rich={
                "lr": 0.02,
                "momentum": 0.8,
                "weight_decay": 20.0,
                "nesterov": False,
                "ns_coefficients": (2.0, -1.5, 0.5),
                "ns_steps": 6,
                "adjust_lr_fn": "match_rms_adamw",
                "eps": 1e-3,
            },
            more=(
                _tensor_lr(lr=0.02, weight_decay=20.0),
                _groups(
                    {"momentum": 0.6},
                    {"lr": 0.1, "nesterov": False, "ns_steps": 3},
                    {"lr": 0.003, "weight_decay": 50.0, "adjust_lr_fn": "match_rms_adamw"},
                ),
                OptionSet({"lr": 0.1}, tensors="layouts"),
            ),
        ),
    ),
    "SparseAdam": _seen(
        "rows",
        _sets(
            {"betas": (0.7, 0.9), "eps": 1e-2},
            {"maximize": True},
            rich={"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "maximize": True},
            more=(
                _tensor_lr(lr=0.01, eps=1e-2),
                _groups({"eps": 1e-3}, {"lr": 0.1, "betas": (0.6, 0.8)}, {"lr": 0.003, "eps": 0.1, "maximize": True}),
                OptionSet({"lr": 0.1}, tensors="layouts"),
            ),
        ),
    ),
    "LBFGS": _seen(
        "everything",
        _sets(
            {"max_iter": 1},
            {"max_iter": 4, "history_size": 3},
            {"max_iter": 4, "max_eval": 3},
            {"lr": 0.5, "max_iter": 4, "tolerance_grad": 100.0},  # stops as soon as the gradient is that small
            {"lr": 0.5, "max_iter": 4, "tolerance_change": 0.3},
            {"max_iter": 3, "line_search_fn": "strong_wolfe"},
            {"lr": 40.0, "max_iter": 3, "line_search_fn": "strong_wolfe"},  # every first guess is too far
            rich={
                "lr": 0.7,
                "max_iter": 5,
                "max_eval": 12,
                "history_size": 4,
                "tolerance_grad": 1e-3,
                "tolerance_change": 1e-6,
                "line_search_fn": "strong_wolfe",
            },
            more=(
                _tensor_lr(lr=0.3, max_iter=4),
                OptionSet({"lr": 0.5, "max_iter": 3}, tensors="layouts"),
            ),
        ),
    ),
}


def option_sets(optimizer: str, everything: bool = True) -> tuple[OptionSet, ...]:
    """All sets of an optimizer, or its defaults and its richest combination; of a user's own class the defaults."""
    sets = OPTION_SETS.get(optimizer, (OptionSet(),))
    return sets if everything else (sets[0], *(chosen for chosen in sets if chosen.rich))
