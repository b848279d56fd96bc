"""Time of a loss against its size: ours, torch's, compiled."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "loss_time"
TITLE = "Time of a loss and its gradient against the number of elements"
SOURCE = "loss_time"
EMPTY = "No loss gave a time."
READING = (
    "One panel per loss: the median time of forward and backward pass together, in microseconds, against the number of "
    "predictions (of cross-entropy, logits), both logarithmic; the band spans the quartiles. Lower is faster. The rows "
    "of cross-entropy's sizes differ in length, so its line need not be straight. Contenders took turns in one run."
)


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per loss, size and contender: panel, contender, elements, median_us, q1_us, q3_us."""
    found = rows.loss_times(tables)
    found = found[found["phase"].eq("both")]
    return found[["panel", "contender", "elements", "median_us", "q1_us", "q3_us"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Small multiples, one line per contender."""
    names = list(dict.fromkeys(table["panel"]))
    handles = style.contender_handles(table["contender"])
    axes = style.sheet(
        figure, TITLE, handles, len(names), columns=4, size=(2.1, 1.7), left=0.75, between=(0.68, 0.85), right=0.3
    )
    for axis, name in zip(axes, names, strict=True):
        here = table[table["panel"] == name]
        for contender in style.in_order(here["contender"], style.CONTENDER_STYLES)[::-1]:  # ours last: on top
            look = style.contender_style(contender)
            line = here[here["contender"] == contender].sort_values("elements")
            axis.fill_between(line["elements"], line["q1_us"], line["q3_us"], color=look.color, alpha=0.2, linewidth=0)
            axis.plot(
                line["elements"], line["median_us"], color=look.color, marker=look.marker, markersize=5,
                markeredgecolor="white", markeredgewidth=0.5,
            )  # fmt: skip
        style.log_axis(axis, "x", here["elements"].min() / 1.6, here["elements"].max() * 1.6)
        style.log_axis(axis, "y", here["q1_us"].min() / 1.6, here["q3_us"].max() * 1.6)
        axis.set_title(style.plain(name), loc="left")
        axis.set_xlabel("size (elements)")
        axis.set_ylabel("time (µs)")
