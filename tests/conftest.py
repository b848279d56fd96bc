"""Options of the test run, and what its summary tells about the installed torch."""

from __future__ import annotations

import pytest

#: the property under which a test records whether torch has a fault
FAULT = "torch fault"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--poison", action="store_true", help="fill the memory that torch leaves uninitialised with NaN")


@pytest.fixture(scope="session", autouse=True)
def poisoned_memory(request: pytest.FixtureRequest):
    """With `--poison`, `torch.empty` and its like are NaN (integers: the largest), so that reading them shows."""
    if not request.config.getoption("--poison"):
        yield
        return
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--poison"):
        # an operation that has no deterministic form says so, and is not what is asked about
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which of the faults that ours is tested not to have are still in torch, and in which of its optimizers."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    found: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for name, value in report.user_properties:
            if name == FAULT:
                who, what, state = value
                found.setdefault((what, state), []).append(who)
    if found:
        terminalreporter.section("faults of torch's optimizers that ours do not have")
        for (what, state), who in found.items():
            terminalreporter.write_line(f"{state}: {what} ({', '.join(dict.fromkeys(who))})")
