"""Makes sweeps through their Triton kernels, interpreted on the CPU, and the CPU's; prints the differences as JSON.

A program of its own, because Triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import warnings
from functools import partial

import numpy as np

import optimizers
from bench import descents, functions_race
from bench.budgets import SMOKE
from bench.problems.function import Function
from bench.problems.functions import FUNCTIONS
from bench.sweeps import cuda, engine

warnings.simplefilter("ignore", RuntimeWarning)  # what overflows is meant to

NAMES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "RMSprop", "Rprop", "ASGD")
PRODUCT = Function(
    name="product",
    title="",
    definition=lambda x, m: m.prod(x) + m.sum(m.vector((1.0, 2.0, 0.5, 3.0, 1.5)) * x[1:] * x[:-1]) + x[0] * x[-1],
    domain=((-1.0, 1.0),) * 6,
    start=(0.5, -0.4, 0.3, 0.6, -0.7, 0.2),
    minimisers=((0.0,) * 6,),
    minimum=0.0,
    basin=0.0,
    source="",
)
RATES = np.array([1e-5, 1e-4, 1e-3])
#: beside the defaults: whatever adds a state, and runs that differ in their states
OPTIONS = {
    "SGD momentum": ("SGD", {"momentum": np.array([0.0, 0.9, 0.5]), "weight_decay": 0.1}),
    "SGD nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "Adam amsgrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1, "maximize": True, "beta1": 0.0}),
    "AdamW betas": ("AdamW", {"beta1": np.array([0.0, 0.5, 0.9]), "beta2": 0.9}),
    "RMSprop centered": ("RMSprop", {"momentum": 0.9, "centered": True}),
    "NAdam decay": ("NAdam", {"momentum_decay": 0.1, "decoupled_weight_decay": True}),
    "Adagrad start": ("Adagrad", {"initial_accumulator_value": 0.5, "lr_decay": 0.1}),
    "ASGD average": ("ASGD", {"lambd": 0.1, "t0": 2.0}),
}


def near(function: Function, runs: int) -> np.ndarray:
    return np.array(function.start) + np.random.default_rng(1).normal(0, 0.05, (runs, function.dimension))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest, in units of 1 + the size of the second; infinite where not the same numbers are finite."""
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    there = np.isfinite(b)
    return float((np.abs(a - b) / (1 + np.abs(b)))[there].max(initial=0.0))


def both(function: Function, optimizer: str, options: dict, starts: np.ndarray, steps: int, **more) -> dict:
    """How far the two sweeps are apart in everything they say, and how far the runs went."""
    cls = getattr(optimizers, optimizer)
    ours = cuda.sweep(function, cls, options, starts, steps, device="cpu", **more)
    theirs = engine.sweep(function, cls, options, starts, steps, **more)
    names = ("values", "points", "best", "bad_values", "recorded_values", "recorded_points")
    found = {name: difference(getattr(ours, name), getattr(theirs, name)) for name in names}
    return {
        **found,
        "bad_steps": [ours.bad_step.tolist(), theirs.bad_step.tolist()],
        "moved": float(np.nanmax(np.abs(ours.points - starts))),
        "kept": len(ours.recorded_values),
    }


def cases() -> dict:
    found = {}
    for name in ("booth", "ackley", "rosenbrock-10d"):
        function = FUNCTIONS[name]
        for optimizer in NAMES:
            found[f"{optimizer} {name}"] = both(
                function, optimizer, {"lr": RATES}, near(function, 3), 5, every=2, bounds=(-1e6, 1e6)
            )
    for case, (optimizer, options) in OPTIONS.items():
        function = FUNCTIONS["himmelblau"]
        found[case] = both(function, optimizer, {"lr": RATES, **options}, near(function, 3), 6, every=6)
    for function in (PRODUCT, FUNCTIONS["zakharov"], FUNCTIONS["ellipsoid"]):
        found[function.name] = both(function, "Adam", {"lr": RATES}, near(function, 3), 6, every=1)
    return found


def race() -> dict:
    """A cell's rows, once by each sweep."""
    descents.sweeper = lambda device: partial(cuda.sweep, device="cpu")
    rows = []
    for device in ("cpu", "cuda"):
        (cell,) = functions_race.cells(SMOKE, device, ["Adam"], ["rosenbrock"], 0)
        cell.settings.update(steps=20, seeds=2, extra_rates=0)
        rows.append([{**row, "device": ""} for row in functions_race.run(cell).rows])
    return {"rows": rows}


def float32() -> dict:
    """A sweep in float32, and how far it is from the same in float64."""
    ackley = FUNCTIONS["ackley"]
    given = (ackley, optimizers.Adam, {"lr": RATES}, near(ackley, 3), 5)
    rounded, exact = (cuda.sweep(*given, dtype=dtype, device="cpu").points for dtype in ("float32", "float64"))
    return both(ackley, "Adam", {"lr": RATES}, near(ackley, 3), 5, dtype="float32") | {
        "lost": difference(rounded, exact)
    }


def hits() -> list:
    """The steps at which targets are met, of 300 runs, by both sweeps."""
    booth, rng = FUNCTIONS["booth"], np.random.default_rng(3)
    targets = -np.sort(-np.concatenate([rng.uniform(0, 120, (300, 4)), np.full((300, 1), -1.0)], 1))
    targets[::5, 3] = targets[::5, 2]  # two of the same
    given = (booth, optimizers.SGD, {"lr": np.logspace(-3, -1.3, 300)}, near(booth, 300), 9)
    ours, theirs = cuda.sweep(*given, targets=targets, device="cpu"), engine.sweep(*given, targets=targets)
    return [ours.hits.tolist(), theirs.hits.tolist()]


def main() -> None:
    himmelblau, booth = FUNCTIONS["himmelblau"], FUNCTIONS["booth"]
    wild = {"lr": np.array([1e-4, 1e-2, 0.2, 1.0])}
    found = {
        "cases": cases(),
        "float32": float32(),
        "diverging": both(himmelblau, "SGD", wild, near(himmelblau, 4) + 0.5, 20, every=1, bounds=(-1.0, 1e3)),
        "below": both(FUNCTIONS["mccormick"], "SGD", {"lr": 1.0}, np.array([[-9.0, -9.0]]), 5, bounds=(-2.0, 1e9)),
        "bad from the start": both(booth, "SGD", {}, np.array([booth.start] * 2), 3, bounds=(0.0, np.array([50, 200]))),
        "many": both(booth, "Adam", {"lr": np.logspace(-4, -1, 300)}, near(booth, 300), 5, every=2),
        "no steps": both(booth, "Adam", {}, near(booth, 2), 0, every=1, bounds=(0.0, 1e9)),
        "race": race(),
        "hits": hits(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
