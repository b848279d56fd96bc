"""Charts of the races: paths, curves, and what learning rates do; what failed is shown as such."""

import numpy as np
import pandas as pd
import pytest

from bench.charts import CHARTS, render, rows, style
from bench.statistics import measured_quartiles
from tests.bench.example_tables import empty_tables, example_tables


def test_trajectories_mark_start_minimum_and_divergence():
    tables = example_tables(("SGD", "Adam"))
    runs = tables["functions"]
    runs.loc[runs["optimizer"].eq("SGD") & runs["lr_multiple"].eq(1), "_curve_status"] = "diverged"
    figure = render(CHARTS["trajectories"], CHARTS["trajectories"].table(tables))
    marks = {line.get_marker(): line for line in figure.axes[0].lines}
    assert marks["*"].get_xydata().tolist() == [[1.0, 1.0]]  # Rosenbrock's minimum
    start = next(line for line in figure.axes[0].lines if line.get_color() == "white")
    assert start.get_xydata()[0] == pytest.approx([-1.2, 1.0])
    assert marks["x"].get_color() == style.optimizer_style("SGD").color


def test_of_many_functions_twelve_show_their_paths():
    from bench.charts import trajectories
    from bench.problems.functions import FUNCTIONS, named

    assert sum(named(name).dimension == 2 for name in rows.SHOWN) == 12
    tables = example_tables(("Adam",))
    runs = tables["functions"]
    one = runs[runs["function"].eq("rosenbrock")]
    names = [name for name, function in FUNCTIONS.items() if function.dimension == 2]
    tables["functions"] = pd.concat([one.assign(function=name) for name in names], ignore_index=True)
    assert set(trajectories.table(tables)["function"]) == {name for name in rows.SHOWN if named(name).dimension == 2}
    tables["functions"] = pd.concat([one.assign(function=name) for name in ("booth", "booth-rotated")])
    table = trajectories.table(tables)
    assert set(table["function"]) == {"booth", "booth-rotated"}
    assert len(render(CHARTS["trajectories"], table).axes) >= 2


def test_the_heights_are_those_of_the_function():
    from bench.charts import trajectories
    from bench.problems.functions import FUNCTIONS

    x, y, levels, logs = trajectories.height_map(FUNCTIONS["rosenbrock"], np.array([[-2.0, 2.0], [-1.0, 3.0]]))
    across, down = 30, 70
    value = 100 * (y[down] - x[across] ** 2) ** 2 + (1 - x[across]) ** 2
    assert logs[down, across] == pytest.approx(np.log(value))
    assert np.diff(levels) == pytest.approx(np.diff(levels)[0])  # equally spaced in the logarithm


def test_curves_show_the_best_learning_rate_and_end_in_a_cross_where_they_diverged():
    tables = example_tables(("SGD", "Adam"))
    runs = tables["functions"]
    tables["functions"] = runs[runs["optimizer"].eq("Adam") | runs["lr_multiple"].eq(10)]  # of SGD only what diverged
    table = CHARTS["loss_curves"].table(tables)
    adam = table.query("panel == 'rosenbrock' and optimizer == 'Adam'")
    assert adam["gap"].iloc[-1] == pytest.approx(24 * np.exp(-20 * 0.2))  # of the largest of the three learning rates
    crosses = [line for line in render(CHARTS["loss_curves"], table).axes[0].lines if line.get_marker() == "x"]
    assert [line.get_color() for line in crosses] == [style.optimizer_style("SGD").color]
    assert crosses[0].get_xdata() == pytest.approx([8])  # its last step before the first bad one


def test_networks_show_the_median_over_seeds_and_the_gap_where_the_minimum_is_known():
    tables = example_tables(("Adam",))
    networks = tables["networks"]
    networks.loc[networks["seed"].eq(1), "loss"] += 1.0
    table = CHARTS["loss_curves"].table(tables).query("evaluations == 0").set_index("panel")
    assert table.loc["regression", "gap"] == pytest.approx(1.7)
    assert table.loc["logistic", "gap"] == pytest.approx(1.6)
    assert table.loc["logistic", "label"] == "loss − minimum" != table.loc["regression", "label"]


def test_sensitivity_knows_median_quartiles_and_divergence():
    table = CHARTS["sensitivity"].table(example_tables(("SGD", "Adam")))
    here = table[table["panel"] == "rosenbrock"].set_index(["optimizer", "lr_multiple"])
    assert here.loc[("SGD", 10.0), "diverged"] and not here.loc[("SGD", 1.0), "diverged"]
    assert here.loc[("Adam", 1.0), "high"] - here.loc[("Adam", 1.0), "low"] == pytest.approx(0.1)
    one = example_tables(("Adam",))
    one = {key: frame[frame["lr_multiple"] == 1] if "lr_multiple" in frame else frame for key, frame in one.items()}
    assert CHARTS["sensitivity"].table(one).empty


@pytest.mark.parametrize("there", ["functions", "networks"])
def test_sensitivity_of_functions_or_networks_alone(there):
    whole, few = example_tables(("SGD", "Adam")), empty_tables()
    few[there] = whole[there]
    table = CHARTS["sensitivity"].table(few)
    assert len(table) and table[["median", "low", "high"]].dtypes.eq(float).all()
    assert len(render(CHARTS["sensitivity"], table).axes) == table["panel"].nunique()


def with_failed_runs(tables, failed, multiple=1.0):
    """The tables with so many of the two runs of one learning rate on test functions diverged."""
    table = tables["functions"].copy()
    here = table["lr_multiple"].eq(multiple)
    table.loc[here, "diverged"] = failed
    table.loc[here, ["gap_median", "gap_q3"] if failed > 1 else ["gap_q3"]] = np.inf
    return {**tables, "functions": table}


def test_a_failed_seed_of_two_is_no_good_learning_rate():
    runs = pd.DataFrame(
        [
            {"panel": "p", "optimizer": "Adam", "lr": lr, "lr_multiple": lr, "gap": gap, "status": status}
            for lr, gap, status in (
                (0.1, 3.0, "ok"), (0.1, 3.5, "ok"),
                (1.0, 0.0, "ok"), (1.0, 1.0, "diverged"),
            )
        ]
    )  # fmt: skip
    best = rows.best_runs(runs, "gap").iloc[0]
    assert (best["lr"], best["low"], best["median"], best["high"]) == (0.1, 3.0, 3.5, 3.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0], (1.0, 2.0, 2.0)),
        ([1.0, np.inf], (1.0, np.inf, np.inf)),
        ([1.0, 2.0, np.inf], (1.0, 2.0, np.inf)),
        ([3.0, 1.0, 2.0, np.inf], (1.0, 3.0, np.inf)),
        ([1.0, 2.0, 3.0, 4.0, np.inf], (2.0, 3.0, 4.0)),
    ],
)
def test_quartiles_lean_to_the_bad_side(values, expected):
    assert measured_quartiles(values) == expected


def test_sensitivity_marks_every_learning_rate_with_a_failed_run():
    table = CHARTS["sensitivity"].table(with_failed_runs(example_tables(("Adam",)), 1))
    here = table[table["panel"] == "rosenbrock"].set_index("lr_multiple")
    assert here["diverged"].tolist() == [False, True, False]
    assert np.isfinite(here.loc[1.0, "median"]) and np.isinf(here.loc[1.0, "high"])
    axis = render(CHARTS["sensitivity"], table).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert len(crosses) == 1 and len(crosses[0].get_xdata()) == 1
    (middle,) = [line for line in axis.lines if line.get_marker() == style.optimizer_style("Adam").marker]
    assert np.isfinite(middle.get_ydata()).all()
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == axis.get_ylim()[1]  # the quartile is infinite, so the band reaches the top


def test_sensitivity_shows_a_perfect_result_on_its_axis():
    table = CHARTS["sensitivity"].table(example_tables(("Adam",)))
    table.loc[table.index[0], ["median", "low", "high"]] = 0.0
    axis = render(CHARTS["sensitivity"], table).axes[0]
    (middle,) = [line for line in axis.lines if line.get_marker() == style.optimizer_style("Adam").marker]
    assert axis.get_ylim()[0] < min(middle.get_ydata()) < 1e-15


def test_sensitivity_breaks_the_line_where_the_median_failed():
    table = CHARTS["sensitivity"].table(with_failed_runs(example_tables(("Adam",)), 2))
    axis = render(CHARTS["sensitivity"], table).axes[0]
    (middle,) = [line for line in axis.lines if line.get_marker() == style.optimizer_style("Adam").marker]
    assert np.isnan(middle.get_ydata()).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["loss_curves", "seconds"])
def test_a_network_curve_ends_where_its_first_seed_diverged(name):
    tables = example_tables(("Adam",))
    networks = tables["networks"].query("lr_multiple == 1")
    stopped = networks["seed"].eq(1) & networks["step"].ge(10)
    networks = networks[~stopped | networks["step"].eq(10)]
    networks.loc[stopped, ["status", "loss"]] = ["diverged", 99.0]
    table = CHARTS[name].table({"networks": networks})
    here = table[table["panel"] == "regression"]
    across = here["evaluations" if name == "loss_curves" else "step"]
    assert across.tolist() == [step for step in (0, 5) if name == "loss_curves" or step]
    assert set(here["status"]) == {"diverged"}
    axis = render(CHARTS[name], table).axes[0]
    (cross,) = [line for line in axis.lines if line.get_marker() == "x"]
    assert cross.get_xdata().tolist() == [5 if name == "loss_curves" else 5e-3]


def test_the_best_run_is_the_one_with_the_lowest_median():
    runs = pd.DataFrame(
        [
            {"panel": "p", "optimizer": "Adam", "lr": lr, "lr_multiple": lr, "gap": gap, "status": status}
            for lr, gap, status in (
                (0.1, 3.0, "ok"), (0.1, 3.0, "ok"), (0.1, 3.0, "ok"),
                (1.0, 2.0, "ok"), (1.0, 2.5, "ok"), (1.0, 9.0, "ok"),
                (10.0, 0.1, "ok"), (10.0, 0.0, "diverged"), (10.0, np.nan, "diverged"),
            )
        ]
    )  # fmt: skip
    best = rows.best_runs(runs, "gap").iloc[0]
    assert (best["lr"], best["median"], best["failed"], best["runs"]) == (1.0, 2.5, 2, 9)
