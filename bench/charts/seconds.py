"""The loss of networks against the seconds spent training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import loss_curves, style

NAME = "seconds"
TITLE = "Loss of networks against seconds, each optimizer at its best learning rate"
SOURCE = "networks"
EMPTY = "No network run kept its time."
READING = (
    "The same runs as above against the time each takes by itself: forward, backward and optimizer step, with the "
    "evaluation off the clock, median over the seeds. Lower and further left is better. The time is on a logarithmic "
    "axis so that cheap and dear steps both show. A curve ends in a cross where the first of its seeds diverged."
)


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per point of a curve: panel, optimizer, status, step, seconds, gap, label (of the loss axis)."""
    curves = loss_curves.network_curves(tables)
    columns = ["panel", "optimizer", "status", "step", "seconds", "gap", "label"]
    return curves[curves["seconds"].gt(0)][columns]


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per network, one line per optimizer."""
    names = list(dict.fromkeys(table["panel"]))
    axes = style.sheet(
        figure, TITLE, loss_curves.handles(table), len(names), columns=3, size=(3.0, 2.5), left=0.72, between=(0.8, 0.9)
    )
    for axis, name in zip(axes, names, strict=True):
        here = table[table["panel"] == name]
        loss_curves.lines(axis, here, "seconds")
        style.log_axis(axis, "x", here["seconds"].min() / 1.2, here["seconds"].max() * 1.2)
        axis.set_title(style.plain(name), loc="left")
        axis.set_xlabel("training time (s)")
        axis.set_ylabel(here["label"].iloc[0])
