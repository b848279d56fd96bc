"""The plane of two hyper-parameters as an image: one pixel for each run."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.charts import style
from bench.sweeps.plane import Plane, Scale

#: gaps below this are rounding
FLOOR = 1e-16
DIVERGED = "#C6CAD0"
#: light is good; every lightness occurs once, so that it can be read in grey
COLOURS = "viridis_r"


@style.styled
def draw(figure: Figure, plane: Plane) -> None:
    """The final gap on a logarithmic scale; runs that diverged are grey."""
    figure.set_size_inches(7.6, 6.2)
    axes = figure.add_axes((0.12, 0.13, 0.68, 0.76))
    gaps = np.ma.masked_invalid(np.clip(plane.gaps, FLOOR, None))
    low, high = (float(gaps.min()), float(gaps.max())) if gaps.count() else (FLOOR, 1.0)
    image = axes.imshow(
        gaps,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0.0, 1.0, 0.0, 1.0),
        norm=LogNorm(low, high if high > low else 10 * low),
        cmap=matplotlib.colormaps[COLOURS].with_extremes(bad=DIVERGED),
    )
    axes.grid(False)
    _ticks(axes, "x", plane)
    _ticks(axes, "y", plane)
    bar = figure.colorbar(image, cax=figure.add_axes((0.83, 0.13, 0.03, 0.76)))
    bar.set_label(f"{plane.what}, after {plane.steps:,} steps")
    title = f"{style.plain(plane.optimizer)} on {style.plain(plane.title)}"
    figure.text(0.46, 0.945, title, ha="center", fontsize=12.5, fontweight="bold", color=style.INK)
    if np.isinf(plane.gaps).any():
        grey = Patch(facecolor=DIVERGED, edgecolor="#B9BEC5", label="diverged")
        figure.legend(handles=[grey], loc="lower right", bbox_to_anchor=(0.99, 0.005))


def _ticks(axes: Axes, which: str, plane: Plane) -> None:
    axis = plane.x if which == "x" else plane.y
    ticks = [(value, axis.share(value)) for value in _round_values(axis.scale, axis.values[0], axis.values[-1])]
    labels = [style.number(value) for value, _ in ticks]
    places = [place for _, place in ticks]
    if which == "x":
        axes.set_xticks(places, labels)
        axes.set_xlabel(style.plain(axis.name))
    else:
        axes.set_yticks(places, labels)
        axes.set_ylabel(style.plain(axis.name))


def _round_values(scale: Scale, low: float, high: float) -> list[float]:
    """Round numbers between the ends of an axis: powers of ten, 0 0.9 0.99 …, or steps of 1, 2 or 5."""
    if scale is Scale.LOGARITHMIC:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        every = max(1, (last - first) // 8)
        powers = [10.0**k for k in range(first, last + 1, every)]
        return powers if len(powers) > 1 else [low, high]
    if scale is Scale.TO_ONE:
        inside = [x for x in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999) if low - 1e-12 <= x <= high + 1e-12]
        return inside if len(inside) > 1 else [low, high]
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next(size * part for part in (0.2, 0.5, 1.0, 2.0) if (high - low) / (size * part) <= 8)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
