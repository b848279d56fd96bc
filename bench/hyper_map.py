"""``python -m bench map``: the plane of two hyper-parameters of an optimizer, as CSV and as an image.

On a test function or on a small network.
"""

from __future__ import annotations

import errno
import io
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench import contenders, descents, network_plane, own, plan, sweep
from bench.charts import plane as chart
from bench.charts import style
from bench.contenders import OPTIMIZERS, TRAITS, Takes
from bench.errors import BenchError, Exit, disk_error, first_line, unknown
from bench.folder import atomic_write, check_place
from bench.network_plane import Report
from bench.problems import functions
from bench.problems.function import Function
from bench.problems.networks import NETWORKS, named
from bench.starts import diverging_gap
from bench.sweeps import cuda_source, engine, stepped
from bench.sweeps.plane import Plane, axis, numbers, plane
from optimizers.executors import kernels


@dataclass(frozen=True)
class Usual:
    """Runs along each side and steps of each run, where none are given, and how many runs a side may have."""

    size: int
    steps: int
    largest: int


FUNCTION = Usual(size=256, steps=500, largest=8192)
NETWORK = Usual(size=32, steps=200, largest=512)  # and functions where runs are made one at a time
#: runs of one launch: enough for every thread of a large GPU to have several
TOGETHER_ON_CUDA = 1 << 22
FILES = (".csv", ".png", ".svg", ".pdf", ".jpg")


def make(
    optimizer: str,
    problem: str,
    x: str,
    y: str,
    size: int | None = None,
    steps: int | None = None,
    x_range: str | None = None,
    y_range: str | None = None,
    device: str = "cpu",
    report: Report = lambda done, all: None,
) -> Plane:
    """The plane; raises `BenchError` (exit 2) with one sentence for what cannot be made, before anything runs.

    problem: a test function or a small network. size, steps: None for the usual ones.
    """
    optimizer = own.named(optimizer)
    network = named(problem)
    if network is None and not functions.known(problem):
        raise functions.unknown_name("function or network", problem, [*functions.FUNCTIONS, *NETWORKS])
    function = functions.named(problem) if network is None else None
    cls = contenders.class_of(optimizer)
    has_map, apart = _able if network is None else _trains, TRAITS[optimizer].apart
    if not apart and not has_map(optimizer):
        able = filter(has_map, OPTIMIZERS)
        why = "does not step every element by itself" if network is None else "does not step each parameter by itself"
        raise BenchError(f"{optimizer} {why}, so it has no map; there are: {', '.join(able)}.", Exit.USAGE)
    for name in (x, y):
        if name not in numbers(cls):
            raise unknown(f"number among the options of {optimizer}", name, numbers(cls))
    if x == y:
        raise BenchError(f"--x and --y are both {x}; give two different hyper-parameters.", Exit.USAGE)
    usual = FUNCTION if network is None and not apart else NETWORK
    size, steps = usual.size if size is None else size, usual.steps if steps is None else steps
    if not 2 <= size <= usual.largest:
        raise BenchError(f"--size {size} makes no map: give a number from 2 to {usual.largest}.", Exit.USAGE)
    if not 1 <= steps <= plan.MOST_STEPS:
        raise BenchError(f"--steps {steps} makes no map: give a number from 1 to {plan.MOST_STEPS}.", Exit.USAGE)
    how = _apart(optimizer, device) if apart else _on(device, function)
    try:
        across, down = (axis(cls, name, size, _limits(text)) for name, text in ((x, x_range), (y, y_range)))
        if network is not None:
            with sweep.one_thread():
                together = 1 if apart else network_plane.TOGETHER
                return network_plane.plane(network, cls, across, down, steps, report=report, together=together)
        start = engine.evaluate(function, np.array([function.start]))[0][0]
        with sweep.one_thread() if apart else nullcontext():
            return plane(function, cls, across, down, steps, float(diverging_gap(function, start)), **how)
    except Exception as error:
        if not isinstance(error, ValueError) and not TRAITS[optimizer].own:  # a user's class refuses with any
            raise
        raise BenchError(f"there is no such map: {first_line(error)}.", Exit.USAGE) from None


def _on(device: str, function: Function | None) -> dict[str, Any]:
    """How `plane` makes its runs on a device; refuses one that is not there, or whose kernel lacks the function."""
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda"))
    if device == "cpu":
        return {}
    if function is None:
        raise BenchError("maps of networks are made on the CPU; leave --device out.", Exit.USAGE)
    plan.devices_of(device)
    missing = [found for one in ("cpu", "cuda") if isinstance(found := kernels.executor(one), str)]
    reason = missing[0] if missing else cuda_source.refusal(function)
    if reason:
        raise BenchError(f"{function.name} has no map on CUDA: {reason}; leave --device out or give cpu.", Exit.USAGE)
    return {"sweep": descents.sweeper(device), "together": TOGETHER_ON_CUDA}


def _apart(optimizer: str, device: str) -> dict[str, Any]:
    """How `plane` makes its runs by the class itself, one after the other."""
    if device != "cpu":
        raise BenchError(
            f"maps of {optimizer}, which has no rule to compile, are made on the CPU; leave --device out.",
            Exit.USAGE,
        )
    return {"sweep": stepped.sweep}


def _able(name: str) -> bool:
    return TRAITS[name].takes is Takes.TENSORS and engine.elementwise(contenders.class_of(name))


def _trains(name: str) -> bool:
    return TRAITS[name].takes is Takes.TENSORS


def _limits(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise BenchError(f"{text!r} is no range: write LOW:HIGH, such as 1e-4:1.", Exit.USAGE) from None


def to_csv(made: Plane) -> str:
    """One row for each run: both hyper-parameters, `gap` (inf: diverged) and the step at which it diverged.

    Of a network the gap is the loss itself, where no minimum is known.
    """
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


def places(optimizer: str, problem: str, x: str, y: str, out: Path) -> list[Path]:
    """Where under `out` the CSV file and the image of a plane go.

    Raises `BenchError` if they cannot be written there: exit 2 for a name that is meant as that of a file, which `out`
    is not, else exit 4.
    """
    if out.suffix.lower() in FILES and not out.is_dir():
        raise BenchError(
            f"--out {out} is to be a folder, in which a CSV file and an image get names of their own; give "
            f"{out.parent} or another one.",
            Exit.USAGE,
        )
    check_place(out)
    paths = [out / f"{optimizer}-{problem}-{x}-{y}.{suffix}" for suffix in ("csv", "png")]
    for path in paths:
        if path.is_dir():
            raise disk_error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    return paths


def write(made: Plane, paths: list[Path]) -> None:
    """Writes the CSV file and the image to `paths`, which are those of `places`."""
    folder = paths[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    for path, data in zip(paths, (to_csv(made), to_png(made)), strict=True):
        atomic_write(path, data)


def sentence(made: Plane) -> str:
    """What the plane shows, in a line."""
    best = np.unravel_index(np.argmin(made.gaps), made.gaps.shape)
    diverged = int(np.isinf(made.gaps).sum())
    runs = made.gaps.size
    place = ", ".join(f"{a.name} {a.values[i]:.3g}" for a, i in ((made.x, best[1]), (made.y, best[0])))
    step = made.seconds / runs / made.steps
    each = f"{step * 1e9:.1f} ns" if step < 1e-6 else f"{step * 1e6:.1f} µs"
    return (
        f"{runs:,} runs of {made.steps:,} steps in {made.seconds:.2f} s ({each} a step); {diverged:,} diverged; "
        f"lowest {made.what} {made.gaps.min():.2g} at {place}"
    )
