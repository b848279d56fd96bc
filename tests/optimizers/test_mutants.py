"""Mistakes that people make in optimizers, put into our rules one at a time: each must turn verify red."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

import optimizers
from bench.cell import Status
from bench.options import OPTION_SETS, OptionSet, option_sets
from bench.verify import contenders, installed_kernel, verify
from optimizers.executors import generate

STEPS = 10
RICH = "rich"  # the option set with everything in it
DEFAULTS = "defaults"
CONSTANT = next(sets for sets in OPTION_SETS["RMSprop"] if sets.gradients == "constant")

# class, option set, the line as it is, the line with the mistake
MUTANTS = [
    # a sign
    ("SGD", DEFAULTS, "return p - lr * g,", "return p + lr * g,"),
    ("Adagrad", RICH, "return p - step_size * g", "return p + step_size * g"),
    ("Rprop", DEFAULTS, "return p - sign(g)", "return p + sign(g)"),
    ("Adam", RICH, "g = direction * g", "g = g"),
    ("ASGD", RICH, "where(mu == 1, p, ax + mu * (p - ax))", "where(mu == 1, p, ax - mu * (p - ax))"),
    # a missing or misplaced bias correction
    ("Adam", DEFAULTS, "lr * (root / (1 - beta1**step))", "lr * root"),
    ("Adam", DEFAULTS, "root = sqrt(1 - beta2**step)", "root = 1.0"),
    ("Adamax", DEFAULTS, "lr / (1 - beta1**step)", "lr"),
    ("NAdam", DEFAULTS, "lr * ((1 - mu) / (1 - mu_product) * root)", "lr * ((1 - mu) * root)"),
    ("RAdam", DEFAULTS, "plain = lr / (1 - beta1**step)", "plain = lr"),
    # an off-by-one in the step count
    ("Adam", DEFAULTS, "root / (1 - beta1**step)", "root / (1 - beta1**(step + 1))"),
    ("Adagrad", RICH, "(step - 1) * lr_decay", "step * lr_decay"),
    ("NAdam", DEFAULTS, "0.96 ** ((step + 1) * momentum_decay)", "0.96 ** (step * momentum_decay)"),
    # a dropped option
    ("SGD", RICH, "g + momentum * momentum_buffer, momentum_buffer)", "momentum_buffer, momentum_buffer)"),
    ("SGD", OptionSet({"momentum": 0.9, "dampening": 0.3}), "1 - dampening)", "1.0)"),
    ("SGD", OptionSet({"momentum": 0.9, "dampening": 0.3}), "where(first != 0, 1.0, 1 - dampening)", "1 - dampening"),
    ("Adam", RICH, "g = where(l2 != 0, g + l2 * p, g)", "g = g"),
    ("Adam", RICH, "v = max_exp_avg_sq", "v = exp_avg_sq"),
    ("AdamW", RICH, "where(decoupled_weight_decay, 1 - lr * weight_decay, 1.0)", "1.0"),
    ("AdamW", RICH, "where(decoupled_weight_decay, 0.0, weight_decay)", "weight_decay"),
    ("RMSprop", RICH, "maximum(square_avg - grad_avg * grad_avg, zero)", "square_avg"),
    ("RMSprop", RICH, "momentum * momentum_buffer + update", "update"),
    (
        "Rprop",
        OptionSet({"step_sizes": (0.005, 0.02)}),
        "minimum(maximum(step_size, step_size_min), step_size_max)",
        "step_size",
    ),
    ("ASGD", RICH, "** alpha", "** 0.75"),
    ("ASGD", RICH, "step - t0", "step - 1e6"),
    # eps in the wrong place
    ("Adam", RICH, "(sqrt(v) + eps)", "sqrt(v + eps)"),
    ("Adam", RICH, "eps * root", "eps"),
    ("Adamax", RICH, "absolute(g) + eps)", "absolute(g)) + eps"),
    ("Adagrad", RICH, "(sqrt(sum) + eps)", "sqrt(sum + eps)"),
    ("Adadelta", RICH, "sqrt(square_avg + eps)", "(sqrt(square_avg) + eps)"),
    ("RMSprop", RICH, "(sqrt(variance) + eps)", "sqrt(variance + eps)"),
    ("RAdam", RICH, "(sqrt(exp_avg_sq) + eps)", "sqrt(exp_avg_sq + eps)"),
    # a comparison or a constant
    ("RAdam", RICH, "rho > 5", "rho > 4"),
    ("Rprop", DEFAULTS, "g = where(agreement < zero, zero, g)", "g = g"),
    ("Adadelta", DEFAULTS, "take * delta * delta", "take * delta"),
    ("NAdam", DEFAULTS, "stored(mu_product * stored(mu))", "mu_product * mu"),
    # torch's own faults
    ("Adagrad", OptionSet({"initial_accumulator_value": 0.5}), 'Slot(init="initial_accumulator_value")', "Slot()"),
    ("RMSprop", CONSTANT, "maximum(square_avg - grad_avg * grad_avg, zero)", "square_avg - grad_avg * grad_avg"),
]
counter = itertools.count()


def mutant(cls, right, wrong, folder):
    """The class from a copy of its module in which one piece of text is another."""
    source = Path(sys.modules[getattr(optimizers, cls).__module__].__file__)
    text = source.read_text(encoding="utf-8")
    assert right in text, f"{source.name} no longer says {right!r}: bring the mutant up to date"
    copy = folder / f"mutant_{source.name}"
    copy.write_text(text.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"optimizers.mutant_{next(counter)}", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, cls)


def judge(cls, options, executor, changed):
    if options in (RICH, DEFAULTS):
        options = option_sets(cls, everything=False)[options == RICH]
    mode = {"foreach": False} if executor == "eager" else {}
    builds = {
        "loop": contenders(cls, "cpu")["loop"],
        executor: lambda groups, chosen: changed(groups, **mode, **chosen),
    }
    steps = 100 if options is CONSTANT else STEPS  # the variance needs that long to vanish
    _, row = verify(cls, options, "float64", steps, 0, builds)
    return row


def name(value):
    return value if isinstance(value, str) else value.label


@pytest.mark.parametrize(("cls", "options", "right", "wrong"), MUTANTS, ids=name)
def test_mutant_is_caught(cls, options, right, wrong, tmp_path):
    assert judge(cls, options, "eager", mutant(cls, right, wrong, tmp_path))["status"] == Status.WRONG


@pytest.mark.skipif(not installed_kernel("cpu"), reason="Numba is not installed")
@pytest.mark.parametrize(
    ("cls", "options", "right", "wrong"),
    [MUTANTS[0], MUTANTS[5], next(m for m in MUTANTS if m[2] == "(sqrt(sum) + eps)")],
    ids=name,
)
def test_mutant_is_caught_in_the_kernel(cls, options, right, wrong, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "cache_folder", lambda: tmp_path)  # no wrong kernels in the user's cache
    assert judge(cls, options, "cpu", mutant(cls, right, wrong, tmp_path))["status"] == Status.WRONG


@pytest.mark.parametrize("cls", sorted({entry[0] for entry in MUTANTS}))
def test_an_unchanged_copy_is_right(cls, tmp_path):
    """The mutants are red for their mistake, not for being copies."""
    copy = mutant(cls, "import annotations", "import annotations", tmp_path)
    for options in (DEFAULTS, RICH):
        row = judge(cls, options, "eager", copy)
        assert row["status"] == Status.OK, row["reason"]
