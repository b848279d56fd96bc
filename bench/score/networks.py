"""The race on networks in the shape of that on functions: one row for each learning rate, not for each evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from bench.problems.targets import LEFT

Row = dict[str, Any]
TARGETS = len(LEFT)
TUNING_SEEDS = 1  # seed 0 chooses the learning rate, and is not scored


def rates(rows: Iterable[Row]) -> Iterator[Row]:
    """One row for each network × device × optimizer × learning rate, with the hits of its seeds, in their order.

    A row of a cell that failed or was skipped goes on as it is. A network trained on another loss than its own has no
    targets, and is left out.
    """
    runs: dict[tuple[Any, ...], dict[int, str]] = {}
    budget, target = 0, None
    for row in rows:
        if row.get("seed") is None:
            yield {**row, "function": row.get("network")}
        elif math.isfinite(row.get("reference") or math.nan):
            budget, target = max(budget, int(row["evaluations"])), row.get("target")
            if isinstance(row.get("hits"), str):  # the last row of a run has them
                key = row["network"], row["device"], row["optimizer"], row["lr_multiple"]
                runs.setdefault(key, {})[int(row["seed"])] = row["hits"]
    for key, hits in runs.items():
        labels = dict(zip(("function", "device", "optimizer", "lr_multiple"), key, strict=True))
        counts = {"tuning_seeds": TUNING_SEEDS, "steps": budget, "status": "ok", "target": target}
        yield labels | counts | {"_hits": [hits[seed] for seed in sorted(hits)]}
