"""The page says what a run says, in words that are true, and nothing of a run can run as code in it."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from bench import page, verdict
from bench.charts import CHARTS
from bench.tables import COLUMNS
from tests.bench.example_tables import EVIL, empty_tables, example_tables, functions, loss_parity, loss_time

DRAWN = [
    page.Drawn("ratio", "How many times faster", "Right is faster, with its 95 % interval.", "", ["mlp"]),
    page.Drawn("parity", "Rounding error", "Left is better.", "Nothing was measured for it.", []),
]
ENVIRONMENT = {
    "id": "0123",
    "cpu": "a processor",
    "versions": {"torch": "2.13.0", "triton": None},
    "memory_gib": 16,
    "caches": ["L1 Data 32K", "L2 Unified 1024K"],
    "gpu": None,
    "git": {"commit": "abcdef0123", "dirty": False},
    "command": "python -m bench run --budget smoke",
    "started": "2026-11-24 06:00:00 +0000",
    "budget": "smoke",
    "devices": ["cpu"],
}


class Outline(HTMLParser):
    """The tags of a page, and whether each is closed."""

    VOID = frozenset({"meta", "img", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.images, self.text = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="module")
def whole():
    """The page of the example tables."""
    return page.html(example_tables(), DRAWN, ENVIRONMENT)


def test_every_tag_is_closed_and_every_picture_described(whole):
    outline = Outline(whole)
    assert outline.tags.count("h1") == 1
    assert [image["src"] for image in outline.images] == ["charts/ratio.svg"]
    assert all(image["alt"].strip() for image in outline.images)


def test_nothing_is_fetched_from_anywhere(whole):
    assert "http" not in whole and "//" not in re.sub(r"^\s*//.*$", "", whole, flags=re.MULTILINE)
    assert "@import" not in whole and "url(" not in whole
    assert {link.partition("/")[0] for link in Outline(whole).links} <= {
        *("charts", "runs.jsonl", "environment.json"),
        *(f"{table}.csv" for table in COLUMNS),
    }


def test_names_and_reasons_cannot_run():
    tables = {name: frame.replace("Adam", EVIL) for name, frame in example_tables(("SGD", "Adam")).items()}
    tables["step_time"] = tables["step_time"].assign(reason=EVIL, status="skipped")
    drawn = [page.Drawn("ratio", EVIL, EVIL, "", [EVIL]), page.Drawn("parity", EVIL, EVIL, EVIL, [])]
    text = page.html(tables, drawn, ENVIRONMENT | {"command": EVIL, "cpu": EVIL, "budget": EVIL, EVIL: {EVIL: EVIL}})
    assert EVIL not in text
    assert text.lower().count("<script") == 1  # our own
    assert Outline(text).tags.count("script") == 1
    assert all("'" not in link and "<" not in link for link in Outline(text).links)


def test_a_chart_that_is_missing_says_why(whole):
    assert "No chart. Nothing was measured for it." in whole
    assert "charts/parity" not in whole


def test_what_is_not_drawn_comes_after_what_is():
    text = page.html(example_tables(), DRAWN[::-1], ENVIRONMENT)
    assert text.index("<figure>") < text.index("No chart.")


def test_the_page_says_where_how_and_that_timings_do_not_travel(whole):
    for text in (
        "Timings are comparable only within one run on one machine.",
        "a processor",
        "torch 2.13.0",
        "memory (GiB)",
        "python -m bench run --budget smoke",
        "abcdef0123",
        "smoke budget",
    ):
        assert text in whole
    assert "triton" not in whole  # not installed: nothing to say


def test_a_run_with_nothing_in_it_has_a_page_too():
    text = "".join(Outline(page.html(empty_tables(), [], {})).text)
    assert "Nothing is measured yet." in text and "environment.json is missing" in text and "no rows" in text


def test_tables_sort_by_the_whole_number_and_show_a_short_one():
    cell = page.cell(np.float64(12.3456789))
    assert cell == '<td class="number" data-value="12.3456789">12.35</td>'
    assert page.cell(math.nan) == "<td></td>" == page.cell(None)
    assert page.cell(math.inf) == '<td class="number" data-value="inf">∞</td>'
    assert page.cell(True) == "<td>True</td>" and page.cell("a<b") == "<td>a&lt;b</td>"
    assert [page.readable(value) for value in (1234.0, 1.5e-9, 0.25, 1e9)] == ["1,234", "1.50e-09", "0.25", "1.00e+09"]


def test_functions_are_summed_up_to_the_best_learning_rate():
    found = page.functions(example_tables(("SGD", "Adam")))
    assert len(found) == 3 * 2
    best = found.set_index(["function", "optimizer"]).loc[("rosenbrock", "SGD")]
    assert best["× default"] == 1 and best["diverged"] == 2 and best["runs"] == 6


def test_the_best_learning_rate_has_the_lowest_median_and_is_nearest_the_default_of_equals():
    rates = pd.DataFrame(functions(("Adam",))).query("function == 'rosenbrock'").set_index("lr_multiple")
    for gaps, expected in (((3.0, 2.0, 1.0), 10), ((1.0, 2.0, math.inf), 0.1), ((2.0, 2.0, 2.0), 1)):
        table = rates.assign(gap_median=gaps).reset_index()
        assert page.functions({"functions": table})["× default"].tolist() == [expected]


def sentences(**tables):
    """The verdict on some of the example tables, as one text."""
    return verdict.sentences({**empty_tables(), **tables})


def test_parity_in_words():
    checks = example_tables(("SGD", "Adam"))["parity"]
    assert sentences(parity=checks) == [
        ("good", "12 of 12 checks of our optimizers are equal to the reference within tolerance.")
    ]
    wrong = checks.copy()
    wrong.loc[wrong["contender"].eq("cpu") & wrong["optimizer"].eq("Adam") & wrong["dtype"].eq("float32"), "status"] = (
        "wrong"
    )
    wrong.loc[wrong["contender"].eq("foreach") & wrong["optimizer"].eq("SGD"), "status"] = "reference fault"
    ours, torchs = sentences(parity=wrong)
    assert ours == (
        "bad",
        "11 of 12 checks of our optimizers are equal to the reference within tolerance; "
        "not equal: Adam (cpu, float32, defaults).",
    )
    assert torchs == ("plain", "In 3 checks torch itself is outside the tolerance (foreach 3); see below.")


def one_cell(verdict_, ratio, low, high):
    row = {
        "optimizer": "Adam",
        "parameter_set": "mlp",
        "device": "cpu",
        "contender": "ours",
        "status": "inconclusive" if verdict_ == "inconclusive" else "ok",
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "verdict": verdict_,
        "best_of_torch": False,
    }
    return pd.DataFrame([row, {**row, "contender": "fused", "best_of_torch": True}])


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (("faster", 4.9, 4.7, 5.1), "Adam is 4.9× (4.7–5.1) faster than torch's fused on mlp"),
        (("slower", 0.8, 0.78, 0.82), "Adam is 1.25× (1.22–1.28) slower than torch's fused on mlp"),
        (("no difference", 1.01, 0.98, 1.03), "Adam shows no difference from torch's fused on mlp (1.01×, 0.98–1.03)"),
        (("inconclusive", 3.0, 2.5, 3.6), "Adam is inconclusive against torch's fused on mlp (3.0×, 2.50–3.6)"),
    ],
)
def test_speed_of_a_cell_in_words(cell, said):
    cells = verdict.cells_of_ours({"step_time": one_cell(*cell)})
    assert [verdict.of_cell(row) for _, row in cells.iterrows()] == [said]


def test_a_slower_cell_is_named_first_thing():
    found = sentences(step_time=one_cell("slower", 0.8, 0.78, 0.82))
    assert [mood for mood, _ in found] == ["bad", "bad"]
    assert "1.25× (1.22–1.28) slower than the best of torch" in found[0].text
    assert found[1].text == "Slower than torch: Adam is 1.25× (1.22–1.28) slower than torch's fused on mlp."


def cells_of(device, *ratios):
    """One optimizer a cell, timed on `device`; None: no ratio, inf: a ratio without an interval."""
    for place, ratio in enumerate(ratios):
        cell = one_cell("faster", 2.0, 1.9, 2.1) if ratio is None else one_cell("faster", ratio, 0.95 * ratio, ratio)
        cell = cell.assign(device=device, optimizer=f"O{place}")
        yield cell.assign(status="skipped", ratio=None, ratio_low=None, ratio_high=None) if ratio is None else cell


def test_one_geometric_mean_per_device_that_counts_what_it_leaves_out():
    rows = pd.concat([*cells_of("cpu", 2.0, 8.0, None, 3.0), *cells_of("cuda", 1.2)], ignore_index=True)
    rows.loc[rows["optimizer"].eq("O3"), ["ratio_low", "ratio_high", "status", "verdict"]] = [
        *(None, None),
        *("inconclusive", "inconclusive"),
    ]
    found = [sentence for sentence in sentences(step_time=rows) if "geometric mean" in sentence.text]
    assert [sentence.mood for sentence in found] == ["good", "good"]
    assert found[0].text == (
        "Over 2 cells on cpu our steps are 4.0× (3.9–4.0) faster than the best of torch's for-loop, foreach and fused "
        "(geometric mean; 2 cells without an interval are left out)."
    )
    assert found[1].text.startswith("Over 1 cell on cuda our steps are 1.20×") and "left out" not in found[1].text


def test_a_device_without_any_interval_claims_nothing():
    rows = pd.concat(cells_of("cpu", None, None), ignore_index=True)
    said = [text for _, text in sentences(step_time=rows)]
    assert said[0] == "None of 2 cells on cpu has a ratio with an interval, so nothing is said of speed there."
    assert not any("nan" in text for text in said)


def test_the_page_says_how_the_best_learning_rate_is_picked(whole):
    assert "The best learning rate is the one with the lowest median over the seeds" in whole
    for name in ("trajectories", "loss_curves"):
        assert "ended lowest" in CHARTS[name].READING


def test_divergence_skips_and_crashes_are_counted():
    tables = example_tables(("SGD", "Adam", "RMSprop"))
    said = [text for _, text in sentences(functions=tables["functions"], networks=tables["networks"])]
    assert said == [
        "6 of 54 runs on 3 test functions diverged, over all learning rates tried.",
        "0 of 36 trainings on 2 networks diverged, over all learning rates tried.",
    ]
    crashed = pd.DataFrame([{"optimizer": "Adam", "status": "error", "reason": "no memory for x"}])
    (found,) = sentences(functions=crashed)
    assert found == ("bad", "Of all rows, 1 crashed; the reasons are below.")


def test_failures_are_told_once_per_reason_the_worst_first():
    tables = example_tables(("SGD", "RMSprop", "Rprop"))
    tables["parity"].loc[0, ["status", "reason"]] = ["wrong", "too far off"]
    found = verdict.failures(tables)
    assert found["status"].tolist() == ["wrong", "skipped", "skipped"]
    assert found["reason"].tolist() == ["too far off", "torch has no fused RMSprop", "torch has no fused Rprop"]
    assert found["rows"].tolist() == [1, 2, 2]
    assert found["what"].tolist() == ["SGD · eager", "RMSprop · fused", "Rprop · fused"]


def test_losses_in_words():
    parity = pd.DataFrame(loss_parity())
    assert sentences(loss_parity=parity) == [
        ("good", "8 of 8 checks of our losses, value and gradient, agree with float64 within tolerance.")
    ]
    parity.loc[1, ["status", "reason"]] = ["wrong", "the value is off"]
    assert sentences(loss_parity=parity)[0] == (
        "bad",
        "7 of 8 checks of our losses, value and gradient, agree with float64 within tolerance; not: mse_loss (mean, "
        "float32).",
    )


@pytest.mark.parametrize(
    ("ratio", "mood", "said"),
    [
        (2.0, "good", "forward and backward of ours are 2.00× (1.86–2.14) faster than torch's eager mode"),
        (0.5, "bad", "forward and backward of ours are 2.00× (1.87–2.15) slower than torch's eager mode"),
        (1.0, "plain", "forward and backward of ours are as fast (1.00×, 0.93–1.07) as torch's eager mode"),
    ],
)
def test_speed_of_losses_in_words(ratio, mood, said):
    times = pd.DataFrame(loss_time(("mse_loss",)))
    ours = times["contender"].eq("ours")
    times.loc[ours, ["ratio", "ratio_low", "ratio_high"]] = [ratio, 0.9 * ratio, 1.1 * ratio]
    times.loc[ours, "verdict"] = "slower" if ratio < 1 else "faster"
    found = sentences(loss_time=times)
    assert found[0].mood == mood and said in found[0].text and "Over 2 losses and sizes on cpu" in found[0].text
    assert [text for _, text in found[1:]] == (
        ["Losses slower than torch's: mse · 4Ki (2.00×); mse · 64Ki (2.00×)."] if ratio < 1 else []
    )


def test_the_failures_name_the_loss():
    times = pd.DataFrame(loss_time(("mse_loss",), sizes=1)).assign(status="skipped", reason="no memory")
    assert verdict.failures({"loss_time": times})["what"].tolist() == [
        "mse_loss · ours, mse_loss · torch, mse_loss · compiled"
    ]
