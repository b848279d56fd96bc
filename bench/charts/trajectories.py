"""The paths of the optimizers over contour plots of the two-dimensional test functions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bench.charts import rows, style
from bench.problems.function import Function
from bench.problems.functions import known, named

NAME = "trajectories"
TITLE = "Paths downhill, each optimizer at its best learning rate"
SOURCE = "functions"
EMPTY = "No run on a two-dimensional function kept its path."
READING = (
    "Each panel is a test function seen from above: the paler, the lower, with levels spaced by a constant factor of "
    "the height above the minimum. All paths begin at the circle; the star is the minimum. Each line is the run from "
    "the published start (seed 0) with that learning rate of the grid whose run ended lowest. A path that ends in a "
    "cross diverged. Of many functions twelve are shown. Coordinates have no unit."
)
GRID = 110  # points per side of the height map
PALE = LinearSegmentedColormap.from_list("pale", ["#FFFFFF", "#DCE3EA", "#A9B6C4"])


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per point of a path: panel, function, optimizer, status, x, y."""
    columns = ["panel", "function", "optimizer", "status"]
    parts = []
    runs = rows.with_curve(rows.few(rows.function_rates(tables)), "_trace")
    for row in runs.to_dict("records"):
        points = np.asarray(row["_trace"], dtype=float)
        if points.ndim == 2 and points.shape[1] == 2:
            parts.append(pd.DataFrame(points, columns=["x", "y"]).assign(**{key: row[key] for key in columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns, "x", "y"])


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """One panel per function: height map, star, start, and a line per optimizer."""
    names = list(dict.fromkeys(table["panel"]))
    handles = style.optimizer_handles(table["optimizer"])
    handles.append(style.note("start", marker="o", markerfacecolor="white", markersize=7))
    handles.append(style.note("minimum", **STAR))
    if table["status"].eq("diverged").any():
        handles.append(style.note("diverged", **style.DIVERGED))
    axes = style.sheet(
        figure, TITLE, handles, len(names), columns=4, size=(2.25, 2.05), left=0.65, between=(0.62, 0.82)
    )
    for axis, panel in zip(axes, names, strict=True):
        here = table[table["panel"] == panel]
        name = here["function"].iloc[0]
        function = named(name) if known(name) else None
        corners = view(here, function)
        if function is not None:
            heights(axis, function, corners)
        for optimizer in sorted(style.in_order(here["optimizer"])[::-1], key=lambda one: -length(here, one)):
            path(axis, here[here["optimizer"] == optimizer], style.optimizer_style(optimizer))
        first = here.groupby("optimizer", sort=False).head(1)
        axis.plot(first["x"].iloc[0], first["y"].iloc[0], "o", color="white", markeredgecolor=style.INK, markersize=7)
        axis.set_xlim(*corners[0])
        axis.set_ylim(*corners[1])
        axis.grid(visible=False)
        axis.locator_params(nbins=5)
        axis.set_title(style.plain(panel), loc="left")
        axis.set_xlabel("x₁")
        axis.set_ylabel("x₂")


STAR = {"marker": "*", "color": "#F0E442", "markeredgecolor": style.INK, "markersize": 13, "markeredgewidth": 0.9}


def view(paths: pd.DataFrame, function: Function | None) -> np.ndarray:
    """The part of the plane worth seeing, ``[[left, right], [bottom, top]]``.

    It holds the start, the minimum nearest to it and nine tenths of every path, inside the function's domain: a few
    wild steps do not make all the others too small to see.
    """
    start = paths[["x", "y"]].iloc[[0]].to_numpy()
    points = [start]
    for _, one in paths[paths["status"] != "diverged"].groupby("optimizer"):
        points.append(one[["x", "y"]].replace([np.inf, -np.inf], np.nan).dropna().quantile([0.05, 0.95]).to_numpy())
        points.append(one[["x", "y"]].to_numpy()[-1:])
    if function is not None and len(function.minimisers):
        minimisers = np.asarray(function.minimisers, dtype=float).reshape(-1, 2)
        points.append(minimisers[[np.linalg.norm(minimisers - start, axis=1).argmin()]])
    points = np.concatenate(points)
    points = points[np.isfinite(points).all(axis=1)]
    low, high = points.min(axis=0), points.max(axis=0)
    if function is not None:
        domain = np.broadcast_to(np.asarray(function.domain, dtype=float), (2, 2))
        low, high = np.maximum(low, domain[:, 0]), np.minimum(high, domain[:, 1])
    room = np.maximum(0.14 * (high - low), 0.05 * (high - low).max() + 1e-9)
    return np.stack([low - room, high + room], axis=1)


def length(paths: pd.DataFrame, optimizer: str) -> float:
    """How long a path is; the longest is drawn first, so that one that jumps about does not hide the others."""
    steps = np.diff(paths.loc[paths["optimizer"] == optimizer, ["x", "y"]].to_numpy(), axis=0)
    return float(np.nansum(np.linalg.norm(steps, axis=1)))


def heights(axis: Axes, function: Function, corners: np.ndarray) -> None:
    """Filled contours of the function, and a star on each minimum."""
    x, y, levels, logs = height_map(function, corners)
    axis.contourf(x, y, logs, levels=levels, cmap=PALE, zorder=0)
    axis.contour(x, y, logs, levels=levels, colors="white", linewidths=0.5, linestyles="-", zorder=0)
    axis.set_rasterization_zorder(0.5)  # as outlines the heights alone would make the SVG several megabytes
    stars = np.asarray(function.minimisers, dtype=float).reshape(-1, 2)
    axis.plot(stars[:, 0], stars[:, 1], linestyle="none", zorder=2.6, **STAR)


def height_map(function: Function, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, levels and the logarithm of the height above the minimum on the grid [y, x]; the levels equally spaced."""
    x, y = (torch.linspace(*side, GRID, dtype=torch.float64) for side in corners.tolist())
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    height = function(points).numpy() - function.minimum
    height = np.where(np.isfinite(height), height, np.nan)
    top = np.nanmax(height)
    bottom = max(np.nanquantile(height, 0.01), top * 1e-6, 1e-12)
    levels = np.linspace(np.log(bottom), np.log(max(top, 2 * bottom)) + 1e-3, 15)
    return x.numpy(), y.numpy(), levels, np.log(np.maximum(height, bottom * 1.0001))


def path(axis: Axes, points: pd.DataFrame, look: style.Style) -> None:
    """One optimizer's line with a mark where it ended; a cross if it diverged there."""
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    seen = np.isfinite(x) & np.isfinite(y)
    if not seen.any():
        return
    x, y = x[seen], y[seen]
    axis.plot(x, y, color=look.color, linestyle=look.line, linewidth=1.2, alpha=0.9)
    if points["status"].iloc[0] == "diverged":
        axis.plot(x[-1], y[-1], color=look.color, zorder=4, **style.DIVERGED)
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
            zorder=3,
        )
