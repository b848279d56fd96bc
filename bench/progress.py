"""What a person sees while cells run: a bar on a terminal, one line a cell anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

from bench.cell import Cell, Outcome, Status
from bench.plan import clock


class Progress(Protocol):
    """Told when a cell starts and when it has finished; a context manager around all of them."""

    def __enter__(self) -> Progress: ...
    def __exit__(self, *exception: object) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def finished(self, cell: Cell, outcome: Outcome, seconds: float) -> None: ...


class Clock:
    """Estimates the time left: what is expected of the rest, scaled by how the expectation fared so far.

    The scale begins at 1 with the weight of a fifth of all cells: the first few compile kernels and say little.
    """

    def __init__(self, cells: list[Cell]) -> None:
        self._left = sum(cell.expected_seconds for cell in cells)
        self._expected = self._taken = self._left / 5

    def finished(self, cell: Cell, seconds: float) -> None:
        self._left -= cell.expected_seconds
        self._expected += cell.expected_seconds
        self._taken += seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return max(self._left, 0.0) * (self._taken / self._expected if self._expected else 1.0)


class Lines:
    """``[ 37/120] Adam · rosenbrock · cpu  ok  1.2 s  left 03:10``"""

    def __init__(self, cells: list[Cell], done: int) -> None:
        self._clock, self._done, self._total = Clock(cells), done, done + len(cells)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        sys.stdout.flush()

    def started(self, cell: Cell) -> None:
        """Nothing to show: a line is written when the cell has finished."""

    def finished(self, cell: Cell, outcome: Outcome, seconds: float) -> None:
        self._clock.finished(cell, seconds)
        self._done += 1
        count = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        print(f"{count} {result(cell, outcome)}  {seconds:.1f} s  left {clock(self._clock.left)}", flush=True)


class Bar:
    """A bar with the running cell and the time left; only what is not well gets a line of its own."""

    def __init__(self, cells: list[Cell], done: int) -> None:
        self._clock = Clock(cells)
        self._bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("{task.description}"),
        )
        self._task = self._bar.add_task("", total=done + len(cells), completed=done, left=clock(self._clock.left))

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def started(self, cell: Cell) -> None:
        self._bar.update(self._task, description=escape(cell.label))

    def finished(self, cell: Cell, outcome: Outcome, seconds: float) -> None:
        self._clock.finished(cell, seconds)
        if outcome.status in (Status.WRONG, Status.ERROR, Status.OOM):
            self._bar.console.print(escape(result(cell, outcome)), highlight=False)
        self._bar.update(self._task, advance=1, left=clock(self._clock.left))


class TimeLeft:
    """Of one long computation: how much is done and the time left, once it has taken a while."""

    EVERY = 2.0  # seconds

    def __init__(self) -> None:
        self._begin = self._shown = time.perf_counter()
        self._terminal, self._open = Console().is_terminal, False

    def __enter__(self) -> TimeLeft:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open:
            print(file=sys.stderr)

    def report(self, done: int, whole: int) -> None:
        """Shows ``1,024 of 4,096  left 00:10``, on a terminal in place, else in a line of its own.

        The clock starts when nothing is done yet.
        """
        now = time.perf_counter()
        if not done:
            self._begin = self._shown = now
        if now - self._shown < self.EVERY:
            return
        taken = now - self._begin
        self._shown = now
        line = f"{done:,} of {whole:,}  left {clock(taken / done * (whole - done))}"
        self._open = self._terminal
        print(f"\r{line}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr, flush=True)


def result(cell: Cell, outcome: Outcome) -> str:
    """``Adam · rosenbrock · cpu  ok``, with the reason where there is one."""
    reason = outcome.reason.strip().partition("\n")[0]
    return f"{cell.label}  {outcome.status}{': ' if reason else ''}{reason}"


def show(cells: list[Cell], done: int) -> Progress:
    """The right one of the two for where the output goes; `done` cells were finished before."""
    return Bar(cells, done) if Console().is_terminal else Lines(cells, done)
