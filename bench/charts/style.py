"""The look all charts share: colours, markers and lines, panels, legends, and how a figure is saved."""

from __future__ import annotations

import functools
import io
import re
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe & Ito (2008), "Color Universal Design"; their yellow is left out: too faint for a line on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#8A8F98"
INK = "#22262B"
PNG_DPI = 110

SOLID, DASHED, DOTTED, DASHDOT = "-", (0, (4, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4))


class Style(NamedTuple):
    """How one optimizer or contender looks in every chart."""

    color: str
    marker: str | tuple  # a tuple is (points, 1, angle): a star
    line: str | tuple


# A close relative shares the colour and is dashed; the marker alone tells all of them apart.
OPTIMIZER_STYLES = {
    "SGD": Style(BLACK, "o", SOLID),
    "Adam": Style(BLUE, "s", SOLID),
    "AdamW": Style(BLUE, "D", DASHED),
    "Adamax": Style(SKY, "^", SOLID),
    "NAdam": Style(ORANGE, "v", SOLID),
    "RAdam": Style(GREEN, "P", SOLID),
    "Adagrad": Style(PURPLE, "X", SOLID),
    "Adadelta": Style(PURPLE, "<", DASHED),
    "RMSprop": Style(VERMILLION, ">", SOLID),
    "Rprop": Style(VERMILLION, "p", DASHED),
    "ASGD": Style(BLACK, "h", DASHED),
    "Adafactor": Style(ORANGE, (4, 1, 0), DASHED),
    "Muon": Style(GREEN, (3, 1, 0), DASHED),
    "SparseAdam": Style(SKY, (4, 1, 45), DASHED),
    "LBFGS": Style(BLACK, (5, 1, 180), DASHDOT),
}

# Competitors that optimize nothing.
NULL_STYLES = {
    "stands still": Style(GREY, "_", DOTTED),
    "sign flipped": Style(GREY, "1", DASHED),
    "to the origin": Style(GREY, "2", SOLID),
}

# Warm colours are ours, cold and dark ones are torch's.
CONTENDER_STYLES = {
    "ours": Style(VERMILLION, "o", SOLID),
    "yours": Style(GREEN, "*", SOLID),
    "eager": Style(ORANGE, "p", SOLID),
    "cpu": Style(VERMILLION, "o", SOLID),
    "cuda": Style(PURPLE, "h", SOLID),
    "loop": Style(BLACK, "s", SOLID),
    "foreach": Style(SKY, "^", SOLID),
    "fused": Style(BLUE, "D", SOLID),
    "compiled": Style(GREEN, "P", SOLID),
    "torch": Style(BLACK, "s", SOLID),
    "liger": Style(PURPLE, "^", SOLID),
    "batched": Style(SKY, "^", SOLID),
    "alone": Style(BLACK, "s", SOLID),
    "optax": Style(PURPLE, "D", SOLID),
}

CONTENDER_LABELS = {
    "ours": "ours",
    "yours": "a class of your own",
    "eager": "ours, eager",
    "cpu": "ours, CPU kernel",
    "cuda": "ours, CUDA kernel",
    "loop": "torch, for-loop",
    "foreach": "torch, foreach",
    "fused": "torch, fused",
    "compiled": "torch, compiled",
    "torch": "torch, eager",
    "liger": "Liger",
    "batched": "torch, batched",
    "alone": "torch, one run at a time",
    "optax": "optax, jit(vmap(scan))",
}

SETTINGS = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#B9BEC5",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # no font of the reader's machine can shift a label
    "svg.hashsalt": "bench",  # the same table gives the same file, byte for byte
}

ALIKE = [Style(color, marker, DOTTED) for marker in "*d8H" for color in (GREEN, ORANGE, SKY, PURPLE, BLUE, VERMILLION)]


def optimizer_style(name: str) -> Style:
    """The style of an optimizer; one that is not ours gets a dotted line that depends on its name only."""
    return OPTIMIZER_STYLES.get(name) or NULL_STYLES.get(name) or ALIKE[zlib.crc32(name.encode()) % len(ALIKE)]


def contender_style(name: str) -> Style:
    """The style of a contender; an unknown one is grey."""
    return CONTENDER_STYLES.get(name, Style(GREY, "*", DOTTED))


def in_order(names: Iterable[str], order: Iterable[str] = tuple(OPTIMIZER_STYLES)) -> list[str]:
    """The distinct names, those of `order` first and in its order, the rest by alphabet."""
    present = set(names)
    known = [name for name in order if name in present]
    return known + sorted(present - set(known))


def styled(draw: Callable) -> Callable:
    """Run a drawing function under the shared settings, whatever matplotlib's global ones are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return wrapper


NARROWEST = 7.6  # inches: a picture with one panel is not a stamp
LEGEND_COLUMNS, LEGEND_ROW = 7, 0.22  # inches a row
HEAD, PANEL_TITLE, AXIS_LABEL = 0.42, 0.32, 0.52  # inches


def sheet(
    figure: Figure,
    title: str,
    handles: list[Line2D],
    count: int,
    *,
    columns: int,
    size: tuple[float, float],
    left: float = 0.75,
    between: tuple[float, float] = (0.25, 0.9),
    right: float = 0.2,
    sharey: bool = False,
) -> list[Axes]:
    """Title, `count` panels in rows of at most `columns`, one legend below them; the axes, in reading order.

    All lengths are inches: `size` of one panel, `left` and `right` of them, `between` two of them (across, down; it
    holds the labels). Fixed lengths, not matplotlib's layout engines: those take longer than the drawing itself.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    fixed = left + right + (columns - 1) * between[0]
    size = (max(size[0], (NARROWEST - fixed) / columns), size[1])
    width = fixed + columns * size[0]
    entry = 0.75 + 0.075 * max(len(handle.get_label()) for handle in handles)
    entries = min(LEGEND_COLUMNS, len(handles), int(width / entry))
    foot = -(-len(handles) // entries) * LEGEND_ROW + 0.12
    height = HEAD + PANEL_TITLE + lines * size[1] + (lines - 1) * between[1] + AXIS_LABEL + foot
    figure.set_size_inches(width, height)
    figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=12.5, fontweight="bold", color=INK)
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.04 / height),
        borderaxespad=0,
        ncols=entries,
        handlelength=2.6,
        columnspacing=1.5,
        labelspacing=0.45,
    )
    axes: list[Axes] = []
    for place in range(count):
        down, across = divmod(place, columns)
        x = left + across * (size[0] + between[0])
        y = height - HEAD - PANEL_TITLE - size[1] - down * (size[1] + between[1])
        box = (x / width, y / height, size[0] / width, size[1] / height)
        axes.append(figure.add_axes(box, sharey=axes[0] if sharey and axes else None))
        if sharey and across:
            axes[-1].tick_params(labelleft=False)
    return axes


def room_for(names: list[str]) -> float:
    """Inches that the longest of these names takes left of an axis."""
    return 0.25 + 0.077 * max(map(len, names))


def optimizer_handles(names: Iterable[str], *, line: bool = True, marker: bool = True) -> list[Line2D]:
    """Legend entries for optimizers in their fixed order."""
    handles = []
    for name in in_order(names):
        style = optimizer_style(name)
        handles.append(
            Line2D(
                [],
                [],
                color=style.color,
                linestyle=style.line if line else "none",
                marker=style.marker if marker else "none",
                markersize=5,
                label=plain(name),
            )
        )
    return handles


def contender_handles(names: Iterable[str]) -> list[Line2D]:
    """Legend entries for contenders in their fixed order."""
    handles = []
    for name in in_order(names, CONTENDER_STYLES):
        style = contender_style(name)
        label = CONTENDER_LABELS.get(name, plain(name))
        handles.append(
            Line2D([], [], color=style.color, linestyle="none", marker=style.marker, markersize=6, label=label)
        )
    return handles


def note(label: str, **marker: object) -> Line2D:
    """A legend entry that explains a mark, such as a star for the minimum."""
    return Line2D([], [], **{"linestyle": "none", "color": INK, "label": label, **marker})


DIVERGED = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6}


def plain(name: object) -> str:
    """A name as text: `$` would start mathematics and `_` would hide a legend entry."""
    text = str(name).replace("$", r"\$")
    return "\u200b" + text if text.startswith("_") else text


def number(value: float) -> str:
    """`0.01`, `10`, `1,000`, `10⁻⁵`: a tick label without needless zeros."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.6f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.0e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def log_axis(axis: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high` with a few plain numbers at its ticks, however wide it is."""
    axis.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 2.4 else (1,)
    every = max(1, int(np.ceil(decades / 6)))
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    one = axis.xaxis if which == "x" else axis.yaxis
    one.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    one.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    one.set_minor_locator(NullLocator())


def name_rows(axes: Axes, names: list[str]) -> None:
    """Names down the y-axis, the first on top."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for row in range(0, len(names), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F5F6F8", zorder=0, linewidth=0)


@styled
def save(figure: Figure) -> dict[str, bytes]:
    """The figure as ``{"svg": …, "png": …}``; the same figure gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    # Straight to the canvas: `savefig` draws everything a second time only to ask the layout engine.
    FigureCanvasSVG(figure).print_svg(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.set_dpi(PNG_DPI)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return {"svg": rounded(svg.getvalue()), "png": png.getvalue()}


def rounded(svg: bytes) -> bytes:
    """Path coordinates to a hundredth of a point: a third smaller and not to be told apart."""
    return re.sub(rb' d="[^"]*"', lambda found: re.sub(rb"(\.\d\d)\d+", rb"\1", found[0]), svg)
