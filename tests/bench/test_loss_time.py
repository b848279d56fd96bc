"""Cells and rows of the loss-time table; how fast anything is, nothing here depends on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import contenders, folder, journal, loss_time, plan, stream
from bench.budgets import BUDGETS, DEFAULT, FULL, SMOKE
from bench.loss_memory import peak_bytes
from bench.loss_time import PHASES, cells, function_of, memory_shortage, run
from bench.losses import LOSSES, SIZES, draw
from bench.tables import COLUMNS

ROOT = Path(__file__).parent.parent.parent


def cell_of(loss="mse_loss", size="4Ki", **settings):
    (cell,) = cells(SMOKE, "cpu", [loss], [size], seed=0)
    cell.settings.update({"seconds": 0.02} | settings)
    return cell


def by_name(outcome):
    return {(row["contender"], row["phase"]): row for row in outcome.rows}


def test_one_cell_for_each_loss_and_size_that_it_takes():
    made = cells(FULL, "cpu", list(LOSSES), None, seed=3)
    assert {(cell.optimizer, cell.settings["size"]) for cell in made} == {
        (name, size) for name, loss in LOSSES.items() for size in loss.sizes
    }
    assert len({cell.id for cell in made}) == len(made)
    json.dumps([cell.settings for cell in made])
    assert all(cell.expected_seconds > 3 * cell.settings["seconds"] for cell in made)


def test_sizes_by_name_replace_those_of_the_budget():
    assert [cell.settings["name"] for cell in cells(SMOKE, "cpu", ["cross_entropy"], ["64x10", "4Ki", "mlp"], 0)] == [
        "64x10"
    ]


@pytest.mark.parametrize(("budget", "most"), [("smoke", 3), ("default", 20)])
def test_the_part_fits_into_a_coffee_break(budget, most):
    made = plan.make(budget, "cpu", (), (), 0, plan.PARTS["losses"])
    assert sum(cell.expected_seconds for cell in made.cells) <= most
    assert {cell.kind for cell in made.cells} == {"loss_parity", "loss_time"}


@pytest.mark.parametrize(("loss", "size"), [("mse_loss", "64Ki"), ("cross_entropy", "4096x10"), ("cauchy_loss", "4Ki")])
def test_a_cell_times_every_contender_in_every_phase(loss, size):
    rows = by_name(run(cell_of(loss, size)))
    assert list(rows) == [(contender, phase) for phase in PHASES for contender in ("ours", "torch")]
    json.dumps(list(rows.values()))
    for (contender, phase), row in rows.items():
        assert (*row, "cell") == COLUMNS["loss_time"]
        assert row["elements"] == math.prod(SIZES[size])
        assert row["executor"] == ("cpu" if contender == "ours" else "")
        if row["median_us"] is None:
            assert row["reason"] == "every round was disturbed"
            continue
        assert 0 < row["min_us"] <= row["q1_us"] <= row["median_us"] <= row["q3_us"] and row["rounds"] >= 1
        whole = [row[key] for key in ("least_bytes", "gb_per_s", "stream_gb_per_s", "share_of_stream", "peak_bytes")]
        assert all(value > 0 for value in whole) if phase == "both" else not any(whole)
        assert row["command"] == (
            f"python -m bench losses --budget smoke --device cpu --loss {loss} --problem {size} --seed 0"
        )
        if phase == "both":
            assert row["gb_per_s"] == pytest.approx(row["least_bytes"] / row["median_us"] / 1e3)
    for phase in PHASES:
        assert [rows["ours", phase][key] for key in ("ratio", "ratio_low", "verdict")] == [
            rows["torch", phase][key] for key in ("ratio", "ratio_low", "verdict")
        ]


def test_what_torch_computes_is_said_to_be_plain_torch():
    assert by_name(run(cell_of("nll_loss", "64x10")))["ours", "both"]["executor"] == "eager"


def test_the_ratio_is_torchs_time_over_ours(monkeypatch):
    """A reference made slow on purpose: ours is faster by far in all that is timed of both."""
    slow = LOSSES["mse_loss"]

    def sluggish(input, target, reduction):
        for _ in range(40):
            target = target + 0
        return torch.nn.functional.mse_loss(input, target, reduction=reduction)

    monkeypatch.setitem(LOSSES, "mse_loss", loss_time.Loss("mse_loss", slow.function, sluggish, "value"))
    row = by_name(run(cell_of("mse_loss", "64Ki", seconds=0.1)))["ours", "forward"]
    assert row["ratio"] > 3


def test_a_contender_that_raises_is_a_row_and_the_others_are_timed(monkeypatch):
    def raises(*_, **__):
        raise RuntimeError("no\nway")

    mse = LOSSES["mse_loss"]
    monkeypatch.setitem(LOSSES, "mse_loss", loss_time.Loss("mse_loss", mse.function, raises, "value"))
    rows = by_name(run(cell_of()))
    assert (rows["torch", "both"]["status"], rows["torch", "both"]["reason"]) == ("error", "RuntimeError: no")
    assert rows["ours", "both"]["rounds"] is None or rows["ours", "both"]["rounds"] >= 1


def test_who_cannot_compute_a_loss_says_why(monkeypatch):
    mse, cross, l1 = (LOSSES[name] for name in ("mse_loss", "cross_entropy", "l1_loss"))
    assert loss_time.unavailable("liger", mse, "cuda") == "Liger has no mse_loss"
    monkeypatch.setattr(loss_time.importlib.util, "find_spec", lambda name: None)
    assert loss_time.unavailable("liger", cross, "cuda") == "liger_kernel is not installed"
    monkeypatch.setattr(contenders.shutil, "which", lambda name: None)
    assert "needs a C++ compiler" in loss_time.unavailable("compiled", mse, "cpu")
    assert loss_time.unavailable("compiled", mse, "cuda") == ""
    assert "compiled is timed on" in loss_time.unavailable("compiled", l1, "cuda")
    assert not loss_time.unavailable("ours", l1, "cpu")
    rows = by_name(run(cell_of(contenders=["ours", "compiled"])))
    assert rows["compiled", "both"]["status"] == "skipped" and "compiler" in rows["compiled", "both"]["reason"]


def test_liger_competes_on_cuda_only():
    (here,), (there,) = (cells(FULL, device, ["cross_entropy"], ["64x10"], 0) for device in ("cpu", "cuda"))
    assert "liger" not in here.settings["contenders"] and "liger" in there.settings["contenders"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of what its compiler uses
def test_the_compiled_reference_gives_the_same_gradient():
    loss = LOSSES["huber_loss"]
    drawn = draw(loss, (4096,), "float32", 0)
    gradients = []
    for contender in ("torch", "compiled"):
        entrant = loss_time.enter(contender, loss, drawn, "float32", "cpu")
        gradients.append(torch.autograd.grad(entrant.loss(), entrant.input)[0])
    torch.testing.assert_close(*gradients)


def test_each_contender_has_tensors_of_its_own():
    loss = LOSSES["cross_entropy"]
    drawn = draw(loss, (64, 10), "float32", 0)
    first, second = (loss_time.enter("torch", loss, drawn, "float32", "cpu") for _ in range(2))
    assert first.input.data_ptr() != second.input.data_ptr() and torch.equal(first.input, second.input)
    assert function_of("ours", loss) is loss.function and function_of("torch", loss) is loss.reference


def test_the_backward_pass_is_timed_alone():
    calls = []
    x = torch.ones(3, requires_grad=True)
    entrant = loss_time.Entrant("ours", lambda: calls.append(1) or (x * x).sum(), x, "", 0.0, 0)
    arm = entrant.arm("backward")
    arm.before()
    assert calls == [1]
    (gradient,) = arm.call()
    assert calls == [1] and gradient.tolist() == [2, 2, 2]
    assert entrant.arm("forward").before is None and entrant.arm("both").call()[0].tolist() == [2, 2, 2]


def test_peak_memory_sees_results_and_temporaries_at_the_same_time_only():
    kib = 256

    def call():
        a = torch.empty(kib * 8)
        b = torch.empty(kib * 4)
        del a
        c = torch.empty(kib * 2)
        return b, c

    assert peak_bytes(call, "cpu") == 12 * 1024
    assert peak_bytes(lambda: None, "cpu") == 0


def test_peak_memory_sees_what_our_kernels_allocate():
    """Ours holds the gradient; torch's mean squared error holds the squares beside it."""
    loss = LOSSES["mse_loss"]
    drawn = draw(loss, (1 << 20,), "float32", 0)
    held = {name: loss_time.enter(name, loss, drawn, "float32", "cpu").peak_bytes for name in ("ours", "torch")}
    tensor = 4 << 20
    assert tensor <= held["ours"] < 1.01 * tensor and 2 * tensor <= held["torch"] < 2.01 * tensor


def test_a_peak_measurement_leaves_standard_error_as_it_was(capfd):
    peak_bytes(lambda: os.write(2, b"hidden"), "cpu")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_what_does_not_fit_into_memory_is_skipped_with_numbers(budget, monkeypatch):
    (cell,) = cells(budget, "cpu", ["cross_entropy"], ["1024x32000"], 0)
    monkeypatch.setattr(loss_time, "free_memory", lambda device: 2**30)
    outcome = run(cell)
    assert outcome.status == "skipped" and "GiB of memory, and 1.0 GiB are free" in outcome.reason
    monkeypatch.setattr(loss_time, "free_memory", lambda device: None)
    assert not memory_shortage(cell, 1024 * 32000)


def test_the_stream_moves_the_bytes_that_are_counted():
    for name, tensors in (("mse_loss", 3), ("cross_entropy", 2)):
        loss = LOSSES[name]
        entrant = loss_time.enter("torch", loss, draw(loss, (64, 10), "float32", 0), "float32", "cpu")
        arm = loss_time.stream(entrant, loss)
        assert arm.name == loss_time.STREAM == stream.NAME
        assert peak_bytes(arm.call, "cpu") < 64  # it writes into memory that is there; its factor is a tensor
        assert loss_time.least_bytes(loss, 640, 4) == tensors * arm.call().nbytes


@pytest.mark.slow
def test_killed_in_the_middle_only_the_rest_runs(tmp_path):
    """A real run in a process of its own, killed after its third cell of six."""
    only = ("--loss", "mse", "--loss", "l1", "--loss", "huber", "--problem", "64Ki")
    command = [sys.executable, "-m", "bench", "losses", "--budget", "smoke", "--device", "cpu", *only]
    command += ["--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith("[4/6]"):
            process.kill()
            break
    process.communicate()
    path = folder.latest(tmp_path)
    done = journal.read(path)
    assert 4 <= len(done) < 6
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{len(done)} of 6 cells are done" in again.stdout
    records = journal.read(path)
    assert records[: len(done)] == done and len(records) == len({record.cell.id for record in records}) == 6
    table = pd.read_csv(path / "loss_time.csv")
    assert set(table["loss"]) == {"mse_loss", "l1_loss", "huber_loss"} and len(table) == 3 * 6
    assert (path / "charts" / "loss_ratio.svg").exists() and (path / "charts" / "loss_shapes.png").exists()


def test_default_times_no_more_than_it_says():
    assert {cell.optimizer for cell in cells(DEFAULT, "cpu", list(DEFAULT.loss_names), None, 0)} == set(
        DEFAULT.loss_names
    )
