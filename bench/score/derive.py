"""The tables `scores` and `profiles`, made from the table of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.contenders import NULLS
from bench.score import measures, networks, resample
from bench.score.costs import state_bytes, step_times
from bench.score.hits import TARGETS, decades
from bench.score.runs import Field, field
from bench.score.tracks import TRACKS, Entry, entry

Array = NDArray[np.float64]
Row = dict[str, Any]
COLUMNS = ("function", "device", "optimizer", "lr_multiple", "tuning_seeds", "steps", "status", "target", "_hits")
BASE = "AdamW"  # whose times the speed-ups are over
ALL = "all"  # in place of a problem: the mean over them
ROBUST = 7  # place of the target 10^-2, whose time says which learning rates are good; of fewer targets the last
TIED = 1e-12  # scores closer than this are equal
ECDF_POINTS = 60
TAUS = np.linspace(1, measures.LARGEST_RATIO, 61)


def derive(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of `scores` and `profiles` from those of the races and `step_time`; none where nothing was raced."""
    found: dict[str, list[Row]] = {"scores": [], "profiles": []}
    times = step_times(rows.get("step_time", []))
    races = {
        "functions": (rows.get("functions", []), len(TARGETS)),
        "networks": (list(networks.rates(rows.get("networks", []))), networks.TARGETS),
    }
    for name, (rates, targets) in races.items():
        for device, table in pd.DataFrame(rates, columns=COLUMNS).groupby("device", sort=False):
            own = next(iter(table["target"].dropna()), None)  # a run has one, if any
            race = field(table, targets if own is None else 1)
            for table_name, some in score(race, {"race": name, "device": device}, times).items() if race else ():
                found[table_name] += [{**row, "target": own} for row in some]
    return found


def score(race: Field, labels: Row, times: dict[tuple[str, str], float]) -> dict[str, list[Row]]:
    """The rows of one race on one device."""
    found: dict[str, list[Row]] = {"scores": [], "profiles": []}
    for track in TRACKS:
        standing = Standing(race, track)
        if not standing.entries:
            continue
        costs = {name: times.get((name, labels["device"]), math.nan) for name in standing.names}
        found["scores"] += [{**labels, "track": track, **row} for row in score_rows(standing, costs)]
        found["profiles"] += [{**labels, "track": track, **row} for row in profile_rows(standing)]
    for name, reason in race.incomplete.items():
        found["scores"].append(
            {**labels, "optimizer": name, "problem": ALL, "status": "inconclusive", "reason": reason}
        )
    return found


class Standing:
    """One track of a race: the entries, and for each of them one number per problem and seed.

    Whatever compares entrants is of the seeds they share: `ratios` [real entrants, problems, shared seeds, decades].
    """

    def __init__(self, race: Field, track: str):
        entries = [(runs, entry(runs, track, race)) for runs in race.entrants]
        self.race = race
        self.runs = [runs for runs, one in entries if one]
        self.entries: list[Entry] = [one for _, one in entries if one]
        self.names = [one.optimizer for one in self.entries]
        self.real = [place for place, name in enumerate(self.names) if name not in NULLS]
        self.areas = [measures.area(one.times, race.budget) for one in self.entries]  # each [problems, seeds]
        self.scores = np.array([one.mean() for one in self.areas])
        samples = [resample.means(one, resample.weights(*one.shape)) for one in self.areas]
        self.samples = np.array(samples).reshape(len(samples), -1).T  # [resamples, entrants]
        self.late = [one.times[..., decades(one.times.shape[-1])] for one in self.entries]
        self.shared = min((one.shape[1] for place, one in enumerate(self.areas) if place in self.real), default=0)
        together = np.array([self.late[place][:, : self.shared] for place in self.real])
        self.ratios = measures.ratios(together, together) if len(together) else together

    def base(self) -> int | None:
        return self.names.index(BASE) if BASE in self.names else None


def score_rows(standing: Standing, step_us: dict[str, float]) -> Iterator[Row]:
    """For each entrant a row for all problems together, and one for each of them."""
    ranks = rank_columns(standing)
    beats = beaten(standing)
    tied = ties(standing)
    for place, one in enumerate(standing.entries):
        multiples = set(one.multiples)
        areas = standing.areas[place]
        shared = {"optimizer": one.optimizer, "seeds": areas.shape[1], "status": "ok", "reason": ""}
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
        samples = resample.means(areas[:, None], resample.weights(1, areas.shape[1]))
        low, high = resample.bounds(samples, areas.shape[1] - 1)
        for number, problem in enumerate(standing.race.problems):
            yield {
                **shared,
                "problem": problem,
                "problems": 1,
                "lr_multiple": one.multiples[number],
                "score": float(areas[number].mean()),
                "score_low": float(low[number]),
                "score_high": float(high[number]),
                "tied": bool(tied[number]),
            }


def whole(standing: Standing, place: int) -> Row:
    """The measures of one entrant over all problems, each with its interval."""
    areas, base = standing.areas[place], standing.base()
    per_run = {
        "score": areas,
        "success": measures.solved(standing.entries[place].times),
        "lr_decades": robustness(standing, place),
    }
    if place in standing.real:
        per_run["profile"] = measures.profile_area(standing.ratios[standing.real.index(place)])
    if base is not None and place in standing.real:
        both = min(areas.shape[1], standing.areas[base].shape[1])
        per_run["improvement"] = measures.better(areas[:, :both], standing.areas[base][:, :both])
    row: Row = {}
    for name, values in per_run.items():
        row |= with_bounds(name, values.mean(), resample.means(values, resample.weights(*values.shape)), values.shape)
    if base is not None and place in standing.real:
        row |= speed_up(standing.late[place][:, :both], standing.late[base][:, :both])
    return row


def speed_up(late: Array, base: Array) -> Row:
    """The interquartile mean over problems, seeds and whole decades of the log2 of the speed-up over `base`."""
    problems, seeds, decades = late.shape
    logs = measures.log2_speed_ups(late, base).reshape(-1, decades)
    alike = np.full((1, len(logs)), 1 / len(logs))
    (value,) = measures.interquartile_mean(logs, alike)
    samples = measures.interquartile_mean(logs, resample.weights(problems, seeds).reshape(-1, len(logs)))
    return with_bounds("log2_speed_up", value, samples, (problems, seeds))


def with_bounds(name: str, value: float, samples: Array, shape: tuple[int, ...]) -> Row:
    """The columns of a measure and the ends of its interval; `shape` is [problems, seeds]."""
    freedom = shape[0] * (shape[1] - 1)
    return dict(zip((name, f"{name}_low", f"{name}_high"), resample.interval(value, samples, freedom), strict=True))


def robustness(standing: Standing, place: int) -> Array:
    """Decades of learning rate that are good [problems, seeds], whatever the track; over those tried everywhere."""
    runs = standing.runs[place]
    everywhere = runs.there.all(axis=1)
    judged_by = min(ROBUST, runs.times.shape[-1] - 1)
    late = runs.times[everywhere][:, :, standing.race.tuning_seeds :, judged_by]
    return measures.good_decades(late, runs.multiples[everywhere])


def rank_columns(standing: Standing) -> list[Row]:
    """Ranks by score with intervals, and how far they and the profile move when one problem or competitor is left out.

    Only of real entrants: whoever does nothing is no competitor.
    """
    real, rows = standing.real, [Row() for _ in standing.entries]
    if not real:
        return rows
    means = np.array([standing.areas[place].mean(axis=1) for place in real])
    rank = resample.ranks(rounded(standing.scores[real]))
    fewest = min(standing.areas[place].size - len(standing.areas[place]) for place in real)
    bounds = resample.bounds(resample.ranks(rounded(standing.samples[:, real])), fewest)
    if fewest == 0:  # one seed that is scored: there is nothing to resample
        bounds = (np.full(len(real), np.nan),) * 2
    without_problem = rank[None]
    if means.shape[1] > 1:
        without_problem = resample.ranks(rounded((means.sum(axis=1)[:, None] - means).T))  # sums rank as means do
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
    late = np.array([standing.late[place][:, : standing.shared] for place in standing.real])
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
    differences = [difference(standing.areas[a], standing.areas[b]) for a, b in pairs]
    corrected = resample.holm(np.array([resample.paired_p(one) for one in differences]))
    wins: list[list[str]] = [[] for _ in standing.entries]
    losses: list[list[str]] = [[] for _ in standing.entries]
    for (a, b), between, p in zip(pairs, differences, corrected, strict=True):
        if p < resample.SIGNIFICANT:
            better, worse = (a, b) if between.mean() > 0 else (b, a)
            wins[better].append(standing.names[worse])
            losses[worse].append(standing.names[better])
    return [
        {"beats": ", ".join(won), "beaten_by": ", ".join(lost)} if place in real else {}
        for place, (won, lost) in enumerate(zip(wins, losses, strict=True))
    ]


def difference(first: Array, second: Array) -> Array:
    """`first` - `second` [problems, seeds] of the seeds that both have."""
    both = min(first.shape[1], second.shape[1])
    return first[:, :both] - second[:, :both]


def ties(standing: Standing) -> NDArray[np.bool_]:
    """The problems [problems] on which all real entrants score the same: they tell nobody apart."""
    if len(standing.real) < 2:
        return np.zeros(len(standing.race.problems), dtype=bool)
    first, *others = (standing.areas[place] for place in standing.real)
    return np.all([np.abs(difference(one, first).mean(axis=1)) <= TIED for one in others], axis=0)


def profile_rows(standing: Standing) -> Iterator[Row]:
    """The curves behind score and profile, with pointwise bands: ECDFs over the budget, profiles over the ratio."""
    budget = standing.race.budget
    budgets = np.unique(np.round(np.geomspace(1, budget, ECDF_POINTS)))
    for place, name in enumerate(standing.names):
        curves = [("ecdf", budgets, measures.met(standing.entries[place].times, budgets))]
        if place in standing.real:
            ratios = standing.ratios[standing.real.index(place)]
            curves.append(("profile", TAUS, measures.within_ratio(ratios, TAUS)))
        for kind, x, values in curves:
            problems, seeds, _ = values.shape
            samples = resample.means(np.moveaxis(values, -1, 0), resample.weights(problems, seeds))
            low, high = resample.bounds(samples, problems * (seeds - 1))
            for point in zip(x, values.mean(axis=(0, 1)), low, high, strict=True):
                yield {"optimizer": name, "kind": kind, **dict(zip(("x", "share", "low", "high"), point, strict=True))}
