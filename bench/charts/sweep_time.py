"""What a step of a run costs in a sweep, by contender and function."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "sweep_time"
TITLE = "Time of one step of one run, in a sweep of many"
SOURCE = "sweep_time"
EMPTY = "No sweep gave a time."
READING = (
    "Median nanoseconds for one step of one run, on a logarithmic axis, with a bar from the lower to the upper "
    "quartile: further left is faster. Each contender makes the same steps from the same starts; torch's "
    "one run at a time stands for making the other runs after it. Contenders took turns in one process."
)
NUMBERS = ("median_ns", "q1_ns", "q3_ns")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per optimizer, function and contender: panel, function, contender, median_ns, q1_ns, q3_ns."""
    names = ("optimizer", "function", "device", "dtype", "contender", "status")
    found = rows.rows_of(tables, SOURCE, (*names, *NUMBERS))
    found = found.assign(**{column: rows.numbers(found[column]) for column in NUMBERS})
    found = found[found["median_ns"].gt(0) & found["status"].isin(rows.MEASURED)]
    found = rows.with_panel(found, "optimizer", ("device", "dtype"))
    return found[["panel", "function", "contender", *NUMBERS]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per optimizer, functions down, time across."""
    panels, functions = (list(dict.fromkeys(table[column])) for column in ("panel", "function"))
    axes = style.sheet(
        figure,
        TITLE,
        style.contender_handles(table["contender"]),
        len(panels),
        columns=2,
        size=(3.6, max(0.24 * len(functions), 0.6)),
        left=style.room_for(functions),
        sharey=True,
    )
    for axis, panel in zip(axes, panels, strict=True):
        here = table[table["panel"] == panel]
        style.name_rows(axis, functions)
        for row in here.itertuples():
            look, place = style.contender_style(row.contender), functions.index(row.function)
            axis.hlines(place, row.q1_ns, row.q3_ns, color=look.color, linewidth=2.2)
            axis.plot(row.median_ns, place, marker=look.marker, color=look.color, markersize=5.5, linestyle="")
        style.log_axis(axis, "x", here["q1_ns"].min() / 2, here["q3_ns"].max() * 2)
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("time of a run's step (ns)")
