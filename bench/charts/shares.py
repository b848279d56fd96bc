"""What ECDFs and performance profiles share: curves of shares with bands, a panel for each track."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.charts import rows, style

CURVE = ("x", "share", "low", "high")
NEEDS = ("race", "track", "device", "optimizer", "kind")


def table(tables: dict[str, pd.DataFrame], kind: str) -> pd.DataFrame:
    """The points of one kind of curve: panel, optimizer, x, share, low, high."""
    found = rows.rows_of(tables, "profiles", NEEDS + CURVE)
    found = found.assign(**{column: rows.numbers(found[column]) for column in CURVE})
    found = found[found["kind"].eq(kind) & found["x"].notna()]
    return rows.with_panel(found, "track", ("race", "device"))[["panel", "optimizer", *CURVE]].reset_index(drop=True)


def draw(figure: Figure, table: pd.DataFrame, title: str) -> list[Axes]:
    """One panel per track, one line of steps and a band per optimizer; returns the axes."""
    panels = list(dict.fromkeys(table["panel"]))
    handles = style.optimizer_handles(table["optimizer"])
    axes = style.sheet(figure, title, handles, len(panels), columns=3, size=(3.1, 2.9), left=0.62, sharey=True)
    for axis, panel in zip(axes, panels, strict=True):
        here = table[table["panel"] == panel]
        for optimizer in style.in_order(here["optimizer"])[::-1]:
            look, part = style.optimizer_style(optimizer), here[here["optimizer"] == optimizer]
            axis.fill_between(part["x"], part["low"], part["high"], step="post", color=look.color, alpha=0.1, lw=0)
            axis.plot(part["x"], part["share"], drawstyle="steps-post", color=look.color, linestyle=look.line, lw=1.3)
            axis.plot(
                part["x"].iloc[-1], part["share"].iloc[-1], marker=look.marker, color=look.color, markersize=5.5,
                markeredgecolor="white", markeredgewidth=0.5, clip_on=False,
            )  # fmt: skip
        axis.set_title(style.plain(panel), loc="left")
        axis.set_ylim(0, min(1.0, max(0.1, 1.08 * table["high"].fillna(table["share"]).max())))
    axes[0].set_ylabel("share of targets met (1)")
    return axes
