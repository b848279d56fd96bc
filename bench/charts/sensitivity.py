"""How much the result depends on the learning rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.charts import rows, style
from bench.charts.loss_curves import FLOOR, labels
from bench.statistics import measured_quartiles

NAME = "sensitivity"
TITLE = "What the learning rate does to the result"
SOURCE = "functions"
EMPTY = "Only one learning rate was tried on each problem."
READING = (
    "Across: the learning rate as a multiple of each optimizer's default (grey line at 1). Up: on test functions the "
    "lowest gap a run reached, on networks the last loss; the line is the median over the seeds (the worse of the two "
    "in the middle), the band their quartiles; a seed that diverged counts as infinitely bad. A wide low valley is "
    "easy to tune. A cross at the top says that at least one seed diverged there, and the line has a gap where the "
    "median did; the cross sits a little beside its learning rate, so that those of several optimizers can be told "
    "apart."
)


COLUMNS = ["panel", "label", "optimizer", "lr_multiple", "median", "low", "high", "diverged"]


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Per panel × optimizer × lr_multiple, over the seeds: median, low, high (quartiles), diverged (any), label."""
    parts = [part for part in (of_functions(tables), of_networks(tables)) if len(part)]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(parts, ignore_index=True)
    several = table.groupby("panel")["lr_multiple"].transform("nunique").gt(1)
    return table[several].reset_index(drop=True)  # one learning rate says nothing about sensitivity


def of_functions(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Its rows have the quartiles already."""
    rates = rows.few(rows.function_rates(tables))
    rates = rates[rates["lr_multiple"].gt(0) & rates["status"].isin((*rows.MEASURED, "diverged"))]
    names = {"gap_median": "median", "gap_q1": "low", "gap_q3": "high"}
    rates = rates.assign(label="lowest loss − minimum", diverged=rates["diverged"].gt(0)).rename(columns=names)
    return rates[COLUMNS]


def of_networks(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    points = rows.last_points(rows.network_points(tables))
    points = points.assign(label="last " + pd.Series(labels(points["minimum"]), points.index, dtype=object))
    points = points.assign(lr_multiple=rows.numbers(points["lr_multiple"]))
    points = points[points["lr_multiple"].gt(0) & points["status"].isin((*rows.MEASURED, "diverged"))]
    points["value"] = points["gap"].where(points["status"].ne("diverged")).fillna(np.inf)
    found = []
    for key, group in points.groupby(COLUMNS[:4], sort=False):
        low, median, high = measured_quartiles(group["value"])
        found.append([*key, median, low, high, bool(np.isinf(group["value"]).any())])
    return pd.DataFrame(found, columns=COLUMNS)


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per problem, one line and band per optimizer."""
    names = list(dict.fromkeys(table["panel"]))
    optimizers = style.in_order(table["optimizer"])
    entries = style.optimizer_handles(optimizers)
    if table["diverged"].any():
        entries.append(style.note("diverged", **style.DIVERGED))
    axes = style.sheet(figure, TITLE, entries, len(names), columns=4, size=(2.2, 1.75), left=0.72, between=(0.75, 0.9))
    for axis, name in zip(axes, names, strict=True):
        here = table[table["panel"] == name].sort_values("lr_multiple", kind="stable")
        axis.axvline(1, color="#C4C9D0", linewidth=1.2)
        style.log_axis(axis, "x", here["lr_multiple"].min() / 1.6, here["lr_multiple"].max() * 1.6)
        finite = here["median"][np.isfinite(here["median"])].clip(lower=FLOOR)
        if len(finite):
            low, high = finite.min(), finite.max()
            style.log_axis(axis, "y", low / 1.5, high * max((high / low) ** 0.1, 1.3))
        for place, optimizer in enumerate(optimizers):
            shift = 1.35 ** (2 * (place + 0.5) / len(optimizers) - 1)
            curve(axis, here[here["optimizer"] == optimizer], style.optimizer_style(optimizer), shift)
        axis.set_title(style.plain(name), loc="left", pad=9)
        axis.set_xlabel("learning rate ÷ default (×)")
        axis.set_ylabel(here["label"].iloc[0])


def curve(axis: Axes, part: pd.DataFrame, look: style.Style, shift: float) -> None:
    """Median line with its band, broken where the median diverged; a cross at the top where any seed did.

    The axis has its limits already: an infinite upper quartile reaches to its top.
    """
    x = part["lr_multiple"]
    finite = np.isfinite(part["median"])
    middle, low = (part[column].clip(lower=FLOOR).where(finite) for column in ("median", "low"))
    high = part["high"].clip(lower=FLOOR).replace(np.inf, axis.get_ylim()[1]).where(finite)
    axis.plot(x, middle, marker=look.marker, color=look.color, linestyle=look.line, markersize=3.5, linewidth=1.2)
    if (high > low).any():
        axis.fill_between(x, low, high, color=look.color, alpha=0.06, linewidth=0)
    bad = part[part["diverged"]]
    if bad.empty:
        return
    top = axis.get_xaxis_transform()
    axis.plot(
        bad["lr_multiple"] * shift, np.full(len(bad), 1.0), "x", color=look.color, transform=top, clip_on=False,
        markersize=4.5, markeredgewidth=1.3, zorder=4,
    )  # fmt: skip
