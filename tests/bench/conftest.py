"""What the tests of runs share."""

import signal
import sys

import pytest

from bench import environment, plan, run
from bench.contenders import TRAITS
from tests.bench import fakes


@pytest.fixture
def fast(monkeypatch):
    """A report without its charts, which take long to draw, and one look at the machine for all tests."""
    monkeypatch.setattr(run.report, "draw", fakes.draw)
    here = environment.collect(("cpu",))
    monkeypatch.setattr(run.environment, "collect", lambda devices: {**here})


@pytest.fixture
def with_kind(monkeypatch):
    """Make `run_cell` what a kind runs, counting its cells."""

    def put(run_cell, name="functions", problems=("one", "two", "three")):
        ran = []
        monkeypatch.setitem(
            plan.KINDS, name, fakes.kind(name, lambda cell: ran.append(cell) or run_cell(cell), problems)
        )
        return ran

    return put


@pytest.fixture
def interruptible():
    """As in the foreground: shells start what runs in the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file and says how a class of it is asked for; afterwards nobody knows of it any more."""
    table, modules = dict(TRAITS), set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def written(text: str, cls: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return f"{tmp_path / name}:{cls}"

    yield written
    TRAITS.clear()
    TRAITS.update(table)
    for name in set(sys.modules) - modules:
        if name.startswith(("own_", "mine")):
            del sys.modules[name]
