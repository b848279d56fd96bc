"""The charts, in the order of the page. Each is one file with `table` (what is drawn) and `draw` (how)."""

from __future__ import annotations

from types import ModuleType

import pandas as pd
from matplotlib.figure import Figure

from bench.charts import (
    ecdf,
    loss_curves,
    loss_memory,
    loss_ratio,
    loss_shapes,
    loss_time,
    memory_share,
    parity,
    profiles,
    ratio,
    scores,
    seconds,
    sensitivity,
    special,
    step_time,
    style,
    sweep_time,
    trajectories,
)

CHARTS: dict[str, ModuleType] = {
    chart.NAME: chart
    for chart in (
        *(scores, ecdf, profiles),
        *(ratio, step_time, special, memory_share, parity, loss_ratio, loss_time, loss_memory, loss_shapes, sweep_time),
        *(trajectories, loss_curves, seconds, sensitivity),
    )
}


@style.styled
def render(chart: ModuleType, table: pd.DataFrame) -> Figure:
    """The chart's table as a figure, laid out."""
    figure = Figure()
    chart.draw(figure, table)
    return figure


def why_empty(chart: ModuleType, tables: dict[str, pd.DataFrame]) -> str:
    """One sentence: why there is nothing to draw."""
    source = tables.get(chart.SOURCE)
    if source is None or source.empty:
        return f"Nothing was measured for it: {chart.SOURCE}.csv has no rows."
    reasons = source["reason"].dropna().astype(str) if "reason" in source else pd.Series(dtype=str)
    reasons = reasons[reasons != ""]
    said = f" Most often: {reasons.mode().iloc[0].rstrip('.')}." if len(reasons) else ""
    return f"{chart.EMPTY}{said}"
