"""Which rows of the tables a chart or a sentence is about."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.contenders import NULLS, TRAITS, Takes
from bench.losses import short
from bench.statistics import measured_quartiles
from bench.subjects import GROUPED, MADE_FOR

MEASURED = ("ok", "inconclusive")
TORCH = ("loop", "foreach", "fused", "compiled")
OURS = ("eager", "cpu", "cuda")  # our executors, as the parity table names them
MEMORY_BOUND = ("resnet18", "one-big", "gpt2")  # parameter sets too large for the caches


def rows_of(tables: dict[str, pd.DataFrame], name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """The table `name`, with every column of `columns` there (empty where nothing was measured)."""
    table = tables.get(name)
    table = pd.DataFrame() if table is None else table
    absent = [column for column in columns if column not in table]
    return table.assign(**{column: pd.Series(None, index=table.index, dtype=object) for column in absent})


def numbers(values: pd.Series) -> pd.Series:
    """The column as float64; what is no number is nan."""
    return pd.to_numeric(values, errors="coerce").astype(float)


def usual(times: pd.DataFrame) -> pd.Series:
    """Which rows are of an optimizer that steps any tensor, on a set that is there for all such; the rest stand alone.

    Apart from each other because a panel with one optimizer, or an optimizer in one panel, would be mostly empty.
    """
    alone = [name for name, traits in TRAITS.items() if traits.takes is not Takes.TENSORS]
    return ~times["optimizer"].isin(alone) & ~times["parameter_set"].isin((*MADE_FOR, *GROUPED))


def loss_times(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The timed rows of losses, numbers as numbers, the losses by their short names; `panel` is the loss."""
    numeric = (
        "elements",
        "median_us",
        "q1_us",
        "q3_us",
        "ratio",
        "ratio_low",
        "ratio_high",
        "peak_bytes",
        "least_bytes",
    )
    names = ("loss", "size", "device", "dtype", "threads", "contender", "phase", "status", "verdict")
    found = rows_of(tables, "loss_time", (*names, *numeric))
    found = found.assign(
        **{column: numbers(found[column]) for column in numeric}, loss=found["loss"].map(short, na_action="ignore")
    )
    found = found[found["median_us"].gt(0) & found["status"].isin(MEASURED)]
    return with_panel(found, "loss", ("device", "dtype", "threads")).reset_index(drop=True)


def at_the_largest(times: pd.DataFrame) -> pd.DataFrame:
    """Of each panel the rows of its largest size, and a column `row` that names panel and size."""
    largest = times[times["elements"].eq(times.groupby("panel")["elements"].transform("max"))]
    return largest.assign(row=largest["panel"] + " · " + largest["size"].astype(str))


def with_panel(table: pd.DataFrame, base: str, conditions: tuple[str, ...]) -> pd.DataFrame:
    """A column `panel`: `base`, and those `conditions` (device, dtype, threads) that differ between rows.

    So a label says what must be told apart and no more: ``mlp``, or ``mlp · cuda`` where there are two devices.
    """
    names = table[base].astype(str)
    for column in conditions:
        if column in table and table[column].nunique() > 1:
            names = names + (" · " + table[column].astype(str)).where(table[column].notna(), "")
    return table.assign(panel=names)


def best_runs(runs: pd.DataFrame, score: str) -> pd.DataFrame:
    """One row per panel × optimizer: the learning rate whose median `score` over the seeds is lowest.

    Columns: panel, optimizer, lr, lr_multiple, median, low, high (quartiles), seeds, failed (runs of *all* learning
    rates that gave no finite score), runs (of all learning rates). A run that failed counts as infinitely bad; of equal
    learning rates the one nearest the default wins.
    """
    columns = ["panel", "optimizer", "lr", "lr_multiple", "median", "low", "high", "seeds", "failed", "runs"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    value = numbers(runs[score]).where(runs["status"].isin(MEASURED)).fillna(np.inf)
    runs = runs.assign(
        value=value.replace(-np.inf, np.inf), lr=numbers(runs["lr"]), multiple=numbers(runs["lr_multiple"])
    )
    found = []
    for (name, optimizer), group in runs.groupby(["panel", "optimizer"], sort=False):
        tried = [spread(rate) for _, rate in group.groupby("lr", dropna=False)]
        best = min(tried, key=lambda one: (one["median"], abs(np.log(one["lr_multiple"] or np.nan))))
        failed = int(np.isinf(group["value"]).sum())
        found.append({"panel": name, "optimizer": optimizer, **best, "failed": failed, "runs": len(group)})
    return pd.DataFrame(found, columns=columns)


def spread(runs: pd.DataFrame) -> dict[str, float]:
    """Median and quartiles of the column `value` over the seeds of one learning rate; a failed one is inf."""
    low, median, high = measured_quartiles(runs["value"])
    return {
        "lr": runs["lr"].iloc[0],
        "lr_multiple": runs["multiple"].iloc[0],
        "median": median,
        "low": low,
        "high": high,
        "seeds": len(runs),
    }


def raced(table: pd.DataFrame) -> pd.DataFrame:
    """Without the optimizers that do not race, which are no failures, and those that optimize nothing."""
    return table[table["status"].ne("skipped") & ~table["optimizer"].isin(NULLS)]


def function_rates(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The learning rates on test functions, with their panel: how their runs ended."""
    numeric = ("lr", "lr_multiple", "runs", "diverged", "minimum", "gap_q1", "gap_median", "gap_q3")
    wanted = ("function", "device", "optimizer", "status", *numeric, "_losses", "_trace", "_curve_status")
    found = raced(rows_of(tables, "functions", wanted))
    found = found.assign(**{column: numbers(found[column]) for column in numeric})
    return with_panel(found, "function", ("device",))


#: of more functions than these only these have panels of their own, or nobody could make out the curves
SHOWN = (
    *("rosenbrock", "beale", "freudenstein-roth", "himmelblau", "six-hump-camel", "monkey-saddle"),
    *("ackley", "rastrigin", "levy", "branin", "drop-wave", "bukin-6"),
    *("rosenbrock-10d", "powell-singular", "quadratic-1e4-rotated", "quadratic-noisy"),
)


def few(rates: pd.DataFrame) -> pd.DataFrame:
    """The rows of functions that have panels of their own: all, or of many those `SHOWN`."""
    return rates[rates["function"].isin(SHOWN)] if rates["function"].nunique() > len(SHOWN) else rates


def best_rates(rates: pd.DataFrame) -> pd.DataFrame:
    """Of each panel × optimizer the learning rate with the lowest median gap; of equal ones the nearest the default.

    `all_runs` and `all_diverged` are of all its learning rates.
    """
    made = rates[rates["status"].isin((*MEASURED, "diverged"))]
    made = made.assign(distance=np.log(made["lr_multiple"]).abs())
    of_all = made.groupby(["panel", "optimizer"], sort=False)
    made = made.assign(all_runs=of_all["runs"].transform("sum"), all_diverged=of_all["diverged"].transform("sum"))
    return (
        made.sort_values(["gap_median", "distance"], kind="stable").groupby(["panel", "optimizer"]).head(1).sort_index()
    )


def with_curve(rates: pd.DataFrame, kept: str) -> pd.DataFrame:
    """The rows that kept a curve (`_losses` or `_trace`): of each panel × optimizer the best run of seed 0.

    Their `status` is that of this run.
    """
    there = rates[rates[kept].map(lambda value: isinstance(value, list) and len(value) > 0).astype(bool)]
    return there.assign(status=there["_curve_status"])


def network_points(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """All evaluation points of networks, with their panel; `gap` is the loss minus its minimum where that is known."""
    wanted = ("network", "device", "optimizer", "lr", "lr_multiple", "seed", "step", "evaluations", "seconds")
    found = raced(rows_of(tables, "networks", (*wanted, "loss", "accuracy", "status", "minimum")))
    numeric = ("lr", "step", "evaluations", "seconds", "loss", "accuracy", "minimum")
    found = found.assign(**{column: numbers(found[column]) for column in numeric})
    found["gap"] = found["loss"] - found["minimum"].fillna(0.0)
    return with_panel(found, "network", ("device",))


def last_points(networks: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each network run: one row per panel × optimizer × learning rate × seed."""
    if networks.empty:
        return networks
    ordered = networks.assign(step=numbers(networks["step"])).sort_values("step", kind="stable", na_position="first")
    return ordered.groupby(["panel", "optimizer", "lr", "seed"], dropna=False, sort=False).tail(1).sort_index()
