"""What a loss costs: forward, backward, and both through autograd, all contenders timed against each other.

The forward pass is that of training: a gradient is going to be asked for. The backward pass alone has its forward pass
made anew, off the clock, before each call. The loss is the mean, and its upstream gradient 1.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import contenders, environment, losses, tables, timed
from bench.budgets import LOSSES as SHORT_LIST
from bench.budgets import Budget
from bench.cell import Cell, Outcome, Status
from bench.loss_memory import peak_bytes
from bench.loss_parity import ran_on
from bench.losses import LOSSES, Function, Loss, least_bytes
from bench.noise import NoiseMonitor
from bench.pinning import pinned
from bench.statistics import NOTHING
from bench.step_time import failure, free_memory, threads
from bench.timing import Arm, CpuStopwatch, CudaStopwatch, Timing, garbage_collection_off, measure

KIND = "loss_time"
PHASES = ("forward", "backward", "both")
LIGER = "liger_kernel.transformers.functional"
STREAM = "stream"

# Compiling takes 5 to 20 seconds a loss and size, so not every loss pays for it.
NOT_COMPILED = f"compiling every loss at every size takes long; compiled is timed on {', '.join(SHORT_LIST)}"
SETTING_UP = {"1Mi": 0.5, "4Mi": 2.0, "512x1000": 0.5, "1024x32000": 12.0}  # seconds: data, memory, first calls
SECONDS_FACTOR = {"4Mi": 2.0, "1024x32000": 4.0}  # a round over them all can take half a second
LEAST_SETTING_UP, COMPILING = 0.3, 15.0
COLUMNS = tuple(column for column in tables.COLUMNS[KIND] if column != "cell")


def cells(budget: Budget, device: str, names: list[str], problems: list[str] | None, seed: int) -> list[Cell]:
    """One cell for each loss and size that it takes; `problems` may name sizes outside the budget."""
    sizes = budget.loss_sizes if problems is None else [size for size in losses.SIZES if size in problems]
    return [_cell(budget, device, name, size, seed) for name in names for size in sizes if size in LOSSES[name].sizes]


def _cell(budget: Budget, device: str, name: str, size: str, seed: int) -> Cell:
    seconds = budget.loss_seconds * SECONDS_FACTOR.get(size, 1.0)
    compiling = COMPILING if "compiled" in budget.loss_contenders and name in SHORT_LIST else 0.0
    return Cell(
        kind=KIND,
        device=device,
        optimizer=name,
        settings={
            "name": size,
            "size": size,
            "dtype": "float32",
            # Liger's kernels exist on CUDA only
            "contenders": [one for one in budget.loss_contenders if one != "liger" or device == "cuda"],
            "threads": torch.get_num_threads(),
            "seconds": seconds,
            "seed": seed,
            "budget": budget.name,
        },
        expected_seconds=len(PHASES) * seconds + SETTING_UP.get(size, LEAST_SETTING_UP) + compiling,
    )


@dataclass
class Entrant:
    """A contender that is ready to be timed, with tensors of its own."""

    name: str
    loss: Callable[[], Tensor]
    input: Tensor
    executor: str
    first_call_seconds: float
    peak_bytes: int

    def arm(self, phase: str) -> Arm:
        """What is timed of it."""
        if phase == "forward":
            return Arm(self.name, self.loss)
        if phase == "both":
            return Arm(self.name, lambda: torch.autograd.grad(self.loss(), self.input))
        kept: list[Tensor] = []
        return Arm(
            self.name,
            call=lambda: torch.autograd.grad(kept.pop(), self.input),
            before=lambda: kept.append(self.loss()),
        )


def run(cell: Cell) -> Outcome:
    """Time one cell: a row for each contender and phase, those that cannot run included."""
    settings, loss = cell.settings, LOSSES[cell.optimizer]
    shape = loss.sizes[settings["size"]]
    shortage = memory_shortage(cell, math.prod(shape))
    if shortage:
        return Outcome(status=Status.SKIPPED, reason=shortage)
    with threads(settings["threads"]):
        drawn = losses.draw(loss, shape, settings["dtype"], settings["seed"])
        entrants: dict[str, Entrant] = {}
        absent: dict[str, tuple[Status, str]] = {}
        for contender in settings["contenders"]:
            reason = unavailable(contender, loss, cell.device)
            if reason:
                absent[contender] = (Status.SKIPPED, reason)
                continue
            try:
                entrants[contender] = enter(contender, loss, drawn, settings["dtype"], cell.device)
            except Exception as error:  # whatever a contender raises is what is said of it
                absent[contender] = failure(error)
        timings: dict[str, Timing] = {}
        if entrants:
            with pinned(settings["threads"]), garbage_collection_off():  # once for all phases: it takes 0.2 s
                timings = {phase: _measure(cell, entrants, phase) for phase in PHASES}
    return Outcome(_rows(cell, math.prod(shape), entrants, absent, timings))


def unavailable(contender: str, loss: Loss, device: str) -> str:
    """Why a contender cannot compute this loss; empty if it can."""
    if contender == "compiled":
        return contenders.no_compiler(device) or ("" if loss.name in SHORT_LIST else NOT_COMPILED)
    if contender == "liger":
        if not loss.liger:
            return f"Liger has no {loss.name}"
        return "" if importlib.util.find_spec("liger_kernel") else "liger_kernel is not installed"
    return ""


def function_of(contender: str, loss: Loss) -> Function:
    """The loss as this contender computes it."""
    if contender == "ours":
        return loss.function
    if contender == "liger":
        return getattr(importlib.import_module(LIGER), loss.liger)
    if contender == "compiled":
        torch.compiler.reset()  # after eight versions of one code object torch would go on uncompiled, without a word
        return torch.compile(loss.reference, dynamic=False)
    return loss.reference


def enter(contender: str, loss: Loss, drawn: tuple[losses.Array, losses.Array], dtype: str, device: str) -> Entrant:
    """Make a contender's tensors and call it once forward and backward, which compiles what is to be compiled.

    Each has tensors of its own: Liger's cross-entropy writes the gradient over the logits.
    """
    input, target = losses.tensors(loss, drawn, dtype, device)
    call = functools.partial(function_of(contender, loss), input, target, reduction=loss.average)
    start = time.perf_counter()
    value = call()
    executor = ran_on(value) if contender == "ours" else ""
    torch.autograd.grad(value, input)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    del value
    peak = peak_bytes(lambda: torch.autograd.grad(call(), input), device)
    return Entrant(contender, call, input, executor, seconds, peak)


def stream(entrant: Entrant, loss: Loss) -> Arm:
    """The least traffic of a loss with its gradient, and one operation an element: what `least_bytes` counts."""
    read, written = entrant.input.detach(), torch.empty_like(entrant.input, requires_grad=False)
    if loss.of_classes:
        return Arm(STREAM, lambda: torch.mul(read, 2.0, out=written))
    other = torch.ones_like(read)
    return Arm(STREAM, lambda: torch.add(read, other, out=written))


def memory_shortage(cell: Cell, elements: int) -> str:
    """Why this cell does not fit into memory; empty if it does, or nobody knows."""
    # prediction, target and a copy of each to draw them; a formula keeps up to ten temporaries for its gradient
    tensors = 2 * len(cell.settings["contenders"]) + 8 + 10
    needed = tensors * elements * getattr(torch, cell.settings["dtype"]).itemsize
    available = free_memory(cell.device)
    if available is None or needed < available:
        return ""
    return f"needs about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are free"


def _measure(cell: Cell, entrants: dict[str, Entrant], phase: str) -> Timing:
    arms = [entrant.arm(phase) for entrant in entrants.values()]
    if phase == "both":
        arms.append(stream(next(iter(entrants.values())), LOSSES[cell.optimizer]))
    return measure(
        arms,
        CudaStopwatch() if cell.device == "cuda" else CpuStopwatch(),
        seconds=cell.settings["seconds"],
        seed=cell.settings["seed"],
        reference="ours" if "ours" in entrants else None,
        noise=NoiseMonitor(),
    )


def _rows(
    cell: Cell,
    elements: int,
    entrants: dict[str, Entrant],
    absent: dict[str, tuple[Status, str]],
    timings: dict[str, Timing],
) -> list[dict[str, Any]]:
    """One row for each contender and phase."""
    rows = []
    for phase in PHASES:
        against = timed.ratios(timings[phase]) if timings else {}
        if "torch" in against:
            against["ours"] = against["torch"]  # ours is compared with torch's eager mode
        for contender in cell.settings["contenders"]:
            row = _shared_fields(cell, elements) | {"contender": contender, "phase": phase}
            if contender in entrants:
                row |= timed.columns(timings[phase], contender, against.get(contender, NOTHING))
                row |= _whole(cell, elements, entrants[contender], timings[phase]) if phase == "both" else {}
                row["executor"] = entrants[contender].executor
            else:
                status, reason = absent[contender]
                row |= {"status": status.value, "reason": reason}
            rows.append({column: row.get(column) for column in COLUMNS})
    return rows


def _shared_fields(cell: Cell, elements: int) -> dict[str, Any]:
    settings = cell.settings
    return {
        "loss": cell.optimizer,
        "size": settings["size"],
        "device": cell.device,
        "device_name": torch.cuda.get_device_name() if cell.device == "cuda" else environment.cpu_model(),
        "dtype": settings["dtype"],
        "threads": settings["threads"],
        "verdict": "",
        "elements": elements,
        "against": LOSSES[cell.optimizer].against,
        "command": f"python -m bench losses --budget {settings['budget']} --device {cell.device} "
        f"--loss {cell.optimizer} --problem {settings['size']} --seed {settings['seed']}",
    }


def _whole(cell: Cell, elements: int, entrant: Entrant, timing: Timing) -> dict[str, Any]:
    """What is said of forward and backward together only: memory and traffic."""
    moved = least_bytes(LOSSES[cell.optimizer], elements, getattr(torch, cell.settings["dtype"]).itemsize)
    row: dict[str, Any] = {"peak_bytes": entrant.peak_bytes, "first_call_s": entrant.first_call_seconds}
    if len(timing.times):
        row["least_bytes"] = moved
        row["gb_per_s"] = moved / float(np.median(timing.of(entrant.name)))
        row["stream_gb_per_s"] = moved / float(np.median(timing.of(STREAM)))
        row["share_of_stream"] = math.exp(float(np.median(timing.log_ratios(STREAM, entrant.name))))
    return row
