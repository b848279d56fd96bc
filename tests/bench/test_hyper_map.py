"""A map says of each pair of hyper-parameters what the optimizer does with them, and refuses what it cannot draw."""

from __future__ import annotations

import errno
import io

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import optimizers
from bench import folder, functions_race, hyper_map, network_plane, progress, sweep
from bench.cli import app
from bench.errors import BenchError, Exit
from bench.problems.functions import FUNCTIONS, named
from bench.problems.networks import NETWORKS
from bench.problems.stack import draw_picks
from bench.sweeps import engine, plane


def test_each_pixel_is_a_run_of_the_optimizer(tmp_path):
    made = hyper_map.make("Adam", "rosenbrock", "lr", "beta1", 5, 30)
    function = FUNCTIONS["rosenbrock"]
    for row, beta1 in enumerate(made.y.values):
        for column, lr in enumerate(made.x.values):
            point = torch.tensor(function.start, dtype=torch.float64)
            optimizer = optimizers.Adam([point], lr=float(lr), betas=(float(beta1), 0.999))
            for _ in range(30):
                point.grad = function.value_and_gradient(point)[1]
                optimizer.step()
            gap = function(point).item() - function.minimum
            # Gradients differ from the sweep's in the last bits, which 30 steps at a large lr make more of.
            assert made.gaps[row, column] == pytest.approx(gap, rel=1e-8)
    assert (made.bad_step == -1).all() and made.gaps.shape == (5, 5)


def test_the_file_holds_the_plane_and_the_image_its_pixels(tmp_path):
    runner = CliRunner()
    arguments = ["map", "SGD", "himmelblau", "--x", "lr", "--y", "momentum", "--size", "16", "--steps", "40"]
    result = runner.invoke(app, [*arguments, "--out", str(tmp_path / "maps")])
    assert result.exit_code == 0, result.output
    assert "256 runs of 40 steps" in result.output
    stem = tmp_path / "maps" / "SGD-himmelblau-lr-momentum"
    table = pd.read_csv(stem.with_suffix(".csv"))
    assert list(table.columns) == ["lr", "momentum", "gap", "first_bad_step"] and len(table) == 256
    made = hyper_map.make("SGD", "himmelblau", "lr", "momentum", 16, 40)
    np.testing.assert_allclose(table["gap"].to_numpy().reshape(16, 16), made.gaps, rtol=1e-12)
    assert np.isinf(table["gap"]).any() and np.isfinite(table["gap"]).any()
    assert (np.isinf(table["gap"]) == table["first_bad_step"].notna()).all()
    image = matplotlib.image.imread(stem.with_suffix(".png"))
    assert image.shape[0] > 400 and len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50


def test_a_rotated_function_of_ten_dimensions_has_a_map():
    made = hyper_map.make("SGD", "ackley-10d-rotated", "lr", "momentum", 3, 5)
    function = named("ackley-10d-rotated")
    point = torch.tensor(function.start, dtype=torch.float64)
    optimizer = optimizers.SGD([point], lr=float(made.x.values[1]), momentum=float(made.y.values[2]))
    for _ in range(5):
        point.grad = function.value_and_gradient(point)[1]
        optimizer.step()
    assert made.gaps[2, 1] == pytest.approx(function(point).item(), rel=1e-10)


def test_what_diverged_is_grey():
    made = hyper_map.make("SGD", "himmelblau", "lr", "momentum", 8, 40)
    assert np.isinf(made.gaps[:, -1]).all()
    image = matplotlib.image.imread(io.BytesIO(hyper_map.to_png(made)))
    grey = np.array([0xC6, 0xCA, 0xD0]) / 255
    close = np.abs(image[..., :3] - grey).max(-1) < 2 / 255
    assert close.mean() > 0.5 * np.isinf(made.gaps).mean() * 0.68 * 0.76


def test_a_plane_larger_than_what_is_made_at_once_is_the_same(monkeypatch):
    whole = hyper_map.make("Adam", "booth", "beta1", "lr", 12, 10)
    monkeypatch.setattr(plane, "TOGETHER", 30)
    parts = hyper_map.make("Adam", "booth", "beta1", "lr", 12, 10)
    np.testing.assert_array_equal(parts.gaps, whole.gaps)


def test_axes_are_around_the_default():
    lr = plane.axis(optimizers.Adam, "lr", 7)
    assert lr.values == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]) and lr.share(1e-3) == pytest.approx(0.5)
    beta = plane.axis(optimizers.Adam, "beta2", 4)
    assert beta.values == pytest.approx([0, 0.9, 0.99, 0.999])
    decay = plane.axis(optimizers.SGD, "weight_decay", 3)
    assert decay.values == pytest.approx([1e-6, 1e-3, 1])
    narrow = plane.axis(optimizers.Adam, "lr", 3, (0.01, 1.0))
    assert narrow.values == pytest.approx([0.01, 0.1, 1])
    assert plane.axis(optimizers.Adam, "eps", 3, (0.0, 1.0)).values == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("optimizer", [name for name in functions_race.TRAITS if hyper_map._able(name)])
def test_every_number_of_every_optimizer_can_be_an_axis(optimizer):
    cls = getattr(optimizers, optimizer)
    names = plane.numbers(cls)
    assert "lr" in names
    for name in names:
        if name != "lr":
            made = hyper_map.make(optimizer, "booth", "lr", name, 3, 3)
            assert made.gaps.shape == (3, 3) and hyper_map.to_png(made)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "Adma"}, "Adam"),
        ({"optimizer": "Muon"}, "does not step every element"),
        ({"optimizer": "LBFGS"}, "does not step every element"),
        ({"problem": "rosenbrok"}, "rosenbrock"),
        ({"problem": "digts"}, "digits"),
        ({"problem": "branin-shifted-x"}, "branin may be followed by"),
        ({"problem": "digits on hubble"}, "digits"),
        ({"problem": "digits", "optimizer": "LBFGS"}, "does not step each parameter"),
        ({"problem": "digits", "optimizer": "Muon"}, "Adafactor"),
        ({"problem": "digits", "x": "momentum"}, "momentum"),
        ({"problem": "digits", "size": 1}, "--size 1"),
        ({"problem": "digits", "size": 513}, "--size 513"),
        ({"problem": "digits", "steps": 0}, "--steps 0"),
        ({"problem": "digits", "x_range": "2:1"}, "no interval"),
        ({"problem": "digits", "x_range": "-2:1"}, "Invalid learning rate"),
        ({"problem": "digits", "y_range": "0.5:1.5"}, "beta"),
        ({"problem": "beale-5d"}, "beale has 2 dimensions; beale-5d does not exist"),
        ({"problem": "ackley-0d"}, "ackley has 1 to 100 dimensions"),
        ({"x": "learning_rate"}, "learning_rate"),
        ({"x": "momentum"}, "momentum"),
        ({"y": "decoupled_weight_decay"}, "decoupled_weight_decay"),
        ({"y": "lr"}, "two different"),
        ({"size": 1}, "--size 1"),
        ({"size": 100_000}, "--size 100000"),
        ({"steps": 0}, "--steps 0"),
        ({"steps": 10**20}, "--steps 1"),
        ({"x_range": "1"}, "LOW:HIGH"),
        ({"x_range": "1:nan"}, "no interval"),
        ({"x_range": "2:1"}, "no interval"),
        ({"x_range": "-2:1"}, "Invalid learning rate"),
        ({"y_range": "0.5:1.5"}, "beta"),
    ],
)
def test_wrong_input_is_a_sentence_and_exit_2(change, words):
    arguments = {"optimizer": "Adam", "problem": "rosenbrock", "x": "lr", "y": "beta1", "size": 4, "steps": 3}
    with pytest.raises(BenchError, match=words) as caught:
        hyper_map.make(**{**arguments, **change})
    assert caught.value.exit_code == Exit.USAGE and str(caught.value).count("\n") == 0


ASKED = ["map", "SGD", "booth", "--x", "lr", "--y", "momentum", "--size", "4", "--steps", "3"]


def told(monkeypatch, out) -> tuple[int, str]:
    """What a map into `out` ends with, which must not be made."""
    monkeypatch.setattr(hyper_map, "make", lambda *_: pytest.fail("the map was made"))
    with pytest.raises(BenchError) as caught:
        CliRunner().invoke(app, [*ASKED, "--out", str(out)], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return caught.value.exit_code, str(caught.value)


def test_a_place_that_a_map_cannot_go_to_is_told_before_it_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "SGD-booth-lr-momentum.png").mkdir(parents=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for out in ("file", "file/deeper", "nowhere", "nowhere/deeper"):
        code, said = told(monkeypatch, tmp_path / out)
        assert code == 4 and f"{tmp_path / out.partition('/')[0]} is a file, not a folder" in said
    code, said = told(monkeypatch, tmp_path / "taken")
    assert code == 4 and "SGD-booth-lr-momentum.png: Is a directory" in said
    code, said = told(monkeypatch, tmp_path / "map.PNG")
    assert code == 2 and "map.PNG is to be a folder" in said and f"give {tmp_path} or" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere", "taken"]


def test_a_folder_that_may_not_be_written_to_is_told_before_a_map_is_made(tmp_path, monkeypatch):
    # not by chmod: root may write anywhere
    def read_only(dir, **_):
        raise OSError(errno.EROFS, f"Read-only file system {dir}")

    monkeypatch.setattr(folder.tempfile, "mkstemp", read_only)
    code, said = told(monkeypatch, tmp_path / "a" / "b")
    assert code == 4 and f"Read-only file system {tmp_path}." in said
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_dot_in_its_name_takes_a_map(tmp_path):
    for name in ("v1.2", "maps.png"):
        (tmp_path / "maps.png").mkdir(exist_ok=True)
        done = CliRunner().invoke(app, [*ASKED, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert len(list((tmp_path / name).iterdir())) == 2


def test_nothing_is_compiled_on_a_maps_clock(monkeypatch):
    """Which code a sweep needs depends on what its runs differ in, and on what some have switched off."""
    seen, clock, real = [], [], plane.time.perf_counter
    monkeypatch.setattr(plane.time, "perf_counter", lambda: clock.append(len(seen)) or real())
    code = engine.Code
    monkeypatch.setattr(engine, "Code", lambda *asked: seen.append(asked) or code(*asked))
    hyper_map.make("SGD", "booth", "lr", "momentum", 5, 3)
    ahead, timed = set(seen[: clock[0]]), set(seen[clock[0] : clock[1]])
    assert len(timed) == 2 and timed <= ahead


def test_each_pixel_of_a_network_is_a_training_of_its_own():
    made = hyper_map.make("Adam", "digits", "lr", "beta2", 3, 12, x_range="1e-4:0.01", y_range="0.9:0.999")
    network = NETWORKS["digits"]
    data, numbers = network.data(), sweep.generator(0, "digits", 0)
    initial = numbers.getrandbits(31)
    picks = draw_picks(len(data.train_inputs), 64, 12, numbers)
    for row, beta2 in enumerate(made.y.values):
        for column, lr in enumerate(made.x.values):
            model = network.build(initial)
            optimizer = optimizers.Adam(model.parameters(), lr=float(lr), betas=(0.9, float(beta2)))
            for some in picks:
                optimizer.zero_grad()
                network.loss(model, data.train_inputs[some], data.train_targets[some]).backward()
                optimizer.step()
            last = network.loss(model, data.train_inputs, data.train_targets).item()
            # batched products add up in another order
            assert made.gaps[row, column] == pytest.approx(last, rel=1e-4)


def test_a_network_that_diverges_is_infinite_and_says_when(monkeypatch):
    monkeypatch.setattr(network_plane, "TOGETHER", 4)  # parts that end in the middle of a row
    told = []
    made = hyper_map.make(
        "SGD", "regression", "lr", "momentum", 3, 40, x_range="1e-3:1e6", report=lambda *seen: told.append(seen)
    )
    assert np.isfinite(made.gaps[:, 0]).all() and np.isinf(made.gaps[:, -1]).all()
    assert (made.bad_step[:, 0] == -1).all() and (made.bad_step[:, -1] == 10).all()
    assert told == [(0, 9), (4, 9), (8, 9), (9, 9)]
    assert "loss on the full set" in hyper_map.sentence(made) and hyper_map.to_png(made)[:4] == b"\x89PNG"


def test_the_least_loss_of_a_network_is_taken_off_where_it_is_known():
    made = hyper_map.make("Adafactor", "logistic", "lr", "beta2_decay", 2, 5)
    assert made.what == "loss − minimum" and (made.gaps > 0).all() and made.gaps.min() < 0.5


def test_options_of_two_axes_with_one_key_are_joined():
    defaults = {"betas": (0.9, 0.999), "lr": 1e-3}
    assert plane.options({"beta1": 0.5, "beta2": 0.8}, defaults) == {"betas": (0.5, 0.8)}
    assert plane.options({"beta2": 0.8, "lr": 1.0}, defaults) == {"betas": (0.9, 0.8), "lr": 1.0}


@pytest.mark.parametrize("optimizer", [name for name in functions_race.TRAITS if hyper_map._trains(name)])
def test_every_number_of_every_optimizer_can_be_an_axis_on_a_network(optimizer):
    for name in plane.numbers(getattr(optimizers, optimizer)):
        if name != "lr":
            assert hyper_map.make(optimizer, "logistic", "lr", name, 2, 2).gaps.shape == (2, 2)


def test_the_command_draws_a_network(tmp_path):
    asked = ["map", "Adam", "digits", "--x", "lr", "--y", "beta1", "--size", "3", "--steps", "4"]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "Adam-digits-lr-beta1.csv")
    assert len(table) == 9 and np.isfinite(table["gap"]).all()


def test_the_time_left_is_shown_once_it_takes_a_while(monkeypatch, capsys):
    now = iter([0.0, 100.0, 101.0, 103.0, 103.5, 106.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    with progress.TimeLeft() as shown:
        for done in (0, 10, 30, 35, 60):
            shown.report(done, 120)
    assert capsys.readouterr().err.splitlines() == ["30 of 120  left 00:09", "60 of 120  left 00:06"]
