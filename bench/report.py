"""The report of a run: CSV files, charts and the page, made from the journal without measuring anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bench import charts, environment, page, tables
from bench.charts import style
from bench.errors import disk_error
from bench.folder import atomic_write


def write(folder: Path) -> list[str]:
    """Write the CSV files, ``charts/`` and ``index.html`` of a run; each file is replaced whole.

    Returns a notice for each chart that there was nothing to draw for. Raises `BenchError` if the journal cannot be
    read or the folder not written.
    """
    folder = Path(folder)
    found = tables.all_rows(folder)
    tables.write_csv(folder, found)
    loaded = tables.frames(found)
    try:
        drawn = draw(folder, loaded)
    except OSError as error:
        raise disk_error(error.filename or folder / "charts", error) from error
    atomic_write(folder / "index.html", page.html(loaded, drawn, read_environment(folder)))
    return [f"no chart {one.name}: {one.reason}" for one in drawn if one.reason]


def draw(folder: Path, loaded: dict[str, pd.DataFrame]) -> list[page.Drawn]:
    """Write each chart as SVG and PNG; one with no data is removed if an earlier report left it there."""
    (folder / "charts").mkdir(exist_ok=True)
    drawn = []
    for name, chart in charts.CHARTS.items():
        table = chart.table(loaded)
        paths = {suffix: folder / "charts" / f"{name}.{suffix}" for suffix in ("svg", "png")}
        if table.empty:
            reason = charts.why_empty(chart, loaded)
            for path in paths.values():
                path.unlink(missing_ok=True)
        else:
            reason = ""
            for suffix, content in style.save(charts.render(chart, table)).items():
                atomic_write(paths[suffix], content)
        panels = list(dict.fromkeys(table["panel"])) if "panel" in table else []
        drawn.append(page.Drawn(name, chart.TITLE, chart.READING, reason, panels))
    return drawn


def read_environment(folder: Path) -> dict[str, Any]:
    """The content of ``environment.json``; empty where it is missing or torn, which hides no result."""
    try:
        content = json.loads((folder / environment.NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
