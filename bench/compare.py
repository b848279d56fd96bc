"""Two runs side by side: did our step get slower?

The measure is each run's own ratio to the best of torch's modes, because the two were interleaved: what slows a whole
machine down cancels out of it. The step times themselves are shown beside it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.errors import BenchError, Exit
from bench.tables import load_tables

KEY = ["optimizer", "parameter_set", "device", "dtype", "threads"]
MEASURED = ["median_us", "ratio", "ratio_low", "ratio_high"]


def compare(before: Path, after: Path, threshold: float) -> pd.DataFrame:
    """One row per workload that both runs timed.

    Columns: `KEY`, then `MEASURED` with ``_before`` and ``_after``, ``change`` (ratio after / ratio before: below 1 is
    worse) and ``verdict``: "regression" or "improvement" where `change` is beyond `threshold` (0.1 is 10 %),
    "inconclusive" where it is but the 95 % intervals overlap, else "no difference".
    Raises `BenchError` (exit 2) if the runs have no workload in common.
    """
    both = _ours(before).merge(_ours(after), on=KEY, suffixes=("_before", "_after"))
    if both.empty:
        raise BenchError(f"nothing to compare: {before} and {after} timed no workload in common.", Exit.USAGE)
    change = both["ratio_after"] / both["ratio_before"]
    worse = (change < 1 - threshold) & (both["ratio_high_after"] < both["ratio_low_before"])
    better = (change > 1 + threshold) & (both["ratio_low_after"] > both["ratio_high_before"])
    unsure = ~change.between(1 - threshold, 1 + threshold) & ~worse & ~better
    verdict = pd.Series("no difference", index=both.index)
    verdict = verdict.mask(worse, "regression").mask(better, "improvement").mask(unsure, "inconclusive")
    return both.assign(change=change, verdict=verdict)


def _ours(path: Path) -> pd.DataFrame:
    rows = load_tables(path)["step_time"]
    rows = rows[(rows["contender"] == "ours") & rows["ratio"].notna()]
    return rows[KEY + MEASURED].astype(dict.fromkeys(MEASURED, float))


def lines(compared: pd.DataFrame) -> list[str]:
    """The comparison as text, the worst first."""
    text = [f"{'workload':<44} {'µs before':>10} {'µs after':>10} {'× torch before':>15} {'× torch after':>15}"]
    for row in compared.sort_values("change").to_dict("records"):
        name = " · ".join(str(row[column]) for column in KEY)
        text.append(
            f"{name:<44} {row['median_us_before']:>10.1f} {row['median_us_after']:>10.1f} "
            f"{row['ratio_before']:>15.2f} {row['ratio_after']:>15.2f}  {row['verdict']}"
        )
    return text
