"""A run: what it leaves behind, what a crash costs, and whose faults fail it."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from bench import environment, folder, journal, plan, progress, run
from bench.cell import Cell, Outcome, Status
from bench.errors import BenchError, Exit
from tests.bench import fakes

pytestmark = pytest.mark.usefixtures("fast", "interruptible")


def only_folder(root) -> Path:
    (path,) = (path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    return path


def statuses(path) -> list[str]:
    return [str(record.outcome.status) for record in journal.read(path)]


def test_a_run_leaves_journal_tables_page_and_environment(with_kind, tmp_path, capsys):
    with_kind(fakes.good)
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.OK
    path = only_folder(tmp_path)
    assert folder.latest(tmp_path) == path
    csv = {f"{table}.csv" for table in run.tables.COLUMNS}
    assert set(os.listdir(path)) == {"runs.jsonl", "environment.json", "index.html", *csv}
    there = json.loads((path / "environment.json").read_text())
    assert (there["budget"], there["seed"], there["cells"]) == ("smoke", 0, 6)
    assert all(record.environment == there["id"] for record in journal.read(path))
    out = capsys.readouterr().out
    assert "smoke: 6 cells" in out
    assert re.search(r"^\[6/6\] Adam · three · cpu  ok  0\.0 s  left 00:00$", out, re.MULTILINE)
    assert "functions        6 rows: 6 ok" in out
    assert "no chart ratio: not drawn here" in out
    assert out.rstrip().endswith(f"open {path / 'index.html'}")


def test_a_finished_run_is_not_gone_on_with(with_kind, tmp_path, capsys):
    ran = with_kind(fakes.good)
    for seed in (0, 0, 1):
        run.execute(fakes.make_plan(seed=seed), tmp_path)
    assert len(ran) == 18
    assert len([path for path in tmp_path.iterdir() if not path.is_symlink()]) == 3
    assert "is unfinished" not in capsys.readouterr().out


def test_what_counts_for_the_environment_id(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    ids = {environment.collect(("cpu",))["id"]}
    assert ids == {environment.collect(("cpu",))["id"]}
    for change in (
        lambda: monkeypatch.setattr(environment, "source_hash", lambda: "other code"),
        lambda: monkeypatch.setenv("OMP_WAIT_POLICY", "passive"),
        lambda: monkeypatch.setattr(environment, "cpu_model", lambda: "another machine"),
        lambda: monkeypatch.setattr(environment, "version", lambda package: "0"),
    ):
        change()
        ids.add(environment.collect(("cpu",))["id"])
    assert len(ids) == 5


def test_a_crash_is_a_row_and_the_rest_runs(with_kind, tmp_path, capsys):
    def crashes(cell):
        if cell.optimizer == "Adam":
            raise ValueError("this is broken\nbadly")
        return fakes.good(cell)

    with_kind(crashes)
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.WRONG
    records = journal.read(only_folder(tmp_path))
    assert statuses(only_folder(tmp_path)) == ["ok"] * 3 + ["error"] * 3
    assert records[-1].outcome.reason == "ValueError: this is broken\nbadly"
    assert 'raise ValueError("this is broken' in records[-1].traceback
    out = capsys.readouterr().out
    assert "Adam · one · cpu  error: ValueError: this is broken  0.0 s" in out
    assert "Traceback" not in out
    assert "3 rows of ours are wrong or crashed" in out


def test_sys_exit_in_a_cell_ends_only_the_cell(with_kind, tmp_path):
    with_kind(lambda cell: sys.exit(0))
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.WRONG
    assert statuses(only_folder(tmp_path)) == ["error"] * 6


def test_a_row_that_the_journal_cannot_hold_is_an_error_of_its_cell(with_kind, tmp_path):
    with_kind(lambda cell: Outcome([{"loss": torch.ones(())}]))
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.WRONG
    assert "not Tensor" in journal.read(only_folder(tmp_path))[0].outcome.reason


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce] DefaultCPUAllocator: no")],
)
def test_out_of_memory_is_said_as_such_and_fails_nothing(with_kind, tmp_path, error):
    def run_cell(cell):
        raise error

    with_kind(run_cell, problems=["one"])
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.OK
    assert statuses(only_folder(tmp_path)) == ["oom"] * 2


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"status": "diverged"}, Exit.OK),
        ({"status": "skipped"}, Exit.OK),
        ({"status": "inconclusive"}, Exit.OK),
        ({"status": "reference fault", "contender": "fused"}, Exit.OK),
        ({"status": "wrong", "contender": "foreach"}, Exit.OK),
        ({"status": "wrong", "contender": "cpu"}, Exit.WRONG),
        ({"status": "error", "contender": "ours"}, Exit.WRONG),
        ({"status": "error"}, Exit.WRONG),
    ],
)
def test_only_what_is_wrong_of_ours_fails_the_run(with_kind, tmp_path, row, code):
    with_kind(lambda cell: Outcome([{"optimizer": cell.optimizer, "reason": "", **row}]))
    assert run.execute(fakes.make_plan(), tmp_path) is code


def timed_after_verification(with_kind, root, verification, timing=fakes.good):
    with_kind(verification, "verify")
    ran = with_kind(timing, "step_time")
    code = run.execute(fakes.make_plan(("verify", "step_time")), root)
    return code, [cell.optimizer for cell in ran]


def test_a_wrong_optimizer_is_not_timed_and_the_row_says_why(with_kind, tmp_path):
    code, timed = timed_after_verification(with_kind, tmp_path, fakes.wrong_adam)
    assert code is Exit.WRONG
    assert timed == ["SGD"] * 3
    rows = run.tables.load_tables(only_folder(tmp_path))["step_time"]
    rows = rows[rows["optimizer"] == "Adam"]
    assert list(rows["status"]) == ["skipped"] * 3
    assert rows["reason"].iloc[0] == ("not timed, because Adam · one · cpu failed verification: wrong: too far off")
    assert list(rows["parameter_set"]) == ["one", "two", "three"]


def test_it_is_not_timed_after_a_resume_either(with_kind, tmp_path):
    timed_after_verification(with_kind, tmp_path, fakes.wrong_adam, fakes.interrupt_in(2))
    code, timed = timed_after_verification(with_kind, tmp_path, pytest.fail)
    assert (code, len(journal.read(only_folder(tmp_path)))) == (Exit.WRONG, 12)
    assert set(timed) == {"SGD"}


def test_what_torch_does_wrong_withholds_nothing(with_kind, tmp_path):
    def fault(cell):
        return Outcome([{"contender": "fused", "status": "reference fault", "reason": "torch"}], Status.REFERENCE_FAULT)

    code, timed = timed_after_verification(with_kind, tmp_path, fault)
    assert code is Exit.OK and len(timed) == 6


def test_a_crashed_verification_is_no_licence_to_time(with_kind, tmp_path):
    def crashes(cell):
        raise RuntimeError("no")

    assert timed_after_verification(with_kind, tmp_path, crashes) == (Exit.WRONG, [])


def test_a_report_that_crashes_fails_the_run_and_loses_nothing(with_kind, tmp_path, monkeypatch, capsys):
    def crashes(path):
        raise ZeroDivisionError("in a chart")

    with_kind(fakes.good)
    monkeypatch.setattr(run.report, "write", crashes)
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.WRONG
    assert len(journal.read(only_folder(tmp_path))) == 6
    captured = capsys.readouterr()
    assert "its journal is whole" in captured.out and "index.html" not in captured.out
    assert "ZeroDivisionError: in a chart" in captured.err


def test_a_full_disk_ends_the_run_and_loses_nothing(with_kind, tmp_path, monkeypatch):
    def fills_the_disk(cell):
        if cell.optimizer == "Adam":
            monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:5]))
        return fakes.good(cell)

    real_write = os.write
    ran = with_kind(fills_the_disk)
    with pytest.raises(BenchError, match="no space") as caught:
        run.execute(fakes.make_plan(), tmp_path)
    assert caught.value.exit_code == 4 and len(ran) == 4
    monkeypatch.setattr(os, "write", real_write)
    assert len(journal.read(only_folder(tmp_path))) == 3


def test_a_read_only_disk_is_refused_before_anything_runs(with_kind, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise OSError(30, "Read-only file system")

    ran = with_kind(fakes.good)
    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(BenchError) as caught:
        run.execute(fakes.make_plan(), tmp_path / "results")
    assert caught.value.exit_code == 4 and not ran


def test_the_recorded_command_can_be_pasted(with_kind, tmp_path, monkeypatch):
    with_kind(fakes.good)
    arguments = ["run", "--out", "my results", "--problem", "$(rm x)"]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    run.execute(fakes.make_plan(), tmp_path)
    command = json.loads((only_folder(tmp_path) / "environment.json").read_text())["command"]
    assert shlex.split(command) == ["python", "-m", "bench", *arguments]


@pytest.mark.parametrize("kind", plan.KINDS)
def test_every_real_kind_gives_rows_with_declared_columns(kind):
    """The real thing, one cell of each kind: its rows fit the tables, the journal and the closed list of statuses."""
    optimizers = {"sweep_time": ["Adam"]}.get(kind, [] if kind in plan.OF_LOSSES else ["Rprop"])
    cell = plan.make("smoke", "cpu", optimizers, [], 0, [kind]).cells[0]
    outcome, trace = run.measure(cell, [])
    assert not trace and outcome.rows
    declared = set(run.tables.COLUMNS[run.tables.TABLES[kind]])
    for row in outcome.rows:
        assert {name for name in row if not name.startswith("_")} <= declared
        assert Status(row["status"]) is Status.OK or row["reason"]


def test_the_time_left_follows_what_the_cells_really_take():
    cells = [Cell("functions", "cpu", "SGD", {"n": n}, expected_seconds=2.0) for n in range(4)]
    clock = progress.Clock(cells)
    assert clock.left == 8.0
    clock.finished(cells[0], 1.0)
    assert clock.left == pytest.approx(6.0 * (1.6 + 1.0) / (1.6 + 2.0))
    for cell in cells[1:]:
        clock.finished(cell, 1.0)
    assert clock.left == 0.0


def test_a_bar_on_a_terminal_shows_only_what_is_not_well(capsys):
    cells = [Cell("functions", "cpu", "SGD", {"name": f"[bold]{n}"}) for n in range(2)]
    with progress.Bar(cells, done=3) as bar:
        for cell, outcome in zip(cells, (Outcome(), Outcome([], Status.ERROR, "[red]no")), strict=True):
            bar.started(cell)
            bar.finished(cell, outcome, 0.1)
    out = capsys.readouterr().out
    assert "SGD · [bold]1 · cpu  error: [red]no" in out
    assert "[bold]0 · cpu  ok" not in out
    assert "5/5" in out
