import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest

from bench import tables
from bench.cell import Cell, Outcome, Status
from bench.journal import Journal, Record

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def run_folder(tmp_path):
    def fill(*outcomes, kind="functions", settings=None):
        store = Journal(tmp_path)
        for number, outcome in enumerate(outcomes):
            cell = Cell(kind, "cpu", "Adam", {"name": f"f{number}", **(settings or {})})
            store.append(Record(cell, outcome, 1.0, "here"))
        store.close()
        return tmp_path

    return fill


def row(**values):
    return {"function": "f", "optimizer": "Adam", "status": "ok", "reason": "", **values}


def read(folder, table="functions"):
    return pd.read_csv(folder / f"{table}.csv", keep_default_na=False, dtype=str)


def test_every_table_is_written_with_its_declared_columns(run_folder):
    folder = run_folder(Outcome([row()]))
    tables.write_csv(folder, tables.all_rows(folder))
    for table, columns in tables.COLUMNS.items():
        assert tuple(read(folder, table).columns) == columns
    assert sorted(path.stem for path in folder.glob("*.csv")) == sorted(tables.COLUMNS)


def test_the_readme_explains_every_column_in_order():
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for table, columns in tables.COLUMNS.items():
        section = text.partition(f"## {table}.csv")[2].partition("\n## ")[0]
        assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == columns, table


def test_numbers_keep_their_digits_and_their_type(run_folder):
    values = {"steps": 100, "lr": 0.1 + 0.2, "final_loss": float("nan"), "best_loss": float("-inf"), "gap": -0.5}
    folder = run_folder(Outcome([row(**values), row()]))
    tables.write_csv(folder, tables.all_rows(folder))
    first, second = read(folder).to_dict("records")
    assert (first["steps"], first["lr"], first["gap"]) == ("100", "0.30000000000000004", "-0.5")
    assert (first["final_loss"], first["best_loss"]) == ("nan", "-inf")
    assert second["steps"] == second["lr"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_text_that_a_spreadsheet_would_run_is_quoted(text):
    written = tables.to_csv("functions", [row(function=text)])
    assert next(csv.DictReader(io.StringIO(written, newline="")))["function"] == "'" + text


@pytest.mark.parametrize("text", ["NA", "null", "None", "nan", "1e5", "True", "007", 'a,"b"', "ü\nx", "'x", "<script>"])
def test_every_other_text_comes_back_as_it_was(text):
    written = tables.to_csv("functions", [row(function=text)])
    read_back = pd.read_csv(io.StringIO(written, newline=""), keep_default_na=False, dtype=str)
    assert read_back["function"][0] == text


def test_private_columns_are_for_charts_only(run_folder):
    folder = run_folder(Outcome([row(_trace=[[1.0, 2.0]])]))
    tables.write_csv(folder, tables.all_rows(folder))
    assert "_trace" not in read(folder)
    assert tables.load_tables(folder)["functions"]["_trace"][0] == [[1.0, 2.0]]


def test_a_cell_that_failed_as_a_whole_is_one_row(run_folder):
    folder = run_folder(
        Outcome([row()]),
        Outcome([], Status.ERROR, "ValueError: no"),
        settings={"dimension": 2, "seeds": [1, 2], "budget": "smoke"},
    )
    failed = tables.load_tables(folder)["functions"].iloc[1]
    assert (failed["function"], failed["optimizer"], failed["dimension"]) == ("f1", "Adam", 2)
    assert (failed["status"], failed["reason"]) == ("error", "ValueError: no")
    assert "seeds" not in failed and "budget" not in failed


def test_every_row_leads_back_to_its_cell(run_folder):
    folder = run_folder(Outcome([row(), row()]), Outcome([row()]))
    cells = tables.load_tables(folder)["functions"]["cell"]
    assert list(cells) == [cells[0], cells[0], Cell("functions", "cpu", "Adam", {"name": "f1"}).id]


def test_a_column_nobody_declared_comes_last_and_is_not_lost():
    assert tables.to_csv("networks", [{"surprise": 1}]).splitlines()[0].endswith(',"cell","surprise"')


def test_tables_without_rows_have_their_columns(run_folder):
    loaded = tables.load_tables(run_folder())
    assert all(tuple(loaded[table].columns) == columns for table, columns in tables.COLUMNS.items())
