"""What a sweep costs: nanoseconds for one step of one run, all contenders timed against each other in one process.

Everybody makes the same steps from the same starts; what they come to is compared before anything is timed, and who
ends elsewhere is wrong, not fast. All cores are everybody's, as each splits work by itself.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench import environment, tables, timed
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.noise import NoiseMonitor
from bench.pinning import pinned
from bench.statistics import NOTHING
from bench.step_time import failure, threads
from bench.sweep_contenders import CONTENDERS, RATES, SUBJECTS, Run, unavailable
from bench.timing import Arm, CpuStopwatch, Timing, measure

KIND = "sweep_time"
#: a GPU is not busy with less
RUNS = {"cpu": 8192, "cuda": 1 << 20}
STEPS = 250
#: How far apart, in units of 1 + the size of a coordinate, nine in ten runs may end that make the same steps in another
#: order of additions. The tenth is left out because Adam makes steps of full length along gradients that are nothing
#: but rounding, as at Ackley's pointed minimum; in float32 more gradients are that.
APART = {"float64": 1e-6, "float32": 1e-2}
COMPARED = 0.9
SETTING_UP = {"ours": 1.0, "batched": 1.0, "alone": 0.5, "optax": 2.0}  # seconds: compiling, first calls
#: which numbers of a time are kept, in nanoseconds: a run's step is short
QUARTILES = ("median", "q1", "q3", "min")
COLUMNS = tuple(column for column in tables.COLUMNS[KIND] if column != "cell")


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each function, dtype and optimizer of the budget; `problems` may name other functions."""
    names = budget.sweep_functions if problems is None else [name for name in SUBJECTS if name in problems]
    return [
        _cell(budget, device, optimizer, name, dtype, seed)
        for optimizer in optimizers
        if optimizer in budget.sweep_optimizers
        for dtype in budget.sweep_dtypes
        for name in names or SUBJECTS
        if names or problems is None
    ]


def _cell(budget: Budget, device: str, optimizer: str, name: str, dtype: str, seed: int) -> Cell:
    return Cell(
        kind=KIND,
        device=device,
        optimizer=optimizer,
        settings={
            "name": name,
            "function": name,
            "dtype": dtype,
            "contenders": list(budget.sweep_contenders),
            "runs": RUNS[device],
            "steps": STEPS,
            "threads": torch.get_num_threads(),
            "seconds": budget.sweep_seconds,
            "seed": seed,
            "budget": budget.name,
        },
        expected_seconds=budget.sweep_seconds + sum(SETTING_UP[one] for one in budget.sweep_contenders) / 4,
    )


@dataclass
class Entrant:
    """A contender that is ready to be timed."""

    run: Run
    runs: int  # that one call makes
    difference: float  # between its points and ours
    first_call_seconds: float


def run(cell: Cell) -> Outcome:
    """Time one cell: a row for each contender, those that cannot run included."""
    settings = cell.settings
    function = SUBJECTS[settings["name"]]
    rates = np.geomspace(*RATES[cell.optimizer], settings["runs"])
    starts = np.random.default_rng(settings["seed"]).uniform(-2, 2, (settings["runs"], function.dimension))
    entrants: dict[str, Entrant] = {}
    absent: dict[str, tuple[Status, str]] = {}
    with threads(settings["threads"]):
        expected: np.ndarray | None = None
        for contender in settings["contenders"]:
            reason = unavailable(contender, cell.device)
            if reason:
                absent[contender] = (Status.SKIPPED, reason)
                continue
            try:
                begin = time.perf_counter()
                make = CONTENDERS[contender](
                    function, cell.optimizer, starts, settings["steps"], cell.device, settings["dtype"]
                )
                points = make(np.full(settings["runs"], rates[-1]))
                seconds = time.perf_counter() - begin
            except Exception as error:
                absent[contender] = failure(error)
                continue
            expected = points if expected is None else expected
            entrant = Entrant(make, len(points), apart(points, expected[: len(points)]), seconds)
            if not entrant.difference <= APART[settings["dtype"]]:
                absent[contender] = (Status.WRONG, f"its runs end {entrant.difference:.2g} from those of ours")
                continue
            entrants[contender] = entrant
        timing = _measure(cell, entrants, rates) if entrants else None
    return Outcome(_rows(cell, entrants, absent, timing))


def apart(points: np.ndarray, expected: np.ndarray) -> float:
    """What nine in ten runs differ by at most, in units of 1 + the size of a coordinate; nan if any run is nan."""
    return float(np.quantile((np.abs(points - expected) / (1 + np.abs(expected))).max(1), COMPARED))


def _measure(cell: Cell, entrants: dict[str, Entrant], rates: np.ndarray) -> Timing:
    """Times of a run's step."""
    with pinned(cell.settings["threads"]):
        timing = measure(
            [Arm(name, lambda run=entrant.run: run(rates)) for name, entrant in entrants.items()],
            CpuStopwatch(),  # on CUDA too: a call returns with its points on the host
            seconds=cell.settings["seconds"],
            seed=cell.settings["seed"],
            reference="ours" if "ours" in entrants else None,
            noise=NoiseMonitor(),
            warm_up_calls=1,
        )
    return per_step(timing, [entrants[name].runs * cell.settings["steps"] for name in timing.names])


def per_step(timing: Timing, steps: list[int]) -> Timing:
    """A timing of calls that make so many steps, as one of steps."""
    if not len(timing.times):
        return timing
    return dataclasses.replace(timing, times=timing.times / np.array(steps, float)[:, None])


def _rows(
    cell: Cell, entrants: dict[str, Entrant], absent: dict[str, tuple[Status, str]], timing: Timing | None
) -> list[dict[str, Any]]:
    """One row for each contender."""
    against = timed.ratios(timing) if timing else {}
    if "batched" in against:
        against["ours"] = against["batched"]  # ours is compared with torch's batch
    rows = []
    for contender in cell.settings["contenders"]:
        row = _shared_fields(cell) | {"contender": contender}
        if contender in entrants and timing is not None:
            entrant = entrants[contender]
            row |= timed.columns(timing, contender, against.get(contender, NOTHING))
            row |= {f"{name}_ns": 1e3 * row[f"{name}_us"] for name in QUARTILES if f"{name}_us" in row}
            row |= {"difference": entrant.difference, "first_call_s": entrant.first_call_seconds}
        else:
            status, reason = absent[contender]
            row |= {"status": status.value, "reason": reason}
        rows.append({column: row.get(column) for column in COLUMNS})
    return rows


def _shared_fields(cell: Cell) -> dict[str, Any]:
    settings = cell.settings
    return {
        "optimizer": cell.optimizer,
        "function": settings["name"],
        "dimension": SUBJECTS[settings["name"]].dimension,
        "device": cell.device,
        "device_name": torch.cuda.get_device_name() if cell.device == "cuda" else environment.cpu_model(),
        "dtype": settings["dtype"],
        "threads": settings["threads"],
        "runs": settings["runs"],
        "steps": settings["steps"],
        "verdict": "",
        "command": f"python -m bench sweeps --budget {settings['budget']} --device {cell.device} "
        f"--optimizer {cell.optimizer} --problem {settings['name']} --seed {settings['seed']}",
    }
