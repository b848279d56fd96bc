"""``python -m bench map``: the plane of two hyper-parameters of an optimizer on a function, as CSV and as an image."""

from __future__ import annotations

import importlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench import starts
from bench.charts import plane as chart
from bench.charts import style
from bench.contenders import OPTIMIZERS, TRAITS, Takes
from bench.errors import BenchError, Exit, disk_error, unknown
from bench.folder import atomic_write
from bench.problems.functions import FUNCTIONS
from bench.sweeps import engine
from bench.sweeps.plane import Plane, axis, numbers, plane

LARGEST = 8192


def make(
    optimizer: str,
    problem: str,
    x: str,
    y: str,
    size: int,
    steps: int,
    x_range: str | None = None,
    y_range: str | None = None,
) -> Plane:
    """The plane; raises `BenchError` (exit 2) with one sentence for what cannot be made, before anything runs."""
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    if problem not in FUNCTIONS:
        raise unknown("function", problem, FUNCTIONS)
    cls = getattr(importlib.import_module("optimizers"), optimizer)
    if TRAITS[optimizer].takes is not Takes.TENSORS or not engine.elementwise(cls):
        able = [name for name in OPTIMIZERS if _able(name)]
        raise BenchError(
            f"{optimizer} does not step every element by itself, so it has no map; there are: {', '.join(able)}.",
            Exit.USAGE,
        )
    for name in (x, y):
        if name not in numbers(cls):
            raise unknown(f"number among the options of {optimizer}", name, numbers(cls))
    if x == y:
        raise BenchError(f"--x and --y are both {x}; give two different hyper-parameters.", Exit.USAGE)
    if not 2 <= size <= LARGEST:
        raise BenchError(f"--size {size} makes no map: give a number from 2 to {LARGEST}.", Exit.USAGE)
    if steps < 1:
        raise BenchError(f"--steps {steps} makes no map: give 1 or more.", Exit.USAGE)
    function = FUNCTIONS[problem]
    losses, _ = engine.evaluate(function, np.array([function.start]))
    try:
        across, down = (axis(cls, name, size, _limits(text)) for name, text in ((x, x_range), (y, y_range)))
        return plane(function, cls, across, down, steps, float(starts.diverging_gap(function, losses)[0]))
    except ValueError as error:
        raise BenchError(f"there is no such map: {error}.", Exit.USAGE) from None


def _able(name: str) -> bool:
    cls = getattr(importlib.import_module("optimizers"), name)
    return TRAITS[name].takes is Takes.TENSORS and engine.elementwise(cls)


def _limits(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise BenchError(f"{text!r} is no range: write LOW:HIGH, such as 1e-4:1.", Exit.USAGE) from None


def to_csv(made: Plane) -> str:
    """One row for each run: both hyper-parameters, the gap (inf: diverged) and the step at which it diverged."""
    table = pd.DataFrame(
        {
            made.x.name: np.tile(made.x.values, len(made.y.values)),
            made.y.name: np.repeat(made.y.values, len(made.x.values)),
            "gap": made.gaps.ravel(),
            "first_bad_step": np.where(made.bad_step < 0, "", made.bad_step.astype(str)).ravel(),
        }
    )
    return table.to_csv(index=False, lineterminator="\n")


def to_png(made: Plane) -> bytes:
    """The image."""
    figure = Figure()
    FigureCanvasAgg(figure)
    chart.draw(figure, made)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=style.PNG_DPI, metadata={"Software": None})
    return data.getvalue()


def write(made: Plane, problem: str, out: Path) -> list[Path]:
    """Writes both under `out`; their paths."""
    stem = "-".join([made.optimizer, problem, made.x.name, made.y.name])
    paths = [out / f"{stem}.csv", out / f"{stem}.png"]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(out, error) from None
    atomic_write(paths[0], to_csv(made))
    atomic_write(paths[1], to_png(made))
    return paths


def sentence(made: Plane) -> str:
    """What the plane shows, in a line."""
    best = np.unravel_index(np.argmin(made.gaps), made.gaps.shape)
    diverged = int(np.isinf(made.gaps).sum())
    runs = made.gaps.size
    place = ", ".join(f"{a.name} {a.values[i]:.3g}" for a, i in ((made.x, best[1]), (made.y, best[0])))
    return (
        f"{runs:,} runs of {made.steps:,} steps in {made.seconds:.2f} s "
        f"({made.seconds / runs / made.steps * 1e9:.1f} ns a step); {diverged:,} diverged; "
        f"lowest gap {made.gaps.min():.2g} at {place}"
    )
