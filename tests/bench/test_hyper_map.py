"""A map says of each pair of hyper-parameters what the optimizer does with them, and refuses what it cannot draw."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import optimizers
from bench import functions_race, hyper_map
from bench.cli import app
from bench.errors import BenchError, Exit
from bench.problems.functions import FUNCTIONS, named
from bench.sweeps import plane


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
        ({"problem": "beale-5d"}, "beale has 2 dimensions; beale-5d does not exist"),
        ({"problem": "ackley-0d"}, "ackley has 1 to 100 dimensions"),
        ({"x": "learning_rate"}, "learning_rate"),
        ({"x": "momentum"}, "momentum"),
        ({"y": "decoupled_weight_decay"}, "decoupled_weight_decay"),
        ({"y": "lr"}, "two different"),
        ({"size": 1}, "--size 1"),
        ({"size": 100_000}, "--size 100000"),
        ({"steps": 0}, "--steps 0"),
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
