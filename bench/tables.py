"""The tables of a run, made from its journal: as data frames for charts, as CSV files for everybody else."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd

from bench import journal
from bench.folder import atomic_write
from bench.score.derive import derive

# kind of cell -> its table
TABLES = {
    "verify": "parity",
    "loss_parity": "loss_parity",
    "step_time": "step_time",
    "loss_time": "loss_time",
    "sweep_time": "sweep_time",
    "functions": "functions",
    "nulls": "functions",
    "networks": "networks",
    "network_nulls": "networks",
}

# Every column of every CSV file, in order; `results/README.md` says what each means.
COLUMNS: dict[str, tuple[str, ...]] = {
    "parity": (
        *("optimizer", "options", "contender", "device", "dtype", "steps", "elements"),
        *(
            "max_difference",
            "update_distance",
            "mean_ulp",
            "max_ulp",
            "loop_mean_ulp",
            "loop_max_ulp",
            "tolerance",
            "worst",
        ),
        *("status", "reason", "cell"),
    ),
    "loss_parity": (
        *("loss", "reduction", "device", "dtype", "executor", "elements", "against"),
        *("value_ulp", "gradient_ulp", "torch_value_ulp", "torch_gradient_ulp", "unit", "tolerance"),
        *("status", "reason", "cell"),
    ),
    "step_time": (
        *("optimizer", "parameter_set", "device", "device_name", "dtype", "threads", "contender"),
        *("tensors", "elements", "rounds", "calls_per_round", "median_us", "q1_us", "q3_us", "min_us"),
        *("ratio", "ratio_low", "ratio_high", "verdict", "best_of_torch"),
        *("bytes_per_step", "gb_per_s", "stream_gb_per_s", "share_of_stream", "first_step_s"),
        *("host_us", "device_us", "end_to_end_us", "peak_memory_mib", "dropped_rounds"),
        *("status", "reason", "command", "cell"),
    ),
    "loss_time": (
        *("loss", "size", "device", "device_name", "dtype", "threads", "contender", "executor", "against", "phase"),
        *("elements", "rounds", "calls_per_round", "median_us", "q1_us", "q3_us", "min_us"),
        *("ratio", "ratio_low", "ratio_high", "verdict"),
        *("least_bytes", "gb_per_s", "stream_gb_per_s", "share_of_stream", "peak_bytes", "first_call_s"),
        *("host_us", "device_us", "end_to_end_us", "dropped_rounds", "status", "reason", "command", "cell"),
    ),
    "sweep_time": (
        *("optimizer", "function", "dimension", "device", "device_name", "dtype", "threads"),
        *("contender", "runs", "steps", "rounds", "calls_per_round", "median_ns", "q1_ns", "q3_ns", "min_ns"),
        *("ratio", "ratio_low", "ratio_high", "verdict", "difference", "first_call_s", "dropped_rounds"),
        *("status", "reason", "command", "cell"),
    ),
    "functions": (
        *("function", "dimension", "device", "optimizer", "lr", "lr_multiple", "runs", "tuning_seeds", "steps"),
        *("status", "reason", "diverged", "minimum", "basin", "other_basins", "gap_q1", "gap_median", "gap_q3"),
        *("final_gap_q1", "final_gap_median", "final_gap_q3"),
        *("gradients_2", "met_2", "gradients_4", "met_4", "gradients_8", "met_8"),
        *("target", "gradients_target", "met_target"),
        *("evaluations", "seconds", "executor", "cell"),
    ),
    "networks": (
        *("network", "device", "optimizer", "lr", "lr_multiple", "seed", "step", "evaluations", "seconds"),
        *("loss", "minimum", "accuracy", "reference", "target", "hits", "executor", "status", "reason", "cell"),
    ),
    # the next two are derived from `functions` and `networks`, and from `step_time`
    "scores": (
        *(
            "race",
            "device",
            "track",
            "optimizer",
            "problem",
            "problems",
            "seeds",
            "lr_multiple",
            "at_edge",
            "tuning_runs",
            "target",
        ),
        *("score", "score_low", "score_high", "rank", "rank_low", "rank_high", "beats", "beaten_by"),
        *("profile", "profile_low", "profile_high", "log2_speed_up", "log2_speed_up_low", "log2_speed_up_high"),
        *("improvement", "improvement_low", "improvement_high", "success", "success_low", "success_high"),
        *("lr_decades", "lr_decades_low", "lr_decades_high", "rank_without_problem_low", "rank_without_problem_high"),
        *("profile_without_competitor_low", "profile_without_competitor_high", "tied", "step_us", "state_bytes"),
        *("status", "reason"),
    ),
    "profiles": ("race", "device", "track", "optimizer", "kind", "x", "share", "low", "high", "target"),
}
# Where a cell that failed as a whole puts its name, so that its one row says what is missing.
NAMED = {
    "parity": "options",
    "step_time": "parameter_set",
    "loss_time": "size",
    "sweep_time": "function",
    "functions": "function",
    "networks": "network",
}


def subject(table: str) -> str:
    """The column that says what was measured: the optimizer or the loss."""
    return "loss" if table in ("loss_parity", "loss_time") else "optimizer"


def rows_of(records: list[journal.Record]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table, each with its cell's id; a cell that gave none is one row with status and reason."""
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in COLUMNS}
    for record in records:
        if record.cell.kind in TABLES:
            table = TABLES[record.cell.kind]
            found = record.outcome.rows or [_row_of_failed(record, table)]
            rows[table] += [{**row, "cell": record.cell.id} for row in found]
    return rows


def _row_of_failed(record: journal.Record, table: str) -> dict[str, Any]:
    cell = record.cell
    fields = {
        NAMED.get(table, "name"): cell.settings.get("name", ""),
        **cell.settings,
        subject(table): cell.optimizer,
        "device": cell.device,
        "status": str(record.outcome.status),
        "reason": record.outcome.reason,
    }
    return {
        name: value
        for name, value in fields.items()
        if name in COLUMNS[table] and (value is None or isinstance(value, str | int | float))
    }


def _columns(table: str, rows: list[dict[str, Any]]) -> list[str]:
    """The declared columns; what a row has beyond them comes last rather than getting lost."""
    return list(dict.fromkeys([*COLUMNS[table], *(name for row in rows for name in row)]))


def all_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table of a run, those that are derived from others too."""
    rows = rows_of(journal.read(folder))
    return rows | derive(rows)


def frames(rows: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    """Rows as data frames with the declared columns."""
    return {table: pd.DataFrame(found, columns=_columns(table, found)) for table, found in rows.items()}


def load_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All rows of all finished cells, private ``_`` columns included; what is derived from them is left empty."""
    return frames(rows_of(journal.read(folder)))


def write_csv(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write ``<table>.csv`` for every table, each replaced at a stroke; ``_`` columns stay in the journal."""
    for table, found in rows.items():
        atomic_write(Path(folder) / f"{table}.csv", to_csv(table, found))


def to_csv(table: str, rows: list[dict[str, Any]]) -> str:
    """The text of a CSV file. Numbers keep all their digits; text that a spreadsheet would run gets a leading ``'``.

    Read it with ``pandas.read_csv(path, keep_default_na=False, na_values={...})``: an optimizer may be called ``NA``.
    """
    columns = [name for name in _columns(table, rows) if not name.startswith("_")]
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")  # "nan" is text, nan a number
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return "" if value is None else value
