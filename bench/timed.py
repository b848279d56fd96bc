"""What a timing says of one contender: the columns that step times and loss times have in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.cell import Status
from bench.statistics import FEWEST_ROUNDS, Interval, quartiles, ratio_interval, verdict
from bench.timing import Timing


def ratios(timing: Timing) -> dict[str, Interval]:
    """Time of each contender over that of ours."""
    if "ours" not in timing.names:
        return {}
    return {name: ratio_interval(timing.log_ratios(name, "ours")) for name in timing.names if name != "ours"}


def columns(timing: Timing, name: str, ratio: Interval) -> dict[str, Any]:
    """Rounds, quartiles, ratio, verdict, status; on CUDA the three times too."""
    if not len(timing.times):
        return {"status": Status.INCONCLUSIVE.value, "reason": "every round was disturbed", "dropped_rounds": 1.0}
    microseconds = timing.of(name) / 1e3
    first, median, third = quartiles(microseconds)
    said = verdict(ratio.low, ratio.high) if "ours" in timing.names else ""
    unsure = said == "inconclusive"
    bounded = math.isfinite(ratio.high)
    if math.isnan(ratio.value):
        why_unsure = "no mode of torch was timed beside it, so there is no ratio"
    elif not bounded:
        why_unsure = f"{len(timing.times)} undisturbed rounds are too few for an interval, which takes {FEWEST_ROUNDS}"
    else:
        why_unsure = "the interval of the ratio is wider than 5 % to either side"
    row = {
        "rounds": len(timing.times),
        "calls_per_round": timing.calls[name],
        "median_us": median,
        "q1_us": first,
        "q3_us": third,
        "min_us": float(microseconds.min()),
        "ratio": None if math.isnan(ratio.value) else ratio.value,
        "ratio_low": ratio.low if bounded else None,
        "ratio_high": ratio.high if bounded else None,
        "verdict": said,
        "dropped_rounds": timing.dropped,
        "status": (Status.INCONCLUSIVE if unsure else Status.OK).value,
        "reason": why_unsure if unsure else "",
    }
    if "device" in timing.columns:
        row |= {f"{column}_us": float(np.median(timing.of(name, column))) / 1e3 for column in timing.columns}
    return row
