"""Dolan and Moré's performance profiles: how often an optimizer is within a factor of the fastest."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import shares

NAME = "profiles"
TITLE = "Targets met within a multiple of the fastest's gradients"
SOURCE = "profiles"
EMPTY = "No optimizer has runs on every test function."
READING = (
    "Across: gradients to a target ÷ those of the fastest optimizer on the same target, problem and seed. Up: the "
    "share of targets (10⁻¹ to 10⁻⁸) met within that multiple, with its 95 % band; at 1 it is how often an optimizer "
    "was itself the fastest. This says who is near the best of this field: with other competitors it changes."
)


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The points of the curves."""
    return shares.table(tables, "profile")


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per track."""
    for axis in shares.draw(figure, table, TITLE):
        axis.set_xlim(1, table["x"].max())
        axis.set_xlabel("gradients ÷ the fastest's (×)")
