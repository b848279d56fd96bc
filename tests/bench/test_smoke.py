"""The whole instrument at its smallest, as a person runs it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.budgets import SMOKE
from bench.contenders import NULLS, OPTIMIZERS, TRAITS
from bench.tables import TABLES, subject

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_a_smoke_run_has_every_optimizer_in_every_table(tmp_path):
    command = [sys.executable, "-m", "bench", "run", "--budget", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink())
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES.values()}
    for name, table in tables.items():
        whom = set(SMOKE.loss_names) if subject(name) == "loss" else set(OPTIMIZERS)
        whom |= set(NULLS) if name in ("functions", "networks") else set()
        whom = {"loss_time": {"mse_loss"}, "sweep_time": {"Adam"}}.get(name, whom)
        assert set(table[subject(name)]) == whom, name
        assert table.loc[table["status"] != "ok", "reason"].notna().all(), name
    times = tables["step_time"]
    timed = times[times["contender"].isin(("ours", "loop")) & times["median_us"].notna()]
    assert timed.groupby("optimizer").size().to_dict() == dict.fromkeys(OPTIMIZERS, 2)
    checked = tables["parity"].query("contender == 'cpu' and status == 'ok'")
    assert set(checked["optimizer"]) == set(OPTIMIZERS)
    raced = tables["functions"].query("status != 'skipped'")["optimizer"].unique()
    assert set(raced) == set(NULLS) | {
        name for name in OPTIMIZERS if TRAITS[name].takes not in ("matrices only", "sparse gradients only")
    }
    assert (folder / "charts" / "special.svg").exists()
