"""What cannot take part as an optimizer of the user's own is refused with one sentence."""

from __future__ import annotations

import pytest

from bench.contenders import OPTIMIZERS, TRAITS
from bench.errors import Exit
from tests.bench.own_classes import LION, OPTIMIZER, SIGN
from tests.bench.test_cli import call

WRONG = {
    "no class": (None, "mine.py", "is given as file.py:Class or package.module:Class, such as lion.py:Lion"),
    "an empty class": (None, "mine.py:", "is given as"),
    "no place": (None, ":Mine", "is given as"),
    "no file": (None, "nowhere.py:Mine", "there is no file nowhere.py"),
    "no module": (None, "nowhere.at.all:Mine", "nowhere.at.all cannot be imported: ModuleNotFoundError: No module"),
    "syntax": ("def (", "{}:Mine", "cannot be imported: SyntaxError: invalid syntax"),
    "raises": ("1 / 0", "{}:Mine", "cannot be imported: ZeroDivisionError: division by zero."),
    "exits": ("raise SystemExit(7)", "{}:Mine", "cannot be imported: SystemExit: 7."),
    "not there": (LION, "{}:Loin", "there is no Loin in {where}; optimizers there: Optimizer, Lion."),
    "none there": ("x = 1", "{}:Mine", "optimizers there: none."),
    "a function": ("def Mine(params): ...", "{}:Mine", "Mine is no optimizer"),
    "a class": ("class Mine: ...", "{}:Mine", "Mine is no optimizer: it has to be a subclass of"),
    "arguments": (
        OPTIMIZER + " def __init__(self, params, lr, *, rho, eps=1): super().__init__(params, {'lr': lr})",
        "{}:Mine",
        "Mine needs arguments besides the parameters: lr, rho; give each a default.",
    ),
    "abstract": (None, "torch.optim:Optimizer", "Optimizer needs arguments besides the parameters: defaults"),
    "no lr": (
        OPTIMIZER + " def __init__(self, params, rate=1): super().__init__(params, {'rate': rate})",
        "{}:Mine",
        "Mine has no default lr above 0 (it has none), and a race tries learning rates around it",
    ),
    "an lr of 0": (
        OPTIMIZER + " def __init__(self, params, lr=0.0): super().__init__(params, {'lr': lr})",
        "{}:Mine",
        "(it has 0.0)",
    ),
    "an lr that is a word": (
        OPTIMIZER + " def __init__(self, params, lr='auto'): super().__init__(params, {'lr': lr})",
        "{}:Mine",
        "(it has 'auto')",
    ),
    "refuses": (
        OPTIMIZER + " def __init__(self, params): raise ValueError('matrices only')",
        "{}:Mine",
        "Mine cannot be built over a vector: ValueError: matrices only.",
    ),
    "a closure": (
        OPTIMIZER
        + " def __init__(self, params, lr=1): super().__init__(params, {'lr': lr})\n def step(self, closure): ...",
        "{}:Mine",
        "the step of Mine needs a closure",
    ),
    "a name of ours": ("from torch.optim import AdamW", "{}:AdamW", "there is a AdamW already"),
    "nearly a name of ours": (SIGN.replace("SignSGD", "ADAM"), "{}:ADAM", "there is a ADAM already"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("command", ["race", "map"])
def test_what_cannot_take_part_is_one_sentence_before_anything_runs(case, command, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, place, says = WRONG[case]
    where = write(text, "")[:-1] if text is not None else ""
    place = place.format(where)
    arguments = ["race", "--optimizer", "Adam", "--optimizer", place] if command == "race" else ["map", place, "booth"]
    code, out = call(*arguments, "--out", tmp_path / "results")
    assert code == Exit.USAGE == 2
    assert out.startswith(f"error: optimizer {place}: ") and says.format(where=where) in out
    assert out.count("\n") == 0 and out.endswith(".") and "Traceback" not in out
    assert not (tmp_path / "results").exists()
    assert set(TRAITS) == set(OPTIMIZERS)
