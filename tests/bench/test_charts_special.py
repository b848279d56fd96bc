"""Optimizers that step no usual set, or do not race, are where they belong in the charts and nowhere else."""

import pytest

from bench import page
from bench.charts import CHARTS, render
from bench.contenders import OPTIMIZERS
from tests.bench.example_tables import example_tables


def test_workloads_of_one_optimizer_have_a_chart_of_their_own():
    tables = example_tables()
    special = CHARTS["special"].table(tables)
    assert set(special["panel"]) == {
        *("SGD · many-groups", "Muon · matrices-200x64", "SparseAdam · embedding", "LBFGS · vector-100k"),
    }
    ours = special[special["contender"] == "ours"].set_index("optimizer")
    assert (
        ours.loc["SGD", "ratio"] == pytest.approx(4)
        and special.loc[special["contender"] != "ours", "ratio"].isna().all()
    )
    for name in ("ratio", "step_time"):
        usual = CHARTS[name].table(tables)
        assert set(usual["panel"]) == {"mlp", "one-big"} and set(usual["optimizer"]) == set(OPTIMIZERS[:12])
    figure = render(CHARTS["special"], special)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(dict.fromkeys(special["panel"]))
    low, high = axis.get_xlim()
    assert low < special["q1_us"].min() and special["q3_us"].max() < high


def test_an_inconclusive_workload_has_its_ratio_in_brackets():
    tables = example_tables(("SGD",))
    times = tables["step_time"]
    texts = []
    for verdict in ("faster", "inconclusive"):
        times["verdict"] = verdict
        figure = render(CHARTS["special"], CHARTS["special"].table(tables))
        texts.append([text.get_text() for text in figure.axes[0].texts])
    assert texts == [["4×"], ["(4×)"]]


def test_who_does_not_race_is_in_no_chart_of_the_races():
    tables = example_tables(("Adam", "Muon", "SparseAdam", "LBFGS"))
    assert set(tables["functions"]["optimizer"]) == {"Adam", "Muon", "SparseAdam", "LBFGS"}
    for name in ("loss_curves", "sensitivity", "trajectories", "seconds"):
        assert set(CHARTS[name].table(tables)["optimizer"]) == {"Adam", "LBFGS"}, name
    for table in (page.functions(tables), page.networks(tables)):
        assert set(table["optimizer"]) == {"Adam", "LBFGS"}


def test_losses_are_shown_against_gradients_and_not_steps():
    tables = example_tables(("Adam", "LBFGS"))
    table = CHARTS["loss_curves"].table(tables).query("panel == 'regression'")
    last = table.groupby("optimizer")["evaluations"].max()
    assert last["Adam"] == 20 and last["LBFGS"] == 40  # both took 20 steps
