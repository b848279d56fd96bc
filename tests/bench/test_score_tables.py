"""From runs to scores: tuned on a seed that is never scored, absolute, and nothing filled in for what failed."""

import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import contenders, descents, functions_race, nulls, page, page_scores, plan, starts, verdict
from bench.budgets import SMOKE
from bench.contenders import NULLS
from bench.problems.function import Function, shifted
from bench.score import measures, resample
from bench.score.costs import state_bytes
from bench.score.derive import derive
from bench.score.runs import field
from bench.score.tracks import DEFAULT, ONE, TUNED, entry
from bench.tables import COLUMNS
from tests.bench.example_tables import empty_tables, race

BUDGET = 100


def run(optimizer, function, times, multiple=1.0, **more):
    """A row of functions.csv: the gradients to the first targets, seed by seed; None for a seed that diverged."""
    hits = [" ".join(map(str, one or [])) for one in times]
    row = {"optimizer": optimizer, "function": function, "_hits": hits, "tuning_seeds": 1, "runs": len(times)}
    return {**row, "device": "cpu", "lr_multiple": multiple, "steps": BUDGET, "status": "ok", "diverged": 0, **more}


def scored(rows, track=TUNED, problem="all"):
    """The rows of scores.csv of one track, by optimizer."""
    found = pd.DataFrame(derive({"functions": rows})["scores"])
    return found[found["track"].eq(track) & found["problem"].eq(problem)].set_index("optimizer")


def area(*times):
    """By its definition: 32 targets, those not named never met."""
    return sum(1 - math.log(time) / math.log(BUDGET) for time in times) / 32


# tuning


def tuning_rows():
    """Seed 0 likes ×10 on f and ×1 on g; seed 1 would like the opposite."""
    fast, slow = [1, 2], [50, 60]
    return [
        *(run("Adam", "f", [fast, slow] if one == 10 else [slow, fast], one) for one in (0.1, 1.0, 10.0)),
        *(run("Adam", "g", [[1], [5]] if one == 1 else [slow, fast], one) for one in (0.1, 1.0, 10.0)),
    ]


def test_a_learning_rate_is_chosen_on_seed_0_and_scored_on_the_others():
    tuned, default, one = (scored(tuning_rows(), track).loc["Adam"] for track in (TUNED, DEFAULT, ONE))
    assert tuned["score"] == pytest.approx((area(50, 60) + area(5)) / 2)
    assert default["score"] == pytest.approx((area(1, 2) + area(5)) / 2)
    assert one["score"] == pytest.approx((area(50, 60) + area(1, 2)) / 2)  # ×10: best over f and g on seed 0
    assert (default["lr_multiple"], one["lr_multiple"]) == (1, 10) and math.isnan(tuned["lr_multiple"])
    assert (tuned["at_edge"], one["at_edge"], default["at_edge"]) == (1, 2, 0)
    assert (tuned["tuning_runs"], default["tuning_runs"], tuned["seeds"]) == (6, 0, 1)


def test_of_equally_good_learning_rates_the_nearest_to_the_default_is_taken():
    rows = [run("Adam", "f", [[4], [4]], multiple) for multiple in (0.01, 0.1, 10.0)]
    race_of = field(pd.DataFrame(rows))
    assert entry(race_of.entrants[0], TUNED, race_of).multiples.tolist() == [0.1]
    assert entry(race_of.entrants[0], ONE, race_of).multiples.tolist() == [0.1]
    assert entry(race_of.entrants[0], DEFAULT, race_of) is None


# what fails


def test_a_run_that_failed_counts_as_never_and_is_not_filled_in():
    found = scored([run("Adam", "f", [[1, 1], [1, 1], None]), run("SGD", "f", [[1, 1]] * 3)])
    assert found.loc["Adam", "score"] == pytest.approx(area(1, 1) / 2)
    assert found.loc["SGD", "score"] == pytest.approx(area(1, 1))


def test_a_cell_that_crashed_scores_0_there_and_one_not_run_yet_is_not_scored():
    rows = [run(name, "f", [[1], [1]]) for name in ("Adam", "SGD", "ASGD")]
    rows += [run("Adam", "g", [[1], [1]])]
    rows += [{"optimizer": "SGD", "function": "g", "device": "cpu", "status": "error"}]
    rows += [{"optimizer": "Muon", "function": name, "device": "cpu", "status": "skipped"} for name in "fg"]
    found = pd.DataFrame(derive({"functions": rows})["scores"])
    whole = found[found["track"].eq(TUNED) & found["problem"].eq("all")].set_index("optimizer")
    assert whole["score"].to_dict() == pytest.approx({"Adam": area(1), "SGD": area(1) / 2})
    left_out = found[found["status"].eq("inconclusive")].set_index("optimizer")
    assert left_out["reason"].to_dict() == {"ASGD": "1 of 2 problems not measured: g"}
    assert "Muon" not in set(found["optimizer"])


def test_a_crash_everywhere_is_a_score_of_0():
    rows = [run("Adam", "f", [[1], [1]])]
    rows += [{"optimizer": "SGD", "function": "f", "device": "cpu", "status": "error"}]
    assert scored(rows).loc["SGD", "score"] == 0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"optimizer": "Adam", "device": "cpu", "status": "error"}],
        [run("Adam", "f", [[1]])],
        [run("Adam", "f", [[1]] * 3, tuning_seeds=3)],
        [run("Adam", "f", [[1]] * 3, tuning_seeds=0)],
        [run("Adam", "f", [[1], [1]], _hits=None)],
        [run("Adam", "f", [[1], [1]], steps=1)],
    ],
    ids=["nothing", "a crash", "one seed", "only tuning seeds", "no tuning seed", "an old journal", "one step"],
)
def test_nothing_to_score_is_no_row(rows):
    assert derive({"functions": rows}) == {"scores": [], "profiles": []}


# several tuning seeds, and entrants with fewer seeds than others


def test_learning_rates_are_chosen_by_the_mean_area_of_all_tuning_seeds():
    """By seed 0 alone it would be ×1, by the mean of both ×10; and neither is scored."""
    rows = [
        run("Adam", "f", [[1], [90], [7]], 1.0, tuning_seeds=2),
        run("Adam", "f", [[3], [3], [50]], 10.0, tuning_seeds=2),
    ]
    found = scored(rows).loc["Adam"]
    assert (found["lr_multiple"], found["seeds"], found["tuning_runs"]) == (10, 1, 4)
    assert found["score"] == pytest.approx(area(50))


def test_who_has_fewer_seeds_is_scored_on_its_own_and_compared_on_those_that_both_have():
    """SGD's later seeds are all it is bad at: they count in its score, and not in what compares it with L-BFGS."""
    good, bad = [2] * 32, [90] * 32
    rows = [
        run("AdamW", "f", [good] * 9),
        run("SGD", "f", [good, good, good, *[bad] * 6]),
        run("LBFGS", "f", [good, [3] * 32, [3] * 32]),
    ]
    found = scored(rows)
    assert found["seeds"].to_dict() == {"AdamW": 8, "SGD": 8, "LBFGS": 2}
    assert found.loc["LBFGS", "score"] == pytest.approx(area(*[3] * 32))
    assert found.loc["SGD", "score"] == pytest.approx((2 * area(*good) + 6 * area(*bad)) / 8)
    assert found["rank"].to_dict() == {"AdamW": 1, "LBFGS": 2, "SGD": 3}  # by the scores
    assert "LBFGS" in found.loc["SGD", "beats"]  # on the seeds they share, each time
    assert found.loc["SGD", "profile"] == 1 and found.loc["LBFGS", "profile"] < 1
    assert found.loc["LBFGS", "log2_speed_up"] == pytest.approx(math.log2(2 / 3))
    assert found.loc["SGD", "improvement"] == pytest.approx(2 / 8 / 2)  # AdamW has all eight


def test_who_has_no_seed_left_to_score_is_not_scored():
    found = derive({"functions": [run("Adam", "f", [[1]] * 4), run("LBFGS", "f", [[1]])]})["scores"]
    (left_out,) = [row for row in found if row["optimizer"] == "LBFGS"]
    assert left_out["status"] == "inconclusive" and "no seed is left" in left_out["reason"]


# the properties that make it fair

HITS = st.lists(st.integers(1, BUDGET), max_size=32).map(sorted)


@st.composite
def races(draw):
    """A small race: up to 4 optimizers, 3 functions, 3 learning rates, 4 seeds."""
    optimizers, functions = (
        ("Adam", "SGD", "AdamW", "ASGD")[: draw(st.integers(1, 4))],
        "fgh"[: draw(st.integers(1, 3))],
    )
    seeds = draw(st.integers(2, 4))
    every = itertools.product(optimizers, functions, (0.1, 1.0, 10.0))
    return [run(name, function, [draw(HITS) for _ in range(seeds)], multiple) for name, function, multiple in every]


SCORE = ["score", "score_low", "score_high", "success", "lr_decades"]


@settings(max_examples=15, deadline=None)
@given(races())
def test_scores_are_shares_and_do_not_depend_on_who_else_takes_part(rows):
    found = scored(rows)
    for share in ("score", "profile", "success", "improvement"):
        if share in found:
            assert found[share].dropna().between(0, 1).all()
    assert (found["score_low"].isna() | found["score_low"].le(found["score_high"])).all()
    alone = scored([row for row in rows if row["optimizer"] == "Adam"])
    pd.testing.assert_series_equal(found.loc["Adam", SCORE], alone.loc["Adam", SCORE], check_exact=True)


@settings(max_examples=15, deadline=None)
@given(races(), st.randoms(use_true_random=False))
def test_order_of_rows_and_of_scored_seeds_changes_no_score(rows, random):
    order = random.sample(range(1, len(rows[0]["_hits"])), len(rows[0]["_hits"]) - 1)
    again = [{**row, "_hits": [row["_hits"][seed] for seed in (0, *order)]} for row in rows]
    random.shuffle(again)
    before, after = (scored(one)[["score", "profile", "rank"]].sort_index() for one in (rows, again))
    pd.testing.assert_frame_equal(before, after, rtol=1e-12, check_dtype=False)  # sums in another order


@settings(max_examples=15, deadline=None)
@given(races(), st.integers(0, 1000), st.integers(1, 3))
def test_a_faster_scored_run_never_lowers_a_score(rows, place, seed):
    which, seed = place % len(rows), min(seed, len(rows[0]["_hits"]) - 1)  # a faster tuning run may mislead
    faster = [{**row, "_hits": list(row["_hits"])} for row in rows]
    times = [max(1, int(time) // 2) for time in rows[which]["_hits"][seed].split()]
    more = [times[-1] if times else 1] if len(times) < 32 else []
    faster[which]["_hits"][seed] = " ".join(map(str, [*times, *more]))
    for track in (DEFAULT, ONE, TUNED):
        assert (scored(faster, track)["score"] >= scored(rows, track)["score"] - 1e-12).all()


# the tables


@pytest.fixture(scope="module")
def derived():
    return derive({"functions": list(race(("SGD", "Adam", "AdamW", "LBFGS")))})


def test_every_column_is_declared(derived):
    for table, rows in derived.items():
        assert set().union(*rows) <= set(COLUMNS[table])
    assert set().union(*derived["scores"]) == set(COLUMNS["scores"])


def test_the_score_is_the_area_under_its_curve(derived):
    """The curve is kept at whole budgets up to 100, of which every one below about 20 is there, so 2 % is allowed."""
    curves = pd.DataFrame(derived["profiles"])
    scores = pd.DataFrame(derived["scores"])
    for name in ("SGD", "Adam"):
        curve = curves[curves["kind"].eq("ecdf") & curves["optimizer"].eq(name) & curves["track"].eq(TUNED)]
        whole = scores[scores["problem"].eq("all") & scores["optimizer"].eq(name) & scores["track"].eq(TUNED)]
        integral = (np.diff(np.log(curve["x"])) * curve["share"].iloc[:-1]).sum() / math.log(BUDGET)
        assert integral == pytest.approx(whole["score"].item(), abs=0.02)
        assert curve["share"].is_monotonic_increasing
        assert (curve["low"].le(curve["share"]) & curve["share"].le(curve["high"])).all()


def test_who_is_always_faster_ranks_first_and_beats_the_others(derived):
    whole = pd.DataFrame(derived["scores"]).query("track == 'tuned' and problem == 'all'").set_index("optimizer")
    assert whole.loc[["SGD", "Adam", "AdamW", "LBFGS"], "rank"].tolist() == [1, 2, 3, 4]
    assert whole.loc["SGD", "beats"] == "Adam, AdamW, LBFGS" and whole.loc["LBFGS", "beaten_by"] == "SGD, Adam, AdamW"
    assert whole.loc["SGD", "profile"] == whole["profile"].max() and whole.loc["SGD", "rank_high"] == 1
    assert whole.loc["AdamW", "log2_speed_up"] == 0 and whole.loc["AdamW", "improvement"] == 0.5
    assert whole.loc["SGD", "improvement"] == 1 and whole.loc["SGD", "log2_speed_up"] > 1  # 3 times as fast
    assert whole.loc["SGD", "rank_without_problem_low"] == whole.loc["SGD", "rank_without_problem_high"] == 1
    # without SGD, Adam is the fastest
    assert whole.loc["Adam", "profile_without_competitor_high"] > whole.loc["Adam", "profile"]
    assert whole.loc["SGD", "profile_without_competitor_low"] == whole.loc["SGD", "profile"]


def test_leaving_a_problem_out_can_turn_the_ranks():
    rows = [run("Adam", "f", [[1] * 32] * 3), run("SGD", "f", [[]] * 3)]
    rows += [run("Adam", "g", [[]] * 3), run("SGD", "g", [[9] * 32] * 3)]
    found = scored(rows)
    assert found["rank"].to_dict() == {"Adam": 1, "SGD": 2}
    assert found["rank_without_problem_low"].to_dict() == {"Adam": 1, "SGD": 1}
    assert found["rank_without_problem_high"].to_dict() == {"Adam": 2, "SGD": 2}


def test_a_problem_on_which_all_tie_is_flagged_and_said():
    rows = [run(name, "f", [[7] * 9] * 3) for name in ("Adam", "SGD")]
    rows += [run(name, "g", [[2 if name == "SGD" else 3]] * 3) for name in ("Adam", "SGD")]
    assert scored(rows, problem="f")["tied"].all() and not scored(rows, problem="g")["tied"].any()
    tables = empty_tables() | {"scores": pd.DataFrame(derive({"functions": rows})["scores"])}
    assert any("nothing is learnt, on f." in text for _, text in verdict.scores(tables))
    assert list(page_scores.scores(tables)["optimizer"]) == ["SGD", "Adam"]


def test_devices_are_scored_apart():
    rows = [run("Adam", "f", [[3], [3]], device=device) for device in ("cpu", "cuda")]
    found = pd.DataFrame(derive({"functions": rows})["scores"])
    assert found.query("track == 'tuned' and problem == 'all'")["device"].tolist() == ["cpu", "cuda"]


def test_costs_are_joined():
    assert [state_bytes(name) for name in ("SGD", "Adam", "Adagrad")] == [0, 8, 4]
    assert state_bytes("Adafactor") == 4 * 2 * 64 / 64**2 and math.isnan(state_bytes("LBFGS"))
    times = {"optimizer": "Adam", "device": "cpu", "contender": "ours", "parameter_set": "mlp", "dtype": "float32"}
    rows = {"functions": list(race(("Adam",))), "step_time": [{**times, "median_us": 12.5}]}
    found = pd.DataFrame(derive(rows)["scores"]).query("optimizer == 'Adam' and problem == 'all'")
    assert found["step_us"].tolist() == [12.5] * 3


# null competitors


def sphere(shift):
    """A bowl around `shift`, whose start is one step of (1, 1) away from its bottom."""
    return shifted(
        Function(
            name="sphere", title="Sphere", definition=lambda x, m: m.sum(x**2), domain=((-9.0, 9.0),) * 2,
            start=(1.0, 1.0), minimisers=((0.0, 0.0),), minimum=0.0, basin=0.0, source="",
        ),
        by=shift,
    )  # fmt: skip


def null_score(name, function):
    begins = starts.of_points(function, np.array([function.start]))
    runs, _ = nulls.made(function, name, begins, 0.01, 50, "cpu")
    return measures.area(runs.hits, 50).item()


def test_null_competitors_score_what_they_deserve():
    at_origin, elsewhere = sphere((0.0, 0.0)), sphere((3.0, -4.0))
    for name in ("stands still", "sign flipped"):
        assert null_score(name, at_origin) == null_score(name, elsewhere) == 0
    assert null_score("to the origin", at_origin) == 1  # its only step lands on the minimum
    assert null_score("to the origin", elsewhere) == 0
    assert tuple(nulls.MOVES) == NULLS


def test_null_competitors_always_run_and_have_the_columns_of_the_others():
    made = plan.make("smoke", "cpu", ["Adam"], [], 0, ["functions", "nulls"])
    cells = [cell for cell in made.cells if cell.kind == "nulls"]
    assert [cell.optimizer for cell in cells] == [*NULLS] * 2
    rows = nulls.run(cells[0]).rows
    assert [row["_hits"] for row in rows] == [[""] * SMOKE.function_seeds]
    others = functions_race.run(next(cell for cell in made.cells if cell.kind == "functions")).rows
    assert rows[0].keys() == others[0].keys() - {"_losses", "_trace", "_curve_status"}


def test_who_scores_for_nothing_is_said():
    rows = [run(name, "f", [[1] * 32] * 3) for name in ("Adam", "to the origin")]
    tables = empty_tables() | {"scores": pd.DataFrame(derive({"functions": rows})["scores"])}
    assert ("bad", "Whoever optimizes nothing scores too on f (to the origin, 1.00).") in verdict.scores(tables)


# the race


def test_the_race_notes_when_each_target_was_met():
    function = functions_race.FUNCTIONS["booth"]
    begins = starts.of_points(function, np.array([function.start]))
    found = descents.batched(function, lambda groups: contenders.build("ours", "SGD", groups), begins, [0.01, 10.0], 30)
    runs = descents.judge(found, begins)
    losses = found.losses[:, 0]
    times = runs.hits[0][np.isfinite(runs.hits[0])].astype(int)
    for exponent, when in enumerate(times, start=1):
        target = losses[0] * 10 ** (-exponent / 4)  # its basin's value is 0
        assert losses[when] <= target < min(losses[:when])
    assert len(times) > 3 and min(losses) > losses[0] * 10 ** (-(len(times) + 1) / 4)
    assert runs.bad_step[1] >= 0 and np.isinf(runs.hits[1]).all()


def test_a_run_that_diverged_has_met_nothing_whatever_it_passed():
    function = functions_race.FUNCTIONS["booth"]
    begins = starts.of_points(function, np.array([[1.0, 3.0 + 10**0.5 / 5**0.5]]))  # where it is 10
    losses = np.array([[10.0, 10.0], [1e-9, 1e-9], [1e-9, 1e9]])
    stayed, blown_up = descents.judge(descents.Descent(losses, [], np.empty(0), 1.0), begins).hits
    assert (stayed == 1).all() and np.isinf(blown_up).all()


def test_a_score_takes_well_under_two_seconds_of_resampling():
    """20 functions, 9 seeds, 13 optimizers: 0.1 s on one core; a machine with other work may take ten times that."""
    areas = np.random.default_rng(0).random((13, 20, 9))
    begin = time.perf_counter()
    resample.bounds(resample.means(areas, resample.weights(20, 9)), 160)
    assert time.perf_counter() - begin < 2


def test_the_page_shows_the_scores_first(derived):
    tables = empty_tables() | {name: pd.DataFrame(rows) for name, rows in derived.items()}
    found = page_scores.scores(tables).set_index("optimizer")
    assert found.index[0] == "SGD" and found.loc["SGD", "rank"] == 1
    assert set(found.index) == {"SGD", "Adam", "AdamW", "LBFGS", *NULLS}
    whole = scored(list(race(("SGD", "Adam", "AdamW", "LBFGS"))))
    assert found.loc["Adam", "score, tuned"] == round(whole.loc["Adam", "score"], 3)
    low, high = (f"{whole.loc['Adam', f'score_{end}']:.3f}" for end in ("low", "high"))
    assert found.loc["Adam", "95 % interval"] == f"{low}–{high}"
    close = [run(name, "f", [[time] * 32] * 3, steps=10**6) for name, time in (("SGD", 1000), ("Adam", 999))]
    near = empty_tables() | {"scores": pd.DataFrame(derive({"functions": close})["scores"])}
    assert page_scores.scores(near)["rank"].tolist() == [1, 2]  # though both read 0.5
    text = page.html(tables, [], {})
    assert text.index('id="scores"') < text.index('id="verdict"')
    assert 'id="scores"' not in page.html(empty_tables(), [], {})


def test_runs_of_who_optimizes_nothing_are_not_counted_among_those_that_diverged():
    rows = [run("Adam", "f", [[1]]), run("sign flipped", "f", [[]], status="diverged", diverged=1)]
    tables = empty_tables() | {"functions": pd.DataFrame(rows)}
    assert verdict.races(tables)[0].text == "0 of 1 runs on 1 test function diverged, over all learning rates tried."


@pytest.mark.parametrize(
    ("runs", "seeds", "said"),
    [(1, 1, ["test functions", "small networks"]), (2, 1, ["small networks"]), (3, 2, []), (None, None, [])],
)
def test_where_no_seed_is_left_to_score_the_page_says_so(runs, seeds, said):
    tables = {
        "functions": pd.DataFrame([{"runs": runs, "tuning_seeds": 1}] if runs else []),
        "networks": pd.DataFrame([{"seed": seed} for seed in range(seeds or 0)]),
    }
    found = [one.text for one in verdict.sentences(empty_tables() | tables) if "Nothing is scored" in one.text]
    assert [text.removeprefix("Nothing is scored on ").partition(":")[0] for text in found] == said
