"""Kinds of cells that take no time, so that the plumbing is tested and not the measuring."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

from bench import page, plan, run
from bench.cell import Cell, Outcome, Status

OPTIMIZERS = ("SGD", "Adam")
SLOW = ("f1", "f2", "f3", "f4", "f5", "f6")  # the problems of `main`


def kind(name, run_cell, problems=("one", "two", "three")):
    """A measuring module whose cells are optimizers × problems and whose `run` is `run_cell`."""

    def cells(budget, device, optimizers, problems_wanted, seed):
        return [
            Cell(name, device, optimizer, {"name": problem, "seed": seed}, expected_seconds=0.01)
            for optimizer in optimizers
            for problem in (problems if problems_wanted is None else problems_wanted)
        ]

    return SimpleNamespace(cells=cells, run=run_cell)


def good(cell: Cell) -> Outcome:
    """A row that says of which cell it is."""
    return Outcome([{"optimizer": cell.optimizer, "function": cell.settings["name"], "status": "ok", "reason": ""}])


def wrong_adam(cell: Cell) -> Outcome:
    """A verification that only SGD passes."""
    status = Status.WRONG if cell.optimizer == "Adam" else Status.OK
    row = {"optimizer": cell.optimizer, "contender": "cpu", "status": str(status), "reason": "too far off"}
    return Outcome([row], status, "too far off" if status is Status.WRONG else "")


def interrupt_in(number):
    """A cell whose `number`-th run is stopped by Ctrl-C."""
    count = iter(range(1, 100))

    def run_cell(cell):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return good(cell)

    return run_cell


def draw(folder, tables) -> list[page.Drawn]:
    """Stands in for `bench.report.draw`, which takes seconds; the rest of the report is the real one."""
    return [page.Drawn("ratio", "A chart", "Read it.", "not drawn here", [])]


def make_plan(kinds=("functions",), seed=0):
    """The plan of the fake kinds."""
    return plan.make("smoke", "cpu", OPTIMIZERS, (), seed, kinds)


def main() -> None:
    """Run twelve slow cells in this process; for tests that kill it. The first argument is the results folder."""
    import sys
    from pathlib import Path

    def slow(cell: Cell) -> Outcome:
        print("started", cell.label, flush=True)
        time.sleep(0.2)
        return good(cell)

    plan.KINDS["functions"] = kind("functions", slow, SLOW)
    run.report.draw = draw
    sys.exit(run.execute(make_plan(), Path(sys.argv[1])))


if __name__ == "__main__":
    main()
