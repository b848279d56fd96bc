"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
BLOCKS_OF_PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [line.split("  #")[0].strip() for kind, text in BLOCKS if not kind for line in text.splitlines()]
BY_CI = ["make bench", "make test"]  # .ci/run calls them


def test_ci_runs_the_two_commands():
    script = (ROOT / ".ci" / "run").read_text()
    for command in BY_CI:
        assert command in COMMANDS and command in script


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to run in, so that the results of whoever tests stay as they are."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "bench").symlink_to(ROOT / "bench")
    (folder / "lion.py").write_text(BLOCKS_OF_PYTHON[-1])
    return folder


SLOW = [pytest.param(c, marks=pytest.mark.slow) if c.startswith("pytest") else c for c in COMMANDS if c not in BY_CI]


@pytest.mark.parametrize("command", SLOW)
def test_command(command, folder):
    words = shlex.split(command)
    where = folder
    if words[0] == "pytest":
        words, where = ["python", "-m", *words], ROOT
    assert words[0] in ("python", "make")
    for name in ("A", "B"):
        link = folder / "results" / name
        if str(link.relative_to(folder)) in words and not link.exists():
            runs = [run for run in (folder / "results").glob("2*") if "step_time" in (run / "runs.jsonl").read_text()]
            link.symlink_to(max(runs, key=lambda run: (run / "runs.jsonl").stat().st_size))  # the whole run
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = (
        [sys.executable] if words[0] == "python" else ["make", f"--file={ROOT}/Makefile", f"PYTHON={sys.executable}"]
    )
    done = subprocess.run([*program, *words[1:]], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_blocks(tmp_path):
    model = torch.nn.Linear(3, 2)
    train, _, loss, lion = BLOCKS_OF_PYTHON
    names = {"model": model}
    exec(train, names)
    assert type(names["optimizer"]).__module__ == "optimizers.adam"
    exec(loss, names)
    logits, target = torch.randn(2000, 10), torch.arange(2000) % 10
    goal = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(names["loss"](logits, target), goal)
    assert type(names["loss"]).__module__.startswith("optimizers.losses")
    module = tmp_path / "lion_of_the_readme.py"  # a rule has to be in a file, for the compilers read its source
    module.write_text(lion)
    sys.path.insert(0, str(tmp_path))
    try:
        from lion_of_the_readme import Lion
    finally:
        sys.path.pop(0)
    start = torch.linspace(-1, 1, 50)
    results = []
    for fast in (True, False):
        p = torch.nn.Parameter(start.clone())
        optimizer = Lion([p], lr=0.1, weight_decay=0.1)
        if not fast:
            optimizer.param_groups[0]["foreach"] = False
        for _ in range(20):
            p.grad = p.detach().clone()
            optimizer.step()
        assert optimizer.executors()[0][1] == ("cpu" if fast else "eager")
        results.append(p.detach())
    torch.testing.assert_close(*results)
    assert results[0].abs().max() < 0.3
