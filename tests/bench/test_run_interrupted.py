"""A run that is interrupted, killed or locked out keeps what is done, and only the rest runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import environment, folder, journal, run
from bench.errors import BenchError, Exit
from tests.bench import fakes
from tests.bench.test_run import only_folder

pytestmark = pytest.mark.usefixtures("fast", "interruptible")

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def unfinished(with_kind, tmp_path):
    """A results folder whose run was interrupted in its third of six cells."""
    with_kind(fakes.interrupt_in(3))
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.INTERRUPTED
    return tmp_path


def test_an_interrupt_keeps_what_is_done_and_makes_the_tables(unfinished):
    path = only_folder(unfinished)
    assert len(journal.read(path)) == 2
    assert len((path / "functions.csv").read_text().splitlines()) == 3
    assert (path / "index.html").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_the_rest_runs(unfinished, with_kind, capsys):
    ran = with_kind(fakes.good)
    assert run.execute(fakes.make_plan(), unfinished) is Exit.OK
    assert len(ran) == 4
    assert len(journal.read(only_folder(unfinished))) == 6
    out = capsys.readouterr().out
    assert "2 of 6 cells are done" in out and "[3/6]" in out


def test_fresh_begins_again(unfinished, with_kind):
    ran = with_kind(fakes.good)
    run.execute(fakes.make_plan(), unfinished, fresh=True)
    assert len(ran) == 6
    assert len([path for path in unfinished.iterdir() if not path.is_symlink()]) == 2


@pytest.mark.parametrize("changed", ["plan", "machine"])
def test_another_plan_or_machine_begins_a_new_run(unfinished, with_kind, monkeypatch, capsys, changed):
    ran = with_kind(fakes.good)
    if changed == "machine":
        here = environment.collect(("cpu",))
        monkeypatch.setattr(run.environment, "collect", lambda devices: {**here, "id": "elsewhere"})
    run.execute(fakes.make_plan(seed=1 if changed == "plan" else 0), unfinished)
    assert (
        f"is unfinished, but of another {'plan' if changed == 'plan' else 'code, machine'}" in capsys.readouterr().out
    )
    assert len(ran) == 6
    assert len([path for path in unfinished.iterdir() if not path.is_symlink()]) == 2


def test_a_locked_folder_is_left_alone(unfinished, with_kind):
    ran = with_kind(fakes.good)
    with folder.lock(only_folder(unfinished)), pytest.raises(BenchError, match="in use by pid") as caught:
        run.execute(fakes.make_plan(), unfinished)
    assert caught.value.exit_code == 5 and not ran


def test_a_damaged_journal_stops_the_run(unfinished, with_kind):
    ran = with_kind(fakes.good)
    path = only_folder(unfinished) / journal.NAME
    path.write_bytes(path.read_bytes().replace(b"SGD", b"SGE", 1))
    with pytest.raises(BenchError, match="line 1") as caught:
        run.execute(fakes.make_plan(), unfinished)
    assert caught.value.exit_code == 3 and not ran


def start(root):
    """A run of twelve cells in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.fakes", str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process


def wait_for(process, text, times=1):
    while times:
        line = process.stdout.readline()
        assert line, "the run ended early"
        times -= text in line


def test_killed_in_the_middle_only_the_rest_runs(tmp_path, with_kind, capsys):
    process = start(tmp_path)
    wait_for(process, "started", times=4)
    process.kill()
    process.communicate()
    done = journal.read(only_folder(tmp_path))
    assert len(done) == 3

    path = only_folder(tmp_path) / journal.NAME
    path.write_bytes(path.read_bytes() + b'{"schema":1,"cell":{"id"')  # killed inside a write
    ran = with_kind(fakes.good, problems=fakes.SLOW)
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.OK
    assert len(ran) == 9
    assert capsys.readouterr().out.count("was torn") == 1
    records = journal.read(only_folder(tmp_path))
    assert records[:3] == done and len({record.cell.id for record in records}) == len(records) == 12


def test_a_terminated_run_ends_in_order(tmp_path):
    process = start(tmp_path)
    wait_for(process, "started", times=3)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "interrupted: the finished cells are kept" in out
    assert len((only_folder(tmp_path) / "functions.csv").read_text().splitlines()) == 3


def test_a_second_signal_does_not_wait_for_the_page(with_kind, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def impatient(path):
        os.kill(os.getpid(), signal.SIGINT)
        return []

    with_kind(fakes.interrupt_in(2))
    monkeypatch.setattr(run.report, "write", impatient)
    run.execute(fakes.make_plan(), tmp_path)
    assert ended == [130]


def test_an_interrupt_while_the_report_is_made_is_said(with_kind, tmp_path, monkeypatch, capsys):
    def interrupted(path):
        os.kill(os.getpid(), signal.SIGINT)
        return []

    with_kind(fakes.good)
    monkeypatch.setattr(run.report, "write", interrupted)
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.INTERRUPTED
    assert "interrupted while the report was made: all cells are finished" in capsys.readouterr().out
    with_kind(fakes.interrupt_in(2))
    monkeypatch.setattr(run.report, "write", lambda path: [])
    run.execute(fakes.make_plan(seed=1), tmp_path)
    out = capsys.readouterr().out
    assert "interrupted: the finished cells are kept" in out and "while the report" not in out


def test_a_signal_between_cells_is_noted_and_never_raised_into_a_write(with_kind, tmp_path, monkeypatch):
    real = journal.Journal.append

    def interrupted_append(self, record):
        os.kill(os.getpid(), signal.SIGTERM)
        real(self, record)

    with_kind(fakes.good)
    monkeypatch.setattr(journal.Journal, "append", interrupted_append)
    assert run.execute(fakes.make_plan(), tmp_path) is Exit.TERMINATED
    assert len(journal.read(only_folder(tmp_path))) == 1
