import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import cli, folder, journal, plan, run
from bench.cell import Cell, Outcome
from bench.errors import BenchError, Exit
from bench.journal import Journal, Record
from tests.bench import fakes

ROOT = Path(__file__).parent.parent.parent


def call(*arguments) -> tuple[int, str]:
    """Exit code and everything printed, as ``python -m bench`` would have it."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, BenchError):
        return int(result.exception.exit_code), f"{result.output}error: {result.exception}"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def fake_kinds(monkeypatch):
    monkeypatch.setattr(run.report, "draw", fakes.draw)
    for name in plan.KINDS:
        monkeypatch.setitem(plan.KINDS, name, fakes.kind(name, fakes.good))


@pytest.mark.parametrize(
    ("part", "tables"),
    [
        ("run", {"parity", "step_time", "sweep_time", "functions", "networks"}),
        ("verify", {"parity"}),
        ("time", {"step_time", "sweep_time"}),
        ("sweeps", {"sweep_time"}),
        ("losses", {"loss_parity", "loss_time"}),
        ("race", {"functions", "networks"}),
    ],
)
def test_each_command_runs_its_part(fake_kinds, tmp_path, part, tables):
    only = ("--loss", "mse_loss") if part == "losses" else ("--optimizer", "Adam")
    code, out = call(part, "--budget", "smoke", "--device", "cpu", *only, "--out", tmp_path)
    assert code == 0, out
    filled = {name for name, table in run.tables.load_tables(folder.latest(tmp_path)).items() if len(table)}
    assert filled == tables


def test_options_may_be_repeated_and_reach_the_cells(fake_kinds, tmp_path):
    arguments = [
        "--optimizer",
        "Adam",
        "--optimizer",
        "SGD",
        "--problem",
        "rosenbrock",
        "--problem",
        "mlp",
        "--seed",
        "3",
    ]
    code, _ = call("race", "--budget", "smoke", "--device", "cpu", "--out", tmp_path, *arguments)
    cells = [record.cell for record in journal.read(folder.latest(tmp_path))]
    assert code == 0
    assert {cell.optimizer for cell in cells} == {"Adam", "SGD"}
    assert {cell.settings["name"] for cell in cells} == {"rosenbrock", "mlp"}
    assert {cell.settings["seed"] for cell in cells} == {3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["race", "--seeds", "0"], "--seeds 0 is out of range"),
        (["race", "--lrs", "1,nan"], "'nan' is no learning rate"),
        (["run", "--optimizer", "adamm"], "did you mean 'Adam'?"),
        (["run", "--problem", "rosenbrok"], "did you mean 'rosenbrock'?"),
        (["losses", "--loss", "mse_los"], "did you mean 'mse_loss'?"),
        (["time", "--problem", "64x10"], "nothing to run"),
        (["losses", "--optimizer", "Adam"], "nothing to run"),
        (["time", "--loss", "mse_loss"], "nothing to run"),
        (["run", "--budget", "ful"], "did you mean 'full'?"),
        (["run", "--device", "gpu"], "unknown device 'gpu'"),
        (["run", "--seed", "-1"], "--seed -1 is out of range"),
        (["run", "--seed", "x"], "--seed"),
        (["verify", "--problem", "rosenbrock"], "verify takes no --problem"),
        (["run", "--optmizer", "Adam"], "--optimizer"),
        (["rnu"], "'run'"),
        (["report", "nowhere"], "nowhere is not a run"),
        (["compare", "nowhere", "nowhere"], "nowhere is not a run"),
        (["compare", "a", "b", "--threshold", "-1"], "--threshold -1.0 makes no sense"),
        (["compare", "a", "b", "--threshold", "nan"], "--threshold nan makes no sense"),
    ],
)
def test_wrong_input_is_exit_2_and_a_sentence(arguments, says):
    code, out = call(*arguments)
    assert code == Exit.USAGE == 2
    assert says in out and "Traceback" not in out


def test_a_sentence_and_no_traceback_reaches_the_terminal():
    command = [sys.executable, "-m", "bench", "run", "--budget", "smok"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "error: unknown budget 'smok': did you mean 'smoke'?\n"
    assert ended.stdout == ""


def test_help_does_not_wait_for_torch():
    code = "import sys; from bench import cli; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout == "False\n"


def test_list_shows_every_name():
    code, out = call("list")
    assert code == 0
    for name in (*plan.OPTIMIZERS, *plan.LOSSES, *plan.PROBLEMS, "smoke", "default", "full"):
        assert name in out.split()


def test_report_makes_everything_again(fake_kinds, tmp_path):
    call("race", "--budget", "smoke", "--device", "cpu", "--out", tmp_path)
    path = folder.latest(tmp_path)
    before = (path / "functions.csv").read_text()
    (path / "functions.csv").unlink()
    (path / "index.html").unlink()
    code, out = call("report", tmp_path / "latest")
    assert code == 0 and str(path / "index.html") in out
    assert (path / "functions.csv").read_text() == before and (path / "index.html").exists()
    assert not (path / "lock").exists()


def test_a_real_run_and_a_real_report_write_every_csv_file(tmp_path):
    """Nothing is faked here."""
    only = ("--optimizer", "SGD", "--problem", "regression")
    assert call("race", "--budget", "smoke", "--device", "cpu", "--out", tmp_path, *only)[0] == 0
    path = folder.latest(tmp_path)
    written = {file.name: file.read_bytes() for file in path.glob("*.csv")}
    assert set(written) == {f"{table}.csv" for table in run.tables.COLUMNS}
    # a head, and of SGD and those that optimize nothing the start, two early evaluations and twenty
    assert len(written["networks.csv"].splitlines()) == 1 + 4 * 23
    for name in written:
        (path / name).unlink()
    assert call("report", path)[0] == 0
    assert {file.name: file.read_bytes() for file in path.glob("*.csv")} == written


def test_an_interrupted_report_is_said(fake_kinds, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    call("race", "--budget", "smoke", "--device", "cpu", "--out", tmp_path)
    monkeypatch.setattr(run.report, "write", interrupted)
    code, out = call("report", tmp_path / "latest")
    assert code == 130 and "interrupted" in out and "same command" in out


def test_charts_that_cannot_be_written_are_exit_4_and_a_sentence(tmp_path):
    path = timed_run(tmp_path / "a", 5.0, 4.9, 5.1)
    (path / "charts").write_text("in the way")
    code, out = call("report", path)
    assert code == Exit.DISK == 4
    assert f"cannot write {path / 'charts'}: File exists" in out


def test_a_line_of_another_shape_is_exit_3_and_named(tmp_path):
    path = timed_run(tmp_path / "a", 5.0, 4.9, 5.1)
    line = b'{"schema":1,"cell":5'
    (path / journal.NAME).write_bytes(line + (journal.CHECKSUM % zlib.crc32(line)).encode() + b"\n")
    code, out = call("report", path)
    assert code == Exit.UNREADABLE == 3 and "line 1: its cell is 5" in out


def test_results_that_are_to_go_into_a_file_are_refused(fake_kinds, tmp_path):
    (tmp_path / "results").write_text("mine")
    for out_option in (tmp_path / "results", tmp_path / "results" / "deeper"):
        code, out = call("race", "--budget", "smoke", "--device", "cpu", "--out", out_option)
        assert code == 4 and f"{tmp_path / 'results'} is a file" in out and "--out" in out


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_die(tmp_path):
    command = [sys.executable, "-m", "bench", "race", "--budget", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--optimizer", "SGD", "--problem", "regression"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "SGD ? regression ? cpu  ok" in ended.stdout


def test_report_leaves_a_locked_folder_alone(fake_kinds, tmp_path):
    call("race", "--budget", "smoke", "--device", "cpu", "--out", tmp_path)
    with folder.lock(folder.latest(tmp_path)):
        code, out = call("report", tmp_path / "latest")
    assert code == 5 and "in use by pid" in out


def timed_run(path, ratio, low, high, parameter_set="mlp", threads=2):
    """A run that timed one workload: ours, `ratio` times as fast as torch."""
    path.mkdir()
    row = {
        **{
            "optimizer": "Adam",
            "parameter_set": parameter_set,
            "device": "cpu",
            "dtype": "float32",
            "threads": threads,
        },
        **{"contender": "ours", "median_us": 10.0, "ratio": ratio, "ratio_low": low, "ratio_high": high},
    }
    store = Journal(path)
    cell = Cell("step_time", "cpu", "Adam", {"name": parameter_set})
    store.append(Record(cell, Outcome([row, {**row, "contender": "fused", "ratio": 99.0}]), 1.0, "here"))
    store.close()
    return path


@pytest.mark.parametrize(
    ("after", "code", "verdict"),
    [
        ((5.0, 4.9, 5.1), 0, "no difference"),
        ((4.0, 3.9, 4.1), 3, "regression"),
        ((4.0, 3.0, 5.0), 0, "inconclusive"),  # the intervals overlap
        ((4.7, 4.6, 4.8), 0, "no difference"),  # apart, but within the threshold
        ((7.0, 6.9, 7.1), 0, "improvement"),
    ],
)
def test_compare_finds_what_became_slower_against_torch(tmp_path, after, code, verdict):
    a = timed_run(tmp_path / "a", 5.0, 4.9, 5.1)
    b = timed_run(tmp_path / "b", *after)
    found, out = call("compare", a, b)
    assert (found, out.splitlines()[1].split("  ")[-1]) == (code, verdict)


def test_the_threshold_counts(tmp_path):
    a, b = timed_run(tmp_path / "a", 5.0, 4.9, 5.1), timed_run(tmp_path / "b", 4.0, 3.9, 4.1)
    assert call("compare", a, b, "--threshold", "0.3")[0] == 0


def test_runs_without_a_common_workload_cannot_be_compared(tmp_path):
    a, b = timed_run(tmp_path / "a", 5.0, 4.9, 5.1), timed_run(tmp_path / "b", 5.0, 4.9, 5.1, threads=1)
    code, out = call("compare", a, b)
    assert code == 2 and "no workload in common" in out
