"""The score of each optimizer in the three tracks, as a forest plot."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import rows, style
from bench.contenders import NULLS

NAME = "scores"
TITLE = "Score: area under the share of targets met"
SOURCE = "scores"
EMPTY = "No optimizer has runs on every test function."
READING = (
    "Each row is an optimizer, each mark its score with the 95 % interval over seeds: further right is better. 0 is "
    "standing still, 1 is meeting every target with the first gradient. The score is absolute: it does not depend on "
    "who else takes part. Beside it the rank, with its interval. A learning rate is tuned on seeds that are not "
    "scored. In grey: competitors that optimize nothing, without a rank."
)
SCORE = ("score", "score_low", "score_high", "rank", "rank_low", "rank_high")
NEEDS = ("race", "track", "device", "optimizer", "problem", "status")


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per track × optimizer: panel, optimizer, score and rank with the ends of their intervals."""
    found = rows.rows_of(tables, SOURCE, NEEDS + SCORE)
    found = found.assign(**{column: rows.numbers(found[column]) for column in SCORE})
    found = found[found["problem"].eq("all") & found["score"].notna()]
    return rows.with_panel(found, "track", ("race", "device"))[["panel", "optimizer", *SCORE]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per track, the best of the last one on top, each mark labelled with its rank."""
    panels = list(dict.fromkeys(table["panel"]))
    names = best_first(table)
    handles = [style.note("score, with 95 % interval", marker="o", linestyle="-")]
    if set(names) & set(NULLS):
        handles.append(style.note("optimizes nothing", marker="o", linestyle="-", color=style.GREY))
    axes = style.sheet(
        figure, TITLE, handles, len(panels), columns=3, size=(3.0, 0.27 * len(names)), left=style.room_for(names),
        sharey=True,
    )  # fmt: skip
    for axis, panel in zip(axes, panels, strict=True):
        style.name_rows(axis, names)
        for row in table[table["panel"] == panel].itertuples():
            look, place = style.optimizer_style(row.optimizer), names.index(row.optimizer)
            axis.hlines(place, row.score_low, row.score_high, color=look.color, linewidth=2.2)
            axis.plot(row.score, place, marker=look.marker, color=look.color, markersize=5.5)
            right = max(row.score, row.score_high) if row.score_high == row.score_high else row.score
            axis.annotate(
                rank(row.rank, row.rank_low, row.rank_high), (right, place), xytext=(7, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axis.set_xlim(-0.02, 1.02 if table["score"].max() > 0.75 else table[["score", "score_high"]].max().max() * 1.3)
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("score (0 to 1)")


def best_first(table: pd.DataFrame) -> list[str]:
    """The optimizers by their score in the last panel, those that optimize nothing last."""
    last = table.drop_duplicates("optimizer", keep="last").sort_values("score", ascending=False, kind="stable")
    return sorted(last["optimizer"], key=lambda name: name in NULLS)


def rank(value: float, low: float, high: float) -> str:
    """``3``, ``3 (2–4)``, or nothing for who has no rank."""
    if value != value:
        return ""
    return f"{value:.0f}" if low != low or low == high else f"{value:.0f} ({low:.0f}–{high:.0f})"
