"""Step time of ours against each mode of torch."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "step_time"
TITLE = "Time of one optimizer step: ours against each mode of torch"
SOURCE = "step_time"
EMPTY = "None of the timed cells gave a time."
READING = (
    "Each row is an optimizer, each mark a contender: the median time of one whole step() over many short rounds, in "
    "microseconds on a logarithmic axis; the bar behind it spans the quartiles. Further left is faster. All contenders "
    "of a row took turns in the same run, with the same number of threads."
)
NEEDS = ("optimizer", "parameter_set", "device", "dtype", "threads", "contender", "status")
TIMES = ("median_us", "q1_us", "q3_us")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per contender with a median: panel, optimizer, contender, median_us, q1_us, q3_us."""
    found = rows.rows_of(tables, SOURCE, NEEDS + TIMES)
    found = found.assign(**{column: rows.numbers(found[column]) for column in TIMES})
    found = found[found["median_us"].gt(0) & found["status"].isin(rows.MEASURED) & rows.usual(found)]
    found = rows.with_panel(found, "parameter_set", ("device", "dtype", "threads"))
    return found[["panel", "optimizer", "contender", *TIMES]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per parameter set, optimizers down, time across."""
    names = style.in_order(table["optimizer"])
    sets = list(dict.fromkeys(table["panel"]))
    handles = style.contender_handles(table["contender"])
    axes = style.sheet(
        figure,
        TITLE,
        handles,
        len(sets),
        columns=3,
        size=(3.3, 0.27 * len(names)),
        left=style.room_for(names),
        sharey=True,
    )
    for axis, panel in zip(axes, sets, strict=True):
        style.name_rows(axis, names)
        here = table[table["panel"] == panel]
        for contender in style.in_order(here["contender"], style.CONTENDER_STYLES)[::-1]:  # ours last: on top
            look = style.contender_style(contender)
            part = here[here["contender"] == contender]
            places = [names.index(name) for name in part["optimizer"]]
            axis.hlines(places, part["q1_us"], part["q3_us"], color=look.color, linewidth=3.5, alpha=0.35)
            axis.plot(
                part["median_us"], places, look.marker, color=look.color, markersize=6, markeredgecolor="white",
                markeredgewidth=0.6,
            )  # fmt: skip
        style.log_axis(axis, "x", here["median_us"].min() / 1.5, here["median_us"].max() * 1.5)
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("time of one step (µs)")
