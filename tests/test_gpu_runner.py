"""What runs the checks of `make gpu`: limits, failures, what can't run, what is run again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from scripts.gpu import __main__ as program
from scripts.gpu import checks, runner
from scripts.gpu.findings import FAILED, NOTE, PASSED, SHORT, Report, Size, rms
from scripts.gpu.needs import missing

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def the(name: str) -> checks.Check:
    return next(check for check in checks.CHECKS if check.name == name)


def test_names_are_unique_and_every_function_is_there() -> None:
    from importlib import import_module

    assert len({check.name for check in checks.CHECKS}) == len(checks.CHECKS)
    for check in checks.CHECKS:
        module, _, function = check.run.partition(":")
        assert callable(getattr(import_module(f"scripts.gpu.{module}"), function)), check.run


def test_a_check_that_claims_nothing_has_not_passed() -> None:
    report = Report()
    report.note("a number", 1.0)
    assert report.status == FAILED
    report.hold("a claim", True, "")
    assert report.status == PASSED
    report.goal("a ratio", 1.2, 1.1)
    assert report.status == SHORT
    report.goal("another", 0.95, 0.9, least=True)
    assert report.status == SHORT
    report.hold("a false one", False, "")
    assert report.status == FAILED


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_meets_no_goal(value: float) -> None:
    report = Report()
    report.hold("a claim", True, "")
    report.goal("a ratio", value, 1.1)
    assert report.status == SHORT


def test_a_rehearsal_has_numbers_and_no_goals() -> None:
    report = Report(rehearsal=True)
    report.goal("a ratio", 9.0, 1.1)
    assert [row["status"] for row in report.rows] == [NOTE]


def test_rms() -> None:
    assert rms([3.0, -4.0]) == pytest.approx(math.sqrt(12.5))


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    size = Size(True, tmp_path)
    assert size.kept("x") is None
    size.keep("x", first=np.array([1.5, -2.0]))
    found = size.kept("x")
    assert found is not None and found["first"].tolist() == [1.5, -2.0]


@needs_no_gpu
def test_without_a_gpu_nothing_runs_and_everything_says_why() -> None:
    reasons = {check.name: runner.why_not(check, rehearsal=False) for check in checks.CHECKS}
    assert all(reasons.values()), reasons


@needs_no_gpu
def test_not_run_is_counted_apart(tmp_path: Path) -> None:
    words = ["--only", "hf-rows", "--only", "doctor", "--out", str(tmp_path)]
    said = CliRunner().invoke(_app(), words)
    assert said.exit_code == 0, said.output
    assert "0 passed" in said.output and "2 not run" in said.output
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["counts"]["passed"] == 0 and found["counts"]["not run"] == 2
    assert "CUDA" in found["checks"]["doctor"]["reason"]


def _app() -> Any:
    import typer

    app = typer.Typer()
    app.command()(program.main)
    return app


def test_needs() -> None:
    assert missing("torch") is None
    assert "not installed" in str(missing("no_such_package"))
    assert "PATH" in str(missing("program:no-such-program"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Checks that don't start a process: name -> status, and how often each ran."""
    ran: dict[str, Any] = {"status": {}, "count": {}}

    def run(check: checks.Check, out: Path, rehearsal: bool, limit: float) -> dict[str, Any]:
        ran["count"][check.name] = ran["count"].get(check.name, 0) + 1
        return {"status": ran["status"].get(check.name, PASSED), "findings": [], "seconds": 0.0}

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "why_not", lambda check, rehearsal: None)
    return ran


def test_what_passed_is_not_run_again(fake: dict[str, Any], tmp_path: Path) -> None:
    words = ["--only", "doctor", "--only", "hf-rows", "--rehearse", "--out", str(tmp_path)]
    fake["status"]["doctor"] = FAILED
    first = CliRunner().invoke(_app(), words)
    assert first.exit_code == 1  # and the check after the failure ran
    assert fake["count"] == {"doctor": 1, "hf-rows": 1}
    fake["status"]["doctor"] = PASSED
    second = CliRunner().invoke(_app(), words)
    assert second.exit_code == 0 and fake["count"] == {"doctor": 2, "hf-rows": 1}
    CliRunner().invoke(_app(), [*words, "--again"])
    assert fake["count"] == {"doctor": 3, "hf-rows": 2}


def test_a_spent_budget_is_not_a_pass(fake: dict[str, Any], tmp_path: Path) -> None:
    words = ["--only", "doctor", "--rehearse", "--budget", "0", "--out", str(tmp_path)]
    said = CliRunner().invoke(_app(), words)
    assert "0 passed" in said.output and "1 not run" in said.output and not fake["count"]


def test_a_spent_budget_does_not_hide_a_failure(fake: dict[str, Any], tmp_path: Path) -> None:
    words = ["--only", "doctor", "--rehearse", "--out", str(tmp_path)]
    fake["status"]["doctor"] = FAILED
    CliRunner().invoke(_app(), words)
    said = CliRunner().invoke(_app(), [*words, "--budget", "0"])
    assert said.exit_code == 1 and "1 failed" in said.output and fake["count"] == {"doctor": 1}


def test_two_runs_in_one_folder_keep_each_others_records(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    runner.put(file, {"a": {"status": PASSED}}, {"card": "one"})
    every = runner.put(file, {"b": {"status": FAILED}}, {"card": "one"})
    assert set(every) == {"a", "b"} == set(runner.load(file))
    assert json.loads(file.read_text())["counts"] == {
        "passed": 1, "short of the goal": 0, "failed": 1, "not run": 0
    }  # fmt: skip


def test_a_check_that_takes_too_long_is_stopped_and_failed(tmp_path: Path) -> None:
    record = runner.run(the("memcheck"), tmp_path, rehearsal=True, limit=0.2)
    assert record["status"] == FAILED and "stopped after" in record["error"]


def test_a_check_that_breaks_off_has_failed_with_its_reason(tmp_path: Path) -> None:
    record = runner.run(
        replace(the("doctor"), name="no-such-check"), tmp_path, rehearsal=True, limit=120
    )
    assert record["status"] == FAILED and "exit status" in record["error"]


@pytest.mark.slow
def test_a_check_that_breaks_off_keeps_what_it_found(tmp_path: Path) -> None:
    # Nothing was kept by the engines whose numbers this one compares.
    record = runner.run(the("vllm-beside-hf"), tmp_path, rehearsal=True, limit=120)
    assert record["status"] == FAILED
    assert [row["status"] for row in record["findings"]] == [FAILED]
