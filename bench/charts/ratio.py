"""Speed-up of ours over the best mode of torch."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "ratio"
TITLE = "How many times faster ours is than torch's best mode"
SOURCE = "step_time"
EMPTY = "No cell timed ours beside a mode of torch."
READING = (
    "Time of torch's best mode (for-loop, foreach or fused) divided by the time of ours, with its 95 % interval, on a "
    "logarithmic axis: right of the line at 1 ours is faster, left of it torch is. A hollow mark is inconclusive: its "
    "interval is wider than ±5 %."
)
NEEDS = ("optimizer", "parameter_set", "device", "dtype", "threads", "contender", "status", "verdict")
RATIO = ("ratio", "ratio_low", "ratio_high")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per cell of ours: panel, optimizer, ratio, ratio_low, ratio_high, inconclusive (bool)."""
    found = rows.rows_of(tables, SOURCE, NEEDS + RATIO)
    found = found.assign(**{column: rows.numbers(found[column]) for column in RATIO})
    found = found[found["contender"].eq("ours") & found["ratio"].gt(0) & found["status"].isin(rows.MEASURED)]
    found = found[rows.usual(found)]
    found = rows.with_panel(found, "parameter_set", ("device", "dtype", "threads"))
    found["inconclusive"] = found["verdict"].eq("inconclusive") | found["status"].eq("inconclusive")
    return found[["panel", "optimizer", *RATIO, "inconclusive"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per parameter set, optimizers down, ratio across, each mark labelled with its number."""
    names = style.in_order(table["optimizer"])
    sets = list(dict.fromkeys(table["panel"]))
    handles = [
        style.note("measured, with 95 % interval", marker="o", linestyle="-"),
        style.note("inconclusive", marker="o", markerfacecolor="white"),
        style.note("equally fast", linestyle="-", linewidth=1),
    ]
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
        axis.axvline(1, color=style.INK, linewidth=1)
        here = table[table["panel"] == panel]
        low = min(here["ratio"].min(), here["ratio_low"].min(), 0.9)
        high = max(here["ratio"].max(), here["ratio_high"].max(), 1.1)
        for row in here.itertuples():
            look = style.optimizer_style(row.optimizer)
            place = names.index(row.optimizer)
            axis.hlines(place, row.ratio_low, row.ratio_high, color=look.color, linewidth=2.2)
            axis.plot(
                row.ratio, place, marker=look.marker, color=look.color, markersize=5.5, markeredgewidth=1.2,
                markerfacecolor="white" if row.inconclusive else look.color,
            )  # fmt: skip
            right = row.ratio_high if row.ratio_high > row.ratio else row.ratio
            axis.annotate(
                f"{row.ratio:.3g}×", (right, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8
            )
        style.log_axis(axis, "x", low / (high / low) ** 0.05, high * (high / low) ** 0.24)  # room for the last number
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("speed-up (×, torch's best ÷ ours)")
