"""Executes a plan: each cell once, each result kept, whatever happens in between."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bench import environment, folder, journal, progress, report, tables
from bench.cell import Cell, Outcome, Status
from bench.contenders import CONTENDERS
from bench.errors import BenchError, Exit
from bench.journal import Journal, Record
from bench.plan import KINDS, Plan, describe

OF_TORCH = frozenset(CONTENDERS) - {"ours"}  # what these do wrong is torch's fault, and fails no run of ours
AT_FAULT = {Status.WRONG, Status.ERROR}
PROVEN_BY = {"step_time": "verify", "loss_time": "loss_parity"}  # what is timed, and what has to hold before


class Interrupted(BaseException):
    """A signal asked to stop; not an Exception, so that no cell swallows it."""


class Interrupts:
    """Turns the first SIGINT or SIGTERM into `Interrupted` inside a cell, and the second into an end at once.

    Outside a cell (while a line is written, say) the first one is only noted, in `signal`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._in_cell = False

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h")  # the progress bar had hidden the cursor
            os._exit(128 + number)
        self.signal = number
        if self._in_cell:
            raise Interrupted

    @contextlib.contextmanager
    def cell(self) -> Iterator[None]:
        """Only in here a signal raises."""
        self._in_cell = True
        try:
            yield
        finally:
            self._in_cell = False


def execute(plan: Plan, root: Path, fresh: bool = False) -> Exit:
    """Measure what `plan` has and the newest unfinished run of it under `root` lacks; derive tables, charts and page.

    Raises `BenchError` if the folder is locked, unreadable, full or not writable.
    """
    here = environment.collect(plan.devices)
    path = None if fresh else unfinished(root, plan, here)
    if path is None:
        path = begin(root, plan, here)
    folder.check_writable(path)
    with folder.lock(path), contextlib.closing(Journal(path)) as store:
        records = journal.read(path)
        if store.notice:
            print(f"note: {store.notice}")
        if records:
            print(f"going on with {path}: {len(records)} of {len(plan.cells)} cells are done")
        print("\n".join(describe(plan, ids(records), environment.machine_line(here), path)), flush=True)
        with Interrupts() as interrupts:
            measure_all(plan, records, store, here["id"], interrupts)
            before = interrupts.signal
            if before is not None:
                print("interrupted: the finished cells are kept; the same command goes on where this one stopped.")
            derived = derive(path)
            if interrupts.signal != before:
                print("interrupted while the report was made: all cells are finished, and so is the report.")
    print("\n".join(verdict(records)))
    if derived:
        print(f"\nopen {path / 'index.html'}")
    if interrupts.signal is not None:
        return Exit(128 + interrupts.signal)
    return Exit.OK if derived and not any(faults(record) for record in records) else Exit.WRONG


def unfinished(root: Path, plan: Plan, here: dict[str, Any]) -> Path | None:
    """The newest run under `root` if it has the same plan, code and machine and is not finished."""
    path = folder.latest(root)
    if path is None:
        return None
    try:
        there = json.loads((path / environment.NAME).read_text())
    except (OSError, ValueError):
        return None
    written = path / journal.NAME
    if (there.get("plan"), there.get("id")) != (plan.id, here["id"]):
        if not written.exists() or written.read_bytes().count(b"\n") < there.get("cells", 0):
            what = "plan" if there.get("plan") != plan.id else "code, machine or versions"
            print(f"note: {path} is unfinished, but of another {what}; this is a new run")
        return None
    if not written.exists():  # stopped before its first line
        return path
    return path if plan.without(ids(journal.read(path))) else None


def begin(root: Path, plan: Plan, here: dict[str, Any]) -> Path:
    """A new run folder with its ``environment.json``, and ``latest`` leading to it."""
    machine = here["gpu"]["name"] if here["gpu"] else f"cpu {here['cpu']}"
    path = folder.create(root, environment.short_commit(here), machine)
    content = {
        **here,
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "budget": plan.budget.name,
        "devices": plan.devices,
        "seed": plan.seed,
        "plan": plan.id,
        "cells": len(plan.cells),
    }
    folder.atomic_write(path / environment.NAME, json.dumps(content, indent=2) + "\n")
    folder.point_latest(root, path)
    return path


def ids(records: list[Record]) -> set[str]:
    """The ids of the finished cells."""
    return {record.cell.id for record in records}


def measure_all(plan: Plan, records: list[Record], store: Journal, here: str, interrupts: Interrupts) -> None:
    """Run the cells that `records` lacks, in order, and add what came of each to the journal and to `records`."""
    cells = plan.without(ids(records))
    with progress.show(cells, len(plan.cells) - len(cells)) as shown:
        for cell in cells:
            if interrupts.signal is not None:
                return
            shown.started(cell)
            start = time.perf_counter()
            try:
                with interrupts.cell():
                    outcome, trace = measure(cell, records)
            except Interrupted:
                return
            record = Record(cell, outcome, time.perf_counter() - start, here, trace)
            store.append(record)
            records.append(record)
            shown.finished(cell, outcome, record.seconds)


def measure(cell: Cell, records: list[Record]) -> tuple[Outcome, str]:
    """What came of one cell, and the traceback if it crashed."""
    reason = why_not_timed(cell, records)
    if reason:
        return Outcome([], Status.SKIPPED, reason), ""
    try:
        outcome = KINDS[cell.kind].run(cell)
        journal.encode(outcome.rows)  # a row that the journal cannot hold is the cell's error, not the runner's
        return outcome, ""
    except (Exception, SystemExit) as error:  # a user's optimizer may even call sys.exit
        trace = traceback.format_exc()
        status = Status.OOM if out_of_memory(error) else Status.ERROR
        outcome = Outcome([], status, f"{type(error).__name__}: {error}")
    if status is Status.OOM:  # here the frames that held the memory are gone
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return outcome, trace


def out_of_memory(error: BaseException) -> bool:
    """torch says it in three ways: its own class on CUDA, Python's, and a RuntimeError of the CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def why_not_timed(cell: Cell, records: list[Record]) -> str:
    """Why a cell must not be timed: its optimizer or loss did not prove right on this device. Empty if it may."""
    if cell.kind not in PROVEN_BY:
        return ""
    proof = (PROVEN_BY[cell.kind], cell.optimizer, cell.device)
    for record in records:
        verified = record.cell
        if (verified.kind, verified.optimizer, verified.device) == proof:
            found = faults(record)
            if found:
                return f"not timed, because {verified.label} failed verification: {found[0]}"
    return ""


def faults(record: Record) -> list[str]:
    """What of ours is wrong or crashed in a finished cell, one reason each; torch's own faults are not ours."""
    found = [
        f"{row['status']}: {row.get('reason', '')}"
        for row in record.outcome.rows
        if row.get("status") in AT_FAULT and row.get("contender") not in OF_TORCH
    ]
    if not found and record.outcome.status in AT_FAULT:
        found = [f"{record.outcome.status}: {record.outcome.reason}"]
    return found


def derive(path: Path) -> bool:
    """Make the tables, charts and page of a run from its journal. False if that crashed, which is a fault of ours."""
    try:
        notices = report.write(path)
    except BenchError:
        raise
    except Exception:  # the measuring is done and kept: a crash here may not look like one there
        traceback.print_exc()
        print(f"error: the report of {path} could not be made; its journal is whole, so no result is lost.")
        return False
    for notice in notices:
        print(notice)
    return True


def verdict(records: list[Record]) -> list[str]:
    """How many rows of each table ended how, and what of ours went wrong."""
    lines = []
    for table, rows in tables.rows_of(records).items():
        if rows:
            statuses = [str(row.get("status", "")) for row in rows]
            counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
            lines.append(f"{table:<11} {len(rows):>6} rows: {counts}")
    wrong = [f"  {record.cell.label}: {fault}" for record in records for fault in faults(record)]
    if wrong:
        more = [f"  and {len(wrong) - 10} more"] if len(wrong) > 10 else []
        lines += [f"{len(wrong)} rows of ours are wrong or crashed:", *wrong[:10], *more]
    return lines
