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
    "predictions, both logarithmic; the band spans the quartiles. Lower is faster. Losses of classes are shown at "
    "rows × classes of logits, and those of vectors at vectors × their length, as bars between the quartiles, for such "
    "sizes lie on no line. Contenders took turns in one run."
)


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per loss, size and contender: panel, size, contender, elements, median_us, q1_us, q3_us."""
    found = rows.loss_times(tables)
    found = found[found["phase"].eq("both")]
    return found[["panel", "size", "contender", "elements", "median_us", "q1_us", "q3_us"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Small multiples, one line per contender."""
    names = list(dict.fromkeys(table["panel"]))
    handles = style.contender_handles(table["contender"])
    axes = style.sheet(
        figure, TITLE, handles, len(names), columns=4, size=(2.1, 1.7), left=0.75, between=(0.68, 0.85), right=0.3
    )
    for axis, name in zip(axes, names, strict=True):
        here = table[table["panel"] == name]
        # ours last: on top
        for contender in style.in_order(here["contender"], style.CONTENDER_STYLES)[::-1]:
            look = style.contender_style(contender)
            line = here[here["contender"] == contender].sort_values("elements")
            marks = {"color": look.color, "marker": look.marker, "markersize": 5, "markeredgecolor": "white"}
            if of_classes(here):
                places = [sizes(here).index(size) for size in line["size"]]
                axis.vlines(places, line["q1_us"], line["q3_us"], color=look.color, linewidth=4, alpha=0.3)
                axis.plot(places, line["median_us"], linestyle="", markeredgewidth=0.5, **marks)
            else:
                x = line["elements"]
                axis.fill_between(x, line["q1_us"], line["q3_us"], color=look.color, alpha=0.2, linewidth=0)
                axis.plot(x, line["median_us"], markeredgewidth=0.5, **marks)
        if of_classes(here):
            axis.set_xticks(range(len(sizes(here))), [size.replace("x", "\n×") for size in sizes(here)])
            axis.set_xlim(-0.5, len(sizes(here)) - 0.5)
            axis.set_xlabel("size (rows × columns)")
        else:
            style.log_axis(axis, "x", here["elements"].min() / 1.6, here["elements"].max() * 1.6)
            axis.set_xlabel("size (elements)")
        style.log_axis(axis, "y", here["q1_us"].min() / 1.6, here["q3_us"].max() * 1.6)
        axis.set_title(style.plain(name), loc="left")
        axis.set_ylabel("time (µs)")


def of_classes(panel: pd.DataFrame) -> bool:
    """Whether a panel's sizes are rows x classes, vectors x their length, or times x sequences x classes."""
    return panel["size"].str.contains("x").all()


def sizes(panel: pd.DataFrame) -> list[str]:
    """From the smallest to the largest."""
    return list(panel.sort_values("elements")["size"].unique())
