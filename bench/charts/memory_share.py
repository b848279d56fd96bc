"""How much of the machine's memory stream a step reaches."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.charts import rows, style

NAME = "memory_share"
TITLE = "Share of the memory stream that a step reaches"
SOURCE = "step_time"
EMPTY = "No memory-bound parameter set (resnet18, one-big, gpt2) was timed beside the stream."
READING = (
    "On parameter sets too large for the caches the memory is the limit. 100 % is what a plain in-place update of the "
    "same arrays, with no optimizer rule, reached in the same run with the same threads; the bytes counted are the "
    "least a step must move, so a mode that passes over the arrays several times stays far left (Adafactor needs three "
    "passes, which are counted). Values a little above 100 % are noise of that stream or data kept in a cache."
)
NEEDS = ("optimizer", "parameter_set", "device", "dtype", "threads", "contender", "status")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per contender on a memory-bound set: panel, optimizer, contender, percent, gb_per_s."""
    found = rows.rows_of(tables, SOURCE, (*NEEDS, "share_of_stream", "gb_per_s"))
    found = found.assign(percent=100 * rows.numbers(found["share_of_stream"]), gb_per_s=rows.numbers(found["gb_per_s"]))
    large = found["parameter_set"].isin(rows.MEMORY_BOUND) & found["percent"].gt(0)
    found = found[large & found["status"].isin(rows.MEASURED)]
    found = rows.with_panel(found, "parameter_set", ("device", "dtype", "threads"))
    return found[["panel", "optimizer", "contender", "percent", "gb_per_s"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per parameter set: bars for ours, marks for torch's modes, a line at the stream."""
    names = style.in_order(table["optimizer"])
    sets = list(dict.fromkeys(table["panel"]))
    ours = style.contender_style("ours").color
    handles = [
        Patch(color=ours, label="ours"),
        *style.contender_handles(set(table["contender"]) - {"ours"}),
        style.note("the stream: 100 %", linestyle="-", linewidth=1.2),
    ]
    axes = style.sheet(
        figure, TITLE, handles, len(sets), columns=2, size=(4.7, 0.29 * len(names)), left=style.room_for(names),
        between=(0.8, 0.9), right=0.8, sharey=True,
    )  # fmt: skip
    for axis, panel in zip(axes, sets, strict=True):
        style.name_rows(axis, names)
        here = table[table["panel"] == panel]
        for row in here[here["contender"] == "ours"].itertuples():
            place = names.index(row.optimizer)
            axis.barh(place, row.percent, height=0.5, color=ours, alpha=0.75)
            axis.annotate(
                f"{row.percent:.0f} %", (1, place), xycoords=axis.get_yaxis_transform(), xytext=(6, 0),
                textcoords="offset points", va="center", color=ours, fontweight="bold",
            )  # fmt: skip
        for contender in rows.TORCH:
            look = style.contender_style(contender)
            part = here[here["contender"] == contender]
            places = [names.index(name) for name in part["optimizer"]]
            axis.plot(part["percent"], places, look.marker, color=look.color, markersize=6.5, markeredgecolor="white")
        axis.axvline(100, color=style.INK, linewidth=1.2)
        axis.set_xlim(0, max(112, table["percent"].max() * 1.04))
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("bytes per second, share of the stream (%)")
