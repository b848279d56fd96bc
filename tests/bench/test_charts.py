"""Every chart draws, says what its axes are, hides nothing, and shows what went wrong as such."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bench.charts import CHARTS, render, rows, style, why_empty
from bench.contenders import CONTENDERS, OPTIMIZERS
from bench.statistics import measured_quartiles
from tests.bench.example_tables import EVIL, empty_tables, example_tables, loss_time


def little():
    """One parameter set, dtype, function and optimizer; the legend of parity as long as it gets."""
    tables = example_tables(("Adadelta",), sets=("one-big",))
    parity = tables["parity"][tables["parity"]["dtype"] == "float32"]
    wrong = [parity.head(1).assign(contender=name, status="wrong") for name in ("cuda", "fused", "compiled")]
    tables["parity"] = pd.concat([parity, *wrong])
    tables["loss_time"] = pd.DataFrame(loss_time(("mse_loss",), sizes=1))
    tables["functions"] = tables["functions"][tables["functions"]["function"] == "rosenbrock"]
    tables["networks"] = tables["networks"][tables["networks"]["network"] == "regression"]
    return tables


UNITS = {
    "scores": ("(0 to 1)",),
    "ecdf": ("gradients evaluated",),
    "profiles": ("(×)",),
    "step_time": ("(µs)",),
    "special": ("(µs)",),
    "ratio": ("(×",),
    "memory_share": ("(%)",),
    "parity": ("(ulp)",),
    "loss_ratio": ("(×",),
    "loss_time": ("(elements)", "(rows × columns)"),
    "loss_memory": ("(×",),
    "loss_shapes": ("(1)",),
    "sweep_time": ("(ns)",),
    "trajectories": ("x₁",),  # coordinates of test functions have no unit
    "loss_curves": ("gradients evaluated",),
    "seconds": ("(s)",),
    "sensitivity": ("(×)",),
}


@pytest.fixture(scope="module", params=["many", "few"])
def figures(request):
    """Each chart drawn once: of all optimizers, and with as little as there can be, so that the picture is small."""
    tables = example_tables() if request.param == "many" else little()
    drawn = {}
    for name, chart in CHARTS.items():
        figure = render(chart, chart.table(tables))
        figure.set_dpi(50)
        FigureCanvasAgg(figure).draw()
        drawn[name] = figure
    return drawn


@pytest.mark.parametrize("name", CHARTS)
def test_has_title_and_axis_labels_with_units(name, figures):
    figure, chart = figures[name], CHARTS[name]
    assert chart.TITLE in [text.get_text() for text in figure.texts]
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_title(loc="left")
        assert any(unit in axes.get_xlabel() for unit in UNITS[name])
        neighbours = axes.get_shared_y_axes().get_siblings(axes)  # one name for a whole row of panels
        assert axes.get_ylabel() or any(text.get_text() for one in neighbours for text in one.get_yticklabels())


@pytest.mark.parametrize("name", CHARTS)
def test_the_legend_covers_no_data_and_no_text(name, figures):
    figure = figures[name]
    legend = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        assert axes.get_legend() is None
        assert not legend.overlaps(axes.get_tightbbox())


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_lies_outside_the_picture_or_over_the_next_panel(name, figures):
    figure = figures[name]
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes.append(figure.legends[0].get_window_extent())
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for place, axes in enumerate(figure.axes):
        for other in range(len(figure.axes)):
            # of a panel's surroundings only what is drawn outside of it may come near the next panel's data
            assert place == other or not boxes[other].overlaps(axes.get_window_extent())


@pytest.mark.parametrize("name", CHARTS)
def test_text_is_large_enough_to_read(name, figures):
    sizes = [text.get_fontsize() for text in figures[name].findobj(Text) if text.get_text().strip()]
    assert min(sizes) >= 8


def test_the_panels_of_every_chart_hold_marks(figures):
    for figure in figures.values():
        for axes in figure.axes:
            assert axes.lines or axes.patches


@pytest.mark.parametrize("name", CHARTS)
def test_no_data_is_a_reason_and_not_a_blank_picture(name):
    chart = CHARTS[name]
    assert chart.table(empty_tables()).empty
    assert chart.table({}).empty
    assert f"{chart.SOURCE}.csv has no rows" in why_empty(chart, empty_tables())


@pytest.mark.parametrize("name", CHARTS)
def test_cells_that_failed_as_a_whole_are_a_reason_too(name):
    chart = CHARTS[name]
    failed = pd.DataFrame([{"optimizer": "Adam", "device": "cpu", "status": "error", "reason": "the disk burnt"}])
    tables = {name: failed for name in empty_tables()}
    assert chart.table(tables).empty
    assert "the disk burnt" in why_empty(chart, tables)


@pytest.mark.parametrize("name", CHARTS)
def test_names_are_text_and_never_mathematics(name):
    tables = {
        key: table.replace({"Adam": EVIL, "rosenbrock": "_hidden"})
        for key, table in example_tables(("SGD", "Adam")).items()
    }
    files = style.save(render(CHARTS[name], CHARTS[name].table(tables)))
    assert b"<script" not in files["svg"]


def test_the_same_table_gives_the_same_bytes():
    chart, tables = CHARTS["ratio"], example_tables(("SGD", "Adam"))
    first, second = (style.save(render(chart, chart.table(tables))) for _ in range(2))
    assert first == second
    assert first["svg"].startswith(b"<?xml") and first["png"].startswith(b"\x89PNG")
    assert b"http" not in first["svg"].replace(b"http://www.w3.org/", b"")


def test_matplotlibs_global_settings_change_nothing():
    import matplotlib

    chart, tables = CHARTS["ratio"], example_tables(("SGD", "Adam"))
    plain = style.save(render(chart, chart.table(tables)))
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 20, "svg.hashsalt": "other"}):
        assert style.save(render(chart, chart.table(tables))) == plain


def test_every_optimizer_and_contender_can_be_told_apart_without_colour():
    assert set(OPTIMIZERS) == set(style.OPTIMIZER_STYLES)
    assert set(CONTENDERS) <= set(style.CONTENDER_STYLES)
    markers = [look.marker for look in style.OPTIMIZER_STYLES.values()]
    assert len(set(markers)) == len(markers)
    lines = [(look.color, str(look.line)) for look in style.OPTIMIZER_STYLES.values()]
    assert len(set(lines)) == len(lines)
    torchs = [style.contender_style(name).marker for name in CONTENDERS]
    assert len(set(torchs)) == len(torchs)


def test_a_users_optimizer_has_a_style_of_its_own_that_never_changes():
    mine = style.optimizer_style("MyOptimizer")
    assert mine == style.optimizer_style("MyOptimizer")
    assert mine not in style.OPTIMIZER_STYLES.values()


def test_an_inconclusive_ratio_is_hollow():
    tables = example_tables(("SGD", "Adam"), sets=("mlp",))
    times = tables["step_time"]
    times.loc[times["optimizer"].eq("Adam"), ["verdict", "status"]] = "inconclusive"
    figure = render(CHARTS["ratio"], CHARTS["ratio"].table(tables))
    faces = {
        line.get_markeredgecolor(): line.get_markerfacecolor()
        for line in figure.axes[0].lines
        if line.get_marker() in "os"
    }
    assert faces[style.optimizer_style("Adam").color] == "white"
    assert faces[style.optimizer_style("SGD").color] == style.optimizer_style("SGD").color


def test_only_memory_bound_sets_count_for_the_stream():
    chart = CHARTS["memory_share"]
    tables = example_tables()
    assert set(chart.table(tables)["panel"]) == {"one-big"}
    adam = chart.table(tables).query("optimizer == 'Adam' and contender == 'ours'")
    assert adam["percent"].tolist() == [pytest.approx(95)]
    assert "No memory-bound parameter set" in why_empty(chart, example_tables(sets=("mlp",)))


def test_parity_shows_the_worst_option_set_and_torchs_loop_once():
    tables = example_tables(("Adam",))
    worse = tables["parity"].query("contender == 'cpu' and dtype == 'float32'").assign(max_ulp=7.0, status="wrong")
    tables["parity"] = pd.concat([tables["parity"], worse])
    found = CHARTS["parity"].table(tables).query("panel == 'float32'").set_index("contender")
    assert found.loc["cpu", "max_ulp"] == 7 and found.loc["cpu", "wrong"]
    assert found.index.tolist().count("loop") == 1 and not found.loc["loop", "wrong"]
    assert found.loc["loop", "max_ulp"] == 1.0


def test_parity_keeps_infinite_errors_in_the_picture():
    tables = example_tables(("Adam",))
    tables["parity"].loc[tables["parity"]["contender"].eq("foreach"), "max_ulp"] = np.inf
    table = CHARTS["parity"].table(tables)
    axes = render(CHARTS["parity"], table).axes[0]
    assert "≥10⁴" in [label.get_text() for label in axes.get_xticklabels()]
    places = [line.get_xdata()[0] for line in axes.lines]
    assert np.isfinite(places).all() and max(places) <= axes.get_xlim()[1]


def test_a_fault_of_the_for_loop_is_marked():
    tables = example_tables(("Adam",))
    tables["parity"].loc[tables["parity"]["contender"].eq("loop"), "status"] = "reference fault"
    found = CHARTS["parity"].table(tables).query("panel == 'float32'").set_index("contender")
    assert found.loc["loop", "wrong"] and not found.loc["cpu", "wrong"]


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


def test_two_devices_are_two_panels():
    tables = example_tables(("Adam",))
    both = {
        key: pd.concat([frame, frame.assign(device="cuda", lr_multiple=frame.get("lr_multiple", 1.0))])
        for key, frame in tables.items()
    }
    for name, chart in CHARTS.items():
        if name == "loss_shapes":  # the losses themselves, which no device changes
            continue
        panels = set(chart.table(both)["panel"])
        assert {panel.rpartition(" · ")[2] for panel in panels} == {"cpu", "cuda"}, name


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


def test_numbers_on_axes_are_short():
    assert [style.number(value) for value in (0, 0.001, 0.5, 10, 3000, 1e5, 1e-7, 3e-5)] == [
        "0", "0.001", "0.5", "10", "3,000", "10⁵", "10⁻⁷", "3·10⁻⁵",
    ]  # fmt: skip


def test_losses_are_drawn_at_their_largest_size_with_ours_beside_torch():
    tables = example_tables(("Adam",))
    ratio, memory, time = (CHARTS[f"loss_{name}"].table(tables) for name in ("ratio", "memory", "time"))
    assert list(dict.fromkeys(ratio["row"])) == ["mse · 64Ki", "bce_with_logits · 64Ki", "cross_entropy · 4096x10"]
    assert list(dict.fromkeys(ratio["phase"])) == ["both", "forward", "backward"]
    assert set(ratio["ratio"]) == {2.0} and ratio["inconclusive"].all()
    assert memory.set_index(["row", "contender"]).loc[("mse · 64Ki", "torch"), "tensors"] == 2.0
    assert time.groupby(["panel", "contender"]).size().eq(2).all()
    for name in ("ratio", "memory"):
        axes = render(CHARTS[f"loss_{name}"], {"ratio": ratio, "memory": memory}[name]).axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == list(dict.fromkeys(ratio["row"]))


def test_the_shapes_are_the_losses_and_their_slopes():
    table = CHARTS["loss_shapes"].table(example_tables(("Adam",)))
    curves = {name: curve.set_index("x") for name, curve in table.groupby("curve")}
    assert curves["MSE"].loc[2.0, ["value", "slope"]].tolist() == [4.0, 4.0]
    assert curves["Huber"].loc[-3.0, ["value", "slope"]].tolist() == [2.5, -1.0]
    assert curves["hinge"].loc[-1.0, ["value", "slope"]].tolist() == [2.0, -1.0]
    assert curves["Tukey (c = 2.5)"].loc[3.0, "slope"] == 0
    assert curves["cross-entropy of a logit"].loc[0.0, "value"] == pytest.approx(np.log(2))
    for name, curve in curves.items():  # each slope is that of its curve, away from the kinks
        x, value, slope = curve.index.to_numpy(), curve["value"].to_numpy(), curve["slope"].to_numpy()
        kinks = {"L1": 0, "pinball (0.9)": 0, "hinge": 1}
        smooth = np.abs(x[1:-1] - kinks.get(name, np.inf)) > 0.03
        difference = (value[2:] - value[:-2]) / (x[2:] - x[:-2])
        assert np.abs(difference - slope[1:-1])[smooth].max() < 0.015, name
