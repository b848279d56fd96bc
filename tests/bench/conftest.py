"""What the tests of runs share."""

import signal

import pytest

from bench import environment, plan, run
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
