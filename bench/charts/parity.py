"""Rounding error of one step, ours beside torch's."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "parity"
TITLE = "Rounding error of one step against the float64 oracle"
SOURCE = "parity"
EMPTY = "No check measured a rounding error."
READING = (
    "From the same state, one step is compared with the textbook rule in float64; the error is in units in the last "
    "place (ulp) of the storage type, worst over parameters and states. A mark is the largest error over all option "
    "sets and steps, the line reaches down to the mean. Ours should lie where torch's for-loop lies, or left of it. "
    "A cross is a contender outside its tolerance. The axis is linear up to 1 ulp and logarithmic beyond, "
    "and whatever is larger than 10⁴ stands at its end. float64 is compared in a free run instead: see the table."
)
NEEDS = ("optimizer", "contender", "device", "dtype", "mean_ulp", "max_ulp", "loop_mean_ulp", "loop_max_ulp", "status")
CAP = 1e4  # ulp; overflow in half precision and a state of the wrong sign reach 1e40 and infinity
DTYPES = ("float64", "float32", "bfloat16", "float16")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Worst over the option sets, per panel × optimizer × contender: mean_ulp, max_ulp, wrong (beyond tolerance)."""
    found = rows.rows_of(tables, SOURCE, NEEDS)
    errors = ("mean_ulp", "max_ulp", "loop_mean_ulp", "loop_max_ulp")
    found = found.assign(**{column: rows.numbers(found[column]) for column in errors})
    loop = found.assign(contender="loop", mean_ulp=found["loop_mean_ulp"], max_ulp=found["loop_max_ulp"], status="ok")
    found = pd.concat([found, loop])  # the for-loop ran beside every contender
    found = found[found["max_ulp"].notna()]
    found = rows.with_panel(found, "dtype", ("device",))
    found["wrong"] = found["status"].isin(("wrong", "reference fault"))
    worst = found.groupby(["panel", "optimizer", "contender"], sort=False, as_index=False)
    return worst.agg({"mean_ulp": "max", "max_ulp": "max", "wrong": "any"})


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per dtype, optimizers down, error across; contenders one under the other inside a row."""
    names = style.in_order(table["optimizer"])
    contenders = style.in_order(table["contender"], style.CONTENDER_STYLES)
    dtypes = style.in_order(table["panel"], DTYPES)
    handles = style.contender_handles(contenders)
    if table["wrong"].any():
        handles.append(style.note("outside its tolerance", **style.DIVERGED))
    height = (0.09 * len(contenders) + 0.1) * len(names)
    axes = style.sheet(
        figure, TITLE, handles, len(dtypes), columns=4, size=(2.5, height), left=style.room_for(names), sharey=True
    )
    for axis, panel in zip(axes, dtypes, strict=True):
        style.name_rows(axis, names)
        for row in table[table["panel"] == panel].itertuples():
            look = style.contender_style(row.contender)
            place = names.index(row.optimizer) + 0.8 * ((contenders.index(row.contender) + 0.5) / len(contenders) - 0.5)
            mean, largest = min(row.mean_ulp, CAP), min(row.max_ulp, CAP)
            axis.hlines(place, mean, largest, color=look.color, linewidth=1.3, alpha=0.55)
            axis.plot(largest, place, look.marker, color=look.color, markersize=4.5)
            if row.wrong:
                axis.plot(largest, place, color=style.INK, **{**style.DIVERGED, "markersize": 8}, zorder=5)
        scale(axis, table.loc[table["panel"] == panel, "max_ulp"].max())
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("error of one step (ulp)")


def scale(axis: Axes, largest: float) -> None:
    """An axis from 0 that is linear up to 1 ulp and logarithmic beyond; all that is larger than `CAP` stands there."""
    right = min(max(largest, 1.0), CAP)
    axis.set_xscale("symlog", linthresh=1, linscale=0.9)
    axis.set_xlim(0, right * (2 if right > 1 else 1.2))
    ticks = [tick for tick in ((0, 0.5, 1, 3, 10, 30) if right < 50 else (0, 1, 10, 100, 1e3, 1e4)) if tick <= right]
    axis.set_xticks(ticks, ["≥10⁴" if tick == CAP and largest > CAP else style.number(tick) for tick in ticks])
