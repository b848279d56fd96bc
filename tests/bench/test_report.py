"""A report is made from the journal alone, whole or not at all, quickly, and the same every time."""

import contextlib
import json
import os
import re
from pathlib import Path

import pytest

from bench import charts, report, tables
from bench.cell import Cell, Outcome
from bench.errors import BenchError
from bench.journal import Journal, Record
from tests.bench.example_tables import functions, loss_parity, loss_time, networks, parity, step_time, sweep_time

README = Path(__file__).parent.parent.parent / "results" / "README.md"
KINDS = {table: kind for kind, table in tables.TABLES.items() if "nulls" not in kind}


def write_journal(folder, rows_of_tables):
    """A journal with one cell per table."""
    with contextlib.closing(Journal(folder)) as store:
        for table, rows in rows_of_tables.items():
            cell = Cell(KINDS[table], "cpu", "Adam", {"name": table})
            store.append(Record(cell, Outcome(list(rows)), seconds=1.0, environment="e"))


@pytest.fixture
def run_folder(tmp_path):
    """A run folder as measuring leaves it: journal and environment."""
    names = ("SGD", "Adam")
    made = {
        "parity": parity(names),
        "loss_parity": loss_parity(),
        "loss_time": loss_time(),
        "step_time": step_time(names, ("mlp", "one-big")),
        "sweep_time": sweep_time(),
        "functions": functions(names),
        "networks": networks(names),
    }
    write_journal(tmp_path, made)
    (tmp_path / "environment.json").write_text(json.dumps({"cpu": "a processor", "budget": "smoke"}))
    return tmp_path


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_everything_is_there_and_nothing_else(run_folder):
    before = set(files_of(run_folder))
    assert report.write(run_folder) == []
    assert set(files_of(run_folder)) - before == {
        "index.html",
        *(f"{table}.csv" for table in tables.COLUMNS),
        *(f"charts/{name}.{suffix}" for name in charts.CHARTS for suffix in ("svg", "png")),
    }
    page = (run_folder / "index.html").read_text(encoding="utf-8")
    for link in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert (run_folder / link).is_file(), link
    assert "a processor" in page


def test_twice_is_the_same_byte_for_byte(run_folder):
    report.write(run_folder)
    first = files_of(run_folder)
    assert "index.html" in first
    report.write(run_folder)
    assert files_of(run_folder) == first


def test_a_chart_with_no_data_is_a_notice_and_an_old_one_goes(tmp_path):
    write_journal(tmp_path, {"step_time": step_time(("Adam",), ("mlp",))})
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "parity.svg").write_text("of an earlier report")
    notices = report.write(tmp_path)
    missing = [notice.split(":")[0] for notice in notices]
    there = ("ratio", "step_time", "special")
    assert missing == [f"no chart {name}" for name in charts.CHARTS if name not in there]
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {
        f"{name}.{suffix}" for name in there for suffix in ("svg", "png")
    }
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("No chart.") == len(notices)


@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_a_disk_that_refuses_is_exit_4_and_a_sentence(run_folder, monkeypatch, call):
    def refuses(path, *_, **__):
        raise OSError(13, "Permission denied", str(path))

    report.write(run_folder)
    monkeypatch.setattr(charts.CHARTS["parity"], "table", lambda loaded: loaded["parity"].head(0))
    monkeypatch.setattr(os if call == "replace" else Path, call, refuses)
    with pytest.raises(BenchError, match="Permission denied") as caught:
        report.write(run_folder)
    assert caught.value.exit_code == 4


def test_a_torn_environment_hides_no_result(run_folder):
    (run_folder / "environment.json").write_text('{"cpu": ')
    report.write(run_folder)
    assert "environment.json is missing" in (run_folder / "index.html").read_text(encoding="utf-8")


def documented() -> dict[str, list[str]]:
    """The columns that results/README.md explains, by table."""
    found: dict[str, list[str]] = {}
    table = None
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            table = line.removeprefix("## ").removesuffix(".csv")
        elif table and (row := re.match(r"\| `(\w+)` \| (\S[^|]*) \| (\S.*) \|$", line)):
            found.setdefault(table, []).append(row[1])
    return found


def test_the_readme_explains_every_column_in_order():
    assert documented() == {table: list(columns) for table, columns in tables.COLUMNS.items()}
