"""``index.html``: the verdict in words, the charts, the tables. It opens from the file system, with no network."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench import verdict
from bench.charts import rows, style
from bench.page_scores import COLUMNS_READ, READ_SCORES, scores

PICKED = (
    "The best learning rate is the one with the lowest median over the seeds: of the lowest gap reached on test "
    "functions, of the last loss on networks. A seed that diverged counts as infinitely bad, of two values in the "
    "middle the worse is the median, and of equal learning rates the one nearest the default is taken."
)
HERE = Path(__file__).parent
SYMBOLS = {verdict.GOOD: "✓", verdict.BAD: "✗", verdict.PLAIN: "·"}
WORDS = {verdict.GOOD: "good", verdict.BAD: "attention", verdict.PLAIN: "note"}


class Drawn(NamedTuple):
    """A chart on disk, or (`reason` not empty) why there is none."""

    name: str
    title: str
    reading: str
    reason: str
    panels: list[str]


def html(tables: dict[str, pd.DataFrame], drawn: list[Drawn], environment: dict[str, Any]) -> str:
    """The whole page as text; everything that came from a run is escaped."""
    title = "Optimizer benchmark"
    parts = [
        f"<header><h1>{title}</h1>{when(environment)}</header>",
        scored(tables),
        verdicts(verdict.sentences(tables)),
        box(environment),
        '<section id="charts"><h2>Charts</h2>',
        *(figure(chart) for chart in sorted(drawn, key=lambda chart: chart.reason != "")),  # those not drawn last
        '</section><section id="tables"><h2>Tables</h2><p>A click on a head sorts. The CSV files hold every row. '
        f"{PICKED}</p>",
        *(table(*one) for one in summaries(tables)),
        "</section>",
        failed(tables),
        reproduce(environment),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>\n{(HERE / 'page.css').read_text(encoding='utf-8')}</style></head><body><main>",
            *parts,
            f"</main><script>\n{(HERE / 'page.js').read_text(encoding='utf-8')}</script></body></html>\n",
        ]
    )


def when(environment: dict[str, Any]) -> str:
    """Below the title: date, budget, devices."""
    devices = environment.get("devices") or []
    said = [
        environment.get("started"),
        f"{environment['budget']} budget" if environment.get("budget") else None,
        *devices,
    ]
    return f'<p class="when">{escape(" · ".join(str(one) for one in said if one))}</p>'


def scored(tables: dict[str, pd.DataFrame]) -> str:
    """The score table with a sentence on how to read it; nothing where nothing was raced."""
    found = scores(tables)
    if found.empty:
        return ""
    body = table("Scores", "scores", found).replace("<details>", "<details open>")
    return (
        f'<section id="scores"><h2>Scores</h2><p>{prose(READ_SCORES)}</p>{body}<p>{prose(COLUMNS_READ)}</p></section>'
    )


def verdicts(sentences: list[verdict.Sentence]) -> str:
    """The list at the top; a sign and a word say the mood too, not only a colour."""
    items = [
        f'<li class="{mood}"><span class="sign" role="img" aria-label="{WORDS[mood]}">{SYMBOLS[mood]}</span>'
        f"<span>{prose(text)}</span></li>"
        for mood, text in sentences
    ]
    body = (
        "\n".join(items)
        or f'<li class="plain"><span class="sign">·</span><span>{escape("Nothing is measured yet.")}</span></li>'
    )
    return f'<section id="verdict"><h2>Verdict</h2><ul class="verdict">{body}</ul></section>'


def box(environment: dict[str, Any]) -> str:
    """Where it was measured, and what that means for the timings."""
    shown = {
        key: value for key, value in environment.items() if key not in ("command", "started", "plan", "id", "cells")
    }
    pairs = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in flat(shown))
    return (
        '<section id="environment"><h2>Environment</h2><p><strong>Timings are comparable only within one run on one '
        f"machine.</strong></p><dl>{pairs or UNKNOWN}</dl></section>"
    )


UNKNOWN = "<div><dt>unknown</dt><dd>environment.json is missing</dd></div>"


def flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text, nested ones as ``python 3.11.7, torch 2.13.0``; what is empty is left out."""
    pairs = []
    for key, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        if value is not None and value != "":
            pairs.append((key.replace("_gib", " (GiB)").replace("_", " "), str(value)))
    return pairs


def prose(text: str) -> str:
    """Escaped, and no line break between a number and its percent sign."""
    return escape(text).replace(" %", "\u00a0%")


def figure(chart: Drawn) -> str:
    """A chart with a sentence on how to read it, or the reason why there is none."""
    head = f'id="{escape(chart.name)}">{escape(chart.title)}</h3>'
    if chart.reason:
        return f'<div class="absent"><h3 {head}<p>No chart. {prose(chart.reason)}</p></div>'
    path = f"charts/{escape(chart.name)}"
    alt = chart.title + (": " + ", ".join(chart.panels) if chart.panels else "")
    return (
        f'<figure><h3 class="unseen" {head}'
        f'<a class="picture" href="{path}.svg"><img src="{path}.svg" alt="{escape(alt)}"></a>'
        f'<figcaption>{prose(chart.reading)} <a href="{path}.png">PNG</a> <a href="{path}.svg">SVG</a></figcaption>'
        "</figure>"
    )


def summaries(tables: dict[str, pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame]]:
    """Title, CSV file and rows of each table on the page."""
    return [
        ("Step time", "step_time", step_times(tables)),
        ("Parity: the worst over all option sets", "parity", parities(tables)),
        ("Losses: time of forward, backward and both", "loss_time", loss_times(tables)),
        ("Sweeps: time of a step of a run", "sweep_time", sweep_times(tables)),
        ("Losses: error of value and gradient", "loss_parity", loss_parities(tables)),
        ("Test functions: the best learning rate of each optimizer", "functions", functions(tables)),
        ("Networks: the best learning rate of each optimizer", "networks", networks(tables)),
    ]


def step_times(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The timed contenders, all but the constant columns of identification."""
    shown = ("optimizer", "parameter_set", "device", "dtype", "threads", "contender", "median_us", "q1_us", "q3_us")
    more = ("ratio", "ratio_low", "ratio_high", "verdict", "gb_per_s", "share_of_stream", "peak_memory_mib")
    found = rows.rows_of(tables, "step_time", (*shown, *more, "status"))
    found = found[found["status"].isin(rows.MEASURED)]
    return found[[*shown, *more]].dropna(axis=1, how="all")


def parities(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Worst error per optimizer × contender × dtype, and how many option sets were checked."""
    numeric = ("max_difference", "update_distance", "mean_ulp", "max_ulp", "loop_mean_ulp", "loop_max_ulp")
    keys = ["optimizer", "contender", "device", "dtype"]
    found = rows.rows_of(tables, "parity", (*keys, *numeric, "status"))
    found = found[found["status"].isin(("ok", "wrong", "error", "reference fault"))]
    found = found.assign(**{column: rows.numbers(found[column]) for column in numeric}, equal=found["status"].eq("ok"))
    grouped = found.groupby(keys, sort=False, as_index=False)
    worst = grouped.agg(checks=("status", "size"), equal=("equal", "sum"), **{name: (name, "max") for name in numeric})
    return worst.dropna(axis=1, how="all")


def loss_times(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The timed contenders of each loss, size and phase."""
    shown = ("loss", "size", "device", "dtype", "threads", "contender", "phase", "median_us", "q1_us", "q3_us")
    more = ("ratio", "ratio_low", "ratio_high", "verdict", "gb_per_s", "share_of_stream", "peak_bytes")
    found = rows.rows_of(tables, "loss_time", (*shown, *more, "status"))
    return found[found["status"].isin(rows.MEASURED)][[*shown, *more]].dropna(axis=1, how="all")


def sweep_times(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The timed contenders of each optimizer and function."""
    shown = ("optimizer", "function", "device", "dtype", "contender", "median_ns", "q1_ns", "q3_ns")
    more = ("ratio", "ratio_low", "ratio_high", "verdict")
    found = rows.rows_of(tables, "sweep_time", (*shown, *more, "status"))
    return found[found["status"].isin(rows.MEASURED)][[*shown, *more]].dropna(axis=1, how="all")


def loss_parities(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The checks of each loss, dtype and reduction."""
    shown = ("loss", "reduction", "device", "dtype", "executor", "value_ulp", "gradient_ulp")
    found = rows.rows_of(tables, "loss_parity", (*shown, "torch_value_ulp", "torch_gradient_ulp", "status"))
    found = found[found["status"].isin(("ok", "wrong", "error"))]
    return found[[*shown, "torch_value_ulp", "torch_gradient_ulp", "status"]].dropna(axis=1, how="all")


def functions(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Best learning rate per function × optimizer, with the gap it reaches."""
    heads = {
        "panel": "function",
        "optimizer": "optimizer",
        "lr": "best lr",
        "lr_multiple": "× default",
        "gap_median": "median gap",
        "gap_q1": "lower quartile",
        "gap_q3": "upper quartile",
        "all_diverged": "diverged",
        "all_runs": "runs",
    }
    return rows.best_rates(rows.function_rates(tables))[list(heads)].rename(columns=heads)


def networks(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Best learning rate per network × optimizer, with its last loss, accuracy and time (medians over the seeds)."""
    last = rows.last_points(rows.network_points(tables))
    best = rows.best_runs(last, "loss").astype({"lr": float})
    if best.empty:
        return best
    rest = last.groupby(["panel", "optimizer", "lr"], as_index=False)[["accuracy", "seconds"]].median()
    best = best.merge(rest, on=["panel", "optimizer", "lr"], how="left").dropna(axis=1, how="all")
    best = best.rename(
        columns={"panel": "network", "lr": "best lr", "lr_multiple": "× default", "median": "median loss"}
    )
    return best.drop(columns=["low", "high"], errors="ignore").rename(columns={"failed": "diverged"})


def table(title: str, source: str, frame: pd.DataFrame) -> str:
    """A folded, sortable table."""
    link = f'<a href="{source}.csv">{source}.csv</a>' if source else ""
    if frame.empty:
        return f'<details><summary>{escape(title)} <span class="count">no rows</span></summary><p>{link}</p></details>'
    head = "".join(
        f'<th scope="col"{NUMERIC if pd.api.types.is_numeric_dtype(frame[name]) else ""}>'
        f'<button type="button">{escape(str(name)).replace("_", " ")}</button></th>'
        for name in frame
    )
    body = "\n".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in frame.itertuples(index=False, name=None))
    head, body = f"<thead><tr>{head}</tr></thead>", f"<tbody>\n{body}\n</tbody>"
    return (
        f'<details><summary>{escape(title)} <span class="count">{len(frame):,} rows</span></summary><p>{link}</p>'
        f'<div class="wide"><table class="sortable">{head}{body}</table></div>'
        "</details>"
    )


NUMERIC = ' class="number"'


def cell(value: Any) -> str:
    """One cell; numbers rounded for the eye, whole in `data-value` for sorting."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return f"<td>{escape('' if value is None or value is pd.NA else str(value))}</td>"
    if isinstance(value, float | np.floating) and math.isnan(value):
        return "<td></td>"
    return f'<td class="number" data-value="{float(value)!r}">{escape(readable(float(value)))}</td>'


def readable(value: float) -> str:
    """Four digits; ``∞`` for a run that diverged."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return style.number(float(f"{value:.4g}")) if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def failed(tables: dict[str, pd.DataFrame]) -> str:
    """Whatever is not there or not right, with its reason."""
    found = verdict.failures(tables)
    body = (
        table("Wrong, crashed, inconclusive or skipped, with the reason", "", found) if len(found) else "<p>None.</p>"
    )
    return f'<section id="failures"><h2>Failures and skips</h2>{body.replace("<details>", "<details open>")}</section>'


def reproduce(environment: dict[str, Any]) -> str:
    """The command that makes such a run again."""
    command = str(environment.get("command") or "python -m bench run")
    commit = environment.get("git", {}).get("commit") if isinstance(environment.get("git"), dict) else None
    at = f" at commit <code>{escape(str(commit))}</code>" if commit else ""
    return (
        f'<section id="reproduce"><h2>Do it again</h2><p>In the repository{at}:</p>'
        f"<pre><code>{escape(command)}</code></pre>"
        '<p>Every number comes from a row of <a href="runs.jsonl">runs.jsonl</a>; '
        '<a href="environment.json">environment.json</a> says where it was measured.</p></section>'
    )
