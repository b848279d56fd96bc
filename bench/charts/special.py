"""Step time on workloads that only some optimizers have."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style
from bench.charts.step_time import NEEDS, TIMES

NAME = "special"
TITLE = "Time of one step on workloads of their own: ours against each mode of torch"
SOURCE = "step_time"
EMPTY = "No workload of its own was timed."
READING = (
    "Each row is an optimizer and what it stepped: matrices for Muon, an embedding with a sparse gradient for "
    "SparseAdam, a network's or a vector's loss for L-BFGS, 465 parameter groups for Adam. A step of L-BFGS is four "
    "iterations, and holds their evaluations of a loss that costs two passes over the parameters. Median of one whole "
    "step() in microseconds on a logarithmic axis, with the quartiles as a bar; further left is faster. On the right: "
    "how many times faster ours is than torch's best mode, in brackets where that is inconclusive."
)
RATIO = ("ratio", "verdict", "best_of_torch")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per contender: panel (the workload), optimizer, contender, median_us, q1_us, q3_us, unsure (bool).

    And in the row of ours `ratio`.
    """
    found = rows.rows_of(tables, SOURCE, NEEDS + TIMES + RATIO)
    found = found.assign(**{column: rows.numbers(found[column]) for column in (*TIMES, "ratio")})
    found = found[found["median_us"].gt(0) & found["status"].isin(rows.MEASURED) & ~rows.usual(found)]
    found = rows.with_panel(found, "parameter_set", ("device", "dtype", "threads"))
    return found.assign(
        panel=found["optimizer"] + " · " + found["panel"],
        ratio=found["ratio"].where(found["contender"].eq("ours")),
        unsure=found["verdict"].eq("inconclusive"),
    )[["panel", "optimizer", "contender", *TIMES, "ratio", "unsure"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel: workloads down, by optimizer; time across."""
    optimizers = style.in_order(table["optimizer"])
    order = table.sort_values("optimizer", key=lambda names: names.map(optimizers.index), kind="stable")
    names = list(dict.fromkeys(order["panel"]))
    (axis,) = style.sheet(
        figure, TITLE, style.contender_handles(table["contender"]), 1, columns=1, size=(6.0, 0.3 * len(names)),
        left=style.room_for(names), right=0.9,
    )  # fmt: skip
    style.name_rows(axis, names)
    for contender in style.in_order(table["contender"], style.CONTENDER_STYLES)[::-1]:  # ours last: on top
        look = style.contender_style(contender)
        part = table[table["contender"] == contender]
        places = [names.index(name) for name in part["panel"]]
        axis.hlines(places, part["q1_us"], part["q3_us"], color=look.color, linewidth=3.5, alpha=0.35)
        axis.plot(
            part["median_us"], places, marker=look.marker, linestyle="none", color=look.color, markersize=6,
            markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
    for row in table[table["ratio"].gt(0)].itertuples():
        text = f"{row.ratio:.3g}×"
        axis.annotate(
            f"({text})" if row.unsure else text, (1, names.index(row.panel)), xycoords=axis.get_yaxis_transform(),
            xytext=(6, 0), textcoords="offset points", va="center", fontsize=9, fontweight="bold",
            color=style.contender_style("ours").color,
        )  # fmt: skip
    style.log_axis(axis, "x", table["q1_us"].min() / 1.3, table["q3_us"].max() * 1.3)
    axis.set_title("one step()", loc="left")
    axis.set_xlabel("time of one step (µs)")
