"""The score table of the page, and how to read it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.charts import rows
from bench.score.derive import ALL
from bench.score.tracks import TRACKS, TUNED
from bench.tables import COLUMNS

READ_SCORES = (
    "A score is the area under the share of targets met, over the logarithm of the gradients spent: 0 is standing "
    "still, 1 is meeting every target with the first gradient, and nobody's score depends on who else takes part."
)
COLUMNS_READ = (
    "There are three tracks: the learning rate tuned for each problem, one for all, and the default. The other "
    "columns are of the tuned one: the interquartile mean of the speed-up over AdamW (∞ where AdamW mostly does not "
    "arrive), the share of runs better than AdamW's, the share that met the last target, the area of the performance "
    "profile (of the seeds that all have in common, which are few where one of them is slow), how many decades of "
    "learning rate are nearly as good as the best, on how many problems the best was the first or last one tried (so "
    "that a wider grid might help), what a step takes where that was measured, and the bytes of state a parameter has. "
    "Which differences are more than chance is in scores.csv, under beats."
)
# the heads of the page's score table -> columns of scores.csv
MEASURES = {
    "better than AdamW": "improvement",
    "solved": "success",
    "profile": "profile",
    "decades of lr": "lr_decades",
    "at the grid's edge": "at_edge",
    "step (µs)": "step_us",
    "state (bytes/parameter)": "state_bytes",
}


def scores(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per race, device and optimizer: the score in each track, and the other measures of the tuned one."""
    found = rows.rows_of(tables, "scores", tuple(COLUMNS["scores"]))
    found = found[found["problem"].eq(ALL) & rows.numbers(found["score"]).notna()]
    tuned = found[found["track"].eq(TUNED)].set_index(["race", "device", "optimizer"])
    if tuned.empty:
        return pd.DataFrame()
    columns: dict[str, Any] = {"rank": rows.numbers(tuned["rank"]), "rank interval": spans(tuned, "rank", ".0f")}
    for track in reversed(TRACKS):
        here = found[found["track"].eq(track)].set_index(["race", "device", "optimizer"]).reindex(tuned.index)
        columns[f"score, {track}"] = rows.numbers(here["score"])
        if track == TUNED:
            columns["95 % interval"] = spans(here, "score", ".3f")
    columns["speed-up over AdamW (×)"] = 2 ** rows.numbers(tuned["log2_speed_up"])
    for name, column in MEASURES.items():
        columns[name] = rows.numbers(tuned[column])
    shown = pd.DataFrame(columns).reset_index()
    shown = shown.sort_values(["race", "score, tuned"], ascending=[True, False], kind="stable")
    shown = shown.round({f"score, {track}": 3 for track in TRACKS})  # only now: rounded ones may be equal
    shown = shown.drop(columns=[column for column in ("race", "device") if shown[column].nunique() == 1])
    return shown.dropna(axis=1, how="all")


def spans(frame: pd.DataFrame, name: str, digits: str) -> pd.Series:
    """The interval of a measure as text: ``0.38–0.44``."""
    low, high = (rows.numbers(frame[f"{name}_{end}"]) for end in ("low", "high"))
    text = [f"{a:{digits}}–{b:{digits}}" if a == a else "" for a, b in zip(low, high, strict=True)]
    return pd.Series(text, frame.index, dtype=object)
