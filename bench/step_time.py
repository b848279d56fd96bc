"""What a step costs: for each parameter set and optimizer, all contenders timed against each other in one process."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from bench import contenders, environment, stream, subjects, tables, timed
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.contenders import TRAITS, Takes
from bench.errors import first_line
from bench.noise import NoiseMonitor
from bench.pinning import pinned
from bench.statistics import NOTHING, Interval
from bench.subjects import PARAMETER_SETS, Subject, unsuitable
from bench.timing import Arm, CpuStopwatch, CudaStopwatch, Timing, measure

# Compiling takes about half a minute for 6 tensors and minutes for hundreds, so not every set pays for it.
COMPILED_SETS = ("mlp", "resnet18", "one-big")
NOT_COMPILED = f"compiling a step over many tensors takes minutes; compiled is timed on {', '.join(COMPILED_SETS)}"

# Large sets get twice the time, because a round over 33 M elements can take a second.
SECONDS_FACTOR = {"one-big": 2.0, "gpt2": 2.0}
# Seconds for first steps and warm-up, where they are more than one: torch orthogonalises one small matrix at a time.
SETTING_UP = {"one-big": 4.0, "gpt2": 4.0, "matrices-400x32": 50.0, "matrices-200x64": 4.0, "matrices-100x256": 8.0}
# Each contender steps this many copies of a small set in turn: where one copy lies in memory is a matter of luck.
COPIES = {"mlp": 4, "many-small": 4, "many-medium": 4}
# From its sixth step on, RAdam with the default betas takes the branch that it stays in. L-BFGS, with 4 iterations a
# step, needs 26 steps for its 100 pairs.
WARM_UP_CALLS = {"RAdam": 6, "LBFGS": 26}
ONE_QUESTION = {"many-groups": ("Adam",)}  # what a budget times there; others when asked for


def cells(budget: Budget, device: str, optimizers: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each parameter set and each optimizer that can step it; `problems` may name sets outside the budget.

    Whoever names a set gets a cell that says why an optimizer cannot step it.
    """
    if problems is not None:
        chosen = [name for name in PARAMETER_SETS if name in problems]
        return [_cell(budget, device, optimizer, name, seed) for name in chosen for optimizer in optimizers]
    return [
        _cell(budget, device, optimizer, name, seed)
        for name in budget.parameter_sets
        for optimizer in optimizers
        if not unsuitable(optimizer, name) and optimizer in ONE_QUESTION.get(name, (optimizer,))
    ]


def _cell(budget: Budget, device: str, optimizer: str, parameter_set: str, seed: int) -> Cell:
    seconds = budget.cell_seconds * SECONDS_FACTOR.get(parameter_set, 1.0)
    rivals = [contenders.YOURS] if TRAITS[optimizer].own else list(budget.contenders)
    compiling = 40.0 if "compiled" in rivals and parameter_set in COMPILED_SETS else 0.0
    setting_up = SETTING_UP.get(parameter_set, 1.0)
    return Cell(
        kind="step_time",
        device=device,
        optimizer=optimizer,
        settings={
            "name": parameter_set,
            "parameter_set": parameter_set,
            "dtype": "float32",
            "options": dict(TRAITS[optimizer].timed_with),
            "contenders": rivals,
            "threads": torch.get_num_threads(),
            "seconds": seconds,
            "seed": seed,
            "budget": budget.name,
        },
        expected_seconds=setting_up + seconds + compiling,
    )


COLUMNS = tuple(column for column in tables.COLUMNS["step_time"] if column != "cell")  # the runner adds the cell


class NotTimed(Exception):
    """Why a contender that could be built must not be timed."""


@dataclass
class Entrant:
    """A contender that is ready to be timed."""

    arm: Arm
    first_step_seconds: float  # with the allocation of its state, and compilation where there is any
    peak_memory_mib: float | None  # parameters, state and what a step allocates; CUDA only


class Size(NamedTuple):
    """Of what is stepped: how many tensors and elements, and the bytes that a step has to move (None: no claim)."""

    tensors: int
    elements: int
    moved: int | None


def run(cell: Cell) -> Outcome:
    """Time one cell: a row for each contender, those that cannot run included."""
    settings = cell.settings
    reason = unsuitable(cell.optimizer, settings["parameter_set"])
    if reason:
        return Outcome(status=Status.SKIPPED, reason=reason)
    with threads(settings["threads"]):
        makers = _makers(cell)
        params = makers[0]().params
        size = Size(len(params), sum(map(torch.numel, params)), stream.bytes_per_step(cell.optimizer, params))
        shortage = memory_shortage(cell, size.elements)
        if shortage:
            return Outcome(status=Status.SKIPPED, reason=shortage)
        entrants: dict[str, Entrant] = {}
        absent: dict[str, tuple[Status, str]] = {}
        for contender in settings["contenders"]:
            reason = contenders.unavailable(contender, cell.optimizer, cell.device)
            if not reason and contender == "compiled" and settings["parameter_set"] not in COMPILED_SETS:
                reason = NOT_COMPILED
            if reason:
                absent[contender] = (Status.SKIPPED, reason)
                continue
            try:
                entrants[contender] = _enter(contender, cell, makers)
            except Exception as error:  # whatever a contender raises is what is said of it
                absent[contender] = failure(error)
        if not entrants:
            return Outcome(_rows(cell, size, entrants, absent, None))
        arms = [entrant.arm for entrant in entrants.values()]
        reference = stream.arm(cell.optimizer, [make()[:2] for make in makers])
        if reference is not None:
            arms.append(reference)
        stopwatch = CudaStopwatch() if cell.device == "cuda" else CpuStopwatch()
        with pinned(settings["threads"]):
            timing = measure(
                arms,
                stopwatch,
                seconds=settings["seconds"],
                seed=settings["seed"],
                reference="ours" if "ours" in entrants else None,
                noise=NoiseMonitor(),
                warm_up_calls=WARM_UP_CALLS.get(cell.optimizer, 1),
            )
    return Outcome(_rows(cell, size, entrants, absent, timing))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch, and whoever follows its count, this many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _makers(cell: Cell) -> list[Callable[[], Subject]]:
    """For each copy of the set a function that makes it once more, for each contender."""
    name, dtype, seed = (cell.settings[key] for key in ("parameter_set", "dtype", "seed"))
    return [
        subjects.maker(cell.optimizer, name, cell.device, getattr(torch, dtype), seed + copy)
        for copy in range(copies(cell))
    ]


def copies(cell: Cell) -> int:
    """How many copies of its set a contender steps in turn. The steps of Muon and L-BFGS are long enough for one."""
    elementwise = TRAITS[cell.optimizer].takes is Takes.TENSORS
    return COPIES.get(cell.settings["parameter_set"], 1) if elementwise else 1


def _built(contender: str, cell: Cell, subject: Subject) -> tuple[torch.optim.Optimizer, Callable[[], object]]:
    """The optimizer of a contender, and its step."""
    over = subjects.groups(cell.settings["parameter_set"], subject.params)
    optimizer = contenders.build(contender, cell.optimizer, over, **cell.settings["options"])
    return optimizer, partial(optimizer.step, subject.closure) if subject.closure else optimizer.step


def _enter(contender: str, cell: Cell, makers: list[Callable[[], Subject]]) -> Entrant:
    """Build a contender and take its first step, which allocates its state and compiles what is to be compiled.

    Raises `NotTimed` if ours would be stepped by the eager fallback: that is not what the row would claim.
    """
    memory = _allocated(cell.device)
    subject = makers[0]()
    optimizer, step = _built(contender, cell, subject)
    start = time.perf_counter()
    step()
    _synchronize(cell.device)
    first_step_seconds = time.perf_counter() - start
    kernels = contender in ("ours", contenders.YOURS) and cell.device in TRAITS[cell.optimizer].kernels
    reason = contenders.fallback(optimizer) if kernels else ""
    if reason:
        raise NotTimed(reason)
    peak = None
    if cell.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        _synchronize(cell.device)
        peak = (torch.cuda.max_memory_allocated() - memory) / 2**20
    twins = []
    for make in makers[1:] if contender != "compiled" else []:  # each copy would be compiled anew
        twins.append(_built(contender, cell, make())[1])
        twins[-1]()
    return Entrant(Arm(contender, step, subject.before, tuple(twins)), first_step_seconds, peak)


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def failure(error: Exception) -> tuple[Status, str]:
    """The status and the one-line reason of a contender that could not take its first step, or must not be timed."""
    if isinstance(error, NotTimed):
        return Status.SKIPPED, str(error)
    status = Status.OOM if isinstance(error, MemoryError | torch.OutOfMemoryError) else Status.ERROR
    return status, f"{type(error).__name__}: {first_line(error)}"


def memory_shortage(cell: Cell, elements: int) -> str:
    """Why this cell does not fit into memory; empty if it does, or nobody knows."""
    per_contender = stream.tensors_kept(cell.optimizer)  # the parameter and its state
    temporaries = 4  # what foreach allocates in a step, at most, and the gradient
    tensors = copies(cell) * (len(cell.settings["contenders"]) + 1) * per_contender + temporaries
    needed = tensors * elements * getattr(torch, cell.settings["dtype"]).itemsize
    available = free_memory(cell.device)
    if available is None or needed < available:
        return ""
    return (
        f"needs about {needed / 2**30:.1f} GiB of memory for all contenders at once, "
        f"and {available / 2**30:.1f} GiB are free"
    )


def free_memory(device: str) -> int | None:
    """Bytes that can still be allocated, None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _rows(
    cell: Cell,
    size: Size,
    entrants: dict[str, Entrant],
    absent: dict[str, tuple[Status, str]],
    timing: Timing | None,
) -> list[dict[str, Any]]:
    """One row for each contender of the cell, in the order of the settings."""
    against = timed.ratios(timing) if timing else {}
    best = min(
        (name for name in contenders.TORCH_MODES if name in entrants and timing and len(timing.times)),
        key=lambda name: float(np.median(timing.of(name))) if timing else math.inf,
        default=None,
    )
    if best in against:
        against["ours"] = against[best]  # ours is compared with the best that torch has
    rows = []
    for contender in cell.settings["contenders"]:
        row = _shared_fields(cell, size) | {"contender": contender, "best_of_torch": contender == best}
        if contender in entrants and timing is not None:
            row |= _measured(cell, size, entrants[contender], timing, against.get(contender, NOTHING))
        else:
            status, reason = absent[contender]
            row |= {"status": status.value, "reason": reason}
        rows.append({column: row.get(column) for column in COLUMNS})
    return rows


def _shared_fields(cell: Cell, size: Size) -> dict[str, Any]:
    settings, named = cell.settings, shlex.quote(TRAITS[cell.optimizer].place or cell.optimizer)
    return {
        "optimizer": cell.optimizer,
        "parameter_set": settings["parameter_set"],
        "device": cell.device,
        "device_name": torch.cuda.get_device_name() if cell.device == "cuda" else environment.cpu_model(),
        "dtype": settings["dtype"],
        "threads": settings["threads"],
        "verdict": "",
        "tensors": size.tensors,
        "elements": size.elements,
        "command": f"python -m bench time --budget {settings['budget']} --device {cell.device} "
        f"--optimizer {named} --problem {settings['parameter_set']} --seed {settings['seed']}",
    }


def _measured(cell: Cell, size: Size, entrant: Entrant, timing: Timing, ratio: Interval) -> dict[str, Any]:
    name = entrant.arm.name
    row = timed.columns(timing, name, ratio)
    if not len(timing.times):
        return row
    row |= {
        "bytes_per_step": size.moved,
        "gb_per_s": size.moved / row["median_us"] / 1e3 if size.moved else None,
        "first_step_s": entrant.first_step_seconds,
        "peak_memory_mib": entrant.peak_memory_mib,
    }
    if stream.NAME in timing.names and size.moved:
        streamed = stream.bytes_streamed(cell.optimizer, size.elements, getattr(torch, cell.settings["dtype"]).itemsize)
        row["stream_gb_per_s"] = streamed / float(np.median(timing.of(stream.NAME)))
        faster = math.exp(float(np.median(timing.log_ratios(stream.NAME, name))))
        row["share_of_stream"] = faster * size.moved / streamed
    return row
