"""What all runs of a sweep share is taken out of the coefficients, whole and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import optimizers
from bench.sweeps import engine, layout
from bench.sweeps.split import split
from bench.sweeps.step import Step
from optimizers.algorithm import Algorithm
from tests.bench.test_sweeps import ELEMENTWISE


@pytest.mark.parametrize("differ", ["nothing", "first", "all"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_parts_together_are_the_coefficients(name, differ):
    algorithm = getattr(optimizers, name).algorithm
    columns = {"nothing": [], "first": algorithm.hyper[:1], "all": [*algorithm.hyper, "direction"]}[differ]
    parts = split(algorithm, frozenset(columns))
    values = {argument: 0.1 + 0.05 * i for i, argument in enumerate(algorithm.inputs)} | {"stored": float, "step": 3.0}
    values = {argument: values[argument] for argument in algorithm.inputs}
    expected = algorithm.coefficients(**values)
    assert not any("**" in line for line in parts.coefficients)
    space: dict = dict(vars(__import__("optimizers.dialect", fromlist=["dialect"]))) | {"stored_float32": float}
    exec(
        "\n".join(parts.uniform),
        space | {f"v_{n}": x for n, x in values.items() if n not in parts.varying},
        found := {},
    )
    numbers = {name: found[name] for name in parts.numbers}
    space |= numbers | {f"v_{n}": x for n, x in values.items() if n in parts.varying}
    exec("\n".join(parts.powers), space, found := {})
    space |= {name: found[name] for name in parts.power_names}
    exec("\n".join(parts.coefficients), space)
    answers = {name: eval(text, space) for name, text in parts.answers.items()}
    answers |= {f"new_{name}": numbers[number] for name, number in parts.states.items()}
    answers |= {name: numbers[number] for name, number in parts.outputs.items()}
    returned = [*(f"new_{scalar}" for scalar in algorithm.scalars), *algorithm.outputs]
    assert [answers[name] for name in returned] == list(expected)
    later = {n: value + 4 if n in algorithm.scalars else value for n, value in values.items()}
    changed = [a != b for a, b in zip(expected, algorithm.coefficients(**later), strict=True)][len(algorithm.scalars) :]
    assert not parts.constant & {name for name, other in zip(algorithm.outputs, changed, strict=True) if other}


def test_what_runs_share_is_taken_out_whole():
    adam, nadam = optimizers.Adam.algorithm, optimizers.NAdam.algorithm
    # where only learning rates differ, one product is left to each run in each step
    one = split(adam, frozenset({"lr"}))
    assert one.answers["step_size"] == "v_lr * u_11" and not one.power_names and one.varying == {"lr"}
    both = split(adam, frozenset({"lr", "beta1", "beta2"}))
    assert both.depends == {"beta1", "beta2"} and len(both.power_names) == 2
    assert not any("sqrt" in line for line in [*both.coefficients, *both.answers.values()])
    assert both.constant == {"direction", "l2", "keep", "take1", "keep2", "take2"}
    # the product of momenta differs where the momenta do, and only there
    assert "mu_product" not in split(nadam, frozenset({"lr", "beta2"})).varying
    assert "mu_product" in split(nadam, frozenset({"momentum_decay"})).varying
    assert split(optimizers.SGD.algorithm, frozenset({"lr", "momentum"})).power_names == ()


def test_a_state_that_begins_with_what_differs_differs_and_so_do_its_powers():
    def coefficients(size, lr, decay):
        return 0.5 * size, lr, decay**size

    algorithm = Algorithm(coefficients, lambda p, g, lr, power: (p - lr * power * g,), {"size": "lr"}, {})
    step = Step(algorithm, (), "float64", frozenset({"lr"}))
    assert step.split.varying == {"lr", "size"} and step.split.depends == {"size"}
    _, distinct, first_of = engine._settings(step, np.ones((1, layout.LANES)), 1)
    assert distinct.tolist() == [layout.LANES] and first_of[0].tolist() == list(range(layout.LANES))


def test_coefficients_of_another_form_are_refused():
    def branching(step, lr):
        if step > 1:
            lr = 0.0
        return step, lr

    with pytest.raises(TypeError, match="assignments and a return"):
        split(Algorithm(branching, lambda p, g, lr: (p - lr * g,), {"step": 0.0}, {}), frozenset({"lr"}))
