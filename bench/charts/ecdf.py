"""Run time to target: the share of all targets met within so many gradients."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import shares, style

NAME = "ecdf"
TITLE = "Targets met within so many gradients"
SOURCE = "profiles"
EMPTY = "No optimizer has runs on every test function."
READING = (
    "Across: gradients evaluated, on a logarithmic axis. Up: the share of targets met by then, over all problems "
    "and seeds, with its 95 % band. A target is a share of the way from the start's loss to its basin's, from 44 % to "
    "all but 10⁻⁸. Higher is better, and further left is sooner; the area under a curve is the score."
)


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The points of the curves."""
    return shares.table(tables, "ecdf")


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per track."""
    for axis in shares.draw(figure, table, TITLE):
        style.log_axis(axis, "x", 1, table["x"].max())
        axis.set_xlabel("gradients evaluated")
