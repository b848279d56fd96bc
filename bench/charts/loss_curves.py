"""The loss against gradient evaluations, on test functions and networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.charts import rows, style

NAME = "loss_curves"
TITLE = "Loss against gradient evaluations, each optimizer at its best learning rate"
SOURCE = "functions"
EMPTY = "No run kept its loss curve."
READING = (
    "Lower and further left is better; the loss axis is logarithmic. On test functions the height is the gap, loss "
    "minus the known minimum, from the published start (seed 0), at the learning rate whose run ended lowest. On "
    "networks it is the loss on the full training set (minus its minimum where that is known), median over the seeds, "
    "evaluated off the clock, at the learning rate with the lowest median last loss. Every optimizer got the same "
    "number of learning rates to try. L-BFGS evaluates several gradients in a step, all others one. A curve ends in a "
    "cross where its run diverged, or the first of its seeds. Of many functions sixteen are shown."
)
FLOOR = 1e-16  # a gap of zero has no logarithm: it is drawn at the rounding error of float64


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per point of a curve: panel, optimizer, status, evaluations, gap, label (of the loss axis)."""
    parts = [part for part in (function_curves(tables), network_curves(tables)) if not part.empty]
    columns = ["panel", "optimizer", "status", "evaluations", "gap", "label"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def function_curves(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The gap along the seed-0 run that ended lowest, for each function × optimizer."""
    parts = []
    for row in rows.with_curve(rows.few(rows.function_rates(tables)), "_losses").to_dict("records"):
        evaluations, losses = np.asarray(row["_losses"], dtype=float).T
        finite = np.isfinite(losses)
        gaps = np.maximum(losses[finite] - row["minimum"], FLOOR)
        part = pd.DataFrame({"evaluations": evaluations[finite], "gap": gaps})
        parts.append(part.assign(panel=row["panel"], optimizer=row["optimizer"], status=row["status"]))
    return pd.concat(parts, ignore_index=True).assign(label="loss − minimum") if parts else pd.DataFrame()


def network_curves(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Median over the seeds at the learning rate with the lowest median final loss, for each network × optimizer.

    A curve ends at the last step that all seeds reached: beyond it would be the median of the survivors.
    """
    points = rows.network_points(tables)
    if points.empty:
        columns = ["panel", "optimizer", "step", "evaluations", "gap", "seconds", "status", "label"]
        return pd.DataFrame(columns=columns)
    best = rows.best_runs(rows.last_points(points), "loss")[["panel", "optimizer", "lr"]]
    points = points.merge(best.astype({"lr": float}), on=["panel", "optimizer", "lr"])
    runs = points.groupby(["panel", "optimizer"], sort=False)
    failed = points["status"].eq("diverged").groupby([points["panel"], points["optimizer"]]).transform("any")
    points = points.assign(
        gap=points["gap"].clip(lower=FLOOR),
        label=labels(points["minimum"]),
        seeds=runs["seed"].transform("nunique"),
        curve=np.where(failed, "diverged", points["status"]),
    )
    points = points[points["status"].isin(rows.MEASURED) & np.isfinite(points["loss"]) & points["step"].notna()]
    points = points[points.groupby(["panel", "optimizer", "step"])["seed"].transform("nunique") == points["seeds"]]
    curves = points.drop(columns="status").rename(columns={"curve": "status"})
    curves = curves.groupby(["panel", "optimizer", "step"], sort=False, as_index=False)
    medians = dict.fromkeys(("evaluations", "gap", "seconds"), "median")
    return curves.agg({**medians, "status": "last", "label": "first"})


def labels(minimum: pd.Series) -> np.ndarray:
    """What the loss axis of a network shows: the gap where the minimum is known, else the loss."""
    return np.where(minimum.notna(), "loss − minimum", "loss on the full set")


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per problem, one line per optimizer."""
    names = list(dict.fromkeys(table["panel"]))
    axes = style.sheet(
        figure, TITLE, handles(table), len(names), columns=4, size=(2.2, 1.7), left=0.72, between=(0.75, 0.82)
    )
    for axis, name in zip(axes, names, strict=True):
        here = table[table["panel"] == name]
        lines(axis, here, "evaluations")
        axis.set_title(style.plain(name), loc="left")
        axis.set_xlabel("gradients evaluated")
        axis.set_ylabel(here["label"].iloc[0])


def lines(axis: Axes, curves: pd.DataFrame, across: str) -> None:
    """One line per optimizer over the column `across`, loss on a logarithmic axis, a cross where a run diverged."""
    for optimizer in style.in_order(curves["optimizer"])[::-1]:
        look = style.optimizer_style(optimizer)
        curve = curves[curves["optimizer"] == optimizer]
        x, y = curve[across].to_numpy(), curve["gap"].to_numpy()
        axis.plot(x, y, color=look.color, linestyle=look.line, linewidth=1.3)
        if curve["status"].iloc[-1] == "diverged":
            axis.plot(x[-1], y[-1], color=look.color, zorder=4, clip_on=False, **style.DIVERGED)
        else:
            axis.plot(
                x[-1],
                y[-1],
                marker=look.marker,
                linestyle="none",
                color=look.color,
                markersize=5.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                clip_on=False,
            )
    if curves["gap"].gt(0).any():
        usual = curves["gap"][curves["gap"] > 0]
        start = curves.groupby("optimizer", sort=False)["gap"].head(1).max()
        style.log_axis(axis, "y", usual.min() / 1.5, max(start, usual.quantile(0.98)) * 2)


def handles(table: pd.DataFrame) -> list:
    """Legend entries for the optimizers, and for the cross if one is drawn."""
    entries = style.optimizer_handles(table["optimizer"])
    if table["status"].eq("diverged").any():
        entries.append(style.note("diverged", **style.DIVERGED))
    return entries
