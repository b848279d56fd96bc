"""What a run says, in sentences: equal or not, how much faster, what went wrong. Only from the tables, for the page."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from bench.charts.rows import MEASURED, OURS, loss_times, numbers, rows_of, with_panel
from bench.contenders import NULLS
from bench.score.derive import ALL
from bench.score.networks import TUNING_SEEDS
from bench.score.tracks import TUNED
from bench.statistics import geometric_mean
from bench.tables import subject

GOOD, BAD, PLAIN = "good", "bad", "plain"
MODES = {"loop": "for-loop", "foreach": "foreach", "fused": "fused", "compiled": "compiled"}
SWEEPS = {"batched": "torch over a batch", "alone": "torch one run at a time", "optax": "optax"}
SPEED = ("optimizer", "parameter_set", "device", "dtype", "threads", "contender", "status", "verdict", "best_of_torch")
RATIO = ("ratio", "ratio_low", "ratio_high")


class Sentence(NamedTuple):
    """One finding: `mood` is good, bad or plain."""

    mood: str
    text: str


def sentences(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """The verdict, most important first; a part that was not run is left out."""
    return [
        *parity(tables),
        *loss_parity(tables),
        *speed(tables),
        *loss_speed(tables),
        *sweep_speed(tables),
        *scores(tables),
        *unscored(tables),
        *races(tables),
        *trouble(tables),
    ]


def parity(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """How many checks of ours are equal within tolerance, and what torch itself gets wrong."""
    rows = rows_of(tables, "parity", ("optimizer", "options", "contender", "dtype", "status"))
    ours = rows[rows["contender"].isin(OURS)]
    checked = ours[ours["status"].isin(("ok", "wrong", "error"))]
    found = []
    if len(checked):
        equal = int(checked["status"].eq("ok").sum())
        text = f"{equal:,} of {len(checked):,} checks of our optimizers are equal to the reference within tolerance"
        bad = checked[checked["status"] != "ok"]
        names = [f"{row.optimizer} ({row.contender}, {row.dtype}, {row.options})" for row in bad.head(3).itertuples()]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        text += f"; not equal: {', '.join(names)}{more}." if names else "."
        found.append(Sentence(BAD if len(bad) else GOOD, text))
    faults = rows[rows["status"] == "reference fault"]
    if len(faults):
        modes = [f"{MODES.get(name, name)} {number}" for name, number in faults["contender"].value_counts().items()]
        text = (
            f"In {count(len(faults), 'check')} torch itself is outside the tolerance ({', '.join(modes)}); see below."
        )
        found.append(Sentence(PLAIN, text))
    return found


def left_out(cells: int) -> str:
    """What a geometric mean does not speak of, or nothing."""
    return f"; {count(cells, 'cell')} without an interval {'is' if cells == 1 else 'are'} left out" if cells else ""


def loss_parity(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """How many checks of our losses agree with torch in float64."""
    rows = rows_of(tables, "loss_parity", ("loss", "reduction", "dtype", "status"))
    checked = rows[rows["status"].isin(("ok", "wrong", "error"))]
    if not len(checked):
        return []
    bad = checked[checked["status"] != "ok"]
    text = (
        f"{len(checked) - len(bad):,} of {len(checked):,} checks of our losses, value and gradient, agree with float64 "
        "within tolerance"
    )
    if not len(bad):
        return [Sentence(GOOD, f"{text}.")]
    names = [f"{row.loss} ({row.reduction}, {row.dtype})" for row in bad.head(3).itertuples()]
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return [Sentence(BAD, f"{text}; not: {', '.join(names)}{more}.")]


def sweep_speed(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """How much faster a compiled sweep makes its steps than each other contender, a geometric mean for each."""
    timed = rows_of(tables, "sweep_time", ("optimizer", "function", "device", "dtype", "contender", "status", *RATIO))
    timed = timed.assign(**{column: numbers(timed[column]) for column in RATIO})
    found = []
    others = timed[timed["contender"].ne("ours") & timed["status"].isin(MEASURED)]
    for (device, dtype), there in others.groupby(["device", "dtype"], sort=False):
        said = []
        for contender, here in there.groupby("contender", sort=False):
            mean, low, high = geometric_mean(*(here[column] for column in RATIO))
            used = int(here[list(RATIO)].notna().all(axis=1).sum())
            if used:
                whose = left_out(len(here) - used)
                said.append(f"{SWEEPS.get(contender, contender)} {times(mean)} ({span(low, high)}{whose})")
        if said:
            text = f"A step of a run in a sweep takes, in times of ours on {device} in {dtype}: {', '.join(said)}"
            found.append(Sentence(PLAIN, f"{text} (geometric mean)."))
    return found


def loss_speed(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """Forward and backward of our losses against torch's eager mode, a geometric mean for each device."""
    timed = loss_times(tables)
    ours = timed[timed["contender"].eq("ours") & timed["phase"].eq("both") & timed["ratio"].gt(0)]
    found = []
    for device, here in ours.groupby("device", sort=False):
        mean, low, high = geometric_mean(*(here[column] for column in RATIO))
        used = int(here[list(RATIO)].notna().all(axis=1).sum())
        if not used:
            continue
        mood, word = (GOOD, "faster") if low > 1 else (BAD, "slower") if high < 1 else (PLAIN, "")
        if mood == BAD:
            mean, low, high = 1 / mean, 1 / high, 1 / low
        said = (
            f"{times(mean)} ({span(low, high)}) {word} than"
            if word
            else f"as fast ({times(mean)}, {span(low, high)}) as"
        )
        over = f"Over {count(used, 'loss and size', 'losses and sizes')} on {device}"
        text = f"{over}, forward and backward of ours are {said} torch's eager mode (geometric mean)."
        found.append(Sentence(mood, text))
    slower = ours[ours["verdict"].eq("slower")]
    if len(slower):
        named = "; ".join(f"{row.panel} · {row.size} ({times(1 / row.ratio)})" for row in slower.head(3).itertuples())
        more = f"; and {len(slower) - 3} more" if len(slower) > 3 else ""
        found.append(Sentence(BAD, f"Losses slower than torch's: {named}{more}."))
    return found


def cells_of_ours(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The timed cells of ours with a ratio, `rival` being the contender that was the best of torch."""
    rows = rows_of(tables, "step_time", SPEED + RATIO)
    rows = rows.assign(**{column: numbers(rows[column]) for column in RATIO})
    rows = with_panel(rows, "parameter_set", ("device", "dtype", "threads"))
    best = rows[rows["best_of_torch"].eq(True)].drop_duplicates(["panel", "optimizer"])
    rival = best.set_index(["panel", "optimizer"])["contender"].to_dict()
    ours = rows[rows["contender"].eq("ours") & rows["ratio"].gt(0) & rows["status"].isin(MEASURED)]
    return ours.assign(rival=[rival.get(key) for key in zip(ours["panel"], ours["optimizer"], strict=True)])


def overall(tables: dict[str, pd.DataFrame], cells: pd.DataFrame) -> list[Sentence]:
    """The geometric mean for each device, and how many of its cells are not in it because they have no interval."""
    timed = rows_of(tables, "step_time", SPEED)
    timed = with_panel(timed, "parameter_set", ("device", "dtype", "threads")).drop_duplicates(["panel", "optimizer"])
    found = []
    for device, planned in timed.groupby("device", sort=False):
        here = cells[cells["device"] == device]
        mean, low, high = geometric_mean(*(here[column] for column in RATIO))
        used = int(here[list(RATIO)].notna().all(axis=1).sum())
        if not used:
            text = f"None of {count(len(planned), 'cell')} on {device} has a ratio with an interval, so nothing is said"
            found.append(Sentence(PLAIN, f"{text} of speed there."))
            continue
        word = "faster" if low > 1 else "slower" if high < 1 else "even"
        compared = {
            "faster": f"{times(mean)} ({span(low, high)}) faster than",
            "slower": f"{times(1 / mean)} ({span(1 / high, 1 / low)}) slower than",
            "even": f"as fast ({times(mean)}, {span(low, high)}) as",
        }[word]
        text = (
            f"Over {count(used, 'cell')} on {device} our steps are {compared} the best of torch's for-loop, foreach "
            f"and fused (geometric mean{left_out(len(planned) - used)})."
        )
        found.append(Sentence({"faster": GOOD, "slower": BAD, "even": PLAIN}[word], text))
    return found


def speed(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """The geometric mean for each device, the slowest and the fastest cell, and what is slower or inconclusive."""
    cells = cells_of_ours(tables)
    found = overall(tables, cells)
    certain = cells[cells["verdict"] != "inconclusive"].sort_values("ratio")
    if len(certain) > 1:
        fastest, slowest = of_cell(certain.iloc[-1]), of_cell(certain.iloc[0])
        found.append(Sentence(PLAIN, f"Among the conclusive cells, fastest: {fastest}; slowest: {slowest}."))
    slower = cells[cells["verdict"] == "slower"]
    if len(slower):
        named = "; ".join(of_cell(row) for _, row in slower.head(3).iterrows())
        more = f"; and {len(slower) - 3} more" if len(slower) > 3 else ""
        found.append(Sentence(BAD, f"Slower than torch: {named}{more}."))
    unsure = int(cells["verdict"].eq("inconclusive").sum())
    if unsure:
        which = f"Inconclusive, with a 95 % interval wider than ±5 % or with none: {count(unsure, 'cell')}"
        text = f"{which}; the reasons are below."
        found.append(Sentence(PLAIN, text))
    return found


def of_cell(row: pd.Series) -> str:
    """``Adam is 4.9× (4.7–5.1) faster than torch's fused on mlp``."""
    rival = f"torch's {MODES.get(row['rival'], 'best mode')}"
    ratio, low, high = row["ratio"], row["ratio_low"], row["ratio_high"]
    where = f"{rival} on {row['panel']}"
    if row["verdict"] == "faster":
        return f"{row['optimizer']} is {times(ratio)} ({span(low, high)}) faster than {where}"
    if row["verdict"] == "slower":
        return f"{row['optimizer']} is {times(1 / ratio)} ({span(1 / high, 1 / low)}) slower than {where}"
    certainty = "shows no difference from" if row["verdict"] == "no difference" else "is inconclusive against"
    return f"{row['optimizer']} {certainty} {where} ({times(ratio)}, {span(low, high)})"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 cell``, ``55 cells``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def times(ratio: float) -> str:
    """``4.9×``."""
    return f"{significant(ratio)}×"


def span(low: float, high: float) -> str:
    """``4.7–5.1``."""
    return f"{significant(low)}–{significant(high)}"


def significant(value: float) -> str:
    """Three digits from 10 up, two decimals where a percent counts."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 3 else f"{value:.2f}"


def scores(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """Who scores most in the tuned track and whom it beats; the functions that tell nobody apart, or reward a null."""
    found = rows_of(
        tables,
        "scores",
        ("race", "track", "device", "optimizer", "problem", "tied", "beats", "score", "status", "target"),
    )
    found = found[found["track"].eq(TUNED)].assign(score=numbers(found["score"]))
    said = []
    for (race, device), here in found.groupby(["race", "device"], sort=False):
        whole = here[here["problem"].eq(ALL) & ~here["optimizer"].isin(NULLS)]
        if len(whole) > 1:
            said.append(Sentence(PLAIN, f"On {WHERE[race]} on {device}, tuned, {leader(whole)}."))
        own = numbers(here["target"]).dropna()
        if len(own):
            said.append(Sentence(PLAIN, f"The only target is a loss of {own.iloc[0]:g}, in place of the usual list."))
        each = here[here["problem"].ne(ALL)]
        tied = list(dict.fromkeys(each[each["tied"].eq(True)]["problem"]))
        if tied:
            said.append(Sentence(PLAIN, f"All score the same, so nothing is learnt, on {', '.join(tied)}."))
        given = each[each["optimizer"].isin(NULLS) & each["score"].gt(GIVEN)]
        named = [f"{row.problem} ({row.optimizer}, {row.score:.2f})" for row in given.itertuples()]
        if named:
            said.append(Sentence(BAD, f"Whoever optimizes nothing scores too on {', '.join(named)}."))
    return said


def leader(entrants: pd.DataFrame) -> str:
    """Who of them scores most, and how many of the others that is certain of."""
    best = entrants.loc[entrants["score"].idxmax()]
    if best["score"] == 0:
        return "nobody has met a target"
    beats = len([name for name in str(best["beats"]).split(", ") if name])
    certain = f"beats {beats} of {count(len(entrants) - 1, 'other')} beyond chance (paired tests, Holm)"
    return f"{best['optimizer']} scores most ({best['score']:.2f}) and {certain}"


def unscored(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """The races in which every seed chooses learning rates, so that none is left to score."""
    functions = rows_of(tables, "functions", ("runs", "tuning_seeds"))
    networks = rows_of(tables, "networks", ("seed",))
    left = {
        "functions": (numbers(functions["runs"]) - numbers(functions["tuning_seeds"])).dropna(),
        "networks": (numbers(networks["seed"]) + 1 - TUNING_SEEDS).dropna(),
    }
    return [
        Sentence(PLAIN, f"Nothing is scored on {WHERE[race]}: the seeds that choose learning rates are all there are.")
        for race, seeds in left.items()
        if len(seeds) and seeds.max() <= 0
    ]


WHERE = {"functions": "test functions", "networks": "small networks"}
GIVEN = 0.5  # a score on one function that no competitor may have for nothing


def races(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """How many runs on functions and networks diverged."""
    found = []
    functions = rows_of(tables, "functions", ("function", "optimizer", "status", "runs", "diverged"))
    functions = functions[functions["status"].isin((*MEASURED, "diverged")) & ~functions["optimizer"].isin(NULLS)]
    networks = rows_of(tables, "networks", ("network", "device", "optimizer", "lr", "seed", "step", "status"))
    networks = networks[networks["status"].isin((*MEASURED, "diverged")) & ~networks["optimizer"].isin(NULLS)]
    runs = networks.groupby(["network", "device", "optimizer", "lr", "seed"], dropna=False)["status"].agg(
        lambda of_run: of_run.eq("diverged").any()
    )
    for problems, name, diverged, made in (
        (
            count(functions["function"].nunique(), "test function"),
            "runs",
            numbers(functions["diverged"]).sum(),
            numbers(functions["runs"]).sum(),
        ),
        (count(networks["network"].nunique(), "network"), "trainings", runs.sum(), len(runs)),
    ):
        if made:
            of_all = f"{int(diverged):,} of {int(made):,} {name} on {problems}"
            found.append(Sentence(PLAIN, f"{of_all} diverged, over all learning rates tried."))
    return found


def trouble(tables: dict[str, pd.DataFrame]) -> list[Sentence]:
    """How many rows failed or were skipped."""
    found = failures(tables)
    words = {"error": "crashed", "oom": "ran out of memory", "skipped": "were skipped"}
    counts = {status: int(found.loc[found["status"] == status, "rows"].sum()) for status in words}
    said = [f"{counts[status]:,} {word}" for status, word in words.items() if counts[status]]
    if not said:
        return []
    mood = BAD if counts["error"] else PLAIN
    return [Sentence(mood, f"Of all rows, {', '.join(said)}; the reasons are below.")]


def failures(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What is not measured or not right, a row per distinct reason, worst first: table, status, what, reason, rows."""
    order = ("wrong", "error", "oom", "reference fault", "inconclusive", "skipped")
    parts = []
    for name in tables:
        rows = rows_of(tables, name, (subject(name), "contender", "status", "reason"))
        rows = rows[rows["status"].isin(order)].assign(table=name)
        # A column in which nothing is filled is one of floats.
        who, contender = (rows[one].astype(object).fillna("").astype(str) for one in (subject(name), "contender"))
        parts.append(rows.assign(what=who + (" · " + contender).where(contender != "", "")))
    columns = ["table", "status", "what", "reason", "rows"]
    if not parts:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(parts).fillna({"reason": ""})
    grouped = rows.groupby(["table", "status", "reason"], sort=False)["what"].agg([few, "size"]).reset_index()
    grouped = grouped.rename(columns={"few": "what", "size": "rows"})[columns]
    return grouped.sort_values("status", key=lambda status: status.map(order.index), kind="stable", ignore_index=True)


def few(names: pd.Series) -> str:
    """The distinct names, at most six."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 6} more" if len(distinct) > 6 else ""
    return ", ".join(distinct[:6]) + more
