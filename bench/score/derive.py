"""The tables `scores` and `profiles`, made from the table of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.contenders import NULLS
from bench.score import measures, resample
from bench.score.costs import state_bytes, step_times
from bench.score.hits import DECADES, TARGETS
from bench.score.runs import Field, field
from bench.score.tracks import TRACKS, Entry, entry

Array = NDArray[np.float64]
Row = dict[str, Any]
BASE = "AdamW"  # whose times the speed-ups are over
ALL = "all"  # in place of a problem: the mean over them
ROBUST = 7  # place of the target 10^-2, whose time says which learning rates are good
TIED = 1e-12  # scores closer than this are equal
ECDF_POINTS = 60
TAUS = np.linspace(1, measures.LARGEST_RATIO, 61)


def derive(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of `scores` and `profiles` from those of `functions` and `step_time`; none where nothing was raced."""
    found: dict[str, list[Row]] = {"scores": [], "profiles": []}
    columns = ("function", "device", "optimizer", "lr_multiple", "seed", "steps", "status", "hits")
    runs = pd.DataFrame(rows.get("functions", []), columns=columns)
    times = step_times(rows.get("step_time", []))
    for device, table in runs.groupby("device", sort=False):
        race = field(table)
        if race is None:
            continue
        for track in TRACKS:
            standing = Standing(race, track)
            if not standing.entries:
                continue
            labels = {"device": device, "track": track}
            costs = {name: times.get((name, device), math.nan) for name in standing.names}
            found["scores"] += [{**labels, **row} for row in score_rows(standing, costs)]
            found["profiles"] += [{**labels, **row} for row in profile_rows(standing)]
        for name, reason in race.incomplete.items():
            labels = {"device": device, "optimizer": name, "problem": ALL}
            found["scores"].append({**labels, "status": "inconclusive", "reason": reason})
    return found


class Standing:
    """One track of a race: the entries, and for each measure one number per entrant, problem and seed."""

    def __init__(self, race: Field, track: str):
        entries = [(runs, entry(runs, track, race)) for runs in race.entrants]
        self.race = race
        self.runs = [runs for runs, one in entries if one]
        self.entries: list[Entry] = [one for _, one in entries if one]
        self.names = [one.optimizer for one in self.entries]
        self.real = [place for place, name in enumerate(self.names) if name not in NULLS]
        problems, seeds = len(race.problems), len(race.seeds) - 1
        self.weights = resample.weights(problems, seeds)
        self.freedom = problems * (seeds - 1)
        self.times = np.array([one.times for one in self.entries]).reshape(-1, problems, seeds, len(TARGETS))
        self.areas = measures.area(self.times, race.budget)
        self.samples = resample.means(self.areas, self.weights)  # [resamples, entrants]
        self.late = self.times[..., DECADES]
        among = self.late[self.real]
        self.ratios = measures.ratios(self.late, among if len(among) else np.full_like(self.late[:1], np.inf))

    def base(self) -> int | None:
        return self.names.index(BASE) if BASE in self.names else None


def score_rows(standing: Standing, step_us: dict[str, float]) -> Iterator[Row]:
    """For each entrant a row for all problems together, and one for each of them."""
    ranks = rank_columns(standing)
    beats = beaten(standing)
    tied = ties(standing)
    for place, one in enumerate(standing.entries):
        multiples = set(one.multiples)
        seeds = len(standing.race.seeds) - 1
        shared = {"optimizer": one.optimizer, "seeds": seeds, "status": "ok", "reason": ""}
        yield {
            **shared,
            "problem": ALL,
            "problems": len(standing.race.problems),
            "lr_multiple": multiples.pop() if len(multiples) == 1 else math.nan,
            "at_edge": one.at_edge,
            "tuning_runs": one.tuning_runs,
            **whole(standing, place),
            **ranks[place],
            **beats[place],
            "tied": bool(tied.all()),
            "step_us": step_us[one.optimizer],
            "state_bytes": state_bytes(one.optimizer),
        }
        weights = resample.weights(1, seeds)
        for number, problem in enumerate(standing.race.problems):
            areas = standing.areas[place, number : number + 1]
            yield {
                **shared,
                "problem": problem,
                "problems": 1,
                "lr_multiple": one.multiples[number],
                **with_bounds("score", areas.mean(), resample.means(areas, weights), seeds - 1),
                "tied": bool(tied[number]),
            }


def whole(standing: Standing, place: int) -> Row:
    """The measures of one entrant over all problems, each with its interval."""
    times, base = standing.times[place], standing.base()
    per_run = {
        "score": standing.areas[place],
        "profile": measures.profile_area(standing.ratios[place]),
        "success": measures.solved(times),
        "lr_decades": robustness(standing, place),
    }
    if base is not None and place in standing.real:
        per_run["improvement"] = measures.better(standing.areas[place], standing.areas[base])
    row: Row = {}
    for name, values in per_run.items():
        row |= with_bounds(name, values.mean(), resample.means(values, standing.weights), standing.freedom)
    if base is not None and place in standing.real:
        row |= speed_up(standing.late[place], standing.late[base], standing)
    return row


def speed_up(late: Array, base: Array, standing: Standing) -> Row:
    """The interquartile mean over problems, seeds and whole decades of the log2 of the speed-up over `base`."""
    logs = measures.log2_speed_ups(late, base)
    logs = logs.reshape(-1, logs.shape[-1])
    alike = np.full((1, len(logs)), 1 / len(logs))
    (value,) = measures.interquartile_mean(logs, alike)
    samples = measures.interquartile_mean(logs, standing.weights.reshape(-1, len(logs)))
    return with_bounds("log2_speed_up", value, samples, standing.freedom)


def with_bounds(name: str, value: float, samples: Array, freedom: int) -> Row:
    """The columns of a measure and the ends of its interval."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), resample.interval(value, samples, freedom), strict=True))


def robustness(standing: Standing, place: int) -> Array:
    """Decades of learning rate that are good [problems, seeds], whatever the track; over those tried everywhere."""
    runs = standing.runs[place]
    everywhere = runs.there.all(axis=1)
    return measures.good_decades(runs.times[everywhere][:, :, 1:, ROBUST], runs.multiples[everywhere])


def rank_columns(standing: Standing) -> list[Row]:
    """Ranks by score with intervals, and how far they and the profile move when one problem or competitor is left out.

    Only of real entrants: whoever does nothing is no competitor.
    """
    real, rows = standing.real, [Row() for _ in standing.entries]
    if not real:
        return rows
    areas = standing.areas[real]
    rank = resample.ranks(rounded(areas.mean(axis=(1, 2))))
    bounds = resample.bounds(resample.ranks(rounded(standing.samples[:, real])), standing.freedom)
    if len(standing.race.seeds) < 3:  # one seed that is scored: there is nothing to resample
        bounds = (np.full(len(real), np.nan),) * 2
    without_problem = rank[None]
    if areas.shape[1] > 1:
        each = areas.mean(axis=2)
        without_problem = resample.ranks(rounded((each.sum(axis=1)[:, None] - each).T))  # sums rank as means do
    profiles = without_competitor(standing)
    for number, place in enumerate(real):
        rows[place] = {
            "rank": int(rank[number]),
            "rank_low": bounds[0][number],
            "rank_high": bounds[1][number],
            "rank_without_problem_low": int(without_problem[:, number].min()),
            "rank_without_problem_high": int(without_problem[:, number].max()),
            "profile_without_competitor_low": np.nanmin(profiles[:, number]),
            "profile_without_competitor_high": np.nanmax(profiles[:, number]),
        }
    return rows


def without_competitor(standing: Standing) -> Array:
    """Profile areas [left out, entrants] of the real entrants when one of the others is left out; of itself nan.

    The last row leaves nobody out.
    """
    late = standing.late[standing.real]
    found = np.full((len(late) + 1, len(late)), np.nan)
    for left_out in range(len(late) + 1):
        kept = [place for place in range(len(late)) if place != left_out]
        if kept:
            ratios = measures.ratios(late[kept], late[kept])
            found[left_out, kept] = measures.profile_area(ratios).mean(axis=(1, 2))
    return found


def rounded(scores: Array) -> Array:
    """Without the last digits, in which sums of equal numbers may differ."""
    return np.round(scores, 12)


def beaten(standing: Standing) -> list[Row]:
    """Whom each real entrant beats and who beats it: the paired test of their scores, corrected over all pairs."""
    real = standing.real
    pairs = [(a, b) for number, a in enumerate(real) for b in real[number + 1 :]]
    differences = [standing.areas[a] - standing.areas[b] for a, b in pairs]
    corrected = resample.holm(np.array([resample.paired_p(one) for one in differences]))
    wins: list[list[str]] = [[] for _ in standing.entries]
    losses: list[list[str]] = [[] for _ in standing.entries]
    for (a, b), difference, p in zip(pairs, differences, corrected, strict=True):
        if p < resample.SIGNIFICANT:
            better, worse = (a, b) if difference.mean() > 0 else (b, a)
            wins[better].append(standing.names[worse])
            losses[worse].append(standing.names[better])
    return [
        {"beats": ", ".join(won), "beaten_by": ", ".join(lost)} if place in real else {}
        for place, (won, lost) in enumerate(zip(wins, losses, strict=True))
    ]


def ties(standing: Standing) -> NDArray[np.bool_]:
    """The problems [problems] on which all real entrants score the same: they tell nobody apart."""
    means = standing.areas[standing.real].mean(axis=2)
    if len(means) < 2:
        return np.zeros(len(standing.race.problems), dtype=bool)
    return np.ptp(means, axis=0) <= TIED


def profile_rows(standing: Standing) -> Iterator[Row]:
    """The curves behind score and profile, with pointwise bands: ECDFs over the budget, profiles over the ratio."""
    budget = standing.race.budget
    budgets = np.unique(np.round(np.geomspace(1, budget, ECDF_POINTS)))
    for place, name in enumerate(standing.names):
        curves = [("ecdf", budgets, measures.met(standing.times[place], budgets))]
        if place in standing.real:
            curves.append(("profile", TAUS, measures.within_ratio(standing.ratios[place], TAUS)))
        for kind, x, values in curves:
            values = np.moveaxis(values, -1, 0)
            low, high = resample.bounds(resample.means(values, standing.weights), standing.freedom)
            for point in zip(x, values.mean(axis=(1, 2)), low, high, strict=True):
                yield {"optimizer": name, "kind": kind, **dict(zip(("x", "share", "low", "high"), point, strict=True))}
