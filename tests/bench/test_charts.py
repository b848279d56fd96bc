"""Every chart draws, says what its axes are, hides nothing, and shows what went wrong as such."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bench.charts import CHARTS, render, style, why_empty
from bench.contenders import CONTENDERS, OPTIMIZERS
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
