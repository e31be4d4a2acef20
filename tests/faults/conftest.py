"""Prints the count of the fault matrix after the run."""

from __future__ import annotations

import pytest

_outcomes: dict[str, str] = {}


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "test_fault_is_noticed[" not in report.nodeid:
        return
    if report.when == "call" or report.failed:
        _outcomes[report.nodeid] = report.outcome


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _outcomes:
        caught = sum(outcome == "passed" for outcome in _outcomes.values())
        silent = sum(outcome == "failed" for outcome in _outcomes.values())
        terminalreporter.write_line(
            f"fault matrix: {len(_outcomes)} tried, {caught} caught, {silent} silent"
        )
