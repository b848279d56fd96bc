"""Speed-up of our losses over torch's."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "loss_ratio"
TITLE = "How many times faster our losses are than torch's, at the largest size measured"
SOURCE = "loss_time"
EMPTY = "No loss of ours was timed beside torch's."
READING = (
    "Time of torch's eager mode divided by the time of ours, with its 95 % interval, on a logarithmic axis: right of "
    "the line at 1 ours is faster, left of it torch is. Ours makes the gradient in the forward pass, which takes "
    "longer for it; the backward pass has nothing left to do, and what counts is both together. Of a loss that torch "
    "does not have, its formula in plain torch is timed. A hollow mark is inconclusive: its interval is wider than "
    "±5 %."
)
RATIO = ("ratio", "ratio_low", "ratio_high")
PHASES = {"both": "forward and backward", "forward": "forward", "backward": "backward"}
COLORS = {"both": style.VERMILLION, "forward": style.BLUE, "backward": style.GREEN}


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per loss (at its largest size) and phase: panel (device and the like, too), phase, row, ratio, …"""
    found = rows.at_the_largest(rows.loss_times(tables))
    found = found[found["contender"].eq("ours") & found["ratio"].gt(0)]
    found = found.assign(inconclusive=found["verdict"].eq("inconclusive") | found["status"].eq("inconclusive"))
    found = found.sort_values("phase", key=lambda phases: phases.map(list(PHASES).index), kind="stable")
    return found[["panel", "phase", "row", *RATIO, "inconclusive"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per phase, losses down, ratio across, each mark labelled with its number."""
    names = list(dict.fromkeys(table["row"]))
    phases = list(dict.fromkeys(table["phase"]))
    handles = [
        style.note("measured, with 95 % interval", marker="o", linestyle="-"),
        style.note("inconclusive", marker="o", markerfacecolor="white"),
        style.note("equally fast", linestyle="-", linewidth=1),
    ]
    axes = style.sheet(
        figure, TITLE, handles, len(phases), columns=3, size=(2.8, 0.27 * max(len(names), 2)),
        left=style.room_for(names), sharey=True,
    )  # fmt: skip
    for axis, phase in zip(axes, phases, strict=True):
        style.name_rows(axis, names)
        axis.axvline(1, color=style.INK, linewidth=1)
        here = table[table["phase"] == phase]
        low = min(here["ratio"].min(), here["ratio_low"].min(), 0.9)
        high = max(here["ratio"].max(), here["ratio_high"].max(), 1.1)
        for row in here.itertuples():
            place, color = names.index(row.row), COLORS[phase]
            axis.hlines(place, row.ratio_low, row.ratio_high, color=color, linewidth=2.2)
            axis.plot(
                row.ratio, place, marker="o", color=color, markersize=5.5, markeredgewidth=1.2,
                markerfacecolor="white" if row.inconclusive else color,
            )  # fmt: skip
            right = row.ratio_high if row.ratio_high > row.ratio else row.ratio
            axis.annotate(
                f"{row.ratio:.3g}×", (right, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},  # the line at 1 may lie below
            )  # fmt: skip
        style.log_axis(axis, "x", low / (high / low) ** 0.05, high * (high / low) ** 0.3)  # room for the last number
        axis.set_title(PHASES[phase], loc="left")
        axis.set_xlabel("speed-up (×, torch ÷ ours)")
