"""Peak memory of a loss and its gradient."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "loss_memory"
TITLE = "Peak memory of a loss and its gradient, at the largest size measured"
SOURCE = "loss_time"
EMPTY = "No loss gave its peak memory."
READING = (
    "The most memory that forward and backward pass held at one time beyond the inputs, in tensors of the size of the "
    "predictions. 1 is the gradient alone, which nobody can do without; whatever is above it are values kept between "
    "the operations of a chain."
)
ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per loss (at its largest size) and contender: panel, row, contender, tensors."""
    found = rows.at_the_largest(rows.loss_times(tables))
    found = found[found["phase"].eq("both") & found["peak_bytes"].gt(0)]
    tensors = found["peak_bytes"] / (found["elements"] * found["dtype"].map(ITEMSIZE))
    return found.assign(tensors=tensors)[["panel", "row", "contender", "tensors"]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel: losses down, a bar per contender, each with its number."""
    names = list(dict.fromkeys(table["row"]))
    contenders = style.in_order(table["contender"], style.CONTENDER_STYLES)
    height = 0.8 / len(contenders)
    handles = style.contender_handles(contenders)
    handles.append(style.note("the gradient alone", linestyle="-", linewidth=1))
    (axis,) = style.sheet(
        figure, TITLE, handles, 1, columns=1, size=(6.0, 0.2 * (len(contenders) + 0.7) * len(names)),
        left=style.room_for(names), right=0.4,
    )  # fmt: skip
    style.name_rows(axis, names)
    for row in table.itertuples():
        look = style.contender_style(row.contender)
        place = names.index(row.row) + height * (contenders.index(row.contender) + 0.5) - 0.4
        axis.barh(place, row.tensors, height=0.85 * height, color=look.color, alpha=0.8)
        axis.plot(row.tensors, place, look.marker, color=look.color, markersize=5, markeredgecolor="white")
        axis.annotate(
            f"{row.tensors:.3g}", (row.tensors, place), xytext=(6, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axis.axvline(1, color=style.INK, linewidth=1)
    axis.set_xlim(0, 1.12 * table["tensors"].max())
    axis.set_title("forward and backward", loc="left")
    axis.set_xlabel("peak memory (× the predictions)")
